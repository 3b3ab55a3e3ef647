package e2e

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
	"github.com/coppice-mesh/coppice/services/e2e/mesh"
)

// golden is where the forests of real scikit-learn versions are, with what they said.
const golden = "../../replica/forest/format/sklearn/testdata/golden"

func readNPY(t *testing.T, path string) *npy.Array {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := npy.Read(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return a
}

// TestGolden serves the files of scikit-learn and compares the bits of every answer with its own.
func TestGolden(t *testing.T) {
	cases, err := os.ReadDir(golden)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--replicas", "2"}
	for _, c := range cases {
		files, err := filepath.Glob(filepath.Join(golden, c.Name(), "model.*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: %v, %v", c.Name(), files, err)
		}
		args = append(args, "--model", c.Name()+"="+files[0])
	}
	p, a := up(t, 2, nil, args...)
	client := coppicev1.NewPredictServiceClient(dial(t, a.GRPC))
	for _, c := range cases {
		t.Run(c.Name(), func(t *testing.T) {
			dir := filepath.Join(golden, c.Name())
			x := readNPY(t, filepath.Join(dir, "X.npy"))
			req := &coppicev1.PredictRequest{
				Model: c.Name(), Tensor: tensor(x),
				Outputs: []coppicev1.Output{coppicev1.Output_OUTPUT_LABEL, coppicev1.Output_OUTPUT_MARGIN, coppicev1.Output_OUTPUT_LEAF},
			}
			res, err := client.Predict(timeout(t), req)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string][]byte{}
			for _, o := range res.GetTensors() {
				got[o.GetName()] = o.GetTensor().GetData()
			}
			leaf := readNPY(t, filepath.Join(dir, "leaf.npy"))
			compare(t, "leaf", got["leaf"], len(leaf.Int64), func(i int) uint64 { return uint64(leaf.Int64[i]) })
			if len(res.GetClasses()) == 0 {
				want := readNPY(t, filepath.Join(dir, "predict.npy"))
				compare(t, "value", got["value"], len(want.Float64), func(i int) uint64 { return math.Float64bits(want.Float64[i]) })
				return
			}
			want := readNPY(t, filepath.Join(dir, "proba.npy"))
			compare(t, "probability", got["margin"], len(want.Float64), func(i int) uint64 { return math.Float64bits(want.Float64[i]) })
		})
	}
	p.Terminate()
}

func tensor(x *npy.Array) *coppicev1.Tensor {
	out := &coppicev1.Tensor{DataType: coppicev1.DataType_DATA_TYPE_FP64, Shape: []int64{int64(x.Rows()), int64(x.Columns())}}
	for _, v := range x.Float64 {
		out.Data = binary.LittleEndian.AppendUint64(out.Data, math.Float64bits(v))
	}
	if x.Float32 != nil {
		out.DataType = coppicev1.DataType_DATA_TYPE_FP32
		for _, v := range x.Float32 {
			out.Data = binary.LittleEndian.AppendUint32(out.Data, math.Float32bits(v))
		}
	}
	return out
}

func compare(t *testing.T, what string, got []byte, n int, want func(int) uint64) {
	t.Helper()
	if n == 0 || len(got) != 8*n {
		t.Errorf("%s: %d bytes, want %d values", what, len(got), n)
		return
	}
	differ := 0
	for i := range n {
		if binary.LittleEndian.Uint64(got[8*i:]) != want(i) {
			differ++
		}
	}
	if differ > 0 {
		t.Errorf("%s: %d of %d values differ", what, differ, n)
	}
}

// TestSourceOverwritten changes and cuts the file of a model that is served: nothing notices.
func TestSourceOverwritten(t *testing.T) {
	model := demo(t)
	served := filepath.Join(t.TempDir(), "served.coppice")
	b, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(served, b, 0o600); err != nil {
		t.Fatal(err)
	}
	p, a := up(t, 2, nil, "--model", served)
	load(t, a, model, "200", "3s", func() {
		for i := range b {
			b[i] ^= 0xff
		}
		if err := os.WriteFile(served, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(served, 100); err != nil {
			t.Fatal(err)
		}
		// A replica that starts now maps the same model as the others.
		if _, stderr, code := mesh.Run(t, timeoutOf, "drain", "r0", "--control-addr", a.Control); code != 0 {
			t.Error(stderr)
		}
		mesh.AwaitReady(t, a.Control, 2)
	})
	p.Terminate()
	if out := p.Output(); strings.Contains(out, "panic") {
		t.Error(out)
	}
}
