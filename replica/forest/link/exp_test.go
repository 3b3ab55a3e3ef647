package link

import (
	"math"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// TestExpDouble: the exponential of a float32 in float64, rounded, is another than that in float32 for some margins.
func TestExpDouble(t *testing.T) {
	differ := 0
	for i := range 100_000 {
		x := float64(float32(i)/1000 - 50)
		single, double := []float64{x}, []float64{x}
		Apply(model.Link{Name: model.Exp}, true, 1, single)
		Apply(model.Link{Name: model.ExpDouble}, true, 1, double)
		if want := float64(float32(math.Exp(x))); math.Abs(double[0]-want) > want*1e-7 {
			t.Fatalf("exp(%v) is %v, want about %v", x, double[0], want)
		}
		if single[0] != double[0] {
			differ++
		}
	}
	if differ == 0 || differ > 10_000 {
		t.Errorf("%d of 100,000 differ", differ)
	}
}
