//go:build !purego

package engine

import (
	"math"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/engine/internal/simd"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// permute answers all splits of a tree at once for one row. The row's ranks, a byte each, stand in registers; one
// permutation brings to every split the rank that it asks for, one comparison makes a bit of every answer, and then
// many trees are walked together by their bits. A tree is a heap of 6 levels, or blocks of up to 31 splits of any
// shape.
type permute[T Row] struct{ *permuteForest }

// permuteScratch is what one call needs.
type permuteScratch struct {
	columns []int32
	wide    []int64 // columns of float64
	ranks   [permutePieces]uint16
	masks   []uint64 // of heaps or blocks
	shapes  []uint64 // of blocks
	bases   []uint32
	at      []uint32 // the blocks of trees that go on,
	who     []uint32 // the places of these trees,
	exits   []uint32 // and where they arrive
	slots   []uint32 // by places
}

func (w *permuteForest) take() *permuteScratch {
	s, _ := w.scratch.Get().(*permuteScratch)
	if s.slots == nil {
		n := fill32(len(w.heaps)) + fill32(len(w.roots))
		s.columns, s.wide = make([]int32, len(w.feature)+1), make([]int64, len(w.feature)+1)
		s.masks, s.shapes, s.bases = make([]uint64, n), make([]uint64, n), make([]uint32, n)
		s.at, s.who = make([]uint32, len(w.deep)+1), make([]uint32, len(w.deep)+1)
		s.exits, s.slots = make([]uint32, n), make([]uint32, n)
	}
	return s
}

func (w permute[T]) Margins(dst []float64, rows []T, features int) {
	s := w.take()
	for len(rows) > 0 {
		w.run(s, rows[:features])
		w.sum(s, dst[:w.f.Outputs])
		rows, dst = rows[features:], dst[w.f.Outputs:]
	}
	w.scratch.Put(s)
}

func (w permute[T]) Leaves(dst []int64, rows []T, features int) {
	s := w.take()
	for len(rows) > 0 {
		w.run(s, rows[:features])
		for t, place := range w.places {
			dst[t] = int64(w.ids[s.slots[place]])
		}
		rows, dst = rows[features:], dst[len(w.places):]
	}
	w.scratch.Put(s)
}

// run finds the slots at which a row arrives.
func (w permute[T]) run(s *permuteScratch, row []T) {
	w.rank(s, row)
	heaps := fill32(len(w.heaps))
	if heaps > 0 {
		simd.PermuteHeaps(&s.masks[0], &w.heaps[0], &s.ranks, len(w.heaps))
		simd.PermuteHeapLeaves(&s.slots[0], &s.masks[0], len(w.heaps))
	}
	if len(w.roots) > 0 {
		w.pass(s, s.slots[heaps:], w.roots)
	}
	if len(w.deep) > 0 {
		w.goOn(s)
	}
}

// rank works out the ranks of a row.
func (w permute[T]) rank(s *permuteScratch, row []T) {
	n := len(w.columns)
	switch row := any(row).(type) {
	case []float32:
		simd.PermuteColumns(&s.columns[0], unsafe.SliceData(row), unsafe.SliceData(w.feature), unsafe.SliceData(w.narrow.missing),
			unsafe.SliceData(w.narrow.zero), n)
		for _, i := range w.sets {
			s.columns[i] = value(&w.columns[i], row[w.columns[i].feature])
		}
	case []float64:
		if w.f.Input == model.Float64 {
			w.rankWide(s, row)
			return
		}
		for i := range w.columns {
			s.columns[i] = value(&w.columns[i], row[w.columns[i].feature])
		}
	}
	simd.PermuteRanks(&s.ranks[0], &s.columns[0], unsafe.SliceData(w.pieces), unsafe.SliceData(w.narrow.keys), len(w.pieces))
}

func (w *permuteForest) rankWide(s *permuteScratch, row []float64) {
	simd.PermuteColumnsWide(&s.wide[0], unsafe.SliceData(row), unsafe.SliceData(w.feature), unsafe.SliceData(w.wide.missing),
		unsafe.SliceData(w.wide.zero), len(w.columns))
	for _, i := range w.sets {
		s.wide[i] = math.MaxInt64
		if value(&w.columns[i], row[w.columns[i].feature]) == toLeft {
			s.wide[i] = math.MinInt64
		}
	}
	simd.PermuteRanksWide(&s.ranks[0], &s.wide[0], unsafe.SliceData(w.pieces), unsafe.SliceData(w.wide.keys), len(w.pieces))
}

// pass takes the row through blocks.
func (w *permuteForest) pass(s *permuteScratch, slots, blocks []uint32) {
	if w.words {
		simd.PermuteWordBlocks(&s.masks[0], &s.shapes[0], &s.bases[0], &w.blocks[0], &blocks[0], &s.ranks, len(blocks))
	} else {
		simd.PermuteBlocks(&s.masks[0], &s.shapes[0], &s.bases[0], &w.blocks[0], &blocks[0], &s.ranks, len(blocks))
	}
	simd.PermuteBlockExits(&slots[0], &s.masks[0], &s.shapes[0], &s.bases[0], len(blocks))
}

// goOn takes the row through further blocks until it has arrived at a leaf in every tree.
func (w *permuteForest) goOn(s *permuteScratch) {
	n := 0
	for _, d := range w.deep {
		n = s.wait(n, d.place, w.forks[s.slots[d.place]-d.first])
	}
	for n > 0 {
		w.pass(s, s.exits, s.at[:n])
		waiting := 0
		for i, place := range s.who[:n] {
			exit := s.exits[i]
			if exit >= mark {
				exit = w.forks[exit-mark]
			}
			waiting = s.wait(waiting, place, exit)
		}
		n = waiting
	}
}

// wait notes where a tree goes on: a slot, or a marked block, of which there are then n+1 and not n.
func (s *permuteScratch) wait(n int, place, to uint32) int {
	s.slots[place] = to
	s.at[n], s.who[n] = to&^mark, place
	return n + int(to/mark) // without a jump
}

// sum adds what the slots give, in the order of the trees.
func (w *permuteForest) sum(s *permuteScratch, out []float64) {
	f := w.f
	begin(f, out)
	slots := s.slots
	switch {
	case w.rows != nil:
		for t, place := range w.places {
			addRow(f, int(w.rows[slots[place]]), out[first(f, t):])
		}
	case f.Width > 1 && f.Single:
		for t, place := range w.places {
			to, at := out[first(f, t):], int(slots[place])*f.Width
			for o, v := range w.values32[at : at+f.Width] {
				to[o] = float64(float32(to[o]) + v)
			}
		}
	case f.Width > 1:
		for t, place := range w.places {
			to, at := out[first(f, t):], int(slots[place])*f.Width
			for o, v := range w.values[at : at+f.Width] {
				to[o] += v
			}
		}
	case f.Single && f.First == nil && len(w.places) > 0:
		sum, values := float32(out[0]), w.values32
		for _, place := range w.places {
			sum += values[slots[place]]
		}
		out[0] = float64(sum)
	case f.Single:
		for t, place := range w.places {
			o := &out[first(f, t)]
			*o = float64(float32(*o) + w.values32[slots[place]])
		}
	case f.First == nil:
		sum, values := out[0], w.values
		for _, place := range w.places {
			sum += values[slots[place]]
		}
		out[0] = sum
	default:
		for t, place := range w.places {
			out[f.First[t]] += w.values[slots[place]]
		}
	}
	end(f, out)
}
