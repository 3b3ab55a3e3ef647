package engine

import "math/bits"

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
	column      uint32 // what a split asks
	key         int32
	ask         uint16 // the slice of its answers
	left, right *shape // nil for a leaf
	leaf        place  // of a leaf
	leaves      int    // below it
	depth       int
}

// newCircuit makes the circuit of a shape of at most maxLeaves leaves, and lists them by their numbers. free is the first
// slice that it may write.
func newCircuit(root *shape, free int) (*circuit, []place) {
	c := &circuit{}
	levels := bits.Len(uint(root.leaves - 1))
	var leaves []place
	seen := map[gate]uint16{}
	var build func(n *shape) []uint16 // the slices of the bits below a node, the lowest first
	build = func(n *shape) []uint16 {
		out := make([]uint16, levels)
		if n.left == nil {
			for b := range out {
				out[b] = uint16(len(leaves) >> b & 1)
			}
			leaves = append(leaves, n.leaf)
			return out
		}
		var l, r []uint16
		if n.left.leaves >= n.right.leaves {
			l = build(n.left)
			r = build(n.right)
		} else {
			r = build(n.right)
			l = build(n.left)
		}
		for b := range out {
			g := gate{n.ask, r[b], l[b]}
			switch {
			case g.right == g.left:
				out[b] = g.left
			case g.right == wordOnes && g.left == wordZeros:
				out[b] = n.ask
			default:
				at, ok := seen[g]
				if !ok {
					at = uint16(free + len(c.gates))
					c.gates, seen[g] = append(c.gates, g), at
				}
				out[b] = at
			}
		}
		return out
	}
	c.out = build(root)
	return c, leaves
}

// newHeap makes a heap of a shape, in which leaves above the last level stand repeatedly, and lists the leaves by their
// places there.
func newHeap(root *shape) (heap []uint16, leaves []place) {
	n := 1 << root.depth
	heap, leaves = make([]uint16, n), make([]place, n)
	var place func(s *shape, at int)
	place = func(s *shape, at int) {
		switch {
		case at >= n:
			leaves[at-n] = s.leaf
		case s.left == nil: // both ways lead to it
			heap[at] = wordZeros
			place(s, 2*at)
			place(s, 2*at+1)
		default:
			heap[at] = s.ask
			place(s.left, 2*at)
			place(s.right, 2*at+1)
		}
	}
	place(root, 1)
	return heap, leaves
}
