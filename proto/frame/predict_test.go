package frame

import (
	"errors"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func instances(rows ...[]float64) (list []*coppicev1.Instance) {
	for _, r := range rows {
		list = append(list, &coppicev1.Instance{Values: r})
	}
	return list
}

func fp32(shape []int64, bytes int) *coppicev1.Tensor {
	return &coppicev1.Tensor{DataType: coppicev1.DataType_DATA_TYPE_FP32, Shape: shape, Data: make([]byte, bytes)}
}

// TestPredictErrors: what is asked for has to make sense, and the error says what was expected and what came.
func TestPredictErrors(t *testing.T) {
	one := instances([]float64{1})
	tests := []struct {
		name string
		req  *coppicev1.PredictRequest
		want string
	}{
		{"nothing", &coppicev1.PredictRequest{}, "no instances and no tensor"},
		{"both", &coppicev1.PredictRequest{Instances: one, Tensor: fp32([]int64{1, 1}, 4)}, "both instances and a tensor"},
		{"long model", &coppicev1.PredictRequest{Instances: one, Model: strings.Repeat("m", MaxNameBytes+1)}, "model has 257 bytes, at most 256"},
		{"long version", &coppicev1.PredictRequest{Instances: one, Version: strings.Repeat("m", MaxIDBytes+1)}, "version has 129 bytes, at most 128"},
		{"long id", &coppicev1.PredictRequest{Instances: one, RequestId: strings.Repeat("m", MaxIDBytes+1)}, "request_id has 129 bytes"},
		{"output 0", &coppicev1.PredictRequest{Instances: one, Outputs: []coppicev1.Output{0}}, "output 0"},
		{"output 5", &coppicev1.PredictRequest{Instances: one, Outputs: []coppicev1.Output{1, 5}}, "output 5"},
		{"output -1", &coppicev1.PredictRequest{Instances: one, Outputs: []coppicev1.Output{-1}}, "output -1"},
		{"work 4", &coppicev1.PredictRequest{Instances: one, Work: 4}, "work is 4"},
		{"work -1", &coppicev1.PredictRequest{Instances: one, Work: -1}, "work is -1"},
		{"empty tensor", &coppicev1.PredictRequest{Tensor: &coppicev1.Tensor{}}, "data_type is DATA_TYPE_UNSPECIFIED"},
		{"int64", &coppicev1.PredictRequest{Tensor: &coppicev1.Tensor{DataType: coppicev1.DataType_DATA_TYPE_INT64, Shape: []int64{1, 1}, Data: make([]byte, 8)}}, "data_type is DATA_TYPE_INT64"},
		{"type 9", &coppicev1.PredictRequest{Tensor: &coppicev1.Tensor{DataType: 9}}, "data_type is 9"},
		{"no shape", &coppicev1.PredictRequest{Tensor: fp32(nil, 4)}, "0 dimensions"},
		{"1 dimension", &coppicev1.PredictRequest{Tensor: fp32([]int64{1}, 4)}, "1 dimensions"},
		{"3 dimensions", &coppicev1.PredictRequest{Tensor: fp32([]int64{1, 1, 1}, 4)}, "3 dimensions"},
		{"no rows", &coppicev1.PredictRequest{Tensor: fp32([]int64{0, 1}, 0)}, "shape is [0, 1]"},
		{"no columns", &coppicev1.PredictRequest{Tensor: fp32([]int64{1, 0}, 0)}, "shape is [1, 0]"},
		{"negative", &coppicev1.PredictRequest{Tensor: fp32([]int64{-1, -1}, 4)}, "shape is [-1, -1]"},
		{"2^40 rows", &coppicev1.PredictRequest{Tensor: fp32([]int64{1 << 40, 20}, 80)}, "does not match its 80 bytes"},
		{"2^62 by 4, which is 0 in 64 bits", &coppicev1.PredictRequest{Tensor: fp32([]int64{1 << 62, 4}, 0)}, "does not match its 0 bytes"},
		{"2^62 cells of 4 bytes, which is 0 in 64 bits", &coppicev1.PredictRequest{Tensor: fp32([]int64{1 << 62, 1}, 0)}, "does not match its 0 bytes"},
		{"a byte too few", &coppicev1.PredictRequest{Tensor: fp32([]int64{2, 2}, 15)}, "does not match its 15 bytes"},
		{"a byte too many", &coppicev1.PredictRequest{Tensor: fp32([]int64{2, 2}, 17)}, "does not match its 17 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p Predict
			err := p.Read(marshal(t, tt.req))
			if !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want one that says %q", err, tt.want)
			}
		})
	}
	bad := protowire.AppendString(protowire.AppendTag(marshal(t, &coppicev1.PredictRequest{Instances: one}), 1, protowire.BytesType), "m\xff")
	var p Predict
	if err := p.Read(bad); !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("a name that is not UTF-8: %v", err)
	}
	twice := marshal(t, &coppicev1.PredictRequest{Tensor: fp32([]int64{1, 1}, 4)})
	if err := p.Read(append(twice, twice...)); !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), "twice") {
		t.Errorf("two tensors: %v", err)
	}
	for _, b := range [][]byte{{0x0a}, {0x0a, 9}, {0x00}, {0x28}, {0x2a, 1, 0x80}, {0x22, 1, 0x08}, {0x22, 2, 0x12, 5}, {0x22, 3, 0x12, 1, 0xff}, {0x22, 1, 0x07}, {0x7b}} {
		if err := p.Read(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("% x: %v", b, err)
		}
	}
}

// TestPredictRows: values come as the float32 that scikit-learn makes of them.
func TestPredictRows(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	var p Predict
	if err := p.Read(marshal(t, &coppicev1.PredictRequest{Instances: instances([]float64{0.1, nan}, []float64{-inf, 1e-50})})); err != nil {
		t.Fatal(err)
	}
	rows, over, err := AppendInstances([]float32{42}, &p, 2)
	if err != nil || over != -1 || len(rows) != 5 || rows[0] != 42 || rows[1] != 0.1 || rows[2] == rows[2] || rows[3] != float32(-inf) || rows[4] != 0 {
		t.Errorf("%v, overflow at %d, %v", rows, over, err)
	}
	for name, tt := range map[string]struct {
		rows [][]float64
		want string
		over int
	}{
		"a value too few":            {[][]float64{{1, 2}, {1}}, "instance 1 has 1 values, the model has 2", -1},
		"a value too many":           {[][]float64{{1, 2}, {1, 2, 3}}, "instance 1 has 3 values", -1},
		"an empty one":               {[][]float64{{}}, "instance 0 has 0 values", -1},
		"too large for float32":      {[][]float64{{1, 2}, {3, 1e300}, {1e300, 1}}, "", 3},
		"just in range":              {[][]float64{{math.MaxFloat32, -math.MaxFloat32}}, "", -1},
		"rounds down into the range": {[][]float64{{math.MaxFloat32 + 1e20, 1}}, "", -1},
	} {
		t.Run(name, func(t *testing.T) {
			if err := p.Read(marshal(t, &coppicev1.PredictRequest{Instances: instances(tt.rows...)})); err != nil {
				t.Fatal(err)
			}
			_, over, err := AppendInstances[float32](nil, &p, 2)
			if (tt.want == "") != (err == nil) || (err != nil && (!errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), tt.want))) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if over != tt.over {
				t.Errorf("overflow at %d, want %d", over, tt.over)
			}
		})
	}
	// Rows are as often unpacked or in several parts as an encoder likes.
	var inst []byte
	inst = protowire.AppendFixed64(protowire.AppendTag(inst, 1, protowire.Fixed64Type), math.Float64bits(1))
	inst = protowire.AppendVarint(protowire.AppendTag(inst, 9, protowire.VarintType), 1)
	inst = protowire.AppendBytes(protowire.AppendTag(inst, 1, protowire.BytesType), protowire.AppendFixed64(nil, math.Float64bits(2)))
	if err := p.Read(protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), inst)); err != nil {
		t.Fatal(err)
	}
	if rows, _, err := AppendInstances[float32](nil, &p, 2); err != nil || len(rows) != 2 || rows[0] != 1 || rows[1] != 2 {
		t.Errorf("parts: %v, %v", rows, err)
	}
	for _, bad := range [][]byte{{0x0a, 7, 1, 2, 3, 4, 5, 6, 7}, {0x09, 1, 2}, {0x0a, 9}, {0x07}, {0x0a}} {
		if err := p.Read(protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), bad)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := AppendInstances[float32](nil, &p, 1); !errors.Is(err, ErrMalformed) {
			t.Errorf("instance % x: %v", bad, err)
		}
	}
}

func TestPredictEnvelope(t *testing.T) {
	var p Predict
	err := p.Read(marshal(t, &coppicev1.PredictRequest{
		Model: "m", Version: "v", RequestId: "r", Work: coppicev1.Work_WORK_HEAVY, Tensor: fp32([]int64{3, 2}, 24),
		Outputs: []coppicev1.Output{4, 1, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
	}))
	if err != nil {
		t.Fatal(err)
	}
	if string(p.Model) != "m" || string(p.Version) != "v" || string(p.RequestID) != "r" || p.Work != coppicev1.Work_WORK_HEAVY {
		t.Errorf("%q %q %q %v", p.Model, p.Version, p.RequestID, p.Work)
	}
	if p.NumOut != 2 || p.Outputs[0] != 4 || p.Outputs[1] != 1 {
		t.Errorf("outputs are %v", p.Outputs[:p.NumOut])
	}
	if p.Rows != 3 || p.Tensor == nil || p.Tensor.Rows != 3 || p.Tensor.Columns != 2 || len(p.Tensor.Data) != 24 {
		t.Errorf("%d rows, %v", p.Rows, p.Tensor)
	}
	if err := p.Read(marshal(t, &coppicev1.PredictRequest{Instances: instances([]float64{1}, []float64{2})})); err != nil || p.Rows != 2 || p.Tensor != nil || p.Model != nil {
		t.Errorf("read again: %v: %+v", err, p)
	}
}

// TestReadDoesNotAllocate: the envelope of a tensor costs the same whatever its size.
func TestReadDoesNotAllocate(t *testing.T) {
	b := marshal(t, &coppicev1.PredictRequest{Model: "m", Tensor: fp32([]int64{1000, 20}, 80000), Outputs: []coppicev1.Output{1}})
	var p Predict
	if n := testing.AllocsPerRun(100, func() {
		if err := p.Read(b); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
