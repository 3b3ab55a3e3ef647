package train

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestSort(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 3))
	for _, n := range []int{1, 2, smallSort, smallSort + 1, 1000} {
		buf := newSorter(n)
		for width := range 33 {
			base := uint32(0)
			if width < 32 {
				base = random.Uint32N(math.MaxUint32 - 1<<width + 1)
			}
			items := buf.items[:n]
			lo, hi := uint32(math.MaxUint32), uint32(0)
			for i := range items {
				k := base + uint32(random.Uint64N(1<<width))
				lo, hi = min(lo, k), max(hi, k)
				items[i] = uint64(k)<<32 | uint64(i)
			}
			want := slices.Clone(items)
			slices.Sort(want) // the lower half counts up, so that a stable sort by the upper one gives the same
			if got := buf.sort(items, lo, hi); !slices.Equal(got, want) {
				t.Fatalf("%d items of %d bits from %d are not in order", n, width, base)
			}
		}
	}
}

// TestRank: ranks have the order of their values, and equal ones are equal.
func TestRank(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 4))
	const n, stride = 500, 3
	column := make([]float32, n*stride)
	special := []float32{float32(math.Copysign(0, -1)), 0, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, math.MaxFloat32, -math.MaxFloat32, 1, math.Nextafter32(1, 2)}
	for i := range n {
		v := special[random.IntN(len(special))]
		if i%2 == 0 {
			v = math.Float32frombits(random.Uint32())
			if v-v != 0 {
				v = 0
			}
		}
		column[i*stride] = v
	}
	column[0] = special[0] // -0 comes before 0
	ranks := make([]uint32, n)
	values := rank(ranks, column, stride, newSorter(n))
	for i := range n {
		v := column[i*stride]
		if values[ranks[i]] != v {
			t.Fatalf("value %v has rank %d, which is %v", v, ranks[i], values[ranks[i]])
		}
	}
	if i := slices.Index(values, 0); math.Signbit(float64(values[i])) {
		t.Error("zero is -0")
	}
	for i := 1; i < len(values); i++ {
		if values[i-1] >= values[i] {
			t.Fatalf("%v comes before %v", values[i-1], values[i])
		}
	}
}

// TestBetween: a threshold sends the lower value to the left and the higher one to the right.
func TestBetween(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 5))
	check := func(a, b float32) {
		if a == b || a-a != 0 || b-b != 0 {
			return
		}
		a, b = min(a, b), max(a, b)
		m := between(a, b)
		if !(a <= m) || !(m < b) {
			t.Errorf("between(%v, %v) is %v", a, b, m)
		}
		if exact := (float64(a) + float64(b)) / 2; float64(m) != float64(a) && math.Abs(float64(m)-exact) > math.Abs(float64(b)-float64(a))/4 {
			t.Errorf("between(%v, %v) is %v, far from the middle", a, b, m)
		}
	}
	for range 100000 {
		bits := random.Uint32()
		check(math.Float32frombits(bits), math.Float32frombits(random.Uint32()))
		check(math.Float32frombits(bits), math.Float32frombits(bits+1+random.Uint32N(4)))
	}
	check(-math.MaxFloat32, math.MaxFloat32)
	check(math.Nextafter32(math.MaxFloat32, 0), math.MaxFloat32)
	check(0, math.SmallestNonzeroFloat32)
	check(-math.SmallestNonzeroFloat32, 0)
}
