package engine

import (
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/model"
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
	columns columns
	pieces  []piece
	first   []int // of each column, and of the end: its first piece
}

// newRanks makes the pieces of what the splits of a run of trees ask.
func newRanks(a *ask, splits []model.Split) *ranks {
	keys := make([][]int32, len(a.columns))
	for _, s := range splits {
		column, key := a.question(s)
		keys[column] = append(keys[column], key)
	}
	r := &ranks{columns: a.columns}
	for c, k := range keys {
		slices.Sort(k)
		k = slices.Compact(k)
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
