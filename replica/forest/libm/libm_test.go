package libm

import (
	"bufio"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestGlibc compares with what testdata/glibc.c wrote.
func TestGlibc(t *testing.T) {
	f, err := os.Open("testdata/glibc.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	for in := bufio.NewScanner(f); in.Scan(); lines++ {
		words := strings.Fields(in.Text())
		x, err := strconv.ParseUint(words[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		want, err := strconv.ParseUint(words[2], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		var got uint64
		switch words[0] {
		case "exp":
			got = math.Float64bits(Exp(math.Float64frombits(x)))
		case "exp2":
			got = math.Float64bits(Exp2(math.Float64frombits(x)))
		case "expf":
			got = uint64(math.Float32bits(Exp32(math.Float32frombits(uint32(x)))))
		case "logf":
			got = uint64(math.Float32bits(Log32(math.Float32frombits(uint32(x)))))
		}
		if got != want {
			t.Errorf("%s of %#x is %#x, glibc says %#x", words[0], x, got, want)
		}
	}
	if lines < 3000 {
		t.Errorf("%d lines", lines)
	}
}

// TestNumPy compares with what testdata/numpy.py wrote.
func TestNumPy(t *testing.T) {
	b, err := os.ReadFile("testdata/numpy.txt")
	if err != nil {
		t.Fatal(err)
	}
	functions := map[string]struct{ f, glibc func(float64) float64 }{
		"power2": {NumPyPower2, Exp2},
		"exp":    {NumPyExp, Exp},
	}
	lines, other := map[string]int{}, map[string]int{}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		bits, err := strconv.ParseUint(words[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		want, err := strconv.ParseUint(words[2], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		f := functions[words[0]]
		x := math.Float64frombits(bits)
		if got := math.Float64bits(f.f(x)); got != want {
			t.Errorf("%s of %v is %#x, NumPy says %#x", words[0], x, got, want)
		}
		if math.Float64bits(f.glibc(x)) != want {
			other[words[0]]++
		}
		lines[words[0]]++
	}
	for name, f := range functions {
		if lines[name] < 2000 || other[name] == 0 {
			t.Errorf("%s: %d lines, of which glibc's differs in %d", name, lines[name], other[name])
		}
		for _, x := range []float64{-1000.5, -1074.2, -2000, 1000.5, 2000, math.Inf(-1), math.Inf(1)} {
			if want := f.glibc(x); f.f(x) != want {
				t.Errorf("%s of %v is %v, want %v", name, x, f.f(x), want)
			}
		}
	}
}

// TestLog compares with logarithms of 45 digits that Python's decimal rounded.
func TestLog(t *testing.T) {
	b, err := os.ReadFile("testdata/log.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		x, err := strconv.ParseUint(words[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		want, err := strconv.ParseUint(words[2], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := Log(math.Float64frombits(x)); math.Float64bits(got) != want {
			t.Errorf("log of %#x is %#x, want %#x", x, math.Float64bits(got), want)
		}
		lines++
	}
	if lines < 300 {
		t.Errorf("%d lines", lines)
	}
}

func TestNotNumbers(t *testing.T) {
	nan := math.NaN()
	for name, v := range map[string]float64{
		"exp of NaN": Exp(nan), "exp2 of NaN": Exp2(nan), "NumPy's power of NaN": NumPyPower2(nan), "NumPy's exp of NaN": NumPyExp(nan), "expf of NaN": float64(Exp32(float32(nan))),
		"logf of NaN": float64(Log32(float32(nan))), "logf of -1": float64(Log32(-1)), "log of NaN": Log(nan), "log of -1": Log(-1), "log1p of -2": Log1p(-2), "log1p of NaN": Log1p(nan),
	} {
		if !math.IsNaN(v) {
			t.Errorf("%s is %v", name, v)
		}
	}
	for name, pair := range map[string][2]float64{
		"log1p of -1": {Log1p(-1), math.Inf(-1)}, "log1p of inf": {Log1p(math.Inf(1)), math.Inf(1)},
		"log1p of 0": {Log1p(0), 0}, "log1p of 1": {Log1p(1), math.Ln2}, "logf of 0": {float64(Log32(0)), math.Inf(-1)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %v, want %v", name, pair[0], pair[1])
		}
	}
}

// TestLog1p: within a unit in the last place of Go's, which is another arrangement of the same polynomial.
func TestLog1p(t *testing.T) {
	for x := -0.999; x < 1e6; x += 0.001 + math.Abs(x)*0.01 {
		got, want := Log1p(x), math.Log1p(x)
		if d := int64(math.Float64bits(got) - math.Float64bits(want)); d > 2 || d < -2 {
			t.Errorf("log1p(%v) is %v, want %v", x, got, want)
		}
	}
}

var sink float64

func BenchmarkExp(b *testing.B) {
	for _, f := range []struct {
		name string
		f    func(float64) float64
	}{{"libm", Exp}, {"reference=math", math.Exp}} {
		b.Run(f.name, func(b *testing.B) {
			x := -10.0
			for b.Loop() {
				sink = f.f(x)
				x += 1e-7
			}
		})
	}
}

func BenchmarkExp32(b *testing.B) {
	x := float32(-10)
	for b.Loop() {
		sink = float64(Exp32(x))
		x += 1e-6
	}
}
