package sklearn

import (
	"math"
	"testing"
)

// TestRoundDown checks that no float32 can tell a threshold from what it was rounded to.
func TestRoundDown(t *testing.T) {
	for _, threshold := range []float64{
		0, math.Copysign(0, -1), 1, 0.1, -0.1, 1e-50, -1e-50, 5e-324, 1e-45, 1.4e-45, -1e-45, 16777217, -16777217, math.MaxFloat32, -math.MaxFloat32,
		3.5e38, -3.5e38, 1e300, -1e300, math.Inf(1), math.Inf(-1), math.Nextafter(1, 0), math.Nextafter(1, 2), math.Nextafter(-1, 0), math.Nextafter(-1, -2),
	} {
		down := roundDown(threshold)
		near := float32(threshold)
		for _, x := range []float32{
			near, math.Nextafter32(near, float32(math.Inf(1))), math.Nextafter32(near, float32(math.Inf(-1))), 0, float32(math.Copysign(0, -1)),
			math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, math.MaxFloat32, -math.MaxFloat32, float32(math.Inf(1)), float32(math.Inf(-1)),
		} {
			if (float64(x) <= threshold) != (x <= down) {
				t.Errorf("%v <= %v is %v, but not so for %v", x, threshold, float64(x) <= threshold, down)
			}
		}
	}
}

// TestPythonFloat compares with Python's str.
func TestPythonFloat(t *testing.T) {
	for _, c := range []struct {
		v    float64
		bits int
		want string
	}{
		{1, 64, "1.0"},
		{math.Copysign(0, -1), 64, "-0.0"},
		{0.1, 64, "0.1"},
		{float64(float32(0.1)), 32, "0.1"},
		{1e15, 64, "1000000000000000.0"},
		{1e16, 64, "1e+16"},
		{123456789012345680, 64, "1.2345678901234568e+17"},
		{1e-4, 64, "0.0001"},
		{9.9e-5, 64, "9.9e-05"},
		{5e-324, 64, "5e-324"},
		{2.5e22, 64, "2.5e+22"},
		{math.Inf(1), 64, "inf"},
		{math.Inf(-1), 64, "-inf"},
		{math.NaN(), 64, "nan"},
	} {
		if got := pythonFloat(c.v, c.bits); got != c.want {
			t.Errorf("%v is spelled %q, want %q", c.v, got, c.want)
		}
	}
}
