package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/internal/race"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// eachLevel calls a test for each level that this processor has.
func eachLevel(t *testing.T, test func(t *testing.T)) {
	detected := highest
	defer func() { highest = detected }()
	for _, highest = range levels() {
		t.Run(highest.String(), test)
	}
}

// grower builds random forests of any shape, whose thresholds it remembers.
type grower struct {
	*model.Builder
	t          testing.TB
	random     *rand.Rand
	shape      model.Shape
	features   int
	zero       bool // values near zero may be missing
	thresholds []float64
	value      func() float64 // of a leaf
}

func newGrower(t testing.TB, random *rand.Rand, s model.Shape, features int) *grower {
	if s.Width == 0 {
		s.Width = s.Outputs
	}
	g := &grower{t: t, Builder: model.NewBuilder(s), random: random, shape: s, features: features}
	g.value = func() float64 { return drawValue(random, s.Single) }
	return g
}

func (g *grower) must(err error) {
	if err != nil {
		g.t.Helper()
		g.t.Fatal(err)
	}
}

func (g *grower) leaf() {
	values := make([]float64, g.shape.Width)
	for i := range values {
		values[i] = g.value()
	}
	g.must(g.Leaf(values...))
}

// split adds a split by a feature that may be any, mostly one that compares.
func (g *grower) split() {
	flags := []model.Flags{0, model.MissingLeft}[g.random.IntN(2)]
	if g.shape.Categories != "" && g.random.IntN(8) == 0 {
		words := [][]uint32{{}, {6}, {0xfffffff0, 1}, {0, 0, 1 << 31}}[g.random.IntN(4)]
		g.must(g.SplitSet(g.random.IntN(g.features), words, flags|[]model.Flags{0, model.SetRight}[g.random.IntN(2)]))
		return
	}
	if g.zero && g.random.IntN(4) == 0 {
		flags |= model.ZeroMissing
	}
	g.compare(g.random.IntN(g.features), g.threshold(), flags)
}

// compare adds a split that compares.
func (g *grower) compare(feature int, threshold float64, flags model.Flags) {
	if g.shape.Input != model.Float64 {
		threshold = float64(float32(threshold))
	}
	g.thresholds = append(g.thresholds, threshold)
	g.must(g.Split(feature, threshold, flags))
}

// extremes are numbers at the edges of the types.
var extremes = []float64{
	0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.MaxFloat64, -math.MaxFloat64, math.MaxFloat32, -math.MaxFloat32,
	math.SmallestNonzeroFloat64, -math.SmallestNonzeroFloat64, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32,
	0x1p-126, 0x1p-1022, 1e-40, 1e-310, model.NearZero, -model.NearZero, 1e-35, -1e-35, 0.1, 1 << 24, 1<<24 + 1,
}

func (g *grower) threshold() float64 {
	if g.random.IntN(4) == 0 {
		return extremes[g.random.IntN(len(extremes))]
	}
	return float64(g.random.IntN(200)-100) / 8
}

// full adds a tree that is full to a depth.
func (g *grower) full(depth int) {
	if depth == 0 {
		g.leaf()
		return
	}
	g.split()
	g.full(depth - 1)
	g.full(depth - 1)
}

// chain adds a tree of one path: to the left, to the right, or to any side.
func (g *grower) chain(depth, side int) {
	ends := 1 // leaves that follow
	for range depth {
		g.split()
		if side == 1 || (side == 2 && g.random.IntN(2) == 0) {
			g.leaf()
		} else {
			ends++
		}
	}
	for range ends {
		g.leaf()
	}
}

// tree adds a tree of as many splits, whose form is random.
func (g *grower) tree(splits int) {
	if splits == 0 {
		g.leaf()
		return
	}
	left := g.random.IntN(splits)
	g.split()
	g.tree(left)
	g.tree(splits - 1 - left)
}

// search adds a tree that finds a value's place among ascending thresholds of a feature.
func (g *grower) search(feature int, thresholds []float64) {
	if len(thresholds) == 0 {
		g.leaf()
		return
	}
	half := len(thresholds) / 2
	g.compare(feature, thresholds[half], 0)
	g.search(feature, thresholds[:half])
	g.search(feature, thresholds[half+1:])
}

// forest ends the work.
func (g *grower) forest() *model.Forest {
	g.t.Helper()
	f, err := g.Forest()
	g.must(err)
	if f.First == nil && f.Width < f.Outputs {
		f.First = make([]uint32, f.NumTrees())
	}
	m := model.Model{Forest: f, Meta: model.Meta{Task: model.Regress, Features: g.features, Link: model.Link{Name: model.Identity}, Predict: model.PredictScores}}
	g.must(m.Validate())
	return &f
}

// rows are values on thresholds, one step beside them, and at the edges of the types.
func (g *grower) rows(n int) []float64 {
	rows := make([]float64, n*g.features)
	for i := range rows {
		v := extremes[g.random.IntN(len(extremes))]
		if len(g.thresholds) > 0 && g.random.IntN(8) > 0 {
			v = g.thresholds[g.random.IntN(len(g.thresholds))]
		}
		to := math.Inf(g.random.IntN(2)*2 - 1)
		switch g.random.IntN(8) {
		case 0:
			v = math.NaN()
		case 1:
			v = float64(g.random.IntN(40) - 2)
		case 2:
			v = math.Nextafter(v, to)
		case 3:
			v = float64(math.Nextafter32(float32(v), float32(to)))
		}
		rows[i] = v
	}
	return rows
}

// agree compares all kernels with the scalar one, for rows of both types.
func agree(t *testing.T, name string, f *model.Forest, rows []float64, features int) {
	t.Helper()
	layouts := allLayouts(f)
	agreeOf(t, name+", float64", f, layouts, rows, features)
	agreeOf(t, name+", float32", f, layouts, toFloat32(rows), features)
}

func agreeOf[T Row](t *testing.T, name string, f *model.Forest, layouts map[string]layout, rows []T, features int) {
	t.Helper()
	n := len(rows) / features
	want, wantLeaves := make([]float64, n*f.Outputs), make([]int64, n*f.NumTrees())
	Reference[T](f).Margins(want, rows, features)
	Reference[T](f).Leaves(wantLeaves, rows, features)
	for kernel, l := range layouts {
		if kernel != "scalar" {
			check(t, name+", "+kernel, kernelOf[T](l), rows, features, want, wantLeaves)
		}
	}
}

// mixed is a forest that has trees of all forms.
func mixed(t testing.TB, random *rand.Rand, s model.Shape, features int) (*grower, *model.Forest) {
	g := newGrower(t, random, s, features)
	g.zero = s.Input == model.Float64
	for _, grow := range []func(){
		func() { g.leaf() }, func() { g.full(1) }, func() { g.full(6) }, func() { g.full(6) }, func() { g.tree(30) }, func() { g.tree(100) }, func() { g.full(8) }, func() { g.tree(254) },
		func() { g.tree(255) }, func() { g.tree(256) }, func() { g.tree(700) }, func() { g.chain(300, 2) }, func() { g.full(3) },
	} {
		if s.Width > 0 && s.Width < s.Outputs {
			g.must(g.Output(random.IntN(s.Outputs)))
		}
		grow()
	}
	return g, g.forest()
}

// shapes are some of all that forests can be.
var shapesOfAll = []model.Shape{
	{Outputs: 1, Single: true},
	{Outputs: 1, Input: model.Float64},
	{Outputs: 2},
	{Outputs: 5, Input: model.Float64, Categories: model.Truncate},
	{Outputs: 3, Width: 1, Single: true, Categories: model.Floor},
	{Outputs: 3, Width: 1, Input: model.Float64, Categories: model.Whole},
}

// moved has a copy of values that begins at an odd address, and a function that moves it to the next one.
func moved[V any](values []V) func(from, n, odd int) []V {
	size := int(unsafe.Sizeof(*new(V)))
	memory := make([]V, len(values)+2)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&memory[0])), len(memory)*size)
	return func(from, n, odd int) []V {
		if n == 0 {
			return nil
		}
		to := unsafe.Slice((*V)(unsafe.Pointer(&bytes[odd])), n)
		copy(to, values[from:from+n])
		return to
	}
}

// TestEverySize: a batch of every size has the answers that its rows have in a large one, wherever in memory it begins.
func TestEverySize(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for i, s := range shapesOfAll[:5] {
			g := newGrower(t, rand.New(rand.NewPCG(1, uint64(i))), s, 5)
			for _, tree := range []func(){func() { g.full(6) }, func() { g.tree(40) }, func() { g.full(2) }, func() { g.chain(40, 2) }} {
				if s.Width == 1 {
					g.must(g.Output(g.random.IntN(s.Outputs)))
				}
				tree()
			}
			f := g.forest()
			f.Average = i == 2
			rows := g.rows(1107)
			if i%2 == 0 {
				everySize(t, i, f, toFloat32(rows), g.features)
			} else {
				everySize(t, i, f, rows, g.features)
			}
		}
	})
}

func everySize[T Row](t *testing.T, shape int, f *model.Forest, rows []T, features int) {
	n := len(rows) / features
	want, wantLeaves := make([]float64, n*f.Outputs), make([]int64, n*f.NumTrees())
	Reference[T](f).Margins(want, rows, features)
	Reference[T](f).Leaves(wantLeaves, rows, features)
	at := moved(rows)
	margins, leaves := make([]float64, len(want)), make([]int64, len(wantLeaves))
	dst, dstLeaves := moved(margins), moved(leaves)
	for name, k := range allKernels[T](f) {
		if name == "scalar" || name == "plain" {
			continue
		}
		for size := range n - 6 {
			// Most sizes in one of the forests, the small ones and those around blocks in all.
			if size > 40 && (size+2)%64 > 4 && size%5 != shape {
				continue
			}
			from, odd := size%7, 1+size%int(unsafe.Sizeof(rows[0]))
			part := at(from*features, size*features, odd)
			got, gotLeaves := dst(0, size*f.Outputs, odd), dstLeaves(0, size*f.NumTrees(), odd)
			k.Margins(got, part, features)
			k.Leaves(gotLeaves, part, features)
			for i, v := range want[from*f.Outputs:][:len(got)] {
				if math.Float64bits(got[i]) != math.Float64bits(v) && (got[i] == got[i] || v == v) {
					t.Fatalf("%s, %d rows: margin %d is %v, want %v", name, size, i, got[i], v)
				}
			}
			if i := slices.Compare(gotLeaves, wantLeaves[from*f.NumTrees():][:len(gotLeaves)]); i != 0 {
				t.Fatalf("%s, %d rows: leaves differ", name, size)
			}
		}
	}
}

// TestForms compares kernels on trees of all depths and forms.
func TestForms(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for i, s := range shapesOfAll {
			random := rand.New(rand.NewPCG(2, uint64(i)))
			g, f := mixed(t, random, s, 7)
			f.Average = i%2 == 0
			agree(t, fmt.Sprintf("mixed %d", i), f, g.rows(130), 7)
			one := s
			one.Width = 0
			for depth := range 13 {
				g := newGrower(t, random, one, 1+random.IntN(20))
				for range 3 {
					if depth < 9 || random.IntN(2) == 0 {
						g.full(depth)
					} else {
						g.tree(1 << depth)
					}
				}
				agree(t, fmt.Sprintf("shape %d, depth %d", i, depth), g.forest(), g.rows(70), g.features)
			}
			for side, depth := range []int{300, 1000, 64} {
				g := newGrower(t, random, one, 3)
				g.chain(depth, side)
				g.chain(depth-1, side)
				agree(t, fmt.Sprintf("shape %d, chains of %d", i, depth), g.forest(), g.rows(70), 3)
			}
			for _, trees := range []int{1, 8, 300} {
				g := newGrower(t, random, one, 2)
				for range trees {
					g.leaf()
				}
				agree(t, fmt.Sprintf("shape %d, %d leaves", i, trees), g.forest(), g.rows(70), 2)
			}
		}
	})
}

// TestDeepest: a chain as deep as models may have.
func TestDeepest(t *testing.T) {
	g := newGrower(t, rand.New(rand.NewPCG(3, 0)), model.Shape{Outputs: 1}, 2)
	for side := range 3 {
		g.chain(model.MaxDepth, side)
	}
	agree(t, "deepest", g.forest(), g.rows(600), 2)
}

// TestFeatures compares kernels on forests of 1 to 2,000 features, all or few of which they ask.
func TestFeatures(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for i, features := range []int{1, 2, 3, 7, 8, 9, 15, 16, 17, 28, 63, 64, 65, 90, 127, 128, 129, 255, 256, 257, 1000, 2000} {
			s := shapesOfAll[i%len(shapesOfAll)]
			s.Width = 0
			g := newGrower(t, rand.New(rand.NewPCG(4, uint64(features))), s, features)
			for k := range 1 + features/50 {
				if g.full(6); k == 0 {
					g.compare(features-1, 1, 0) // the last of a row
					g.leaf()
					g.leaf()
				}
			}
			agree(t, fmt.Sprintf("%d features", features), g.forest(), g.rows(35), features)
		}
	})
}

// TestThresholds: up to 70,000 different thresholds of a feature, in trees that are sliced, walked and permuted, and rows on
// them and one step beside.
func TestThresholds(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, n := range []int{1, 2, 3, 15, 16, 17, 254, 255, 256, 257, 510, 511, 4096, 9003, 65534, 65535, 65536, 65537, 70000} {
			for i, input := range []model.Input{model.Float32, model.Float64} {
				if n > 10000 && (n/2+i)%2 == 0 { // they take a while
					continue
				}
				random := rand.New(rand.NewPCG(uint64(n), uint64(i)))
				g := newGrower(t, random, model.Shape{Outputs: 1, Single: i == 0, Input: input}, 1)
				all := make([]float64, n)
				for k := range all {
					all[k] = float64(k-n/2) / 16
				}
				for rest := all; len(rest) > 0; {
					k := min(len(rest), []int{63, 255, 255, 300}[random.IntN(4)])
					g.search(0, rest[:k])
					rest = rest[k:]
				}
				agree(t, fmt.Sprintf("%d thresholds, %s", n, input), g.forest(), g.rows(70), 1)
			}
		}
	})
}

// TestSections: a forest that asks more than the answers of a section, over several features.
func TestSections(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for i, s := range []model.Shape{{Outputs: 1, Single: true}, {Outputs: 3, Width: 1, Input: model.Float64}} {
			g := newGrower(t, rand.New(rand.NewPCG(5, uint64(i))), s, 12)
			for k := range 800 {
				g.must(g.Output(k % s.Outputs))
				var thresholds []float64
				for range []int{63, 63, 100, 255, 300}[k%5] {
					thresholds = append(thresholds, float64(g.random.IntN(1<<20))/64)
				}
				slices.Sort(thresholds)
				g.search(g.random.IntN(12), slices.Compact(thresholds))
			}
			f := g.forest()
			w := newSlicedForest(&parts{f: f}, highest)
			if w == nil || len(w.sections) < 2 {
				t.Fatalf("%v is not a forest of several sections", s)
			}
			for _, sec := range w.sections {
				if sec.free > sectionAnswers+wordAnswers || sec.free+sliceBits*maxLeaves > maxSlices {
					t.Errorf("a section has %d slices", sec.free)
				}
			}
			agree(t, fmt.Sprint(s), f, g.rows(90), 12)
		}
	})
}

// TestPages runs kernels on rows, margins and leaves that pages follow, or precede, which must not be touched.
func TestPages(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for i, s := range shapesOfAll {
			for _, features := range []int{1, 5, 17} {
				random := rand.New(rand.NewPCG(6, uint64(i*100+features)))
				g, f := mixed(t, random, s, features)
				rows := g.rows(530)
				inPages(t, f, rows, features)
				inPages(t, f, toFloat32(rows), features)
			}
		}
	})
}

func inPages[T Row](t *testing.T, f *model.Forest, rows []T, features int) {
	n := len(rows) / features
	want, wantLeaves := make([]float64, n*f.Outputs), make([]int64, n*f.NumTrees())
	Reference[T](f).Margins(want, rows, features)
	Reference[T](f).Leaves(wantLeaves, rows, features)
	for name, k := range allKernels[T](f) {
		if name == "scalar" || name == "plain" {
			continue
		}
		for _, size := range []int{1, 6, 8, 15, 31, 65, n} {
			for _, start := range []bool{false, true} {
				part := guarded[T](t, size*features, start)
				copy(part, rows)
				got, gotLeaves := guarded[float64](t, size*f.Outputs, start), guarded[int64](t, size*f.NumTrees(), start)
				k.Margins(got, part, features)
				k.Leaves(gotLeaves, part, features)
				if !slices.Equal(gotLeaves, wantLeaves[:len(gotLeaves)]) {
					t.Fatalf("%s, %d rows: leaves differ", name, size)
				}
				for j, v := range got {
					if math.Float64bits(v) != math.Float64bits(want[j]) {
						t.Fatalf("%s, %d rows: margin %d is %v, want %v", name, size, j, v, want[j])
					}
				}
			}
		}
	}
}

// TestSums adds zeros of both signs, numbers that are too small to change a sum or too large for it, and infinities,
// whose sums may be no number: in the order of the trees and in nothing but their precision.
func TestSums(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for seed := range uint64(24) {
			random := rand.New(rand.NewPCG(7, seed))
			s := shapesOfAll[seed%uint64(len(shapesOfAll))]
			g := newGrower(t, random, s, 2)
			values := [][]float64{
				{math.Copysign(0, -1)},
				{0, math.Copysign(0, -1)},
				{math.MaxFloat32, -math.MaxFloat32, 1, 0x1p100},
				{math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, 0x1p-126, -0x1p-126},
			}[seed/6]
			if !s.Single && seed/6 == 2 {
				values = []float64{math.MaxFloat64, -math.MaxFloat64, 1, 0x1p1000}
			}
			g.value = func() float64 { return values[random.IntN(len(values))] }
			for range 9 + random.IntN(20) {
				if s.Width == 1 {
					g.must(g.Output(random.IntN(s.Outputs)))
				}
				g.full(random.IntN(8))
			}
			f := g.forest()
			f.Base = make([]float64, s.Outputs)
			for o := range f.Base {
				f.Base[o] = []float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), 1}[random.IntN(5)]
			}
			f.Average = seed%2 == 0
			agree(t, fmt.Sprintf("seed %d", seed), f, g.rows(80), 2)
		}
	})
}

// TestThreads: the answers do not depend on how many threads share a batch, and none of them stays.
func TestThreads(t *testing.T) {
	before := runtime.NumGoroutine()
	for i, s := range shapesOfAll[:4] {
		g, f := mixed(t, rand.New(rand.NewPCG(8, uint64(i))), s, 6)
		rows := toFloat32(g.rows(6*maxRows + 77))
		n := len(rows) / 6
		var want []float64
		var wantLeaves []int64
		for _, threads := range []int{1, 2, 3, 7, 100} {
			e, err := New(f, Options{Threads: threads})
			if err != nil {
				t.Fatal(err)
			}
			e.Prepare()
			e.split = 2 * maxRows // as if they took long enough to be shared
			got, gotLeaves := make([]float64, n*f.Outputs), make([]int64, n*f.NumTrees())
			Of[float32](e).Margins(got, rows, 6)
			Of[float32](e).Leaves(gotLeaves, rows, 6)
			if threads == 1 {
				want, wantLeaves = got, gotLeaves
			}
			if !slices.Equal(gotLeaves, wantLeaves) || !slices.EqualFunc(got, want, func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }) {
				t.Errorf("%d threads give something else", threads)
			}
			if race.Enabled {
				continue
			}
			if n := testing.AllocsPerRun(10, func() {
				Of[float32](e).Margins(got, rows, 6)
				Of[float32](e).Leaves(gotLeaves, rows, 6)
			}); n > 50 { // some, where more of them than ever need memory at once
				t.Errorf("%d threads: %v allocations a call", threads, n)
			}
		}
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, there were %d", n, before)
	}
}
