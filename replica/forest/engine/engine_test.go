package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// kernels are those of rows of float32.
var kernels = []struct {
	Name string
	New  func(*model.Forest) Kernel[float32]
}{
	{"scalar", func(f *model.Forest) Kernel[float32] { return ByName[float32]("scalar", f) }},
	{"plain", func(f *model.Forest) Kernel[float32] { return ByName[float32]("plain", f) }},
}

func missingLeft(left bool) model.Flags {
	if left {
		return model.MissingLeft
	}
	return 0
}

// draw makes a random forest.
func draw(t testing.TB, random *rand.Rand, trees, depth, features, outputs int) *model.Forest {
	t.Helper()
	b := model.NewBuilder(model.Shape{Outputs: outputs})
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
		if err := b.Split(random.IntN(features), float64(threshold), missingLeft(random.IntN(2) == 0)); err != nil {
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
	f.Average = true
	if random.IntN(2) == 0 {
		f.LeafIDs = make([]uint32, f.NumLeaves())
		for i := range f.LeafIDs {
			f.LeafIDs[i] = random.Uint32N(1000)
		}
	}
	return &f
}

// plainNode is a tree as a textbook has it, made from the arrays by recursion: what kernels are compared with. A leaf
// has no children.
type plainNode struct {
	feature     int
	threshold   float32
	missingLeft bool
	left, right *plainNode
	leaf        int   // in Forest.Leaves
	id          int64 // that Leaves gives
}

// plant makes the nodes of a tree's subtree (k, l, end), of which the first has the index preorder.
func plant(f *model.Forest, tree model.Tree, k, l, end uint32, preorder *int64) *plainNode {
	n := &plainNode{id: *preorder}
	*preorder++
	if k == end {
		n.leaf = int(tree.Leaf + l)
		if f.LeafIDs != nil {
			n.id = int64(f.LeafIDs[n.leaf])
		}
		return n
	}
	s := f.Splits[tree.Split+k]
	n.feature, n.threshold, n.missingLeft = int(s.Bits&0xffffff), math.Float32frombits(s.Value), s.Bits>>31 == 1
	n.left = plant(f, tree, k+1, l, s.Right, preorder)
	n.right = plant(f, tree, s.Right, l+s.Right-k, end, preorder)
	return n
}

func (n *plainNode) find(row []float32) *plainNode {
	if n.left == nil {
		return n
	}
	v := row[n.feature]
	if math.IsNaN(float64(v)) {
		if n.missingLeft {
			return n.left.find(row)
		}
		return n.right.find(row)
	}
	if float64(v) <= float64(n.threshold) {
		return n.left.find(row)
	}
	return n.right.find(row)
}

// evaluate is what a kernel has to give.
func evaluate(f *model.Forest, rows []float32, features int) (scores []float64, leaves []int64) {
	var roots []*plainNode
	for t := range f.NumTrees() {
		preorder := int64(0)
		roots = append(roots, plant(f, f.Trees[t], 0, 0, f.Trees[t+1].Split-f.Trees[t].Split, &preorder))
	}
	for i := 0; i < len(rows); i += features {
		sums := make([]float64, f.Outputs)
		for _, root := range roots {
			at := root.find(rows[i : i+features])
			leaves = append(leaves, at.id)
			for o := range sums {
				sums[o] += f.Values[f.Row(at.leaf)*f.Outputs+o]
			}
		}
		for _, sum := range sums {
			scores = append(scores, sum/float64(f.NumTrees()))
		}
	}
	return scores, leaves
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

// TestKernels compares every kernel with the textbook, bit by bit, on forests of all sizes.
func TestKernels(t *testing.T) {
	for seed := range uint64(400) {
		random := rand.New(rand.NewPCG(seed, 0))
		depth, features, outputs := int(seed%13), 1+random.IntN(50), 1+random.IntN(10)
		f := draw(t, random, 1+random.IntN(12), depth, features, outputs)
		// Around the sizes in which a kernel may take rows together, and no rows at all.
		n := []int{0, 1, 2, 7, 8, 9, 31, 33, 64, random.IntN(301)}[seed/13%10]
		rows := drawRows(random, n, features)
		want, wantLeaves := evaluate(f, rows, features)
		for _, k := range kernels {
			check(t, fmt.Sprintf("seed %d, %s", seed, k.Name), k.New(f), rows, features, want, wantLeaves)
		}
		check(t, fmt.Sprintf("seed %d, the one that is used", seed), New[float32](f), rows, features, want, wantLeaves)
	}
}

// check runs a kernel into slices that hold something else before, and looks also at what is behind them.
func check(t *testing.T, name string, kernel Kernel[float32], rows []float32, features int, want []float64, wantLeaves []int64) {
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
		if i < len(want) && math.Float64bits(got[i]) != math.Float64bits(want[i]) {
			t.Fatalf("%s: score %d is %v, want %v", name, i, got[i], want[i])
		}
		if i >= len(want) && !math.IsNaN(got[i]) {
			t.Fatalf("%s: it wrote %v behind the scores", name, got[i])
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

// TestBatches: how rows are put together changes no bit.
func TestBatches(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	const n, features, outputs = 100, 6, 3
	f := draw(t, random, 20, 8, features, outputs)
	rows := drawRows(random, n, features)
	whole := make([]float64, n*outputs)
	New[float32](f).Margins(whole, rows, features)
	for _, size := range []int{1, 3, 8, 50} {
		part := make([]float64, size*outputs)
		for i := 0; i+size <= n; i += size {
			New[float32](f).Margins(part, rows[i*features:(i+size)*features], features)
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
	f := draw(t, random, 20, 8, features, 2)
	rows := drawRows(random, n, features)
	want, wantLeaves := evaluate(f, rows, features)
	kernel := New[float32](f)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, leaves := make([]float64, len(want)), make([]int64, len(wantLeaves))
			for range 20 {
				kernel.Margins(got, rows, features)
				kernel.Leaves(leaves, rows, features)
				if !slices.Equal(got, want) || !slices.Equal(leaves, wantLeaves) {
					t.Error("another goroutine changed the answer")
					return
				}
			}
		})
	}
	wg.Wait()
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
		for _, k := range kernels {
			var got [1]float64
			var leaves [2]int64
			k.New(&f).Margins(got[:], tt.row, 2)
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
	for _, k := range kernels {
		kernel := k.New(f)
		if n := testing.AllocsPerRun(100, func() {
			kernel.Margins(dst, rows, 5)
			kernel.Leaves(leaves, rows, 5)
		}); n != 0 {
			t.Errorf("%s allocates %v times a call", k.Name, n)
		}
	}
}

// BenchmarkScores measures every kernel beside the same forest with a pointer for every child.
func BenchmarkScores(b *testing.B) {
	const features = 20
	random := rand.New(rand.NewPCG(1, 1))
	f := drawFull(b, random, 100, 10, features, 2)
	var roots []*plainNode
	for t := range f.NumTrees() {
		preorder := int64(0)
		roots = append(roots, plant(f, f.Trees[t], 0, 0, f.Trees[t+1].Split-f.Trees[t].Split, &preorder))
	}
	for _, n := range []int{1, 64, 1024} {
		rows, dst := make([]float32, n*features), make([]float64, n*2)
		for i := range rows {
			rows[i] = random.Float32()
		}
		run := func(name string, scores func()) {
			b.Run(fmt.Sprintf("rows=%d/%s", n, name), func(b *testing.B) {
				for b.Loop() {
					scores()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/row")
			})
		}
		run("pointers", func() {
			clear(dst)
			for i := range n {
				for _, root := range roots {
					row := int(f.Leaves[root.find(rows[i*features:(i+1)*features]).leaf]) * 2
					dst[i*2] += f.Values[row]
					dst[i*2+1] += f.Values[row+1]
				}
				dst[i*2] /= float64(len(roots))
				dst[i*2+1] /= float64(len(roots))
			}
		})
		for _, k := range kernels {
			kernel := k.New(f)
			run(k.Name, func() { kernel.Margins(dst, rows, features) })
		}
	}
}

// drawFull makes a forest of full trees with thresholds that halve their features' range, as if trained on them.
func drawFull(t testing.TB, random *rand.Rand, trees, depth, features, outputs int) *model.Forest {
	t.Helper()
	b := model.NewBuilder(model.Shape{Outputs: outputs})
	values := make([]float64, outputs)
	var grow func(d int, low, high []float32) error
	grow = func(d int, low, high []float32) error {
		if d == depth {
			for i := range values {
				values[i] = random.Float64()
			}
			return b.Leaf(values...)
		}
		at := random.IntN(features)
		threshold := low[at] + (high[at]-low[at])*(0.25+random.Float32()/2)
		if err := b.Split(at, float64(threshold), 0); err != nil {
			return err
		}
		old := high[at]
		high[at] = threshold
		if err := grow(d+1, low, high); err != nil {
			return err
		}
		high[at] = old
		old, low[at] = low[at], threshold
		err := grow(d+1, low, high)
		low[at] = old
		return err
	}
	high := slices.Repeat([]float32{1}, features)
	for range trees {
		if err := grow(0, make([]float32, features), high); err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	f.Average = true
	return &f
}
