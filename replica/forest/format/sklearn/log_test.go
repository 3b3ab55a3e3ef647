package sklearn

import (
	"math"
	"testing"
)

// TestOldLog: the odds of scikit-learn's breast cancer data are those of a reference model; others are within a unit in the
// last place.
func TestOldLog(t *testing.T) {
	p := 357.0 / 569
	if got := oldLog(p / (1 - p)); got != 0x1.0ad41bb2b5222p-1 {
		t.Errorf("log of the odds of %v is %x", p, got)
	}
	for p := 0x1p-23; p < 1; p += p / 97 {
		got, want := oldLog(p/(1-p)), math.Log(p/(1-p))
		if d := int64(math.Float64bits(got) - math.Float64bits(want)); d > 1 || d < -1 {
			t.Errorf("log of the odds of %v is %v, want %v", p, got, want)
		}
	}
}
