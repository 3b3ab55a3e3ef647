package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/internal/race"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// allKernels are all kernels that take a forest, by their names, and the one that is used.
func allKernels[T Row](f *model.Forest) map[string]Kernel[T] {
	kernels := map[string]Kernel[T]{"the one that is used": Of[T](mustNew(f))}
	for name, l := range allLayouts(f) {
		kernels[name] = kernelOf[T](l)
	}
	return kernels
}

// allLayouts are those of all kernels that take a forest.
func allLayouts(f *model.Forest) map[string]layout {
	layouts := map[string]layout{}
	p := &parts{f: f}
	for _, k := range list {
		if l := k.lay(p); l != nil {
			layouts[k.name] = l
		}
	}
	return layouts
}

// kernelOf is a layout's kernel for rows of a type.
func kernelOf[T Row](l layout) Kernel[T] {
	k32, k64 := l.kernels()
	if k, ok := any(k32).(Kernel[T]); ok {
		return k
	}
	return any(k64).(Kernel[T])
}

// mustNew is the engine that picks.
func mustNew(f *model.Forest) *Engine {
	e, err := New(f, Options{})
	if err != nil {
		panic(err)
	}
	return e
}

// TestKernels compares every kernel with the textbook, bit by bit, on forests of all styles and sizes, and on rows of
// both types.
func TestKernels(t *testing.T) { testKernels(t, 20) }

// TestLevels does the same with fewer of the processor's instructions.
func TestLevels(t *testing.T) {
	detected := highest
	defer func() { highest = detected }()
	for _, highest = range levels()[:len(levels())-1] {
		t.Run(highest.String(), func(t *testing.T) { testKernels(t, 4) })
	}
}

func testKernels(t *testing.T, rounds int) {
	all := styles()
	taken := map[string]int{}
	for seed := range uint64(rounds * len(all)) {
		random := rand.New(rand.NewPCG(seed, 0))
		s := all[seed%uint64(len(all))]
		depth, features := random.IntN(13), 1+random.IntN(50)
		s.Outputs = 1 + random.IntN(10)
		s.Width = []int{1, s.Outputs}[random.IntN(2)]
		f, book := draw(t, random, s, 1+random.IntN(12), depth, features)
		// Around the sizes in which a kernel may take rows together, and no rows at all.
		n := []int{0, 1, 2, 7, 8, 9, 31, 33, 64, random.IntN(301)}[random.IntN(10)]
		rows := drawRows(random, n, features)
		want, wantLeaves := book.evaluate(rows, features)
		for name, k := range allKernels[float64](f) {
			taken[name]++
			check(t, fmt.Sprintf("seed %d, %s of float64", seed, name), k, rows, features, want, wantLeaves)
		}
		rows32 := toFloat32(rows)
		want, wantLeaves = book.evaluate(toFloat64(rows32), features)
		for name, k := range allKernels[float32](f) {
			check(t, fmt.Sprintf("seed %d, %s of float32", seed, name), k, rows32, features, want, wantLeaves)
		}
	}
	for _, name := range Names() {
		if taken[name] == 0 && (highest == levelVBMI || (name != "narrow" && name != "permute")) {
			t.Errorf("%s took no forest", name)
		}
	}
}

// check runs a kernel into slices that hold something else before, and looks also at what is behind them.
func check[T Row](t *testing.T, name string, kernel Kernel[T], rows []T, features int, want []float64, wantLeaves []int64) {
	t.Helper()
	const guard = 8
	got, gotLeaves := make([]float64, len(want)+guard), make([]int64, len(wantLeaves)+guard)
	for i := range got {
		got[i] = math.NaN()
	}
	for i := range gotLeaves {
		gotLeaves[i] = -1
	}
	kernel.Margins(got[:len(want)], rows, features)
	kernel.Leaves(gotLeaves[:len(wantLeaves)], rows, features)
	for i := range got {
		// One NaN is as good as another: which one an addition gives is the processor's choice.
		if i < len(want) && math.Float64bits(got[i]) != math.Float64bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
			t.Fatalf("%s: margin %d is %v, want %v", name, i, got[i], want[i])
		}
		if i >= len(want) && !math.IsNaN(got[i]) {
			t.Fatalf("%s: it wrote %v behind the margins", name, got[i])
		}
	}
	for i := range gotLeaves {
		if i < len(wantLeaves) && gotLeaves[i] != wantLeaves[i] {
			t.Fatalf("%s: leaf %d is %d, want %d", name, i, gotLeaves[i], wantLeaves[i])
		}
		if i >= len(wantLeaves) && gotLeaves[i] != -1 {
			t.Fatalf("%s: it wrote %v behind the leaves", name, gotLeaves[i])
		}
	}
}

// TestSlice: the rounds of a forest are a forest.
func TestSlice(t *testing.T) {
	for seed, s := range styles() {
		random := rand.New(rand.NewPCG(uint64(seed), 1))
		const features, trees = 5, 12
		s.Outputs, s.Width = 3, []int{1, 3}[random.IntN(2)]
		f, book := draw(t, random, s, trees, 4, features)
		f.Round = 3
		for _, part := range [][2]int{{0, 4}, {0, 1}, {1, 3}, {3, 4}} {
			sliced := f.Slice(part[0], part[1])
			some := *book
			some.roots, some.first = book.roots[part[0]*3:part[1]*3], book.first[part[0]*3:part[1]*3]
			rows := drawRows(random, 20, features)
			want, wantLeaves := some.evaluate(rows, features)
			if f.Average { // by rounds, which the textbook does not know
				some.average = false
				want, _ = some.evaluate(rows, features)
				for i := range want {
					if f.Single {
						want[i] = float64(float32(want[i]) / float32(part[1]-part[0]))
					} else {
						want[i] /= float64(part[1] - part[0])
					}
				}
			}
			for name, k := range allKernels[float64](&sliced) {
				check(t, fmt.Sprintf("seed %d, rounds %v, %s", seed, part, name), k, rows, features, want, wantLeaves)
			}
		}
	}
}

// TestManyLeaves: a forest of very many trees that are leaves, which takes little of a file, takes little memory.
func TestManyLeaves(t *testing.T) {
	b := model.NewBuilder(model.Shape{Outputs: 1, Single: true})
	const trees = 1<<16 + 1
	for range trees {
		if err := b.Leaf(1); err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	e := mustNew(&f)
	if n := e.Bytes(); n > 24*trees+100 {
		t.Errorf("%d bytes for %d trees", n, trees)
	}
	rows := make([]float32, 100)
	margins := make([]float64, 100)
	Of[float32](e).Margins(margins, rows, 1)
	for i, v := range margins {
		if v != trees {
			t.Fatalf("row %d has %v, want %d", i, v, trees)
		}
	}
}

// plainStyle is that of a random forest.
func plainStyle(outputs int) style {
	return style{Shape: model.Shape{Outputs: outputs, Width: outputs, Input: model.Float32}}
}

// TestBatches: how rows are put together changes no bit.
func TestBatches(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	const n, features, outputs = 100, 6, 3
	f, _ := draw(t, random, plainStyle(outputs), 20, 8, features)
	rows := toFloat32(drawRows(random, n, features))
	whole := make([]float64, n*outputs)
	Of[float32](mustNew(f)).Margins(whole, rows, features)
	for _, size := range []int{1, 3, 8, 50} {
		part := make([]float64, size*outputs)
		for i := 0; i+size <= n; i += size {
			Of[float32](mustNew(f)).Margins(part, rows[i*features:(i+size)*features], features)
			for o, v := range part {
				if math.Float64bits(v) != math.Float64bits(whole[i*outputs+o]) {
					t.Fatalf("batches of %d, row %d: %v, in one batch %v", size, i, v, whole[i*outputs+o])
				}
			}
		}
	}
}

// TestConcurrent: one kernel serves many goroutines.
func TestConcurrent(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 9))
	const n, features = 50, 6
	f, book := draw(t, random, plainStyle(2), 20, 8, features)
	rows := toFloat32(drawRows(random, n, features))
	want, wantLeaves := book.evaluate(toFloat64(rows), features)
	for name, kernel := range allKernels[float32](f) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				got, leaves := make([]float64, len(want)), make([]int64, len(wantLeaves))
				for range 20 {
					kernel.Margins(got, rows, features)
					kernel.Leaves(leaves, rows, features)
					if !slices.Equal(got, want) || !slices.Equal(leaves, wantLeaves) {
						t.Errorf("%s: another goroutine changed the answer", name)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

// TestReference walks one tree by hand.
func TestReference(t *testing.T) {
	b := model.NewBuilder(model.Shape{Outputs: 1})
	for _, err := range []error{b.Split(0, 1, model.MissingLeft), b.Leaf(10), b.Split(1, 2, 0), b.Leaf(20), b.Leaf(30), b.Leaf(1)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	f.Average = true
	nan := float32(math.NaN())
	for _, tt := range []struct {
		row  []float32
		want float64
		leaf int64
	}{
		{[]float32{1, 9}, 10, 1},
		{[]float32{math.Nextafter32(1, 2), 2}, 20, 3},
		{[]float32{2, 3}, 30, 4},
		{[]float32{nan, 9}, 10, 1},
		{[]float32{2, nan}, 30, 4},
	} {
		for name, k := range allKernels[float32](&f) {
			var got [1]float64
			var leaves [2]int64
			k.Margins(got[:], tt.row, 2)
			k.Leaves(leaves[:], tt.row, 2)
			if got[0] != (tt.want+1)/2 || leaves != [2]int64{tt.leaf, 0} {
				t.Errorf("%s, row %v: %v and leaf %v, want %v and %d", name, tt.row, got, leaves, (tt.want+1)/2, tt.leaf)
			}
		}
	}
}

func TestAllocations(t *testing.T) {
	if race.Enabled {
		t.Skip("pools forget what they were given")
	}
	for seed, s := range styles() {
		random := rand.New(rand.NewPCG(uint64(seed), 2))
		s.Outputs, s.Width = 3, 3
		if s.linear {
			s.Width = 1
		}
		f, _ := draw(t, random, s, 10, 6, 5)
		rows, dst, leaves := drawRows(random, 20, 5), make([]float64, 60), make([]int64, 200)
		for name, kernel := range allKernels[float64](f) {
			if n := testing.AllocsPerRun(10, func() {
				kernel.Margins(dst, rows, 5)
				kernel.Leaves(leaves, rows, 5)
			}); n != 0 {
				t.Errorf("%+v, %s allocates %v times a call", s, name, n)
			}
		}
	}
}
