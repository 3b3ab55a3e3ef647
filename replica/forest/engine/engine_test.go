package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// draw makes a random forest.
func draw(t testing.TB, random *rand.Rand, trees, depth, features, outputs int) *model.Forest {
	t.Helper()
	b := model.NewBuilder(outputs)
	values := make([]float64, outputs)
	var grow func(d int) error
	grow = func(d int) error {
		if d == 0 || random.IntN(8) == 0 {
			for i := range values {
				values[i] = math.Round(random.NormFloat64()*64) / 64 * math.Pi
			}
			return b.Leaf(values...)
		}
		threshold := float32(random.IntN(9)-4) / 2
		switch random.IntN(20) {
		case 0:
			threshold = float32(math.Inf(1))
		case 1:
			threshold = float32(math.Inf(-1))
		case 2:
			threshold = float32(math.Copysign(0, -1))
		}
		if err := b.Split(random.IntN(features), threshold, random.IntN(2) == 0); err != nil {
			return err
		}
		if err := grow(d - 1); err != nil {
			return err
		}
		return grow(d - 1)
	}
	for range trees {
		if err := grow(depth); err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	if random.IntN(2) == 0 {
		f.LeafIDs = make([]uint32, len(f.Leaves))
		for i := range f.LeafIDs {
			f.LeafIDs[i] = random.Uint32N(1000)
		}
	}
	return &f
}

func drawRows(random *rand.Rand, n, features int) []float32 {
	rows := make([]float32, n*features)
	for i := range rows {
		switch random.IntN(12) {
		case 0:
			rows[i] = float32(math.NaN())
		case 1:
			rows[i] = float32(math.Inf(random.IntN(2)*2 - 1))
		case 2:
			rows[i] = float32(math.Copysign(0, -1))
		case 3:
			rows[i] = math.Nextafter32(float32(random.IntN(9)-4)/2, float32(random.IntN(3)-1)*10)
		default:
			rows[i] = float32(random.IntN(9)-4) / 2 // often a threshold
		}
	}
	return rows
}

// TestKernels compares every kernel with the reference, bit by bit.
func TestKernels(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		features, outputs := 1+random.IntN(12), 1+random.IntN(5)
		f := draw(t, random, 1+random.IntN(12), random.IntN(9), features, outputs)
		n := random.IntN(40)
		rows := drawRows(random, n, features)
		want, wantLeaves := make([]float64, n*outputs), make([]int64, n*f.NumTrees())
		reference := newScalar(f)
		reference.Scores(want, rows, features)
		reference.Leaves(wantLeaves, rows, features)
		for _, k := range Kernels {
			got, gotLeaves := make([]float64, n*outputs), make([]int64, n*f.NumTrees())
			kernel := k.New(f)
			kernel.Scores(got, rows, features)
			kernel.Leaves(gotLeaves, rows, features)
			for i := range want {
				if math.Float64bits(got[i]) != math.Float64bits(want[i]) {
					t.Fatalf("seed %d, %s: score %d is %v, want %v", seed, k.Name, i, got[i], want[i])
				}
			}
			for i := range wantLeaves {
				if gotLeaves[i] != wantLeaves[i] {
					t.Fatalf("seed %d, %s: leaf %d is %d, want %d", seed, k.Name, i, gotLeaves[i], wantLeaves[i])
				}
			}
		}
	}
}

// TestReference walks one tree by hand.
func TestReference(t *testing.T) {
	b := model.NewBuilder(1)
	for _, err := range []error{b.Split(0, 1, true), b.Leaf(10), b.Split(1, 2, false), b.Leaf(20), b.Leaf(30), b.Leaf(1)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	nan := float32(math.NaN())
	for _, tt := range []struct {
		row  []float32
		want float64
		leaf int64
	}{
		{[]float32{1, 9}, 10, 1}, {[]float32{math.Nextafter32(1, 2), 2}, 20, 3}, {[]float32{2, 3}, 30, 4},
		{[]float32{nan, 9}, 10, 1}, {[]float32{2, nan}, 30, 4},
	} {
		for _, k := range Kernels {
			var got [1]float64
			var leaves [2]int64
			k.New(&f).Scores(got[:], tt.row, 2)
			k.New(&f).Leaves(leaves[:], tt.row, 2)
			if got[0] != (tt.want+1)/2 || leaves != [2]int64{tt.leaf, 0} {
				t.Errorf("%s, row %v: %v and leaf %v, want %v and %d", k.Name, tt.row, got, leaves, (tt.want+1)/2, tt.leaf)
			}
		}
	}
}

func TestAllocations(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	f := draw(t, random, 10, 6, 5, 3)
	rows, dst, leaves := drawRows(random, 20, 5), make([]float64, 60), make([]int64, 200)
	for _, k := range Kernels {
		kernel := k.New(f)
		if n := testing.AllocsPerRun(100, func() {
			kernel.Scores(dst, rows, 5)
			kernel.Leaves(leaves, rows, 5)
		}); n != 0 {
			t.Errorf("%s allocates %v times a call", k.Name, n)
		}
	}
}

// BenchmarkScores gives ns a row of every kernel.
func BenchmarkScores(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 1))
	f := draw(b, random, 100, 10, 20, 2)
	for _, n := range []int{1, 64, 1024} {
		rows, dst := drawRows(random, n, 20), make([]float64, n*2)
		for _, k := range Kernels {
			b.Run(fmt.Sprintf("rows=%d/%s", n, k.Name), func(b *testing.B) {
				kernel := k.New(f)
				for b.Loop() {
					kernel.Scores(dst, rows, 20)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/row")
			})
		}
	}
}
