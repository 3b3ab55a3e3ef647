package frame

import (
	"encoding/binary"
	"math"
	"runtime"
	"testing"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// TestView: values are seen at every address, and only as what they are.
func TestView(t *testing.T) {
	here := runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64"
	for off := range 8 {
		single, double := make([]byte, off), make([]byte, off)
		for i := range 3 {
			single = binary.LittleEndian.AppendUint32(single, math.Float32bits(float32(i)+0.5))
			double = binary.LittleEndian.AppendUint64(double, math.Float64bits(float64(i)+0.5))
		}
		fp32 := &Tensor{Type: coppicev1.DataType_DATA_TYPE_FP32, Rows: 3, Columns: 1, Data: single[off:]}
		fp64 := &Tensor{Type: coppicev1.DataType_DATA_TYPE_FP64, Rows: 3, Columns: 1, Data: double[off:]}
		if View[float64](fp32) != nil || View[float32](fp64) != nil || View[float32](&Tensor{Type: coppicev1.DataType_DATA_TYPE_FP32}) != nil {
			t.Error("values are seen as what they are not")
		}
		a, b := View[float32](fp32), View[float64](fp64)
		if (a != nil) != here || (b != nil) != here {
			t.Fatalf("%s: %v and %v", runtime.GOARCH, a, b)
		}
		for i := range a {
			if a[i] != float32(i)+0.5 || b[i] != float64(i)+0.5 || len(a) != 3 || len(b) != 3 {
				t.Errorf("offset %d: %v and %v", off, a, b)
			}
		}
	}
}
