//go:build !purego

package engine

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"sync"

	"golang.org/x/sys/cpu"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// permuteForest is a forest as permute evaluates it: its trees cut into heaps and blocks. A row leaves one at an exit,
// which is a slot, the place of a leaf, or a fork, which says where the tree goes on.
type permuteForest struct {
	f       *model.Forest
	columns columns
	sets    []int       // the columns that are sets
	feature []uint32    // of every column
	pieces  [][6]uint32 // as simd.PermuteRanks has them
	narrow  permuteAsk[int32, float32]
	wide    permuteAsk[int64, float64] // for rows of float64 that are not rounded to float32

	words  bool // whether ranks are words, and not bytes
	heaps  [][128]byte
	closed int // the first of the heaps with which trees go on
	roots  roots
	blocks []byte
	places []uint32 // of each tree: its place among heaps, filled up to permuteGroup, and roots
	deep   []deepTree
	forks  []uint32 // of each exit of heaps and blocks with which trees go on: the slot of its leaf, or a block, marked

	// Of each slot:
	ids      []uint32 // as place.id has it
	rows     []uint32 // where leaves have very many values, and otherwise the values
	values   []float64
	values32 []float32
	scratch  sync.Pool
}

// roots are the blocks with which trees begin: their pieces and keys, 32 each, their shapes and their first exits.
type roots struct {
	ranks  []byte
	shapes []uint64
	bases  []uint32
}

func (r *roots) len() int { return len(r.shapes) }

// deepTree is a tree that may not end with what it begins with.
type deepTree struct {
	place uint32
	first uint32 // fork 0, as an exit of its first heap or block
}

// mark is set in exits that are forks and in forks that are blocks.
const mark = 1 << 31

const (
	permutePieces = 128
	permuteWords  = 64 // pieces when ranks are words
	permuteWidth  = 4  // up to which slots have values of their own
	permuteGroup  = 32 // walks that the loops take together
	heapLevels    = 6
	heapLeaves    = 1 << heapLevels
	// heapLeast is the number of splits from which on a tree begins with a heap. One with fewer is less work as blocks.
	heapLeast   = 32
	blockSplits = 31
	// Bounds on what is laid out.
	maxPermuteTrees  = 1 << 16
	maxPermuteSplits = 1 << 19
)

// permutes tells whether the processor has what permute needs.
func permutes() bool { return highest >= levelVBMI && cpu.X86.HasAVX512VPOPCNTDQ }

// newPermuteForest lays out a forest, or gives nil when the processor cannot permute or the forest asks too much.
func newPermuteForest(p *parts) *permuteForest {
	f := p.f
	if !permutes() || f.NumTrees() > maxPermuteTrees || f.NumSplits() > maxPermuteSplits {
		return nil
	}
	if p.f.Linear != nil {
		return nil
	}
	a := p.questions()
	if a == nil || len(a.columns) > permutePieces {
		return nil
	}
	of := make([]uint32, 0, f.NumSplits())
	var asked numbers
	for _, s := range f.Splits[f.Trees[0].Split:f.Trees[f.NumTrees()].Split] {
		of = append(of, asked.of(a.question(s)))
	}
	r := newRanks(&asked)
	w := &permuteForest{f: f, columns: a.columns, words: len(r.pieces) > permutePieces}
	if w.words && len(w.columns) > permuteWords {
		return nil
	}
	w.layColumns()
	if !w.layPieces(r) {
		return nil
	}
	sow := planter{permuteForest: w, of: of, ranks: r}
	sow.plant()
	w.blocks = append(w.blocks, make([]byte, 128)...) // what the loops may read
	w.scratch.New = func() any { return new(permuteScratch) }
	return w
}

// fill32 is a number filled up to a multiple of permuteGroup.
func fill32(n int) int { return (n + permuteGroup - 1) &^ (permuteGroup - 1) }

func (w *permuteForest) kernels() (Kernel[float32], Kernel[float64]) {
	return permute[float32]{w}, permute[float64]{w}
}

func (w *permuteForest) cost(rows int) float64 {
	together := rows / permuteRows * permuteRows // of which each waits less
	heaps := permuteHeap*float64(rows-together) + permuteHeaps*float64(together)
	return float64(rows)*(permutePiece*float64(len(w.pieces))+permuteBlock*float64(len(w.places)-len(w.heaps))+permuteDeep*float64(len(w.deep))) +
		heaps*float64(len(w.heaps))
}

func (w *permuteForest) shares() []Share {
	n := map[string]int{"as heaps of 6 levels": len(w.heaps), "as blocks of 31 splits": len(w.places) - len(w.heaps)}
	maps.DeleteFunc(n, func(_ string, trees int) bool { return trees == 0 })
	return sharesOf(n)
}

func (w *permuteForest) bytes() int {
	return 4*(len(w.feature)+6*len(w.pieces)+w.narrow.len()+len(w.roots.bases)+len(w.places)+2*len(w.deep)+len(w.forks)+len(w.ids)+len(w.rows)+
		len(w.values32)) + 8*(w.wide.len()+len(w.values)+len(w.roots.shapes)) + 128*len(w.heaps) + len(w.roots.ranks) + len(w.blocks)
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

// addKeys adds the keys of a piece as simd.PermuteRanks reads them, and tells where its levels begin. most is not below
// any.
func (a *permuteAsk[I, F]) addKeys(keys []I, most I) (levels []int) {
	step := 16 // of the first level, of at least two
	for step*16 < len(keys) {
		step *= 16
	}
	for ; step > 0; step /= 16 {
		levels = append(levels, len(a.keys))
		n := len(keys) / step
		for i := range n {
			a.keys = append(a.keys, keys[(i+1)*step-1])
		}
		for range 16 - n%16 {
			a.keys = append(a.keys, most)
		}
	}
	return levels
}

func (w *permuteForest) layColumns() {
	add := func(c *column) {
		w.narrow.add(c, toLeft, toRight)
		w.wide.add(c, math.MinInt64, math.MaxInt64)
	}
	for i := range w.columns {
		c := &w.columns[i]
		if c.set {
			w.sets = append(w.sets, i)
		}
		w.feature = append(w.feature, uint32(c.feature))
		add(c)
	}
	for len(w.narrow.zero)%16 != 0 {
		add(&column{})
	}
}

// layPieces lays out the keys of pieces, or of whole columns when ranks are words. It tells whether they fit.
func (w *permuteForest) layPieces(r *ranks) bool {
	pieces := r.pieces
	if w.words {
		pieces = nil
		for _, p := range r.pieces { // every column has some
			if p.first == 0 {
				pieces = append(pieces, piece{column: p.column})
			}
			whole := &pieces[len(pieces)-1]
			whole.keys = append(whole.keys, p.keys...)
			if len(whole.keys) > math.MaxUint16 {
				return false
			}
		}
	}
	for _, p := range pieces {
		narrow, wide := slices.Clone(p.keys), make([]int64, len(p.keys))
		if of := w.columns[p.column].ranks; of != nil {
			for i, key := range p.keys {
				narrow[i], wide[i] = order32(floor32(of[key])), order64(of[key])
			}
		}
		levels := w.narrow.addKeys(narrow, toRight)
		w.wide.addKeys(wide, math.MaxInt64)
		laid := [6]uint32{uint32(p.column), uint32(len(levels))}
		for i, at := range levels {
			laid[2+i] = uint32(at) //nolint:gosec // four levels are enough for 65,535 keys, and more are refused
		}
		w.pieces = append(w.pieces, laid)
	}
	return true
}

// planter lays out trees.
type planter struct {
	*permuteForest
	of    []uint32 // of the forest's splits: the numbers of their questions
	ranks *ranks
	cuts  []*cut // that are not used now
}

// plot is a tree as it is laid out: a split with what it asks, or a leaf.
type plot struct {
	left, right *plot // nil for a leaf
	piece, key  uint16
	splits      int
	in          bool  // the block of the split above, if it has been cut off
	place       place // of a leaf
}

// read makes the plots of a subtree (k, l, end) of a tree, in memory that has room for them.
func (p *planter) read(tree model.Tree, splits []model.Split, k, l, end uint32, memory *[]plot) *plot {
	*memory = (*memory)[:len(*memory)+1]
	n := &(*memory)[len(*memory)-1]
	if k == end {
		n.place = place{leaf: int(tree.Leaf + l), node: int(k + l)}
		return n
	}
	s := splits[k]
	at := p.ranks.spots[p.of[tree.Split-p.f.Trees[0].Split+k]]
	n.piece, n.key = uint16(at.piece), uint16(at.key)
	if p.words {
		of := &p.ranks.pieces[at.piece]
		n.piece, n.key = uint16(of.column), uint16(of.first+int(at.key))
	}
	n.left = p.read(tree, splits, k+1, l, s.Right, memory)
	n.right = p.read(tree, splits, s.Right, l+s.Right-k, end, memory)
	n.splits = 1 + n.left.splits + n.right.splits
	return n
}

// upTo is the number of splits in the first levels.
func (n *plot) upTo(levels int) int {
	if n.left == nil || levels == 0 {
		return 0
	}
	return 1 + n.left.upTo(levels-1) + n.right.upTo(levels-1)
}

// depth is the number of levels.
func (n *plot) depth() int {
	if n.left == nil {
		return 0
	}
	return 1 + max(n.left.depth(), n.right.depth())
}

// plant lays out all trees: first the heaps of trees that end with them, since slots and forks of heaps are found by
// the heaps' numbers, then other heaps, and then blocks.
func (p *planter) plant() {
	f := p.f
	plots, order := make([]*plot, f.NumTrees()), make([]int, f.NumTrees())
	kind := make([]int, f.NumTrees()) // 0 and 1 for heaps, and from then on the depth
	for t := range plots {
		splits := f.Splits[f.Trees[t].Split:f.Trees[t+1].Split]
		memory := make([]plot, 0, 2*len(splits)+1)
		root := p.read(f.Trees[t], splits, 0, 0, uint32(len(splits)), &memory)
		switch depth := root.depth(); {
		case !p.words && root.upTo(heapLevels) >= heapLeast:
			if depth > heapLevels {
				kind[t] = 1
			}
		case depth == 0: // both ways lead to the leaf
			root = &plot{left: root, right: root, key: maxRank, splits: 1}
			kind[t] = 3
		default:
			kind[t] = 2 + depth
		}
		plots[t], order[t] = root, t
	}
	// Blocks by their depth, since walks that go together end together.
	slices.SortStableFunc(order, func(a, b int) int { return kind[a] - kind[b] })
	p.places = make([]uint32, f.NumTrees())
	var exits [][]*plot
	for i, t := range order {
		if kind[t] > 1 {
			break
		}
		p.places[t] = uint32(i)
		of := p.heap(plots[t])
		if kind[t] == 0 {
			p.closed++
			p.slots(of)
			continue
		}
		exits = append(exits, of)
	}
	p.forks = make([]uint32, heapLeaves*len(exits))
	for i, of := range exits {
		p.fork(of, i*heapLeaves)
		p.deep = append(p.deep, deepTree{uint32(p.closed + i), uint32(p.closed * heapLeaves)})
	}
	first := fill32(len(p.heaps))
	for i, t := range order[len(p.heaps):] {
		p.places[t] = uint32(first + i)
		p.root(plots[t])
		if plots[t].splits > blockSplits {
			p.deep = append(p.deep, deepTree{p.places[t], mark})
		}
	}
	for p.roots.len()%permuteGroup != 0 { // which the loops walk, too
		p.roots.shapes, p.roots.bases = append(p.roots.shapes, 0), append(p.roots.bases, 0)
	}
}

// heap lays out the first levels of a tree and gives its exits.
func (p *planter) heap(root *plot) []*plot {
	p.heaps = append(p.heaps, [128]byte{})
	h := &p.heaps[len(p.heaps)-1]
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
			h[at], h[heapLeaves+at] = byte(n.piece), byte(n.key)
			lay(n.left, 2*at)
			lay(n.right, 2*at+1)
		}
	}
	lay(root, 1)
	return exits
}

// cut is the part of a tree that a block holds.
type cut struct {
	memory [2*blockSplits + 1]*plot // of the others
	splits []*plot
	shape  uint64 // bit i tells whether node i below the root is one of splits; nodes stand level by level
	exits  []*plot
}

// cut cuts a block off a tree's top. The largest subtrees are taken into it, so that those left over are small.
func (p *planter) cut(root *plot) *cut {
	if len(p.cuts) == 0 {
		p.cuts = append(p.cuts, new(cut))
	}
	c := p.cuts[len(p.cuts)-1]
	p.cuts, c.shape = p.cuts[:len(p.cuts)-1], 0
	edge := append(c.memory[:0], root.left, root.right)
	for range min(root.splits, blockSplits) - 1 {
		largest := 0
		for i, n := range edge {
			if n.splits > edge[largest].splits {
				largest = i
			}
		}
		n := edge[largest]
		n.in = true
		edge[largest] = n.left
		edge = append(edge, n.right)
	}
	c.splits, c.exits = append(c.memory[:0], root), c.memory[blockSplits:blockSplits]
	for i := 0; i < len(c.splits); i++ {
		for _, child := range [...]*plot{c.splits[i].left, c.splits[i].right} {
			if child.in {
				c.shape |= 1 << (len(c.splits) - 1 + len(c.exits))
				c.splits = append(c.splits, child)
			} else {
				c.exits = append(c.exits, child)
			}
		}
	}
	return c
}

// root lays out the block with which a tree begins, and those that follow it.
func (p *planter) root(root *plot) {
	c, r := p.cut(root), &p.roots
	r.ranks = p.appendRanks(r.ranks, c.splits, blockSplits+1)
	r.shapes, r.bases = append(r.shapes, c.shape), append(r.bases, p.base(root, c))
	p.follow(c, r.bases[len(r.bases)-1])
}

// block lays out a block, and those that follow it, and tells where it begins.
func (p *planter) block(root *plot) uint32 {
	c, at := p.cut(root), len(p.blocks)
	base := p.base(root, c)
	p.blocks = binary.LittleEndian.AppendUint64(p.blocks, c.shape)
	p.blocks = binary.LittleEndian.AppendUint32(p.blocks, base)
	p.blocks = append(p.blocks, byte(len(c.splits)), 0, 0, 0)
	p.blocks = p.appendRanks(p.blocks, c.splits, len(c.splits))
	p.follow(c, base)
	return uint32(at)
}

// appendRanks appends the pieces of splits and then their keys, bytes or words, n of each: zeros for what is not there.
func (p *planter) appendRanks(to []byte, splits []*plot, n int) []byte {
	size := 1
	if p.words {
		size = 2
	}
	at := len(to)
	to = slices.Grow(to, 2*n*size)[:at+2*n*size]
	pieces, keys := to[at:at+n*size], to[at+n*size:]
	clear(to[at:])
	for i, s := range splits {
		if p.words {
			binary.LittleEndian.PutUint16(pieces[2*i:], s.piece)
			binary.LittleEndian.PutUint16(keys[2*i:], s.key)
		} else {
			pieces[i], keys[i] = byte(s.piece), byte(s.key)
		}
	}
	return to
}

// base is the number of the first exit of a part of a tree: a slot when the part is all that is left, or a fork.
func (p *planter) base(root *plot, c *cut) uint32 {
	if root.splits == len(c.splits) {
		return uint32(len(p.ids))
	}
	return mark | uint32(len(p.forks))
}

// follow lays out what the exits of a part lead to, which is not needed after that.
func (p *planter) follow(c *cut, base uint32) {
	if base < mark {
		p.slots(c.exits)
	} else {
		p.forks = append(p.forks, make([]uint32, len(c.exits))...)
		p.fork(c.exits, int(base-mark))
	}
	p.cuts = append(p.cuts, c)
}

// fork lays out what follows on exits, and fills in their forks.
func (p *planter) fork(exits []*plot, first int) {
	for i, n := range exits {
		to := uint32(len(p.ids))
		if n.left == nil {
			p.slots(exits[i : i+1])
		} else {
			to = mark | p.block(n)
		}
		p.forks[first+i] = to
	}
}

// slots lays out the slots of leaves.
func (p *planter) slots(leaves []*plot) {
	f := p.f
	for _, n := range leaves {
		row := f.Row(n.place.leaf)
		p.ids = append(p.ids, uint32(n.place.id(f)))
		switch {
		case f.Width > permuteWidth:
			p.rows = append(p.rows, uint32(row))
		case f.Single:
			p.values32 = append(p.values32, f.Values32[row*f.Width:(row+1)*f.Width]...)
		default:
			p.values = append(p.values, f.Values[row*f.Width:(row+1)*f.Width]...)
		}
	}
}
