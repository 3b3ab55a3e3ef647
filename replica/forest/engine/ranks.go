package engine

import (
	"math/rand/v2"
	"slices"
)

// asking is what a split asks: whether a column is above a key.
type asking struct {
	column uint32
	key    int32
}

// order has the order of columns and then of keys.
func (a asking) order() uint64 { return uint64(a.column)<<32 | uint64(uint32(a.key)^sign) }

// numbers gives questions numbers, each the one after the last, by a hash table of open addressing.
type numbers struct {
	asked []asking // by number
	slots []uint32 // a number and 1, or 0
}

// secret keeps the makers of models from choosing questions or gates that collide.
var secret = [2]uint64{rand.Uint64() | 1, rand.Uint64() | 1}

// spreadOut is a hash.
func spreadOut(x uint64) uint64 {
	x *= secret[0]
	return (x ^ x>>32) * secret[1] >> 32
}

// of is the number of a question.
func (n *numbers) of(a asking) uint32 {
	if 2*len(n.asked) >= len(n.slots) {
		n.grow()
	}
	mask := uint64(len(n.slots) - 1)
	for at := spreadOut(a.order()) & mask; ; at = (at + 1) & mask {
		switch i := n.slots[at]; {
		case i == 0:
			n.asked = append(n.asked, a)
			n.slots[at] = uint32(len(n.asked))
			return uint32(len(n.asked) - 1)
		case n.asked[i-1] == a:
			return i - 1
		}
	}
}

func (n *numbers) grow() {
	asked := n.asked
	*n = numbers{asked: asked[:0], slots: make([]uint32, max(4*len(n.slots), 1024))}
	for _, a := range asked {
		n.of(a)
	}
}

// reset forgets all questions.
func (n *numbers) reset() {
	n.asked = n.asked[:0]
	clear(n.slots)
}

// maxRank is the largest rank: it fits a byte.
const maxRank = 255

// piece is a column with some of the keys that splits compare it with, at most maxRank. The rank of a value in it is
// the number of keys that are below the value: a split with the key i sends the value to the right exactly when its
// rank is above i. The order of ranks is that of the values, so nothing is lost.
type piece struct {
	column int
	first  int     // the place of its first key among those of its column
	keys   []int32 // ascending
}

// ranks are the pieces of trees.
type ranks struct {
	pieces []piece
	spots  []spot // of questions, by their numbers
}

// spot is where a question's key stands: in a piece.
type spot struct{ piece, key int32 }

// newRanks makes the pieces of what splits ask.
func newRanks(n *numbers) *ranks {
	order := make([]uint64, len(n.asked))
	for i, a := range n.asked {
		order[i] = a.order()
	}
	slices.Sort(order)
	r := &ranks{spots: make([]spot, len(order))}
	keys := make([]int32, len(order))
	last := &piece{column: -1}
	for i, o := range order {
		a := asking{uint32(o >> 32), int32(uint32(o) ^ sign)}
		keys[i] = a.key
		switch column := int(a.column); {
		case column != last.column:
			r.pieces = append(r.pieces, piece{column: column, keys: keys[i:i]})
		case len(last.keys) == maxRank:
			r.pieces = append(r.pieces, piece{column: column, first: last.first + maxRank, keys: keys[i:i]})
		}
		last = &r.pieces[len(r.pieces)-1]
		r.spots[n.of(a)] = spot{int32(len(r.pieces) - 1), int32(len(last.keys))}
		last.keys = last.keys[:len(last.keys)+1]
	}
	return r
}
