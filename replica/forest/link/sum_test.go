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

// TestSoftmaxes compares with scikit-learn's formulas, evaluated by NumPy 2.4.6 on a processor with AVX-512 but for a correctly rounded log, for margins
// for which their answers differ.
func TestSoftmaxes(t *testing.T) {
	margins := []float64{-2.875, 4.0625, -4.0, -0.9375, -3.125, 2.875, 2.1875, 2.5, 1.0625, -1.6875}
	for name, want := range map[model.LinkName][]float64{
		model.Softmax:      {0x1.2639ee7f64862p-11, 0x1.28015bb2e8180p-1, 0x1.7e15cdc5eb833p-13, 0x1.fe95757129114p-9, 0x1.ca498f0540c5dp-12, 0x1.691b276ee97d2p-3, 0x1.6b26ac8d7095cp-4, 0x1.f05e6098ea84ap-4, 0x1.d79770bfe2321p-6, 0x1.e25d8d8a15d7cp-10},
		model.SoftmaxPairs: {0x1.2639ee7f64861p-11, 0x1.28015bb2e817fp-1, 0x1.7e15cdc5eb832p-13, 0x1.fe95757129113p-9, 0x1.ca498f0540c5cp-12, 0x1.691b276ee97d1p-3, 0x1.6b26ac8d7095bp-4, 0x1.f05e6098ea849p-4, 0x1.d79770bfe2320p-6, 0x1.e25d8d8a15d7bp-10},
		model.SoftmaxLog:   {0x1.2639ee7f64862p-11, 0x1.28015bb2e8180p-1, 0x1.7e15cdc5eb83ap-13, 0x1.fe95757129115p-9, 0x1.ca498f0540c5ep-12, 0x1.691b276ee97d2p-3, 0x1.6b26ac8d7095cp-4, 0x1.f05e6098ea84bp-4, 0x1.d79770bfe2321p-6, 0x1.e25d8d8a15d7dp-10},
	} {
		got := slices.Clone(margins)
		Apply(model.Link{Name: name}, false, 1, got)
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: class %d has %x, want %x", name, i, got[i], want[i])
			}
		}
	}
}
