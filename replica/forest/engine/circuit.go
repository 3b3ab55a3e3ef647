package engine

import "math/bits"

// circuit evaluates a tree of any shape for 64 rows at a time: multiplexers over words, of which the last are the
// bits of the numbers of the leaves that the rows fall into.
//
// Leaves are numbered so that the larger child of a split has the lower numbers. Bit b of the leaf below a split is
// that of the right child's leaf where the row goes right, and that of the left child's where it goes left. Often both
// are the same constant, and there is nothing to do; where they are 0 and 1, the answer itself is the bit.
type circuit struct {
	gates []gate
	out   []uint16 // the words of the bits of the leaves, the highest bit first
}

// gate is a multiplexer. Its output follows those of the gates before it.
type gate struct{ which, right, left uint16 }

// The words that every circuit has. Answers follow, and then what its gates give.
const (
	wordZeros = iota
	wordOnes
	wordAnswers
)

// maxWords is how many words there can be, so that a gate's numbers need no check.
const maxWords = 1 << 16

// words are what gates read and write.
type words [maxWords]uint64

// shape is a tree as a circuit is made of it: a split with its question, or a leaf.
type shape struct {
	ask         int
	left, right *shape // nil for a leaf
	leaf        int32  // the key
	leaves      int
}

// newCircuit makes the circuit of a tree of at most sliceLeaves leaves, and lists their keys by their numbers. free is
// the first word that it may write.
func newCircuit(root *shape, free int) (*circuit, []int32) {
	c := &circuit{}
	levels := bits.Len(uint(root.leaves - 1))
	var keys []int32
	seen := map[gate]uint16{}
	var build func(n *shape) []uint16 // the words of the bits below a node, the highest first
	build = func(n *shape) []uint16 {
		out := make([]uint16, levels)
		if n.left == nil {
			for b := range out {
				out[b] = uint16(len(keys) >> (levels - 1 - b) & 1)
			}
			keys = append(keys, n.leaf)
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
		answer := uint16(wordAnswers + n.ask)
		for b := range out {
			g := gate{answer, r[b], l[b]}
			switch {
			case g.right == g.left:
				out[b] = g.left
			case g.right == wordOnes && g.left == wordZeros:
				out[b] = answer
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
	return c, keys
}

// run evaluates the circuit into the words from free on.
func (c *circuit) run(w *words, free uint16) {
	for _, g := range c.gates {
		w[free] = mux(w[g.which], w[g.right], w[g.left])
		free++
	}
}
