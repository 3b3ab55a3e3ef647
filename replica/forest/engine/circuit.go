package engine

import "math/bits"

// circuit evaluates a tree of any shape for all rows of a block: multiplexers over slices, of which the last are the
// bits of the numbers of the exits that the rows reach.
//
// Exits are numbered so that the larger child of a split has the lower numbers. Bit b of the exit below a split is
// that of the right child's exit where the row goes right, and that of the left child's where it goes left. Often both
// are the same constant, and there is nothing to do; where they are 0 and 1, the answer itself is the bit.
type circuit struct {
	gates []gate
	out   []uint16 // the slices of the bits of the exits, the lowest bit first
}

// gate is a multiplexer. Its output follows those of the gates before it.
type gate struct{ which, right, left uint16 }

// The slices that every circuit has. Answers follow, and then what its gates give.
const (
	wordZeros = iota
	wordOnes
	wordAnswers
)

// shape is the part of a tree, from its root on, that is sliced: a split, or an exit.
type shape struct {
	column      uint32 // what a split asks
	key         int32
	ask         uint16 // the slice of its answers
	left, right *shape // nil for an exit
	exit        exit
	exits       int // below it
	depth       int
}

// exit is where a shape ends.
type exit struct {
	place      // of a leaf
	at    word // the node of lanes
	split bool // it is no leaf: lanes walk on
}

// newCircuit makes the circuit of a shape of at most maxLeaves exits, and lists them by their numbers. free is the first
// slice that it may write.
func newCircuit(root *shape, free int) (*circuit, []exit) {
	c := &circuit{}
	levels := bits.Len(uint(root.exits - 1))
	var exits []exit
	seen := map[gate]uint16{}
	var build func(n *shape) []uint16 // the slices of the bits below a node, the lowest first
	build = func(n *shape) []uint16 {
		out := make([]uint16, levels)
		if n.left == nil {
			for b := range out {
				out[b] = uint16(len(exits) >> b & 1)
			}
			exits = append(exits, n.exit)
			return out
		}
		var l, r []uint16
		if n.left.exits >= n.right.exits {
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
	return c, exits
}

// newHeap makes a heap of a shape, in which exits above the last level stand repeatedly, and lists the exits by their
// places there.
func newHeap(root *shape) (heap []uint16, exits []exit) {
	n := 1 << root.depth
	heap, exits = make([]uint16, n), make([]exit, n)
	var place func(s *shape, at int)
	place = func(s *shape, at int) {
		switch {
		case at >= n:
			exits[at-n] = s.exit
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
	return heap, exits
}
