package engine

import (
	"math"
	"slices"
	"sync"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// lanes follows several walks at the same time, so that the processor waits for their memory together: the same tree
// for several rows or, when there are few rows, all trees for the same row. It has nodes of its own, words of 8 bytes
// with children side by side, that compare a uint32 and nothing else: what a split asks of a feature (NaN to the
// left, a float64, a set) is worked out once for each row, as a column.
type lanes[T Row] struct{ *laneForest }

// laneForest is a forest as lanes walk it.
type laneForest struct {
	f       *model.Forest
	level   level
	columns laneColumns
	nodes   []word
	trees   []laneTree
	roots   []word // of the trees
	largest int    // tree, in bytes
	steps   int    // of all trees together
	direct  bool   // leaves hold values, not rows of values
	scratch sync.Pool

	once sync.Once
	ids  []uint32 // of the leaves among nodes; made when they are asked for
}

// laneTree is where a tree is. Assembly reads it as 8 bytes, the lower four of which are base.
type laneTree struct {
	base  uint32 // the place of its root in nodes, from which its words count
	steps uint16 // to take before looking whether walks have arrived
}

const (
	// laneBlock bounds the rows that follow a tree before the next tree's turn, and laneBytes what their columns take.
	laneBlock = 8192
	laneBytes = 2 << 20
	// laneLeastBlock rows are many enough for the smallest trees. The columns of a block take up to laneShare times what the
	// largest tree takes: they are read again for each tree, and each tree for each block.
	laneLeastBlock = 512
	laneShare      = 5
	// laneLeast is the number of rows from which on they follow a tree together though there are not laneCount.
	laneLeast = 10
	// Fewer rows than laneFew go one by one through a forest that is larger than laneCached: each row walks in many trees,
	// and waits less for memory.
	laneFew    = 128
	laneCached = 4 << 20
	// laneTrees is the number of trees that are walked together for one row: their next nodes stay in the cache.
	laneTrees = 256
)

// newLaneForest lays out a forest, or gives nil when lanes cannot walk it.
func newLaneForest(ask *ask, l level) *laneForest {
	if ask == nil {
		return nil
	}
	f := ask.f
	w := &laneForest{f: f, level: l, direct: f.Single && f.Width == 1}
	columns, bitsOf := newLaneColumns(ask)
	w.columns = columns
	words := 0
	for t := range f.NumTrees() {
		size := 1
		if splits := int(f.Trees[t+1].Split - f.Trees[t].Split); splits > 0 {
			size = 2*splits + 2 // the root has no sibling
			words += words & 1  // so that no two children are in two cache lines
		}
		if words > math.MaxUint32 || uint64(size-1) > columns.narrow.left.mask {
			return nil
		}
		w.trees = append(w.trees, laneTree{base: uint32(words)})
		w.largest = max(w.largest, 8*size)
		words += size
	}
	w.nodes = make([]word, words+1) // what is behind a leaf is read with it
	wantHugePages(w.nodes)
	w.roots = make([]word, len(w.trees))
	for t := range w.trees {
		w.lay(t, ask, bitsOf)
		w.roots[t] = w.tree(t)[0]
		w.steps += int(w.trees[t].steps)
	}
	w.scratch.New = func() any { return new(laneScratch) }
	return w
}

// lay lays out a tree.
func (w *laneForest) lay(t int, ask *ask, bitsOf []word) {
	f, nodes := w.f, w.tree(t)
	splits, leaf := f.Splits[f.Trees[t].Split:f.Trees[t+1].Split], f.Trees[t].Leaf
	used, deepest, sum := 2, 0, 0
	// place fills a word with the subtree (k, l, end) and lays out what is below it, the larger child first: of
	// a walk's next nodes many are then in the cache line that it has just read.
	var place func(at int, k, l, end uint32, depth int)
	place = func(at int, k, l, end uint32, depth int) {
		if k == end {
			key := uint32(f.Row(int(leaf + l)))
			switch {
			case f.Linear != nil:
				key = leaf + l
			case w.direct:
				key = math.Float32bits(f.Values32[key])
			}
			nodes[at] = word(key) | word(at)<<32 | w.columns.leaf | leafBit
			deepest, sum = max(deepest, depth), sum+depth
			return
		}
		s := splits[k]
		a := ask.question(s)
		pair := used
		used += 2
		nodes[at] = word(uint32(a.key)^sign) | word(pair)<<32 | bitsOf[a.column]
		if s.Right-k > end-s.Right {
			place(pair, k+1, l, s.Right, depth+1)
			place(pair+1, s.Right, l+s.Right-k, end, depth+1)
		} else {
			place(pair+1, s.Right, l+s.Right-k, end, depth+1)
			place(pair, k+1, l, s.Right, depth+1)
		}
	}
	place(0, 0, 0, uint32(len(splits)), 0)
	// Rows need as many steps as an average leaf, or all take as many as the deepest, if that is about the same.
	steps := sum / (len(splits) + 1)
	if deepest-steps <= walkSteps {
		steps = deepest
	}
	w.trees[t].steps = uint16(steps)
}

// tree has the words of a tree, and those behind it.
func (w *laneForest) tree(t int) []word { return w.nodes[w.trees[t].base:] }

// ahead has the words of the tree after one.
func (w *laneForest) ahead(t int) []word {
	switch t++; t {
	case len(w.trees):
		return nil
	case len(w.trees) - 1:
		return w.tree(t)
	}
	return w.nodes[w.trees[t].base:w.trees[t+1].base]
}

func (w *laneForest) bytes() int { return 8 * (len(w.nodes) + len(w.trees) + len(w.roots)) }

// block is how many rows follow a tree before the next one's turn.
func (w *laneForest) block() int {
	row := 4 * w.columns.narrow.group / laneCount
	n := min(max(laneShare*w.largest/row, laneLeastBlock), laneBlock, laneBytes/row)
	return max(n/laneCount, 1) * laneCount
}

// laneScratch is what one call needs.
type laneScratch struct {
	columns []uint32 // of a block of rows
	to      []word   // leaves
}

func (w lanes[T]) Margins(dst []float64, rows []T, features int) {
	f := w.f
	s, _ := w.scratch.Get().(*laneScratch)
	block := w.block()
	for len(rows) > 0 {
		n := min(len(rows)/features, block)
		out := dst[:n*f.Outputs]
		for i := range n {
			begin(f, out[i*f.Outputs:(i+1)*f.Outputs])
		}
		some := rows[:n*features]
		w.walk(s, n, some, features,
			func(t int, leaves []word) {
				if f.Linear == nil {
					w.add(t, leaves, out)
					return
				}
				for i, leaf := range leaves {
					w.addLinear(t, leaf, some[i*features:(i+1)*features], out[i*f.Outputs:])
				}
			},
			func(i, t int, leaves []word) {
				sums := out[i*f.Outputs : (i+1)*f.Outputs]
				if f.Linear == nil {
					w.addTrees(t, leaves, sums)
					return
				}
				for k, leaf := range leaves {
					w.addLinear(t+k, leaf, some[i*features:(i+1)*features], sums)
				}
			})
		for i := range n {
			end(f, out[i*f.Outputs:(i+1)*f.Outputs])
		}
		rows, dst = rows[n*features:], dst[n*f.Outputs:]
	}
	w.scratch.Put(s)
}

// Leaves writes the ids of leaves, of which there is a table once they have been asked for.
func (w lanes[T]) Leaves(dst []int64, rows []T, features int) {
	w.once.Do(w.makeIDs)
	s, _ := w.scratch.Get().(*laneScratch)
	trees, block := len(w.trees), w.block()
	id := func(t int, leaf word) int64 {
		return int64(w.ids[uint64(w.trees[t].base)+w.columns.narrow.left.of(leaf)])
	}
	for len(rows) > 0 {
		n := min(len(rows)/features, block)
		out := dst[:n*trees]
		w.walk(s, n, rows[:n*features], features,
			func(t int, leaves []word) {
				for i, leaf := range leaves {
					out[i*trees+t] = id(t, leaf)
				}
			},
			func(i, t int, leaves []word) {
				for k, leaf := range leaves {
					out[i*trees+t+k] = id(t+k, leaf)
				}
			})
		rows, dst = rows[n*features:], dst[n*trees:]
	}
	w.scratch.Put(s)
}

// makeIDs makes the table of the ids of leaves, which stand in it where they stand in nodes.
func (w *laneForest) makeIDs() {
	w.ids = make([]uint32, len(w.nodes))
	for t := range w.trees {
		at := place{leaf: int(w.f.Trees[t].Leaf)}
		tree, ids := w.tree(t), w.ids[w.trees[t].base:]
		var visit func(n word)
		visit = func(n word) {
			child := w.columns.narrow.left.of(n)
			if n.isLeaf() {
				ids[child] = uint32(at.id(w.f))
				at.leaf++
				at.node++
				return
			}
			at.node++
			visit(tree[child])
			visit(tree[child+1])
		}
		visit(tree[0])
	}
}

// walk takes rows down all trees. It gives the leaves of the first rows in a tree, and of what is left those of one row, i,
// in the trees from t on.
func (w lanes[T]) walk(s *laneScratch, n int, rows []T, features int, inTree func(t int, leaves []word), inRow func(i, t int, leaves []word)) {
	var form *form
	s.columns, form = fill(&w.columns, s.columns, rows, features)
	s.to = slices.Grow(s.to[:0], max(n+laneCount, laneTrees))
	together := n
	if n%laneCount < laneLeast {
		together -= n % laneCount
	}
	if n < laneFew && 8*len(w.nodes) > laneCached {
		together = 0
	}
	if together > 0 {
		to := s.to[:(together+laneCount-1)/laneCount*laneCount]
		var from [laneCount]word
		for t, tree := range w.trees {
			for i := range from {
				from[i] = w.roots[t]
			}
			w.level.walkRows(w.tree(t), form, s.columns, from[:], 0, to, int(tree.steps), w.ahead(t))
			inTree(t, to[:together])
		}
	}
	for i := together; i < n; i++ {
		lane := s.columns[i/laneCount*form.group+i%laneCount:]
		for t := 0; t < len(w.trees); t += laneTrees {
			trees := w.trees[t:min(t+laneTrees, len(w.trees))]
			to := s.to[:copy(s.to[:laneTrees], w.roots[t:])]
			w.level.walkTrees(w.nodes, form, lane, trees, to)
			inRow(i, t, to)
		}
	}
}

// addLinear adds what a leaf that is linear in the row gives. Its key is its index.
func (w lanes[T]) addLinear(t int, leaf word, row []T, sums []float64) {
	sums[first(w.f, t)] += linear(w.f, int(leaf.key()), row)
}

// add adds what the leaves of a tree give to the sums of rows.
func (w *laneForest) add(t int, leaves []word, sums []float64) {
	f, at := w.f, first(w.f, t)
	switch {
	case w.direct:
		for _, n := range leaves {
			sums[at] = float64(float32(sums[at]) + math.Float32frombits(n.key()))
			at += f.Outputs
		}
	case f.Single || f.Width > 2:
		for _, n := range leaves {
			addRow(f, int(n.key()), sums[at:])
			at += f.Outputs
		}
	case f.Width == 1:
		for _, n := range leaves {
			sums[at] += f.Values[n.key()]
			at += f.Outputs
		}
	default: // two outputs: a classifier's
		values, to := unsafe.Pointer(unsafe.SliceData(f.Values)), unsafe.Pointer(unsafe.SliceData(sums[:2*len(leaves)]))
		for i, n := range leaves {
			v, sum := (*[2]float64)(unsafe.Add(values, uintptr(n.key())*16)), (*[2]float64)(unsafe.Add(to, i*16))
			sum[0] += v[0]
			sum[1] += v[1]
		}
	}
}

// addTrees adds what the leaves of a row give in trees from t on.
func (w *laneForest) addTrees(t int, leaves []word, sums []float64) {
	f := w.f
	switch {
	case w.direct && f.First == nil:
		sum := float32(sums[0])
		for _, n := range leaves {
			sum += math.Float32frombits(n.key())
		}
		sums[0] = float64(sum)
	case !f.Single && f.Width == 2:
		a, b := sums[0], sums[1]
		for _, n := range leaves {
			v := f.Values[2*n.key():][:2]
			a += v[0]
			b += v[1]
		}
		sums[0], sums[1] = a, b
	default:
		for k := range leaves {
			w.add(t+k, leaves[k:k+1], sums)
		}
	}
}

func (w *laneForest) kernels() (Kernel[float32], Kernel[float64]) {
	return lanes[float32]{w}, lanes[float64]{w}
}

func (w *laneForest) cost(rows int) float64 {
	together := float64(rows / laneCount * laneCount)
	alone := float64(rows) - together
	columns, trees := float64(len(w.columns.columns)), float64(len(w.trees))
	step := laneStep
	if w.level < levelAVX2 {
		step = goLaneStep
	}
	return together*(laneColumnCost*columns+step*float64(w.steps)+laneAdd*trees) + alone*(aloneColumnCost*columns+aloneStep*float64(w.steps))
}

func (w *laneForest) shares() []Share { return []Share{{w.f.NumTrees(), "walked, several at a time"}} }
