package engine

import (
	"math"
	"math/bits"
	"slices"
	"sync"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// lanes follows several walks at the same time, so that the processor waits for their memory together: the same tree
// for several rows or, when there are fewer rows, several trees for the same row. It has nodes of its own, 8 bytes each
// and with children side by side, that compare a float32 and nothing else: what a split asks of a feature (NaN to the
// left, a float64, a set) is worked out once for each row, as a column.
type lanes[T Row] struct{ *laneForest }

// laneForest is a forest as lanes walk it.
type laneForest struct {
	f       *model.Forest
	columns columns
	nodes   []laneNode
	roots   []uint32 // of each tree, in nodes
	depths  []uint16 // of each tree
	shift   uint32   // of the column in laneNode.meta
	direct  bool     // leaves hold values, not rows of values
	scratch sync.Pool
}

// laneNode is a split or a leaf. A split goes to its left child when the row's column is <= key, and else to the right
// one, which is the next. A leaf goes to itself: its column is always toLeft. Its key is a row of values or, as bits,
// what it adds.
type laneNode struct {
	key  int32
	meta uint32 // laneCount times the column, and below it the left child
}

const (
	laneCount = 8
	// laneBlock is the number of rows that follow a tree before the next tree's turn: many, so that a large tree is read
	// from memory once for them all, and laneBytes bounds what their columns take.
	laneBlock = 8192
	laneBytes = 2 << 20
	// laneSure is the depth up to which all lanes take as many steps, arrived or not; in deeper trees most leaves are
	// higher, and every laneBurst steps it is looked whether all have arrived.
	laneSure  = 10
	laneBurst = 6
)

// newLaneForest lays out a forest, or gives nil when lanes cannot walk it.
func newLaneForest(f *model.Forest) *laneForest {
	w := &laneForest{f: f, direct: f.Single && f.Width == 1}
	ask := newAsk(f)
	if ask == nil {
		return nil
	}
	w.columns = ask.columns
	// One column more than there are is the leaves'. At least one bit, since a shift by 32 would be one by 0.
	w.shift = uint32(32 - max(bits.Len(uint(len(w.columns)*laneCount)), 1))
	if f.NumNodes() > 1<<w.shift {
		return nil
	}
	leaf := uint32(len(w.columns)*laneCount) << w.shift
	w.nodes = make([]laneNode, 0, f.NumNodes())
	var splits []model.Split
	var first uint32 // leaf of the tree
	// place fills a node with the subtree (k, l, end) and lays out what is below it, the larger child first: of
	// a walk's next nodes many are then in the cache line that it has just read.
	var place func(at int, k, l, end uint32)
	place = func(at int, k, l, end uint32) {
		if k == end {
			n := laneNode{meta: leaf | uint32(at)}
			if row := f.Row(int(first + l)); w.direct {
				n.key = int32(math.Float32bits(f.Values32[row]))
			} else {
				n.key = int32(row)
			}
			w.nodes[at] = n
			return
		}
		s := splits[k]
		column, key := ask.question(s)
		pair := len(w.nodes)
		w.nodes = w.nodes[:pair+2]
		w.nodes[at] = laneNode{key, column*laneCount<<w.shift | uint32(pair)}
		if s.Right-k > end-s.Right {
			place(pair, k+1, l, s.Right)
			place(pair+1, s.Right, l+s.Right-k, end)
		} else {
			place(pair+1, s.Right, l+s.Right-k, end)
			place(pair, k+1, l, s.Right)
		}
	}
	for t := range f.NumTrees() {
		splits, first = f.Splits[f.Trees[t].Split:f.Trees[t+1].Split], f.Trees[t].Leaf
		root := len(w.nodes)
		w.roots = append(w.roots, uint32(root))
		w.depths = append(w.depths, uint16(f.TreeDepth(t)))
		w.nodes = w.nodes[:root+1]
		place(root, 0, 0, uint32(len(splits)))
	}
	w.scratch.New = func() any { return new(laneScratch) }
	return w
}

// node is a node, its column, which is one more than there are for a leaf, and its left child.
func (w *laneForest) node(at uint32) (n laneNode, column int, left uint32) {
	n = w.nodes[at]
	return n, int(n.meta >> (w.shift & 31) / laneCount), n.meta & (1<<(w.shift&31) - 1)
}

// group is the number of columns of laneCount rows, of which the last is that of the leaves.
func (w *laneForest) group() int { return (len(w.columns) + 1) * laneCount }

func (w *laneForest) bytes() int { return 8*len(w.nodes) + 4*len(w.roots) + 2*len(w.depths) }

// laneScratch is what one call needs.
type laneScratch struct {
	columns []int32           // of a block of rows
	at      [laneCount]uint32 // the nodes of the lanes
}

func (w lanes[T]) Margins(dst []float64, rows []T, features int) {
	f := w.f
	s, _ := w.scratch.Get().(*laneScratch)
	group := w.group()
	block := max(laneCount, min(laneBlock, laneBytes/(4*group)*laneCount))
	for len(rows) > 0 {
		n := min(len(rows)/features, block)
		size := (n + laneCount - 1) / laneCount * group
		s.columns = slices.Grow(s.columns[:0], size)[:size]
		fill(w.columns, s.columns, rows[:n*features], features)
		for i := range n {
			begin(f, dst[i*f.Outputs:(i+1)*f.Outputs])
		}
		together := n / laneCount * laneCount
		for t := 0; t < f.NumTrees() && together > 0; t++ {
			for i := 0; i < together; i += laneCount {
				for k := range s.at {
					s.at[k] = w.roots[t]
				}
				w.down(s.columns[i/laneCount*group:], int(w.depths[t]), &s.at)
				for k, at := range s.at {
					w.add(t, at, dst[(i+k)*f.Outputs:(i+k+1)*f.Outputs])
				}
			}
		}
		for i := together; i < n; i++ {
			w.row(s, s.columns[i/laneCount*group+i%laneCount:], dst[i*f.Outputs:(i+1)*f.Outputs])
		}
		for i := range n {
			end(f, dst[i*f.Outputs:(i+1)*f.Outputs])
		}
		rows, dst = rows[n*features:], dst[n*f.Outputs:]
	}
	w.scratch.Put(s)
}

// row evaluates one row, several trees at a time.
func (w *laneForest) row(s *laneScratch, columns []int32, out []float64) {
	for t := 0; t < len(w.roots); t += laneCount {
		n := min(laneCount, len(w.roots)-t)
		depth := 0
		for k := range s.at {
			tree := t + min(k, n-1) // lanes too many follow the last tree
			s.at[k] = w.roots[tree]
			depth = max(depth, int(w.depths[tree]))
		}
		w.across(columns, depth, &s.at)
		for k := range n {
			w.add(t+k, s.at[k], out)
		}
	}
}

// next is the node after one, for the column values of a lane. Nodes lead to nodes and ask columns that there are,
// since newLaneForest laid them out; a lane that has arrived stays where it is.
func next(nodes, lane unsafe.Pointer, at, shift, mask uint32) uint32 {
	n := (*laneNode)(unsafe.Add(nodes, uintptr(at)*8))
	meta := n.meta
	right := uint32(0)
	if *(*int32)(unsafe.Add(lane, uintptr(meta>>(shift&31))*4)) > n.key {
		right = 1 // which the compiler makes without a jump
	}
	return meta&mask + right
}

// bursts is how many steps to take before looking whether all lanes have arrived, and whether to look at all.
func bursts(depth int) (steps int, look bool) {
	if depth <= laneSure {
		return depth, false
	}
	return laneBurst, true
}

// down takes lanes of several rows down from where they are.
func (w *laneForest) down(columns []int32, depth int, at *[laneCount]uint32) {
	nodes, c := unsafe.Pointer(unsafe.SliceData(w.nodes)), unsafe.Pointer(unsafe.SliceData(columns))
	shift, mask := w.shift, uint32(1)<<(w.shift&31)-1
	a0, a1, a2, a3, a4, a5, a6, a7 := at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]
	for steps, look := bursts(depth); ; {
		for range steps {
			a0 = next(nodes, c, a0, shift, mask)
			a1 = next(nodes, unsafe.Add(c, 4), a1, shift, mask)
			a2 = next(nodes, unsafe.Add(c, 8), a2, shift, mask)
			a3 = next(nodes, unsafe.Add(c, 12), a3, shift, mask)
			a4 = next(nodes, unsafe.Add(c, 16), a4, shift, mask)
			a5 = next(nodes, unsafe.Add(c, 20), a5, shift, mask)
			a6 = next(nodes, unsafe.Add(c, 24), a6, shift, mask)
			a7 = next(nodes, unsafe.Add(c, 28), a7, shift, mask)
		}
		*at = [laneCount]uint32{a0, a1, a2, a3, a4, a5, a6, a7}
		if !look || w.arrived(at) {
			return
		}
	}
}

// across takes one row down several trees, from their roots, which at has.
func (w *laneForest) across(columns []int32, depth int, at *[laneCount]uint32) {
	nodes, c := unsafe.Pointer(unsafe.SliceData(w.nodes)), unsafe.Pointer(unsafe.SliceData(columns))
	shift, mask := w.shift, uint32(1)<<(w.shift&31)-1
	a0, a1, a2, a3, a4, a5, a6, a7 := at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]
	for steps, look := bursts(depth); ; {
		for range steps {
			a0 = next(nodes, c, a0, shift, mask)
			a1 = next(nodes, c, a1, shift, mask)
			a2 = next(nodes, c, a2, shift, mask)
			a3 = next(nodes, c, a3, shift, mask)
			a4 = next(nodes, c, a4, shift, mask)
			a5 = next(nodes, c, a5, shift, mask)
			a6 = next(nodes, c, a6, shift, mask)
			a7 = next(nodes, c, a7, shift, mask)
		}
		*at = [laneCount]uint32{a0, a1, a2, a3, a4, a5, a6, a7}
		if !look || w.arrived(at) {
			return
		}
	}
}

// arrived tells whether all lanes are at leaves, which lead to themselves.
func (w *laneForest) arrived(at *[laneCount]uint32) bool {
	mask := uint32(1)<<(w.shift&31) - 1
	moving := uint32(0)
	for _, a := range at {
		moving |= w.nodes[a].meta&mask ^ a
	}
	return moving == 0
}

// add adds what a leaf gives.
func (w *laneForest) add(t int, at uint32, out []float64) {
	key := w.nodes[at].key
	out = out[first(w.f, t):]
	if w.direct {
		out[0] = float64(float32(out[0]) + math.Float32frombits(uint32(key)))
		return
	}
	addRow(w.f, int(key), out)
}

// Leaves walks the canonical nodes, which know their ids.
func (w lanes[T]) Leaves(dst []int64, rows []T, features int) {
	walker[T](w.f).Leaves(dst, rows, features)
}

func (w *laneForest) kernels() (Kernel[float32], Kernel[float64]) {
	return lanes[float32]{w}, lanes[float64]{w}
}

func (w *laneForest) cost(rows int) float64 {
	return float64(rows) * (10*float64(len(w.columns)) + meanSteps(w.f)*laneStep)
}

func (w *laneForest) shares() []Share { return []Share{{w.f.NumTrees(), "walked, several at a time"}} }
