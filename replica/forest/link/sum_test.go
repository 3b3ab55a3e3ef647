package link

import (
	"math"
	"slices"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// TestSum compares with numpy's sum along the last axis of [1/sqrt(1), 1/sqrt(2), ...], by numpy 2.4.6.
func TestSum(t *testing.T) {
	for n, want := range map[int]float64{
		1:    0x1.0000000000000p+0,
		3:    0x1.246916b03dbbap+1,
		7:    0x1.0125007492efdp+2,
		8:    0x1.17c59edb122bap+2,
		9:    0x1.2d1af4306780fp+2,
		17:   0x1.ba0497622fc07p+2,
		128:  0x1.5361307f32ef8p+4, // one after the other gives 0x1.5361307f32ef7p+4
		129:  0x1.54c9d27740610p+4, // and 0x1.54c9d2774060fp+4
		136:  0x1.5e8035f1dabaep+4, // and 0x1.5e8035f1dabadp+4
		300:  0x1.09ad196b037b4p+5, // and 0x1.09ad196b037b3p+5
		1000: 0x1.ee687748943b7p+5, // and 0x1.ee687748943b0p+5
	} {
		a := make([]float64, n)
		for i := range a {
			a[i] = 1 / math.Sqrt(float64(i+1))
		}
		if got := Sum(a); got != want {
			t.Errorf("sum of %d: %x, want %x", n, got, want)
		}
	}
}

// TestSoftmaxes compares with scikit-learn's formulas, evaluated with correctly rounded functions.
func TestSoftmaxes(t *testing.T) {
	margins := []float64{-1.5, 0.25, 3, 2.75, -7, 0, 1e-3, 2, 1}
	for name, want := range map[model.LinkName][]float64{
		model.Softmax:      {0x1.2858874b72369p-8, 0x1.aa568dff08bdep-6, 0x1.a0d0cce3ecf50p-2, 0x1.449dc835e3c61p-2, 0x1.360a7e34a71e6p-16, 0x1.4c084e9a89b25p-6, 0x1.4c5d5990e10f2p-6, 0x1.32ad0130a0a6bp-3, 0x1.c347652088f1ap-5},
		model.SoftmaxPairs: {0x1.2858874b72369p-8, 0x1.aa568dff08bdep-6, 0x1.a0d0cce3ecf50p-2, 0x1.449dc835e3c61p-2, 0x1.360a7e34a71e6p-16, 0x1.4c084e9a89b25p-6, 0x1.4c5d5990e10f2p-6, 0x1.32ad0130a0a6bp-3, 0x1.c347652088f1ap-5},
		model.SoftmaxLog:   {0x1.2858874b72369p-8, 0x1.aa568dff08bddp-6, 0x1.a0d0cce3ecf4fp-2, 0x1.449dc835e3c60p-2, 0x1.360a7e34a71e5p-16, 0x1.4c084e9a89b24p-6, 0x1.4c5d5990e10f2p-6, 0x1.32ad0130a0a6ap-3, 0x1.c347652088f18p-5},
	} {
		got := slices.Clone(margins)
		Apply(model.Link{Name: name}, false, 1, got)
		for i := range got {
			if d := int64(math.Float64bits(got[i]) - math.Float64bits(want[i])); d > 1 || d < -1 {
				t.Errorf("%s: class %d has %x, want %x", name, i, got[i], want[i])
			}
		}
	}
}
