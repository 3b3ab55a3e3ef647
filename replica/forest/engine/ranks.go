package engine

import (
	"slices"
)

// maxRank is the largest rank: it fits a byte.
const maxRank = 255

// piece is a column with some of the keys that splits compare it with, at most maxRank. The rank of a value in it is
// the number of keys that are below the value: a split with the key i sends the value to the right exactly when its
// rank is above i. The order of ranks is that of the values, so nothing is lost.
type piece struct {
	column int
	keys   []int32 // ascending
}

// ranks are the pieces of trees.
type ranks struct {
	pieces []piece
	first  []int // of each column, and of the end: its first piece
}

// newRanks makes the pieces of what splits ask.
func newRanks(columns columns, asked map[asking]bool) *ranks {
	keys := make([][]int32, len(columns))
	for a := range asked {
		keys[a.column] = append(keys[a.column], a.key)
	}
	r := &ranks{}
	for c, k := range keys {
		slices.Sort(k)
		r.first = append(r.first, len(r.pieces))
		for part := range slices.Chunk(k, maxRank) {
			r.pieces = append(r.pieces, piece{c, part})
		}
	}
	r.first = append(r.first, len(r.pieces))
	return r
}

// place is the piece that has a key of a column, and the key's place in it.
func (r *ranks) place(column uint32, key int32) (piece, i int) {
	of := r.pieces[r.first[column]:r.first[column+1]]
	for n := range of {
		if last := of[n].keys[len(of[n].keys)-1]; key <= last {
			i, _ = slices.BinarySearch(of[n].keys, key)
			return r.first[column] + n, i
		}
	}
	return -1, -1 // of no split that newRanks has seen
}
