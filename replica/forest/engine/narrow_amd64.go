//go:build !purego

package engine

import (
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/engine/internal/simd"
)

// narrow is sliced for fewer rows: slices are words of 64 rows, and eight trees that are heaps of a depth of up to 6
// are evaluated side by side, a word of a vector for each. Other trees are evaluated as in Go.
type narrow[T Row] struct{ *narrowForest }

// narrowForest is a forest as narrow evaluates it.
type narrowForest struct {
	*slicedForest
	runs   [][]run // of each section
	narrow float64 // cost of a block
}

// run are trees that add to the same output.
type run struct {
	output int
	heaps  []uint16 // of groups of eight trees: the children of each split of all eight, before the next split's
	tables []byte   // of each tree: the first byte of all values, then the second, and so on
	trees  int
	tree   int // in the section: the only one, when there are no heaps
}

const (
	groupTrees = 8
	groupDepth = 6
)

// newNarrowForest lays a forest out, or gives nil when it is not one for narrow: when few trees stand side by side.
func newNarrowForest(p *parts) *narrowForest {
	if highest < levelVBMI || p.f.Width != 1 {
		return nil
	}
	w := &narrowForest{slicedForest: laySlices(p, levelGo, levelVBMI, groupDepth)}
	if w.slicedForest == nil {
		return nil
	}
	grouped := 0
	for i := range w.sections {
		sec := &w.sections[i]
		var runs []run
		// Sums of different outputs do not meet: trees of one come together, in their order.
		order := make([]int, len(sec.trees))
		for k := range order {
			order[k] = k
		}
		output := func(k int) int { return first(w.f, sec.first+k) }
		slices.SortStableFunc(order, func(a, b int) int { return output(a) - output(b) })
		var some []int
		for i, k := range order {
			t := &sec.trees[k]
			fits := t.tables != nil && t.circuit == nil && t.bits <= groupDepth
			if fits {
				some = append(some, k)
			}
			if last := i+1 == len(order) || output(order[i+1]) != output(k); len(some) > 0 && (last || !fits) {
				runs = append(runs, w.group(sec, output(k), some))
				grouped += len(some)
				some = some[:0]
			}
			if !fits {
				runs = append(runs, run{output: output(k), tree: k})
			}
		}
		w.runs = append(w.runs, runs)
	}
	if 2*grouped < w.f.NumTrees() {
		return nil
	}
	w.narrow = w.narrowCost()
	return w
}

// group lays heaps out side by side. Where the last group has fewer than eight, trees of -0 follow: it changes no sum.
func (w *narrowForest) group(sec *section, output int, trees []int) run {
	n := (len(trees) + groupTrees - 1) / groupTrees
	bytes := 8
	if w.f.Single {
		bytes = 4
	}
	r := run{output: output, trees: len(trees), heaps: make([]uint16, n*groupTrees<<groupDepth), tables: make([]byte, n*groupTrees*64*bytes)}
	for i := range n * groupTrees {
		heap := r.heaps[i/groupTrees*groupTrees<<groupDepth:]
		table := r.tables[i*64*bytes:][:64*bytes]
		if i >= len(trees) {
			for at := range 64 {
				table[(bytes-1)*64+at] = 0x80 // the sign
			}
			continue
		}
		t := &sec.trees[trees[i]]
		// A heap of a lower depth has its leaves repeatedly: what is below them does not ask.
		for at := 1; at < 1<<t.bits; at++ {
			heap[at*groupTrees+i%groupTrees] = t.heap[turned(at)]
		}
		leaves := newLeafTable(levelVBMI, w.f.Single, groupDepth, 64, func(at int) float64 {
			if w.f.Single {
				return float64(t.tables[0].floats[at>>(groupDepth-t.bits)])
			}
			return t.tables[0].doubles[at>>(groupDepth-t.bits)]
		})
		copy(table, leaves.bytes)
		t.tables = nil
	}
	return r
}

func (w *narrowForest) kernels() (Kernel[float32], Kernel[float64]) {
	return narrow[float32]{w}, narrow[float64]{w}
}

func (w *narrowForest) cost(rows int) float64 {
	blocks := float64((rows + w.rows - 1) / w.rows)
	return blocks*w.narrow + float64(rows)*costOf[levelGo].output
}

// narrowCost is what a block costs, besides its rows.
func (w *narrowForest) narrowCost() float64 {
	c := costOf[levelGo]
	cost := 0.0
	for i := range w.sections {
		s := &w.sections[i]
		cost += float64(len(s.pieces))*narrowPiece + float64(s.free)*narrowAsk
		for k := range w.runs[i] {
			if r := &w.runs[i][k]; r.heaps != nil {
				cost += float64(len(r.heaps)/(groupTrees<<groupDepth)) * narrowGroup
			} else {
				cost += w.treeCost(c, &s.trees[r.tree])
			}
		}
	}
	return cost
}

func (w *narrowForest) shares() []Share {
	n := map[string]int{}
	for i := range w.sections {
		for k := range w.runs[i] {
			if r := &w.runs[i][k]; r.heaps != nil {
				n["heaps of up to 6 levels, eight side by side"] += r.trees
			} else {
				n["sliced one by one"]++
			}
		}
	}
	return sharesOf(n)
}

func (w *narrowForest) bytes() int {
	n := w.slicedForest.bytes()
	for _, runs := range w.runs {
		for i := range runs {
			n += 2*len(runs[i].heaps) + len(runs[i].tables)
		}
	}
	return n
}

func (w narrow[T]) Margins(dst []float64, rows []T, features int) {
	f := w.f
	s, _ := w.scratch.Get().(*slicedScratch)
	for len(rows) > 0 {
		n := min(len(rows)/features, w.rows)
		w.begin(s)
		if w.walks {
			s.walk, s.form = fill(&w.lanes.columns, s.walk, rows[:n*features], features)
		}
		for i := range w.sections {
			sec := &w.sections[i]
			answer(w.slicedForest, s, sec, rows[:n*features], features, n)
			for k := range w.runs[i] {
				r := &w.runs[i][k]
				switch groups := len(r.heaps) / (groupTrees << groupDepth); {
				case groups == 0:
					w.evaluate(s, sec, r.tree, n)
				case f.Single:
					simd.GroupsFloats(&s.words[0], &r.heaps[0], groups, &r.tables[0], &s.sums32[r.output*maxRows])
				default:
					simd.GroupsDoubles(&s.words[0], &r.heaps[0], groups, &r.tables[0], &s.sums[r.output*maxRows])
				}
			}
		}
		w.end(s, dst[:n*f.Outputs])
		rows, dst = rows[n*features:], dst[n*f.Outputs:]
	}
	w.scratch.Put(s)
}

// Leaves come from lanes.
func (w narrow[T]) Leaves(dst []int64, rows []T, features int) {
	lanes[T]{w.lanes}.Leaves(dst, rows, features)
}
