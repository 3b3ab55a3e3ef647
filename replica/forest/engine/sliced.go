package engine

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// sliced evaluates a block of rows at a time, 512 where the processor allows, a bit of a slice for each. Forests ask the same questions again and
// again: each is answered once for all rows, as a slice of bits that say who goes right. A shallow tree then is a
// heap, or a circuit, of multiplexers over these slices. Its outputs are the bits of the indices of the leaves, by
// which all rows look up what the tree adds. Of a deep tree the top is sliced, and lanes walk on from there.
type sliced[T Row] struct{ *slicedForest }

// slicedForest is a forest as sliced evaluates it.
type slicedForest struct {
	level    level // of what evaluates trees
	asks     level // of what answers questions
	order    *order
	f        *model.Forest
	lanes    *laneForest // of the trees that are walked
	sections []section
	wide     int  // words of a slice
	rows     int  // of a block
	slices   int  // that one call needs
	heaps    int  // the depth up to which all trees are heaps
	walks    bool // whether there are trees that are walked
	deep     int  // about how many steps such a walk has
	block    float64
	scratch  sync.Pool
}

// section is a run of trees whose answers gates can name together.
type section struct {
	first  int // tree
	trees  []slicedTree
	pieces []slicedPiece // by feature
	free   int           // the first slice behind the answers
}

// slicedPiece is a piece with its keys as slicer's ranks want them.
type slicedPiece struct {
	*column
	answers int                   // the slice of the first of its questions
	n       int                   // questions
	keys    keys[float32, int32]  // for rows of float32
	keys64  *keys[float64, int64] // for rows of float64 that are compared as such
}

// slicedTree is a tree as it is sliced.
type slicedTree struct {
	bits    int         // of the number of a leaf
	heap    []uint16    // nil for a circuit
	circuit *circuit    // nil for a heap
	tables  []leafTable // what its leaves give, one for each of Width; nil for a tree that is walked
	ids     []uint32    // of the leaves
}

// leafTable has what the leaves of a tree give to one output, by their numbers.
type leafTable struct {
	floats  *[maxLeaves]float32
	doubles *[maxLeaves]float64
	bytes   []byte // the first byte of all values, then the second, and so on, for assembly
}

const (
	// sectionAnswers bounds the slices of a section's answers. More sections would need less memory at a time, and ask again
	// what they have in common: that costs more than a cache that is too small.
	sectionAnswers = maxSlices - sliceBits*maxLeaves - 64
	// A layout may take tableTimes as much as the forest, and tableBytes: a small file can hold a million trees that are
	// leaves, or ask for a million features.
	tableTimes = 8
	tableBytes = 8 << 20
	// slicedMost bounds the sums of a block, and the columns of its rows that walks read: they are kept for the next call.
	slicedMost = 16 << 20
	// gateCost is the time of a gate of a circuit over that of a split of a heap, whose place is known without a look.
	gateCost = 2
)

// newSlicedForest lays a forest out in slices, or gives nil when it is not one for them.
func newSlicedForest(p *parts, level level) *slicedForest { return laySlices(p, level, level, 0) }

// laySlices lays a forest out in slices as wide as a level has them; answers come from another one. Trees up to a depth are heaps, whatever else would do.
func laySlices(p *parts, level, asks level, heaps int) *slicedForest {
	l := p.lanes()
	if l == nil || l.f.Linear != nil {
		return nil
	}
	f := l.f
	w := &slicedForest{level: level, asks: asks, heaps: heaps, order: level.order(), wide: level.words(), rows: 64 * level.words(), f: f, lanes: l}
	large := largeTrees(f)
	if 2*large > f.NumTrees() || w.sums() > slicedMost || (large > 0 && 4*l.columns.wide.group/laneCount*maxRows > slicedMost) {
		return nil
	}
	s := slicer{slicedForest: w, ask: p.questions(), left: tableBytes + tableTimes*f.Bytes()}
	// What it takes at least, before any of it is made.
	if (f.NumTrees()-large)*f.Width*leafTableBytes(level, f.Single, 0) > s.left || (large == 0 && len(s.ask.columns)*pieceBytes > s.left) {
		return nil
	}
	for t := 0; t < f.NumTrees(); {
		if t = s.section(t); s.left < 0 {
			return nil
		}
	}
	w.deep = int(meanSteps(f)) / max(f.NumTrees(), 1)
	w.block = w.blockCost()
	w.scratch.New = func() any { return w.newScratch() }
	return w
}

// largeTrees is the number of trees that have too many leaves.
func largeTrees(f *model.Forest) int {
	n := 0
	for t := range f.NumTrees() {
		if f.Trees[t+1].Split-f.Trees[t].Split >= maxLeaves {
			n++
		}
	}
	return n
}

// slicer lays out sections.
type slicer struct {
	*slicedForest
	ask     *ask
	left    int // bytes that the layout may still take
	asked   numbers
	answers []uint16 // their slices, by the questions' numbers
	shapes  []shape  // of a tree
	wiring  wiring
}

// splits are those of a tree.
func (w *slicedForest) splits(t int) []model.Split {
	return w.f.Splits[w.f.Trees[t].Split:w.f.Trees[t+1].Split]
}

// section lays out the section that begins with a tree, and gives the first tree of the next one.
func (w *slicer) section(first int) int {
	s := section{first: first, free: wordAnswers}
	w.asked.reset()
	t := first
	for ; t < w.f.NumTrees(); t++ {
		before := len(w.asked.asked)
		if splits := w.splits(t); len(splits) < maxLeaves {
			for _, split := range splits {
				w.asked.of(w.ask.question(split))
			}
		}
		if before > 0 && len(w.asked.asked) > sectionAnswers {
			w.asked.asked = w.asked.asked[:before]
			break
		}
	}
	r := newRanks(&w.asked)
	for i := range r.pieces {
		p := w.piece(&w.ask.columns[r.pieces[i].column], r.pieces[i].keys, s.free)
		if w.left -= p.bytes(); w.left < 0 {
			return t
		}
		s.pieces = append(s.pieces, p)
		s.free += p.n
	}
	w.answers = w.answers[:0]
	for _, at := range r.spots {
		w.answers = append(w.answers, uint16(s.pieces[at.piece].answers+int(at.key)))
	}
	w.slices = max(w.slices, s.free+sliceBits*maxLeaves)
	s.trees = make([]slicedTree, t-first)
	for i := range s.trees {
		s.trees[i] = w.tree(first+i, s.free)
		if w.left -= s.trees[i].bytes(); w.left < 0 {
			return t
		}
	}
	// Rows are transposed a few features at a time.
	slices.SortStableFunc(s.pieces, func(a, b slicedPiece) int { return a.feature - b.feature })
	w.sections = append(w.sections, s)
	return t
}

// shape makes the shape of a subtree (k, l, end) of a tree.
func (w *slicer) shape(tree model.Tree, splits []model.Split, k, l, end uint32) *shape {
	w.shapes = w.shapes[:len(w.shapes)+1] // there is room
	s := &w.shapes[len(w.shapes)-1]
	if k == end {
		*s = shape{leaves: 1, leaf: place{int(tree.Leaf + l), int(k + l)}}
		return s
	}
	right := splits[k].Right
	left, other := w.shape(tree, splits, k+1, l, right), w.shape(tree, splits, right, l+right-k, end)
	*s = shape{
		left: left, right: other, ask: w.answers[w.asked.of(w.ask.question(splits[k]))],
		leaves: left.leaves + other.leaves, depth: max(left.depth, other.depth) + 1,
	}
	return s
}

// piece lays the keys of a piece out.
func (w *slicedForest) piece(c *column, keys []int32, answers int) slicedPiece {
	p := slicedPiece{column: c, answers: answers, n: len(keys)}
	keys32 := make([]float32, len(keys))
	for i, k := range keys {
		if c.ranks == nil {
			keys32[i] = unorder32(k)
		} else { // keys are ranks among the thresholds
			keys32[i] = floor32(c.ranks[k])
		}
	}
	p.keys = newKeys(w.asks, keys32, order32, math.MaxInt32)
	if c.ranks == nil {
		return p
	}
	all := make([]float64, len(keys))
	for i, k := range keys {
		all[i] = c.ranks[k]
	}
	keys64 := newKeys(w.asks, all, order64, math.MaxInt64)
	p.keys64 = &keys64
	return p
}

// tree makes the heap or the circuit of a tree, whichever is less work, and the tables of its leaves.
func (w *slicer) tree(at, free int) slicedTree {
	splits := w.splits(at)
	if len(splits) >= maxLeaves {
		w.walks = true
		return slicedTree{}
	}
	w.shapes = slices.Grow(w.shapes[:0], 2*len(splits)+1)
	root := w.shape(w.f.Trees[at], splits, 0, 0, uint32(len(splits)))
	d := int(root.depth)
	heap := d > 0 && d <= w.heaps
	var t slicedTree
	var leaves []place
	if !heap {
		var c circuit
		if c, leaves = w.wiring.circuit(root, free); d > 0 && d <= sliceBits && gateCost*len(c.gates) >= 1<<d {
			heap = true
		} else {
			t.bits, t.circuit = len(c.out), &circuit{slices.Clone(c.gates), slices.Clone(c.out)}
		}
	}
	if heap {
		t.bits = d
		t.heap, leaves = w.wiring.full(root)
		t.heap = w.level.turn(t.heap)
	}
	t.ids = make([]uint32, len(leaves))
	for i, leaf := range leaves {
		t.ids[i] = uint32(leaf.id(w.f))
	}
	t.tables = make([]leafTable, w.f.Width)
	for o := range t.tables {
		t.tables[o] = w.table(leaves, t.bits, o)
	}
	return t
}

// table makes the table of one output.
func (w *slicedForest) table(leaves []place, bits, o int) leafTable {
	f := w.f
	return newLeafTable(w.level, f.Single, bits, len(leaves), func(i int) float64 {
		at := f.Row(leaves[i].leaf)*f.Width + o
		if f.Single {
			return float64(f.Values32[at])
		}
		return f.Values[at]
	})
}

// newLeafTable lays values out as a level wants them.
func newLeafTable(l level, single bool, bits, n int, value func(i int) float64) leafTable {
	var t leafTable
	size := 64
	if bits > 6 {
		size = maxLeaves
	}
	switch n := leafTableBytes(l, single, bits); {
	case l >= levelVBMI:
		t.bytes = make([]byte, n)
	case single:
		t.floats = new([maxLeaves]float32)
	default:
		t.doubles = new([maxLeaves]float64)
	}
	for i := range n {
		v := value(i)
		switch {
		case t.floats != nil:
			t.floats[i] = float32(v)
		case t.doubles != nil:
			t.doubles[i] = v
		default:
			whole := math.Float64bits(v)
			if single {
				whole = uint64(math.Float32bits(float32(v)))
			}
			for b := range len(t.bytes) / size {
				t.bytes[b*size+i] = byte(whole >> (8 * b))
			}
		}
	}
	return t
}

// leafTableBytes is what a table of leaves takes.
func leafTableBytes(l level, single bool, bits int) int {
	n, each := maxLeaves, 8
	if l >= levelVBMI && bits <= 6 {
		n = 64
	}
	if single {
		each = 4
	}
	return n * each
}

func (w *slicedForest) bytes() int {
	n := 0
	for i := range w.sections {
		s := &w.sections[i]
		for j := range s.pieces {
			n += s.pieces[j].bytes()
		}
		for j := range s.trees {
			n += s.trees[j].bytes()
		}
	}
	return n
}

// pieceBytes is what a piece takes at least.
const pieceBytes = int(unsafe.Sizeof(slicedPiece{})) + 4*(maxRank+1)

// bytes is what a piece takes.
func (p *slicedPiece) bytes() int {
	return int(unsafe.Sizeof(*p)) + p.keys.bytes() + p.keys64.bytes()
}

// bytes is what a tree takes.
func (t *slicedTree) bytes() int {
	n := int(unsafe.Sizeof(*t)) + 2*len(t.heap) + 4*len(t.ids)
	if t.circuit != nil {
		n += int(unsafe.Sizeof(*t.circuit)) + 6*len(t.circuit.gates) + 2*len(t.circuit.out)
	}
	for i := range t.tables {
		table := &t.tables[i]
		n += int(unsafe.Sizeof(*table)) + len(table.bytes)
		if table.floats != nil {
			n += 4 * len(table.floats)
		}
		if table.doubles != nil {
			n += 8 * len(table.doubles)
		}
	}
	return n
}

func (w *slicedForest) kernels() (Kernel[float32], Kernel[float64]) {
	return sliced[float32]{w}, sliced[float64]{w}
}

func (w *slicedForest) cost(rows int) float64 {
	blocks := float64((rows + w.rows - 1) / w.rows)
	return blocks*(w.block+float64(w.rows*w.f.Outputs)*sumCost) + float64(rows*w.f.Outputs)*costOf[w.level].output
}

// blockCost is what a block costs, besides its rows.
func (w *slicedForest) blockCost() float64 {
	asks, c := costOf[w.asks], costOf[w.level]
	cost := 0.0
	for i := range w.sections {
		s := &w.sections[i]
		cost += float64(len(s.pieces))*asks.piece + float64(s.free)*asks.ask
		for k := range s.trees {
			cost += w.treeCost(c, &s.trees[k])
		}
	}
	return cost
}

func (w *slicedForest) treeCost(c costs, t *slicedTree) float64 {
	if t.tables == nil {
		return float64(w.rows) * (float64(w.deep)*laneStep + 2)
	}
	cost := 0.0
	if t.circuit != nil {
		cost += float64(len(t.circuit.gates)) * c.gate
	} else {
		cost += float64(len(t.heap)) * c.split
	}
	add := c.add64
	if w.f.Single {
		add = c.add32
	}
	if t.bits > 6 {
		add *= c.large
	}
	return cost + add*float64(w.f.Width)
}

func (w *slicedForest) shares() []Share {
	n := map[string]int{}
	for i := range w.sections {
		for k := range w.sections[i].trees {
			switch t := &w.sections[i].trees[k]; {
			case t.tables == nil:
				n["walked, several rows at a time"]++
			case t.circuit != nil:
				n["sliced as circuits"]++
			default:
				n[fmt.Sprintf("sliced as heaps of %d levels", t.bits)]++
			}
		}
	}
	return sharesOf(n)
}

// sharesOf lists shares, the largest first.
func sharesOf(trees map[string]int) []Share {
	var shares []Share
	for how, n := range trees {
		shares = append(shares, Share{n, how})
	}
	slices.SortFunc(shares, func(a, b Share) int {
		return cmp.Or(b.Trees-a.Trees, strings.Compare(a.How, b.How))
	})
	return shares
}

// slicedScratch is what one call needs.
type slicedScratch struct {
	words  bitset // an answer's bit is set when the row goes right
	answer answerScratch
	planes planes
	leaves [8][maxRows]byte // indices of some trees
	column [maxRows]float32
	wide   [maxRows]float64
	block  [transposed][maxRows]float32 // columns of some features
	from   [laneCount]word              // the root of a tree that is walked
	at     [maxRows]word
	sums   []float64 // maxRows of each output
	sums32 []float32
	walk   []uint32 // columns for lanes
	form   *form
}

// transposed is the number of features whose columns are made together.
const transposed = 16

// size is that of the memory for slices: in Go gates may name any slice, which saves a check.
func (w *slicedForest) size() int {
	if w.level == levelGo {
		return maxSlices
	}
	return w.slices * w.wide
}

// sums is the size of the sums of a block.
func (w *slicedForest) sums() int {
	if w.f.Single {
		return 4 * maxRows * w.f.Outputs
	}
	return 8 * maxRows * w.f.Outputs
}

func (w *slicedForest) newScratch() *slicedScratch {
	s := &slicedScratch{words: make(bitset, w.size())}
	for i := range w.wide {
		s.words[wordOnes*w.wide+i] = math.MaxUint64
	}
	if w.f.Single {
		s.sums32 = make([]float32, w.f.Outputs*maxRows)
	} else {
		s.sums = make([]float64, w.f.Outputs*maxRows)
	}
	return s
}

func (w sliced[T]) Margins(dst []float64, rows []T, features int) {
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
			for tree := range sec.trees {
				w.evaluate(s, sec, tree, n)
			}
		}
		w.end(s, dst[:n*f.Outputs])
		rows, dst = rows[n*features:], dst[n*f.Outputs:]
	}
	w.scratch.Put(s)
}

// answer answers the questions of a section for n rows.
func answer[T Row](w *slicedForest, s *slicedScratch, sec *section, rows []T, features, n int) {
	from := -transposed // the first feature in s.block
	var wide *column    // that is in s.wide
	single, whole := any(rows).([]float32)
	for i := range sec.pieces {
		p := &sec.pieces[i]
		answers := s.words[p.answers*w.wide:][:p.n*w.wide]
		if p.set {
			clear(answers)
			for r := range n {
				if value(p.column, rows[r*features+p.feature]) == toRight {
					answers[r/64] |= 1 << (r % 64)
				}
			}
			continue
		}
		missing, missing64 := int32(toRight), int64(math.MaxInt64)
		if p.missingLeft {
			missing, missing64 = toLeft, math.MinInt64
		}
		if p.keys64 != nil && !whole {
			// Pieces of a feature stand together.
			if was := wide; was == nil || was.feature != p.feature || was.zeroMissing != p.zeroMissing {
				wide = p.column
				for r := range n {
					v := float64(rows[r*features+p.feature])
					if p.zeroMissing && v >= -model.NearZero && v <= model.NearZero {
						v = math.NaN()
					}
					s.wide[r] = v
				}
			}
			w.asks.answer64(&s.wide, p.keys64, missing64, &s.answer, answers, w.wide)
			continue
		}
		if p.feature >= from+transposed {
			from = p.feature
			transpose(&s.block, single, rows, features, from, w.asks, n)
		}
		column := &s.block[p.feature-from]
		if p.zeroMissing {
			for r, v := range column[:n] {
				s.column[r] = v
				if float64(v) >= -model.NearZero && float64(v) <= model.NearZero {
					s.column[r] = float32(math.NaN())
				}
			}
			column = &s.column
		}
		w.asks.answer32(column, &p.keys, missing, &s.answer, answers, w.wide)
	}
}

// transpose makes columns of some features, from one on.
func transpose[T Row](block *[transposed][maxRows]float32, single []float32, rows []T, features, from int, l level, n int) {
	k := min(transposed, features-from)
	done := 0
	if single != nil {
		done = l.transpose(single, features, from, k, n, block[0][:])
	}
	for r := done; r < n; r++ {
		for i, v := range rows[r*features+from:][:k] {
			block[i][r] = float32(v)
		}
	}
}

// index works out the planes of a tree.
func (w *slicedForest) index(s *slicedScratch, sec *section, t *slicedTree) {
	if t.circuit == nil {
		w.level.planes(s.words, t.heap, t.bits, &s.planes)
		return
	}
	w.level.circuit(s.words, t.circuit.gates, sec.free)
	for i, out := range t.circuit.out {
		copy(s.planes[i*w.wide:][:w.wide], s.words[int(out)*w.wide:])
	}
	clear(s.planes[len(t.circuit.out)*w.wide : sliceBits*w.wide])
}

// evaluate adds what a tree of a section gives to n rows.
func (w *slicedForest) evaluate(s *slicedScratch, sec *section, tree, n int) {
	f := w.f
	t, out := &sec.trees[tree], first(f, sec.first+tree)*maxRows
	if t.tables == nil {
		w.walk(s, sec.first+tree, n, out)
		return
	}
	w.index(s, sec, t)
	for o := range t.tables {
		if f.Single {
			w.level.add32((*[maxRows]float32)(s.sums32[out+o*maxRows:]), &s.planes, &t.tables[o], t.bits)
		} else {
			w.level.add64((*[maxRows]float64)(s.sums[out+o*maxRows:]), &s.planes, &t.tables[o], t.bits)
		}
	}
}

// walk follows n rows down a tree, and adds what its leaves give.
func (w *slicedForest) walk(s *slicedScratch, tree, n, out int) {
	f := w.f
	for i := range s.from {
		s.from[i] = w.lanes.roots[tree]
	}
	at := s.at[:(n+laneCount-1)/laneCount*laneCount]
	w.level.walkRows(w.lanes.tree(tree), s.form, s.walk, s.from[:], 0, at, int(w.lanes.trees[tree].steps), w.lanes.ahead(tree))
	for r, leaf := range at[:n] {
		row, one, two := int(leaf.key()), int(w.order.sum32[r]), int(w.order.sum64[r])
		switch {
		case w.lanes.direct:
			s.sums32[out+one] += math.Float32frombits(leaf.key())
		case f.Single:
			for o, v := range f.Values32[row*f.Width : (row+1)*f.Width] {
				s.sums32[out+o*maxRows+one] += v
			}
		default:
			for o, v := range f.Values[row*f.Width : (row+1)*f.Width] {
				s.sums[out+o*maxRows+two] += v
			}
		}
	}
}

// begin sets the sums to their bases.
func (w *slicedForest) begin(s *slicedScratch) {
	f := w.f
	for o := range f.Outputs {
		base := 0.0
		if f.Base != nil {
			base = f.Base[o]
		}
		for i := range w.rows {
			if f.Single {
				s.sums32[o*maxRows+i] = float32(base)
			} else {
				s.sums[o*maxRows+i] = base
			}
		}
	}
}

// end writes the sums row by row.
func (w *slicedForest) end(s *slicedScratch, dst []float64) {
	f := w.f
	for r := range len(dst) / f.Outputs {
		out := dst[r*f.Outputs : (r+1)*f.Outputs]
		for o := range out {
			if f.Single {
				out[o] = float64(s.sums32[o*maxRows+int(w.order.sum32[r])])
			} else {
				out[o] = s.sums[o*maxRows+int(w.order.sum64[r])]
			}
		}
		end(f, out)
	}
}

// Leaves works the numbers of the leaves out as Margins does, for a few trees at a time, so that the ids of a row are
// written together. A forest of which some trees are walked leaves all of them to lanes.
func (w sliced[T]) Leaves(dst []int64, rows []T, features int) {
	if w.walks {
		lanes[T]{w.lanes}.Leaves(dst, rows, features)
		return
	}
	trees := w.f.NumTrees()
	s, _ := w.scratch.Get().(*slicedScratch)
	for len(rows) > 0 {
		n := min(len(rows)/features, w.rows)
		for i := range w.sections {
			sec := &w.sections[i]
			answer(w.slicedForest, s, sec, rows[:n*features], features, n)
			for part := 0; part < len(sec.trees); part += len(s.leaves) {
				some := sec.trees[part:min(part+len(s.leaves), len(sec.trees))]
				for k := range some {
					w.index(s, sec, &some[k])
					w.level.index(&s.planes, &s.leaves[k])
				}
				for r := range n {
					out, at := dst[r*trees+sec.first+part:][:len(some)], w.order.index[r]
					for k := range some {
						out[k] = int64(some[k].ids[s.leaves[k][at]])
					}
				}
			}
		}
		rows, dst = rows[n*features:], dst[n*trees:]
	}
	w.scratch.Put(s)
}
