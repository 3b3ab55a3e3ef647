//go:build !purego

package engine

import (
	"math"

	"github.com/coppice-mesh/coppice/replica/forest/engine/internal/simd"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// permute answers all splits of a tree at once for one row. The row's ranks, a byte each, stand in registers; one
// permutation brings to every split the rank that it asks for, one comparison makes a bit of every answer, and then
// several trees, or rows, are walked together by their bits. A tree is a heap of 6 levels, or blocks of up to 31 splits
// of any shape.
type permute[T Row] struct{ *permuteForest }

const (
	permuteRows = 8 // that can be taken through each tree together
	// permuteLeast is the number of rows from which on that is less work than one by one.
	permuteLeast = 6
)

// permuteScratch is what one call needs.
type permuteScratch struct {
	rows    int // for which it is, together
	columns []int32
	wide    []int64 // columns of float64
	ranks   [permuteRows][permutePieces]uint16
	masks   []uint64 // of heaps or blocks
	shapes  []uint64 // of blocks
	bases   []uint32
	at      []uint32 // the blocks of trees that go on,
	who     []uint32 // the slots of these trees,
	exits   []uint32 // and where they arrive
	slots   []uint32 // by places, and for several rows by rows then
}

// take gets scratch for some rows together.
func (w *permuteForest) take(rows int) *permuteScratch {
	s, _ := w.scratch.Get().(*permuteScratch)
	if s.rows >= rows {
		return s
	}
	n, columns, deep := fill32(len(w.heaps))+w.roots.len(), len(w.narrow.zero), len(w.deep)+1
	s.rows = rows
	s.columns, s.wide = make([]int32, columns), make([]int64, columns)
	s.masks, s.slots = make([]uint64, n*rows), make([]uint32, n*rows)
	s.shapes, s.bases, s.exits = make([]uint64, n), make([]uint32, n), make([]uint32, n)
	s.at, s.who = make([]uint32, deep), make([]uint32, deep)
	return s
}

func (w permute[T]) Margins(dst []float64, rows []T, features int) {
	if len(rows) == 0 {
		return
	}
	f := w.f
	s := w.take(w.together(len(rows) / features))
	for len(rows) > 0 {
		width := w.together(len(rows) / features)
		n := min(width, len(rows)/features)
		w.run(s, rows[:n*features], features, width)
		out := dst[:n*f.Outputs]
		for i := range n {
			begin(f, out[i*f.Outputs:(i+1)*f.Outputs])
		}
		w.add(s, out, width)
		for i := range n {
			end(f, out[i*f.Outputs:(i+1)*f.Outputs])
		}
		rows, dst = rows[n*features:], dst[n*f.Outputs:]
	}
	w.scratch.Put(s)
}

func (w permute[T]) Leaves(dst []int64, rows []T, features int) {
	if len(rows) == 0 {
		return
	}
	s := w.take(w.together(len(rows) / features))
	for len(rows) > 0 {
		width := w.together(len(rows) / features)
		n := min(width, len(rows)/features)
		w.run(s, rows[:n*features], features, width)
		for i := range n {
			for t, place := range w.places {
				dst[t] = int64(w.ids[s.slots[int(place)*width+i]])
			}
			dst = dst[len(w.places):]
		}
		rows = rows[n*features:]
	}
	w.scratch.Put(s)
}

// together is for how many rows slots are found together when there are still some: 1 or permuteRows.
func (w *permuteForest) together(rows int) int {
	if rows < permuteLeast || (rows < permuteRows && len(w.deep) > 0) {
		return 1
	}
	return permuteRows
}

// run finds the slots at which rows arrive, up to width. Those of rows that are not there are what any rows might give.
func (w permute[T]) run(s *permuteScratch, rows []T, features, width int) {
	n := len(rows) / features
	for i := range n {
		w.rank(s, &s.ranks[i], rows[i*features:(i+1)*features])
	}
	heaps, one := fill32(len(w.heaps)), (*[1][permutePieces]uint16)(s.ranks[:1])
	switch {
	case heaps == 0:
	case width == 1:
		simd.PermuteHeaps(&s.masks[0], &w.heaps[0], one, len(w.heaps))
		simd.PermuteHeapLeaves(&s.slots[0], &s.masks[0], len(w.heaps))
	default:
		simd.PermuteHeapRows(&s.masks[0], &w.heaps[0], &s.ranks, len(w.heaps))
		simd.PermuteHeapLeafRows(&s.slots[0], &s.masks[0], len(w.heaps))
	}
	if w.roots.len() > 0 {
		w.enter(s, s.slots[heaps*width:], width)
	}
	if len(w.deep) > 0 {
		for i := range n {
			w.goOn(s, width, i)
		}
	}
}

// rank works out the ranks of a row.
func (w permute[T]) rank(s *permuteScratch, dst *[permutePieces]uint16, row []T) {
	n := len(w.columns)
	if n == 0 {
		return
	}
	switch row := any(row).(type) {
	case []float32:
		simd.PermuteColumns(&s.columns[0], &row[0], &w.feature[0], &w.narrow.missing[0], &w.narrow.zero[0], n)
		for _, i := range w.sets {
			s.columns[i] = value(&w.columns[i], row[w.columns[i].feature])
		}
	case []float64:
		if w.f.Input == model.Float64 {
			w.rankWide(s, dst, row)
			return
		}
		for i := range w.columns {
			s.columns[i] = value(&w.columns[i], row[w.columns[i].feature])
		}
	}
	find := simd.PermuteRanks
	if w.words {
		find = simd.PermuteWordRanks
	}
	find(&dst[0], &s.columns[0], &w.pieces[0], &w.narrow.keys[0], len(w.pieces))
}

func (w *permuteForest) rankWide(s *permuteScratch, dst *[permutePieces]uint16, row []float64) {
	simd.PermuteColumnsWide(&s.wide[0], &row[0], &w.feature[0], &w.wide.missing[0], &w.wide.zero[0], len(w.columns))
	for _, i := range w.sets {
		s.wide[i] = math.MaxInt64
		if value(&w.columns[i], row[w.columns[i].feature]) == toLeft {
			s.wide[i] = math.MinInt64
		}
	}
	find := simd.PermuteRanksWide
	if w.words {
		find = simd.PermuteWordRanksWide
	}
	find(&dst[0], &s.wide[0], &w.pieces[0], &w.wide.keys[0], len(w.pieces))
}

// enter takes rows, up to width, through the blocks with which trees begin.
func (w *permuteForest) enter(s *permuteScratch, slots []uint32, width int) {
	r, count := &w.roots, len(w.places)-len(w.heaps)
	one := (*[1][permutePieces]uint16)(s.ranks[:1])
	switch {
	case width == 1 && w.words:
		simd.PermuteWordRoots(&s.masks[0], &r.ranks[0], one, count)
	case width == 1:
		simd.PermuteRoots(&s.masks[0], &r.ranks[0], one, count)
	case w.words:
		simd.PermuteWordRootRows(&s.masks[0], &r.ranks[0], &s.ranks, count)
	default:
		simd.PermuteRootRows(&s.masks[0], &r.ranks[0], &s.ranks, count)
	}
	if width == 1 {
		simd.PermuteBlockExits(&slots[0], &s.masks[0], &r.shapes[0], &r.bases[0], count)
	} else {
		simd.PermuteBlockExitRows(&slots[0], &s.masks[0], &r.shapes[0], &r.bases[0], count)
	}
}

// pass takes a row through blocks.
func (w *permuteForest) pass(s *permuteScratch, ranks *[1][permutePieces]uint16, slots, blocks []uint32) {
	run := simd.PermuteBlocks
	if w.words {
		run = simd.PermuteWordBlocks
	}
	run(&s.masks[0], &s.shapes[0], &s.bases[0], &w.blocks[0], &blocks[0], ranks, len(blocks))
	simd.PermuteBlockExits(&slots[0], &s.masks[0], &s.shapes[0], &s.bases[0], len(blocks))
}

// goOn takes row i of width through further blocks until it has arrived at a leaf in every tree.
func (w *permuteForest) goOn(s *permuteScratch, width, i int) {
	ranks := (*[1][permutePieces]uint16)(s.ranks[i : i+1])
	waiting := 0
	for _, d := range w.deep {
		at := int(d.place)*width + i
		waiting = s.wait(waiting, at, w.forks[s.slots[at]-d.first])
	}
	for waiting > 0 {
		w.pass(s, ranks, s.exits, s.at[:waiting])
		still := 0
		for k, at := range s.who[:waiting] {
			exit := s.exits[k]
			if exit >= mark {
				exit = w.forks[exit-mark]
			}
			still = s.wait(still, int(at), exit)
		}
		waiting = still
	}
}

// wait notes where a tree goes on: a slot, or a marked block, of which there are then n+1 and not n.
func (s *permuteScratch) wait(n, at int, to uint32) int {
	s.slots[at] = to
	s.at[n], s.who[n] = to&^mark, uint32(at)
	return n + int(to/mark) // without a jump
}

// add adds to the sums of rows what their slots give, in the order of the trees.
func (w *permuteForest) add(s *permuteScratch, out []float64, width int) {
	f := w.f
	alone := f.Outputs == 1 && len(w.places) > 0
	switch {
	case alone && width > 1 && f.Single:
		addTogether(w.values32, w.places, s.slots, out)
		return
	case alone && width > 1:
		addTogether(w.values, w.places, s.slots, out)
		return
	}
	for i := range len(out) / f.Outputs {
		to := out[i*f.Outputs : (i+1)*f.Outputs]
		switch {
		case alone && f.Single:
			addAlone(w.values32, w.places, s.slots, &to[0])
		case alone:
			addAlone(w.values, w.places, s.slots, &to[0])
		case f.Width > permuteWidth:
			for _, place := range w.places {
				addRow(f, int(w.rows[s.slots[int(place)*width+i]]), to)
			}
		case f.Width == 2 && !f.Single:
			addPairs(w.values, w.places, s.slots[i:], width, to)
		case f.Single:
			addEach(f, w.values32, w.places, s.slots[i:], width, to)
		default:
			addEach(f, w.values, w.places, s.slots[i:], width, to)
		}
	}
}

// addAlone adds the values of a row's slots to the only output.
func addAlone[F float32 | float64](values []F, places, slots []uint32, out *float64) {
	sum := F(*out)
	for _, place := range places {
		sum += values[slots[place]]
	}
	*out = float64(sum)
}

// addTogether is addAlone for permuteRows rows, whose sums need not wait for each other. out may have fewer: the others'
// slots are of leaves, too.
func addTogether[F float32 | float64](values []F, places, slots []uint32, out []float64) {
	var sums [permuteRows]F
	for i, v := range out {
		sums[i] = F(v)
	}
	s0, s1, s2, s3, s4, s5, s6, s7 := sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], sums[7]
	for _, place := range places {
		at := (*[permuteRows]uint32)(slots[int(place)*permuteRows:])
		s0 += values[at[0]]
		s1 += values[at[1]]
		s2 += values[at[2]]
		s3 += values[at[3]]
		s4 += values[at[4]]
		s5 += values[at[5]]
		s6 += values[at[6]]
		s7 += values[at[7]]
	}
	sums = [permuteRows]F{s0, s1, s2, s3, s4, s5, s6, s7}
	for i := range out {
		out[i] = float64(sums[i])
	}
}

// addPairs is addEach for the two classes of a random forest.
func addPairs(values []float64, places, slots []uint32, n int, out []float64) {
	a, b := out[0], out[1]
	for _, place := range places {
		v := (*[2]float64)(values[2*int(slots[int(place)*n]):])
		a += v[0]
		b += v[1]
	}
	out[0], out[1] = a, b
}

// addEach adds the values of a row's slots to the outputs of their trees.
func addEach[F float32 | float64](f *model.Forest, values []F, places, slots []uint32, n int, out []float64) {
	for t, place := range places {
		at := int(slots[int(place)*n]) * f.Width
		to := out[first(f, t):]
		for o, v := range values[at : at+f.Width] {
			to[o] = float64(F(to[o]) + v)
		}
	}
}
