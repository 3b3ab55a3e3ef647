package worker

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// tensorJob is a job with a tensor of two columns, whose data begin so many bytes behind an address that is good for any
// value.
func tensorJob[T frame.Value](t *testing.T, m *Model, off int, values ...T) *job {
	t.Helper()
	x := &coppicev1.Tensor{DataType: coppicev1.DataType_DATA_TYPE_FP32, Shape: []int64{int64(len(values) / 2), 2}}
	for _, v := range values {
		switch v := any(v).(type) {
		case float32:
			x.Data = binary.LittleEndian.AppendUint32(x.Data, math.Float32bits(v))
		case float64:
			x.DataType = coppicev1.DataType_DATA_TYPE_FP64
			x.Data = binary.LittleEndian.AppendUint64(x.Data, math.Float64bits(v))
		}
	}
	b, err := proto.Marshal(&coppicev1.PredictRequest{Tensor: x})
	if err != nil {
		t.Fatal(err)
	}
	// A field of the same number twice would be refused, one that nobody knows is passed over.
	pad := protowire.AppendTag(nil, 15, protowire.BytesType)
	for n := 0; ; n++ {
		front := protowire.AppendBytes(slices.Clone(pad), make([]byte, n))
		if at := len(front) + len(b) - len(x.Data); at%8 == off {
			b = append(front, b...)
			break
		}
	}
	j := &job{model: m}
	if err := j.req.Read(b); err != nil {
		t.Fatal(err)
	}
	return j
}

// TestRows: rows are the same and refused alike whether they are copied or stay in the message, wherever they lie there.
func TestRows(t *testing.T) {
	testRows[float32](t, func(v *float32) uint64 { return uint64(math.Float32bits(*v)) }, math.MaxFloat32)
	testRows[float64](t, func(v *float64) uint64 { return math.Float64bits(*v) }, math.MaxFloat64)
}

func testRows[T frame.Value](t *testing.T, bits func(*T) uint64, largest T) {
	nan, inf := T(math.NaN()), T(math.Inf(1))
	_, wide := any(nan).(float64)
	for _, values := range [][]T{
		{1, 2, 3, 4}, {0, -largest, largest, 5e-320}, {1, nan, 3, 4}, {1, 2, -inf, 4}, {1, 2, 3, 4, 5, inf}, {inf, nan},
	} {
		for _, takes := range []*sums{{}, {missing: true}, {infinite: true}, {missing: true, infinite: true}} {
			m := NewModel("m", "v", "", &sums{features: 2, wide: wide, missing: takes.missing, infinite: takes.infinite})
			refused := false
			for _, v := range values {
				x := float64(v)
				refused = refused || (math.IsNaN(x) && !takes.missing) || (math.IsInf(x, 0) && !takes.infinite)
			}
			for off := range 8 {
				j := tensorJob(t, m, off, values...)
				var kept []T
				first := rows[T]{kept: &kept}
				copied := rows[T]{kept: &kept}
				code, msg := first.add(j, 2, true)
				if again, other := copied.add(j, 2, false); again != code || other != msg {
					t.Fatalf("%v: in place %v %q, copied %v %q", values, code, msg, again, other)
				}
				if (code == codes.InvalidArgument) != refused || (refused && !strings.Contains(msg, "which model")) {
					t.Errorf("%v, NaN %v, infinities %v: %v %q", values, takes.missing, takes.infinite, code, msg)
				}
				if len(first.all) != len(values) || len(copied.all) != len(values) {
					t.Fatalf("%d and %d values, want %d", len(first.all), len(copied.all), len(values))
				}
				for i := range values {
					if want := bits(&values[i]); bits(&first.all[i]) != want || bits(&copied.all[i]) != want {
						t.Errorf("value %d is %v in place and %v copied, want %v", i, first.all[i], copied.all[i], values[i])
					}
				}
			}
		}
	}
}

// TestRowsStay: a message whose rows were evaluated where they lie is left as it is by later batches.
func TestRowsStay(t *testing.T) {
	m := NewModel("m", "v", "", &sums{features: 2})
	var kept []float32
	alone := tensorJob[float32](t, m, 0, 1, 2, 3, 4)
	r := rows[float32]{kept: &kept}
	if code, msg := r.add(alone, 2, true); code != codes.OK {
		t.Fatal(msg)
	}
	if frame.View[float32](alone.req.Tensor) != nil && len(kept) != 0 {
		t.Error("the rows were copied")
	}
	later := rows[float32]{kept: &kept}
	for range 2 {
		if code, msg := later.add(tensorJob[float32](t, m, 0, 5, 6, 7, 8), 2, false); code != codes.OK {
			t.Fatal(msg)
		}
	}
	if want := []float32{1, 2, 3, 4}; !slices.Equal(r.all, want) {
		t.Errorf("the message now holds %v", r.all)
	}
	if want := []float32{5, 6, 7, 8, 5, 6, 7, 8}; !slices.Equal(later.all, want) {
		t.Errorf("the later batch holds %v", later.all)
	}
}
