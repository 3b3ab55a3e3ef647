package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// node is a tree with a pointer for every child. A leaf has none.
type node struct {
	feature     int
	threshold   float32
	missingLeft bool
	left, right *node
	leaf        int // in Forest.Leaves
}

// plant makes the nodes of a tree's subtree (k, l, end).
func plant(f *model.Forest, tree model.Tree, k, l, end uint32) *node {
	if k == end {
		return &node{leaf: int(tree.Leaf + l)}
	}
	s := f.Splits[tree.Split+k]
	return &node{
		feature: s.Feature(), threshold: s.Threshold32(), missingLeft: s.Has(model.MissingLeft),
		left: plant(f, tree, k+1, l, s.Right), right: plant(f, tree, s.Right, l+s.Right-k, end),
	}
}

func (n *node) find(row []float32) *node {
	for n.left != nil {
		if v := row[n.feature]; v <= n.threshold || (v != v && n.missingLeft) {
			n = n.left
		} else {
			n = n.right
		}
	}
	return n
}

// BenchmarkScores measures every kernel beside the same forest with a pointer for every child.
func BenchmarkScores(b *testing.B) {
	const features = 20
	random := rand.New(rand.NewPCG(1, 1))
	f := drawFull(b, random, 100, 10, features, 2)
	var roots []*node
	for t := range f.NumTrees() {
		roots = append(roots, plant(f, f.Trees[t], 0, 0, f.Trees[t+1].Split-f.Trees[t].Split))
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
					row := f.Row(root.find(rows[i*features:(i+1)*features]).leaf) * 2
					dst[i*2] += f.Values[row]
					dst[i*2+1] += f.Values[row+1]
				}
				dst[i*2] /= float64(len(roots))
				dst[i*2+1] /= float64(len(roots))
			}
		})
		for _, name := range Names() {
			if kernel := ByName[float32](name, f); kernel != nil {
				run(name, func() { kernel.Margins(dst, rows, features) })
			}
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

// BenchmarkShallow measures every kernel on trees of depth 6 of one output in float32, as XGBoost trains them.
func BenchmarkShallow(b *testing.B) {
	const features, trees = 28, 500
	random := rand.New(rand.NewPCG(2, 2))
	builder := model.NewBuilder(model.Shape{Outputs: 1, Single: true})
	var grow func(d int)
	grow = func(d int) {
		if d == 6 {
			_ = builder.Leaf(float64(random.Float32()))
			return
		}
		_ = builder.Split(random.IntN(features), float64(float32(random.IntN(256))/256), 0)
		grow(d + 1)
		grow(d + 1)
	}
	for range trees {
		grow(0)
	}
	f, err := builder.Forest()
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 64, 512} {
		rows, dst := make([]float32, n*features), make([]float64, n)
		for i := range rows {
			rows[i] = random.Float32()
		}
		for _, name := range Names() {
			kernel := ByName[float32](name, &f)
			if kernel == nil {
				continue
			}
			b.Run(fmt.Sprintf("rows=%d/%s", n, name), func(b *testing.B) {
				for b.Loop() {
					kernel.Margins(dst, rows, features)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/row")
			})
		}
	}
}

// BenchmarkSteps measures the steps that cost.go has, of blocks, at every level: for piece and ask the questions of one piece
// with few and with many keys, for split and add one tree of 6 levels, for large one of 8.
func BenchmarkSteps(b *testing.B) {
	random := rand.New(rand.NewPCG(4, 4))
	var x [maxRows]float32
	for i := range x {
		x[i] = random.Float32()
	}
	for _, l := range levels() {
		words := l.words()
		run := func(name string, step func()) {
			b.Run(fmt.Sprintf("%v/%s", l, name), func(b *testing.B) {
				for b.Loop() {
					step()
				}
			})
		}
		all := make(bitset, maxSlices*words)
		for i := range all {
			all[i] = random.Uint64()
		}
		for _, n := range []int{15, 255} {
			ascending := make([]float32, n)
			for i := range ascending {
				ascending[i] = float32(i) / float32(n)
			}
			k := newKeys(l, ascending, order32, int32(math.MaxInt32))
			s := new(answerScratch)
			run(fmt.Sprintf("answer/keys=%d", n), func() { l.answer32(&x, &k, 0, s, all[:n*words], words) })
		}
		var p planes
		gates := make([]gate, 200)
		for i := range gates {
			gates[i] = gate{uint16(random.IntN(6000)), uint16(random.IntN(6000)), uint16(random.IntN(6000))}
		}
		run("circuit/gates=200", func() { l.circuit(all, gates, 6000) })
		for _, depth := range []int{6, 8} {
			heap := make([]uint16, 1<<depth)
			for i := range heap {
				heap[i] = uint16(random.IntN(6000))
			}
			heap = l.turn(heap)
			run(fmt.Sprintf("planes/depth=%d", depth), func() { l.planes(all, heap, depth, &p) })
			value := func(i int) float64 { return float64(i) }
			t32, t64 := newLeafTable(l, true, depth, 1<<depth, value), newLeafTable(l, false, depth, 1<<depth, value)
			var sums32 [maxRows]float32
			var sums64 [maxRows]float64
			run(fmt.Sprintf("add32/depth=%d", depth), func() { l.add32(&sums32, &p, &t32, depth) })
			run(fmt.Sprintf("add64/depth=%d", depth), func() { l.add64(&sums64, &p, &t64, depth) })
		}
	}
}
