package worker

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// boosted is a forest of 100 trees of depth 6.
func boosted(b *testing.B, features int) *forest.Model {
	b.Helper()
	random := rand.New(rand.NewPCG(1, 0))
	builder := model.NewBuilder(model.Shape{Outputs: 1, Single: true})
	var grow func(depth int)
	grow = func(depth int) {
		if depth == 0 {
			_ = builder.Leaf(float64(random.Float32()))
			return
		}
		_ = builder.Split(random.IntN(features), float64(float32(random.NormFloat64())), 0)
		grow(depth - 1)
		grow(depth - 1)
	}
	for range 100 {
		grow(6)
	}
	f, err := builder.Forest()
	if err != nil {
		b.Fatal(err)
	}
	return forest.New(&model.Model{Forest: f, Meta: model.Meta{
		Link: model.Link{Name: model.Identity}, Predict: model.PredictScores, Task: model.Regress, Features: features, Missing: true,
	}})
}

// BenchmarkRows takes the rows of a request of 1,024 rows of 28 features into a batch, where they lie and beside other
// requests, which they are copied for. The margins of a small forest are what it is to be seen beside.
func BenchmarkRows(b *testing.B) {
	const n, features = 1024, 28
	random := rand.New(rand.NewPCG(2, 0))
	t := &coppicev1.Tensor{DataType: coppicev1.DataType_DATA_TYPE_FP32, Shape: []int64{n, features}}
	for range n * features {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(float32(random.NormFloat64())))
	}
	encoded, err := proto.Marshal(&coppicev1.PredictRequest{Model: "m", Tensor: t})
	if err != nil {
		b.Fatal(err)
	}
	f := boosted(b, features)
	j := &job{model: NewModel("m", "v", "", f)}
	if err := j.req.Read(encoded); err != nil {
		b.Fatal(err)
	}
	var kept []float32
	for _, c := range []struct {
		name  string
		alone bool
	}{{"in place", true}, {"copied", false}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				r := rows[float32]{kept: &kept}
				if code, msg := r.add(j, features, c.alone); code != codes.OK {
					b.Fatal(msg)
				}
			}
		})
	}
	r := rows[float32]{kept: &kept}
	for _, alone := range []bool{false, true} {
		if code, msg := r.add(j, features, alone); code != codes.OK {
			b.Fatal(msg)
		}
		name := "margins of the copy"
		if alone {
			name = "margins in place"
		}
		b.Run(name, func(b *testing.B) {
			dst := make([]float64, n)
			for b.Loop() {
				if err := f.Margins(dst, r.all); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
