package engine

import (
	"math/bits"
	"slices"
)

// circuit evaluates a tree of any shape for all rows of a block: multiplexers over slices, of which the last are the
// bits of the numbers of the leaves that the rows fall into.
//
// Leaves are numbered so that the larger child of a split has the lower numbers. Bit b of the leaf below a split is
// that of the right child's leaf where the row goes right, and that of the left child's where it goes left. Often both
// are the same constant, and there is nothing to do; where they are 0 and 1, the answer itself is the bit.
type circuit struct {
	gates []gate
	out   []uint16 // the slices of the bits of the leaves, the lowest bit first
}

// gate is a multiplexer. Its output follows those of the gates before it.
type gate struct{ which, right, left uint16 }

// The slices that every circuit has. Answers follow, and then what its gates give.
const (
	wordZeros = iota
	wordOnes
	wordAnswers
)

// shape is a tree as it is sliced: a split, or a leaf.
type shape struct {
	left, right *shape // nil for a leaf
	leaf        place  // of a leaf
	ask         uint16 // the slice of a split's answers
	leaves      uint16 // below it
	depth       uint16
}

// wiring makes the circuits and heaps of shapes, one after the other, in memory of its own.
type wiring struct {
	gates  []gate
	seen   [1 << 12]uint16 // a hash table of gates: their numbers from 1 on
	free   int             // the first slice for gates
	levels int
	leaves []place
	heap   []uint16
}

// wires are the slices of the bits below a node, the lowest first.
type wires [sliceBits]uint16

// circuit makes the circuit of a shape of at most maxLeaves leaves, and lists them by their numbers. free is the first
// slice that it may write. Both are overwritten by the next.
func (w *wiring) circuit(root *shape, free int) (circuit, []place) {
	w.gates, w.leaves, w.free = w.gates[:0], w.leaves[:0], free
	w.levels = bits.Len(uint(root.leaves - 1))
	clear(w.seen[:])
	out := w.build(root)
	return circuit{w.gates, out[:w.levels]}, w.leaves
}

func (w *wiring) build(n *shape) (out wires) {
	if n.left == nil {
		for b := range w.levels {
			out[b] = uint16(len(w.leaves) >> b & 1)
		}
		w.leaves = append(w.leaves, n.leaf)
		return out
	}
	var l, r wires
	if n.left.leaves >= n.right.leaves {
		l = w.build(n.left)
		r = w.build(n.right)
	} else {
		r = w.build(n.right)
		l = w.build(n.left)
	}
	for b := range w.levels {
		switch {
		case r[b] == l[b]:
			out[b] = l[b]
		case r[b] == wordOnes && l[b] == wordZeros:
			out[b] = n.ask
		default:
			out[b] = w.gate(gate{n.ask, r[b], l[b]})
		}
	}
	return out
}

// gate gives the slice of a gate, which may be there already.
func (w *wiring) gate(g gate) uint16 {
	mask := uint64(len(w.seen) - 1)
	for at := spreadOut(uint64(g.which)<<32|uint64(g.right)<<16|uint64(g.left)) & mask; ; at = (at + 1) & mask {
		switch i := w.seen[at]; {
		case i == 0:
			w.gates = append(w.gates, g)
			w.seen[at] = uint16(len(w.gates))
			return uint16(w.free + len(w.gates) - 1)
		case w.gates[i-1] == g:
			return uint16(w.free) + i - 1
		}
	}
}

// full makes a heap of a shape, in which leaves above the last level stand repeatedly, and lists the leaves by their
// places there. The list is overwritten by the next.
func (w *wiring) full(root *shape) (heap []uint16, leaves []place) {
	n := 1 << root.depth
	w.heap, w.leaves = make([]uint16, n), slices.Grow(w.leaves[:0], n)[:n]
	w.place(root, 1)
	return w.heap, w.leaves
}

func (w *wiring) place(s *shape, at int) {
	switch n := len(w.heap); {
	case at >= n:
		w.leaves[at-n] = s.leaf
	case s.left == nil: // both ways lead to it
		w.heap[at] = wordZeros
		w.place(s, 2*at)
		w.place(s, 2*at+1)
	default:
		w.heap[at] = s.ask
		w.place(s.left, 2*at)
		w.place(s.right, 2*at+1)
	}
}
