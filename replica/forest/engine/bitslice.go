package engine

import (
	"math"
	"math/bits"
	"slices"
	"sync"
)

// sliced evaluates 64 rows at a time, a bit of a word for each. Forests ask the same questions again and again: each is
// answered once for all rows, as a word of bits that say who goes right. A shallow tree then is a circuit of
// multiplexers over these words. Its outputs, a word a level, are the numbers of the leaves, read across: bit i of a
// row's leaf stands in word i. Trees that are too deep are walked in lanes.
type sliced[T Row] struct{ *slicedForest }

// slicedForest is a forest as sliced evaluates it.
type slicedForest struct {
	lanes     *laneForest
	questions []question // of each column
	count     int        // of all questions
	free      int        // the first word of circuits
	trees     []slicedTree
	scratch   sync.Pool
}

// question are the keys with which splits compare a column: ascending, and filled up with toRight to one less than
// a power of two.
type question struct {
	keys  []int32
	first int // the number of the first one among all questions
	n     int // without those filled up
}

// slicedTree is a tree as a heap, full to its depth, in which leaves above the last level stand repeatedly; or, where
// that is more work, a circuit of its own.
type slicedTree struct {
	bits    int                 // of a leaf's number, at most sliceBits
	heap    []uint16            // the word of each split's answer: the children of split i are 2i and 2i+1
	circuit *circuit            // nil for a heap
	leaf    *[sliceLeaves]int32 // the key of each leaf, as laneNode has it; nil for a tree that is walked
}

const (
	sliceRows   = 64
	sliceBits   = 8 // leaves are the numbers of a byte
	sliceLeaves = 1 << sliceBits
	// sliceLeast is the number of rows from which on a word of them is worth its circuits.
	sliceLeast = 24
	// maxSlicedTrees bounds the tables of leaves, 1 KiB a tree: a small file can hold a million trees that are leaves.
	maxSlicedTrees = 1 << 16
	// gateCost is the time of a gate of a circuit over that of a split of a heap, whose place is known without a look.
	gateCost = 4
)

// newSlicedForest makes circuits of the trees of a forest, or gives nil when most have too many leaves or it asks too
// much.
func newSlicedForest(l *laneForest) *slicedForest {
	if l == nil || len(l.roots) > maxSlicedTrees {
		return nil
	}
	f := l.f
	w := &slicedForest{lanes: l, questions: make([]question, len(l.columns)), trees: make([]slicedTree, f.NumTrees())}
	small := func(t int) bool { return f.Trees[t+1].Split-f.Trees[t].Split < sliceLeaves }
	shapes, n := make([]*shape, f.NumTrees()), 0
	for t, root := range l.roots {
		if small(t) {
			shapes[t] = w.shape(root)
			n++
		}
	}
	if 2*n < f.NumTrees() {
		return nil
	}
	for i := range w.questions {
		q := &w.questions[i]
		slices.Sort(q.keys)
		q.keys = slices.Compact(q.keys)
		q.first, q.n = w.count, len(q.keys)
		w.count += q.n
		for len(q.keys) < 1<<bits.Len(uint(q.n))-1 {
			q.keys = append(q.keys, toRight)
		}
	}
	// The word behind the answers is used while they are worked out; a circuit has at most sliceBits gates a split.
	w.free = wordAnswers + w.count + 1
	if w.free+sliceBits*sliceLeaves > maxWords {
		return nil
	}
	for t, root := range shapes {
		if root != nil {
			w.number(l.roots[t], root)
			w.trees[t] = w.tree(root, int(l.depths[t]))
		}
	}
	w.scratch.New = func() any {
		s := new(slicedScratch)
		s.words[wordOnes] = math.MaxUint64
		return s
	}
	return w
}

// shape makes a tree's shape of its nodes, and notes what it asks.
func (w *slicedForest) shape(at uint32) *shape {
	n, column, left := w.lanes.node(at)
	if column == len(w.questions) {
		return &shape{leaf: n.key, leaves: 1}
	}
	q := &w.questions[column]
	q.keys = append(q.keys, n.key)
	s := &shape{left: w.shape(left), right: w.shape(left + 1)}
	s.leaves = s.left.leaves + s.right.leaves
	return s
}

// number gives the splits of a shape the numbers of their questions.
func (w *slicedForest) number(at uint32, s *shape) {
	if s.left == nil {
		return
	}
	n, column, left := w.lanes.node(at)
	q := &w.questions[column]
	i, _ := slices.BinarySearch(q.keys[:q.n], n.key)
	s.ask = q.first + i
	w.number(left, s.left)
	w.number(left+1, s.right)
}

// tree makes the heap or the circuit of a tree, whichever is less work.
func (w *slicedForest) tree(root *shape, depth int) slicedTree {
	c, keys := newCircuit(root, w.free)
	t := slicedTree{bits: len(c.out), circuit: c, leaf: new([sliceLeaves]int32)}
	copy(t.leaf[:], keys)
	if depth > sliceBits || gateCost*len(c.gates) < 1<<depth {
		return t
	}
	t = slicedTree{bits: depth, heap: make([]uint16, 1<<depth), leaf: t.leaf}
	var place func(s *shape, at int)
	place = func(s *shape, at int) {
		switch {
		case at >= 1<<depth:
			t.leaf[at-1<<depth] = s.leaf
		case s.left == nil: // both ways lead to the leaf
			t.heap[at] = wordZeros
			place(s, 2*at)
			place(s, 2*at+1)
		default:
			t.heap[at] = uint16(wordAnswers + s.ask)
			place(s.left, 2*at)
			place(s.right, 2*at+1)
		}
	}
	place(root, 1)
	return t
}

func (w *slicedForest) bytes() int {
	n := 0
	for _, q := range w.questions {
		n += 4 * len(q.keys)
	}
	for _, t := range w.trees {
		if t.leaf != nil {
			n += 2*len(t.heap) + 4*sliceLeaves
		}
		if t.circuit != nil {
			n += 6*len(t.circuit.gates) + 2*len(t.circuit.out)
		}
	}
	return n
}

// slicedScratch is what one call needs.
type slicedScratch struct {
	words   words   // bit i is that of row i; an answer's is set when the row goes right
	columns []int32 // as fill makes them
	sums    []float64
	sums32  []float32
	at      [laneCount]uint32
}

func (w sliced[T]) Margins(dst []float64, rows []T, features int) {
	f := w.lanes.f
	s, _ := w.scratch.Get().(*slicedScratch)
	group := (len(w.lanes.columns) + 1) * laneCount
	s.columns = slices.Grow(s.columns[:0], sliceRows/laneCount*group)[:sliceRows/laneCount*group]
	s.sums = slices.Grow(s.sums[:0], f.Outputs*sliceRows)[:f.Outputs*sliceRows]
	s.sums32 = slices.Grow(s.sums32[:0], f.Outputs*sliceRows)[:f.Outputs*sliceRows]
	for len(rows) >= sliceLeast*features {
		n := min(len(rows)/features, sliceRows)
		fill(w.lanes.columns, s.columns, rows[:n*features], features)
		w.answer(s, group)
		w.begin(s)
		for t := range w.trees {
			tree, out := &w.trees[t], first(f, t)*sliceRows
			if tree.leaf == nil {
				w.walk(s, t, n, group)
				continue
			}
			p := tree.planes(&s.words, uint16(w.free))
			switch {
			case w.lanes.direct:
				tree.addFloats((*[sliceRows]float32)(s.sums32[out:]), &p)
			case f.Width == 1:
				tree.addDoubles((*[sliceRows]float64)(s.sums[out:]), &p, f.Values)
			default:
				w.addRows(s, tree, &p, out)
			}
		}
		w.end(s, dst[:n*f.Outputs])
		rows, dst = rows[n*features:], dst[n*f.Outputs:]
	}
	w.scratch.Put(s)
	if len(rows) > 0 {
		lanes[T]{w.lanes}.Margins(dst, rows, features)
	}
}

// Leaves walks the canonical nodes, which know their ids.
func (w sliced[T]) Leaves(dst []int64, rows []T, features int) {
	walker[T](w.lanes.f).Leaves(dst, rows, features)
}

// answer answers all questions for 64 rows. Of each row and column the number of keys below its value is found: these
// it answers with right, and the others with left.
func (w *slicedForest) answer(s *slicedScratch, group int) {
	for c := range w.questions {
		q := &w.questions[c]
		answers := s.words[wordAnswers+q.first:][:q.n+1] // the last is for rows above all keys, and not a question
		clear(answers)
		for g := range sliceRows / laneCount {
			v := (*[laneCount]int32)(s.columns[g*group+c*laneCount:])
			for i, n := range belowAll(q.keys, v) {
				answers[n] |= 1 << (g*laneCount + i)
			}
		}
		// Now answers[n] has the rows with n keys below. Question i is answered with right by those with more than i.
		right := answers[q.n]
		for i := q.n - 1; i >= 0; i-- {
			answers[i], right = right, right|answers[i]
		}
	}
}

// belowAll counts for each value the keys that are less, of which there are one less than a power of two.
func belowAll(keys []int32, v *[laneCount]int32) (n [laneCount]uint32) {
	for step := (len(keys) + 1) / 2; step > 0; step /= 2 {
		for i := range n {
			up := uint32(0)
			if keys[n[i]+uint32(step)-1] < v[i] {
				up = uint32(step)
			}
			n[i] += up
		}
	}
	return n
}

// planes gives the bits of the rows' leaves, the highest first.
func (t *slicedTree) planes(w *words, free uint16) (p [sliceBits]uint64) {
	if t.circuit != nil {
		t.circuit.run(w, free)
		for i, out := range t.circuit.out {
			p[i] = w[out]
		}
		return p
	}
	var u [sliceLeaves / 2]uint64
	p[0] = w[t.heap[1]]
	for level := 1; level < t.bits; level++ {
		n := 1 << level // splits of the level
		heap, up := t.heap[n:2*n], p[level-1]
		for k := range n / 2 {
			u[k] = mux(up, w[heap[2*k+1]], w[heap[2*k]])
		}
		for l := level - 2; l >= 0; l-- {
			up := p[l]
			for k := range 1 << l {
				u[k] = mux(up, u[2*k+1], u[2*k])
			}
		}
		p[level] = u[0]
	}
	return p
}

// mux has the bits of a where which has ones, and those of b elsewhere.
func mux(which, a, b uint64) uint64 { return b ^ which&(a^b) }

// spread has the bits of a byte as the lowest bits of eight bytes.
var spread = func() (t [256]uint64) {
	for b := range t {
		for i := range 8 {
			t[b] |= uint64(b>>i&1) << (8 * i)
		}
	}
	return t
}()

// leavesOf gives the leaves of rows 8g to 8g+7, a byte each.
func leavesOf(p *[sliceBits]uint64, bits, g int) uint64 {
	x := uint64(0)
	for _, plane := range p[:bits] {
		x = x<<1 | spread[plane>>(8*g)&255]
	}
	return x
}

// addFloats adds the values of a tree's leaves, which are their keys' bits.
func (t *slicedTree) addFloats(sums *[sliceRows]float32, p *[sliceBits]uint64) {
	for g := range sliceRows / 8 {
		x := leavesOf(p, t.bits, g)
		s := (*[8]float32)(sums[8*g:])
		for i := range s {
			s[i] += math.Float32frombits(uint32(t.leaf[uint8(x>>(8*i))]))
		}
	}
}

// addDoubles adds the values of a tree's leaves of one float64 each, whose numbers are their keys.
func (t *slicedTree) addDoubles(sums *[sliceRows]float64, p *[sliceBits]uint64, values []float64) {
	for g := range sliceRows / 8 {
		x := leavesOf(p, t.bits, g)
		s := (*[8]float64)(sums[8*g:])
		for i := range s {
			s[i] += values[t.leaf[uint8(x>>(8*i))]]
		}
	}
}

// addRows adds the rows of values of a tree's leaves, whose numbers are their keys.
func (w *slicedForest) addRows(s *slicedScratch, t *slicedTree, p *[sliceBits]uint64, out int) {
	f := w.lanes.f
	for g := range sliceRows / 8 {
		x := leavesOf(p, t.bits, g)
		for i := range 8 {
			row := int(t.leaf[uint8(x>>(8*i))]) * f.Width
			for o := range f.Width {
				at := out + o*sliceRows + 8*g + i
				if f.Single {
					s.sums32[at] += f.Values32[row+o]
				} else {
					s.sums[at] += f.Values[row+o]
				}
			}
		}
	}
}

// walk adds what a tree that is too deep gives to n rows.
func (w *slicedForest) walk(s *slicedScratch, t, n, group int) {
	f := w.lanes.f
	for g := 0; g*laneCount < n; g++ {
		w.lanes.down(w.lanes.roots[t], s.columns[g*group:], int(w.lanes.depths[t]), &s.at)
		for i, at := range s.at {
			key, out := w.lanes.nodes[at].key, first(f, t)*sliceRows+g*laneCount+i
			switch {
			case w.lanes.direct:
				s.sums32[out] += math.Float32frombits(uint32(key))
			case f.Single:
				for o := range f.Width {
					s.sums32[out+o*sliceRows] += f.Values32[int(key)*f.Width+o]
				}
			default:
				for o := range f.Width {
					s.sums[out+o*sliceRows] += f.Values[int(key)*f.Width+o]
				}
			}
		}
	}
}

// begin sets the sums to their bases.
func (w *slicedForest) begin(s *slicedScratch) {
	f := w.lanes.f
	for o := range f.Outputs {
		base := 0.0
		if f.Base != nil {
			base = f.Base[o]
		}
		for i := range sliceRows {
			if f.Single {
				s.sums32[o*sliceRows+i] = float32(base)
			} else {
				s.sums[o*sliceRows+i] = base
			}
		}
	}
}

// end writes the sums row by row.
func (w *slicedForest) end(s *slicedScratch, dst []float64) {
	f := w.lanes.f
	for i := range len(dst) / f.Outputs {
		out := dst[i*f.Outputs : (i+1)*f.Outputs]
		for o := range out {
			if f.Single {
				out[o] = float64(s.sums32[o*sliceRows+i])
			} else {
				out[o] = s.sums[o*sliceRows+i]
			}
		}
		end(f, out)
	}
}
