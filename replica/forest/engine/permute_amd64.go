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

// permuteRows is the number of rows that are taken through each tree together when there are so many.
const permuteRows = 8

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
	s := w.take(abreast(len(rows) / features))
	for len(rows) > 0 {
		n := w.run(s, rows, features)
		out := dst[:n*f.Outputs]
		for i := range n {
			begin(f, out[i*f.Outputs:(i+1)*f.Outputs])
		}
		w.add(s, out, n)
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
	s := w.take(abreast(len(rows) / features))
	for len(rows) > 0 {
		n := w.run(s, rows, features)
		for i := range n {
			for t, place := range w.places {
				dst[t] = int64(w.ids[s.slots[int(place)*n+i]])
			}
			dst = dst[len(w.places):]
		}
		rows = rows[n*features:]
	}
	w.scratch.Put(s)
}

// abreast is how many of the next rows are taken together.
func abreast(rows int) int {
	if rows < permuteRows {
		return 1
	}
	return permuteRows
}

// run finds the slots at which the next rows arrive, and tells how many rows these are.
func (w permute[T]) run(s *permuteScratch, rows []T, features int) int {
	n := abreast(len(rows) / features)
	for i := range n {
		w.rank(s, &s.ranks[i], rows[i*features:(i+1)*features])
	}
	heaps, one := fill32(len(w.heaps)), (*[1][permutePieces]uint16)(s.ranks[:1])
	switch {
	case heaps == 0:
	case n == 1:
		simd.PermuteHeaps(&s.masks[0], &w.heaps[0], one, len(w.heaps))
		simd.PermuteHeapLeaves(&s.slots[0], &s.masks[0], len(w.heaps))
	default:
		simd.PermuteHeapRows(&s.masks[0], &w.heaps[0], &s.ranks, len(w.heaps))
		simd.PermuteHeapLeafRows(&s.slots[0], &s.masks[0], len(w.heaps))
	}
	if w.roots.len() > 0 {
		w.enter(s, s.slots[heaps*n:], n)
	}
	if len(w.deep) > 0 {
		for i := range n {
			w.goOn(s, n, i)
		}
	}
	return n
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

// enter takes n rows through the blocks with which trees begin.
func (w *permuteForest) enter(s *permuteScratch, slots []uint32, n int) {
	r, count := &w.roots, len(w.places)-len(w.heaps)
	one := (*[1][permutePieces]uint16)(s.ranks[:1])
	switch {
	case n == 1 && w.words:
		simd.PermuteWordRoots(&s.masks[0], &r.ranks[0], one, count)
	case n == 1:
		simd.PermuteRoots(&s.masks[0], &r.ranks[0], one, count)
	case w.words:
		simd.PermuteWordRootRows(&s.masks[0], &r.ranks[0], &s.ranks, count)
	default:
		simd.PermuteRootRows(&s.masks[0], &r.ranks[0], &s.ranks, count)
	}
	if n == 1 {
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

// goOn takes row i of n through further blocks until it has arrived at a leaf in every tree.
func (w *permuteForest) goOn(s *permuteScratch, n, i int) {
	ranks := (*[1][permutePieces]uint16)(s.ranks[i : i+1])
	waiting := 0
	for _, d := range w.deep {
		at := int(d.place)*n + i
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

// add adds to the sums of n rows what their slots give, in the order of the trees.
func (w *permuteForest) add(s *permuteScratch, out []float64, n int) {
	f := w.f
	alone := f.Outputs == 1 && len(w.places) > 0
	switch {
	case alone && f.Single && n == permuteRows:
		addTogether(w.values32, w.places, s.slots, (*[permuteRows]float64)(out))
		return
	case alone && n == permuteRows:
		addTogether(w.values, w.places, s.slots, (*[permuteRows]float64)(out))
		return
	}
	for i := range n {
		to := out[i*f.Outputs : (i+1)*f.Outputs]
		switch {
		case alone && f.Single:
			addAlone(w.values32, w.places, s.slots, &to[0])
		case alone:
			addAlone(w.values, w.places, s.slots, &to[0])
		case f.Width > permuteWidth:
			for _, place := range w.places {
				addRow(f, int(w.rows[s.slots[int(place)*n+i]]), to)
			}
		case f.Width == 2 && !f.Single:
			addPairs(w.values, w.places, s.slots[i:], n, to)
		case f.Single:
			addEach(f, w.values32, w.places, s.slots[i:], n, to)
		default:
			addEach(f, w.values, w.places, s.slots[i:], n, to)
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

// addTogether is addAlone for several rows, whose sums need not wait for each other.
func addTogether[F float32 | float64](values []F, places, slots []uint32, out *[permuteRows]float64) {
	s0, s1, s2, s3 := F(out[0]), F(out[1]), F(out[2]), F(out[3])
	s4, s5, s6, s7 := F(out[4]), F(out[5]), F(out[6]), F(out[7])
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
	*out = [permuteRows]float64{
		float64(s0), float64(s1), float64(s2), float64(s3), float64(s4), float64(s5), float64(s6), float64(s7),
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
