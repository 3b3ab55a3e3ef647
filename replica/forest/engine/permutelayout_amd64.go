//go:build !purego

package engine

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"golang.org/x/sys/cpu"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// permuteForest is a forest as permute evaluates it: its trees cut into heaps and blocks. What a row arrives at in one
// is a slot, which has a leaf or the block with which the tree goes on.
type permuteForest struct {
	f       *model.Forest
	columns columns
	sets    []int       // the columns that are sets
	feature []int32     // of every column, and up to a multiple of 16
	pieces  [][2]uint32 // the column, and where its keys begin, as simd.PermuteRanks has them
	narrow  permuteAsk[int32, float32]
	wide    permuteAsk[int64, float64] // for rows of float64 that are not rounded to float32

	heaps  [][128]byte
	blocks []byte   // the first 16 bytes are of none
	roots  []uint32 // the blocks with which trees begin
	places []uint32 // of each tree: its place among heaps, filled up to permuteGroup, and roots
	deep   []uint32 // the places of trees that may go on

	next     []uint32 // of each slot: the block, 0 for a leaf; nil when there are no others
	ids      []uint32 // of each slot, as place.id has it
	rows     []uint32 // of each slot, of values of which there are several; otherwise one of the next two
	values   []float64
	values32 []float32
	scratch  sync.Pool
}

const (
	permutePieces = 128
	permuteGroup  = 32 // walks that the loops take together
	heapLevels    = 6
	heapLeaves    = 1 << heapLevels
	// heapLeast is the number of splits from which on a tree begins with a heap. One with fewer is less work as blocks.
	heapLeast   = 32
	blockSplits = 31
	blockHeader = 16
	// Bounds on what is laid out.
	maxPermuteTrees  = 1 << 16
	maxPermuteSplits = 1 << 23
)

// newPermuteForest lays out a forest, or gives nil when the processor cannot permute or the forest asks too much.
func newPermuteForest(f *model.Forest) *permuteForest {
	if highest < levelVBMI || !cpu.X86.HasAVX512VPOPCNTDQ || f.NumTrees() > maxPermuteTrees || f.NumSplits() > maxPermuteSplits {
		return nil
	}
	a := newAsk(f)
	if a == nil {
		return nil
	}
	r := newRanks(a, f.Splits[f.Trees[0].Split:f.Trees[f.NumTrees()].Split])
	if len(r.pieces) > permutePieces {
		return nil
	}
	w := &permuteForest{f: f, columns: a.columns, blocks: make([]byte, blockHeader)}
	w.layColumns()
	w.layPieces(r)
	p := planter{w: w, ask: a, ranks: r}
	p.plant()
	w.blocks = append(w.blocks, make([]byte, 64)...) // what the loops may read
	if w.deep == nil {
		w.next = nil
	}
	w.scratch.New = func() any { return new(permuteScratch) }
	return w
}

// fill32 is a number filled up to a multiple of permuteGroup.
func fill32(n int) int { return (n + permuteGroup - 1) &^ (permuteGroup - 1) }

func (w *permuteForest) bytes() int {
	return 4*(len(w.feature)+2*len(w.pieces)+len(w.roots)+len(w.places)+len(w.deep)+len(w.next)+len(w.ids)+len(w.rows)+len(w.values32)) +
		8*len(w.values) + 4*w.narrow.len() + 8*w.wide.len() + 128*len(w.heaps) + len(w.blocks)
}

// permuteAsk is what columns are worked out with, and the keys of pieces.
type permuteAsk[I int32 | int64, F float32 | float64] struct {
	missing []I // what NaN becomes
	zero    []F // up to which a value is missing
	keys    []I
}

func (a *permuteAsk[I, F]) len() int { return len(a.missing) + len(a.zero) + len(a.keys) }

// add adds a column.
func (a *permuteAsk[I, F]) add(c *column, least, most I) {
	missing, zero := most, F(-1)
	if c.missingLeft {
		missing = least
	}
	if c.zeroMissing {
		zero = F(model.NearZero)
	}
	a.missing, a.zero = append(a.missing, missing), append(a.zero, zero)
}

// addKeys adds the keys of a piece as simd.PermuteRanks reads them. most is not below any.
func (a *permuteAsk[I, F]) addKeys(keys []I, most I) {
	for i := range 16 {
		at := most
		if i*16+15 < len(keys) {
			at = keys[i*16+15]
		}
		a.keys = append(a.keys, at)
	}
	a.keys = append(a.keys, keys...)
	for range 16 - len(keys)%16 {
		a.keys = append(a.keys, most)
	}
}

func (w *permuteForest) layColumns() {
	for i := range (len(w.columns) + 15) &^ 15 {
		c := &column{}
		if i < len(w.columns) {
			c = &w.columns[i]
		}
		if c.set {
			w.sets = append(w.sets, i)
		}
		w.feature = append(w.feature, int32(c.feature))
		w.narrow.add(c, toLeft, toRight)
		w.wide.add(c, math.MinInt64, math.MaxInt64)
	}
}

func (w *permuteForest) layPieces(r *ranks) {
	for _, p := range r.pieces {
		w.pieces = append(w.pieces, [2]uint32{uint32(p.column), uint32(len(w.narrow.keys))})
		narrow, wide := slices.Clone(p.keys), make([]int64, len(p.keys))
		if of := w.columns[p.column].ranks; of != nil {
			for i, key := range p.keys {
				narrow[i], wide[i] = order(roundDown(of[key])), orderWide(of[key])
			}
		}
		w.narrow.addKeys(narrow, toRight)
		w.wide.addKeys(wide, math.MaxInt64)
	}
}

// orderWide is order for float64.
func orderWide(v float64) int64 {
	i := int64(math.Float64bits(v + 0))
	return i ^ i>>63&math.MaxInt64
}

// roundDown is the largest float32 that is not above a number: a float32 is above both or above none.
func roundDown(v float64) float32 {
	r := float32(v)
	if float64(r) > v {
		r = math.Nextafter32(r, float32(math.Inf(-1)))
	}
	return r
}

// planter lays out trees.
type planter struct {
	w     *permuteForest
	ask   *ask
	ranks *ranks
}

// plot is a tree as it is laid out: a split with what it asks, or a leaf.
type plot struct {
	left, right *plot // nil for a leaf
	piece, key  byte
	splits      int
	place       place // of a leaf
}

// read makes the plots of a subtree (k, l, end) of a tree.
func (p *planter) read(tree model.Tree, splits []model.Split, k, l, end uint32) *plot {
	if k == end {
		return &plot{place: place{leaf: int(tree.Leaf + l), node: int(k + l)}}
	}
	s := splits[k]
	piece, key := p.ranks.place(p.ask.question(s))
	n := &plot{
		left: p.read(tree, splits, k+1, l, s.Right), right: p.read(tree, splits, s.Right, l+s.Right-k, end),
		piece: byte(piece), key: byte(key),
	}
	n.splits = 1 + n.left.splits + n.right.splits
	return n
}

// plant lays out all trees: heaps first, since the slots of heap i are those from heapLeaves*i on.
func (p *planter) plant() {
	f, w := p.w.f, p.w
	plots, exits := make([]*plot, f.NumTrees()), make([][]*plot, f.NumTrees())
	for t := range plots {
		root := p.read(f.Trees[t], f.Splits[f.Trees[t].Split:f.Trees[t+1].Split], 0, 0, f.Trees[t+1].Split-f.Trees[t].Split)
		if root.upTo(heapLevels) >= heapLeast {
			exits[t] = p.heap(root)
			continue
		}
		if root.left == nil { // both ways lead to the leaf
			root = &plot{left: root, right: root, key: maxRank, splits: 1}
		}
		plots[t] = root
	}
	heap, first := 0, fill32(len(w.heaps))
	for t, root := range plots {
		place, goesOn := uint32(heap), false
		if root == nil {
			goesOn = p.follow(exits[t], heap*heapLeaves)
			heap++
		} else {
			place = uint32(first + len(w.roots))
			w.roots = append(w.roots, p.block(root))
			goesOn = root.splits > blockSplits
		}
		w.places = append(w.places, place)
		if goesOn {
			w.deep = append(w.deep, place)
		}
	}
}

// upTo is the number of splits in the first levels.
func (n *plot) upTo(levels int) int {
	if n.left == nil || levels == 0 {
		return 0
	}
	return 1 + n.left.upTo(levels-1) + n.right.upTo(levels-1)
}

// heap lays out the first levels of a tree, with the slots of what it gives.
func (p *planter) heap(root *plot) []*plot {
	w := p.w
	w.heaps = append(w.heaps, [128]byte{})
	h := &w.heaps[len(w.heaps)-1]
	exits := make([]*plot, heapLeaves)
	var lay func(n *plot, at int)
	lay = func(n *plot, at int) {
		switch {
		case at >= heapLeaves:
			exits[at-heapLeaves] = n
		case n.left == nil: // both ways lead to the leaf
			h[heapLeaves+at] = maxRank
			lay(n, 2*at)
			lay(n, 2*at+1)
		default:
			h[at], h[heapLeaves+at] = n.piece, n.key
			lay(n.left, 2*at)
			lay(n.right, 2*at+1)
		}
	}
	lay(root, 1)
	p.slots(exits)
	return exits
}

// block lays out a block, and those that follow it, and tells where it begins. The largest subtrees are taken into
// it, so that those that are left over are small.
func (p *planter) block(root *plot) uint32 {
	w := p.w
	in := map[*plot]bool{root: true}
	for edge := []*plot{root.left, root.right}; len(in) < blockSplits; {
		largest := 0
		for i, n := range edge {
			if n.splits > edge[largest].splits {
				largest = i
			}
		}
		n := edge[largest]
		if n.left == nil {
			break
		}
		in[n] = true
		edge[largest] = n.left
		edge = append(edge, n.right)
	}
	var shape uint64
	var exits []*plot
	splits := []*plot{root}
	for i := 0; i < len(splits); i++ {
		for _, child := range []*plot{splits[i].left, splits[i].right} {
			if in[child] {
				shape |= 1 << (len(splits) - 1 + len(exits))
				splits = append(splits, child)
			} else {
				exits = append(exits, child)
			}
		}
	}
	at := len(w.blocks)
	w.blocks = binary.LittleEndian.AppendUint64(w.blocks, shape)
	w.blocks = append(w.blocks, 0, 0, 0, 0, byte(len(splits)), 0, 0, 0)
	for _, n := range splits {
		w.blocks = append(w.blocks, n.piece)
	}
	for _, n := range splits {
		w.blocks = append(w.blocks, n.key)
	}
	first := p.slots(exits)
	binary.LittleEndian.PutUint32(w.blocks[at+8:], uint32(first))
	p.follow(exits, first)
	return uint32(at)
}

// slots lays out the slots of exits and gives the number of the first one.
func (p *planter) slots(exits []*plot) int {
	f, w := p.w.f, p.w
	first := len(w.ids)
	for _, n := range exits {
		row := f.Row(n.place.leaf)
		w.ids = append(w.ids, uint32(n.place.id(f)))
		w.next = append(w.next, 0)
		switch {
		case f.Width > 1:
			w.rows = append(w.rows, uint32(row))
		case f.Single:
			w.values32 = append(w.values32, f.Values32[row])
		default:
			w.values = append(w.values, f.Values[row])
		}
	}
	return first
}

// follow lays out the blocks with which exits go on, and tells whether any does.
func (p *planter) follow(exits []*plot, first int) (goesOn bool) {
	for i, n := range exits {
		if n.left != nil {
			p.w.next[first+i], goesOn = p.block(n), true
		}
	}
	return goesOn
}
