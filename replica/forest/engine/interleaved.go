package engine

import (
	"math"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// interleaved walks several rows down the same tree at once, so that the loads of one overlap the
// comparisons of another. It has nodes of its own, 16 bytes each, with both children named, in which a leaf
// is its own child: all rows of a group then take the same number of steps and no branch depends on a row.
type interleaved struct {
	f     *model.Forest
	nodes []node
	roots []uint32 // of each tree
	steps []int32  // depth of each tree
}

// node is a split or a leaf. A leaf's children are itself; its leaf is the index in Forest.Leaves.
type node struct {
	threshold float32
	bits      uint32 // of model.Split; a leaf has feature 0
	// child is where a row goes that is not to the left, and where one goes that is: indexed by 0 and 1.
	child [2]uint32
}

// group is the number of rows that go down a tree together.
const group = 8

// maxExpanded is the number of nodes above which the memory for nodes of its own is not worth it.
const maxExpanded = 1 << 20

func newInterleaved(f *model.Forest) Kernel {
	if f.NumNodes() > maxExpanded {
		return newScalar(f)
	}
	w := &interleaved{f: f, nodes: make([]node, 0, f.NumNodes())}
	for t := range f.NumTrees() {
		w.addTree(t)
	}
	return w
}

// addTree lays out one tree in preorder. Node k+l of the tree is split k or leaf l.
func (w *interleaved) addTree(t int) {
	f := w.f
	tree, next := f.Trees[t], f.Trees[t+1]
	splits := f.Splits[tree.Split:next.Split]
	root := uint32(len(w.nodes))
	w.roots = append(w.roots, root)
	type subtree struct {
		k, l, end uint32
		depth     int32
	}
	stack := []subtree{{0, 0, uint32(len(splits)), 0}}
	steps := int32(0)
	for len(stack) > 0 {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		self := uint32(len(w.nodes))
		steps = max(steps, s.depth)
		if s.k == s.end {
			// Nothing is <= NaN, and a leaf goes to itself either way.
			w.nodes = append(w.nodes, node{threshold: math.Float32frombits(tree.Leaf + s.l), child: [2]uint32{self, self}})
			continue
		}
		sp := splits[s.k]
		l := s.l + sp.Right - s.k
		w.nodes = append(w.nodes, node{threshold: sp.Threshold, bits: sp.Bits, child: [2]uint32{root + sp.Right + l, self + 1}})
		stack = append(stack, subtree{sp.Right, l, s.end, s.depth + 1}, subtree{s.k + 1, s.l, sp.Right, s.depth + 1})
	}
	w.steps = append(w.steps, steps)
}

func (w *interleaved) Scores(dst []float64, rows []float32, features int) {
	f := w.f
	k := f.Outputs
	trees := float64(f.NumTrees())
	clear(dst)
	n := len(rows) / features
	var at [group]uint32
	for first := 0; first < n; first += group {
		g := min(group, n-first)
		block := rows[first*features:]
		for t, root := range w.roots {
			if g == group {
				w.walk8(&at, root, w.steps[t], block, features)
			} else {
				for i := range g {
					at[i] = w.walk1(root, block[i*features:(i+1)*features])
				}
			}
			for i := range g {
				leaf := int(f.Leaves[math.Float32bits(w.nodes[at[i]].threshold)])
				out := dst[(first+i)*k : (first+i+1)*k]
				for o, v := range f.Values[leaf*k : leaf*k+k] {
					out[o] += v
				}
			}
		}
	}
	for i := range dst {
		dst[i] /= trees
	}
}

// walk1 follows one row and stops at the leaf.
func (w *interleaved) walk1(at uint32, row []float32) uint32 {
	nodes := w.nodes
	for {
		n := &nodes[at]
		next := n.child[side(n, row)]
		if next == at {
			return at
		}
		at = next
	}
}

// walk8 follows eight rows for as many steps as the tree is deep.
func (w *interleaved) walk8(at *[group]uint32, root uint32, steps int32, rows []float32, features int) {
	nodes := w.nodes
	var p [group]uint32
	for i := range p {
		p[i] = root
	}
	for range steps {
		moved := uint32(0)
		for i := range p {
			n := &nodes[p[i]]
			next := n.child[side(n, rows[i*features:(i+1)*features])]
			moved |= next ^ p[i]
			p[i] = next
		}
		if moved == 0 {
			break // all rows are at their leaves
		}
	}
	*at = p
}

// side is 1 when the row goes to the left.
func side(n *node, row []float32) uint32 {
	v := row[n.bits&^model.MissingLeft]
	left := uint32(0)
	if v <= n.threshold {
		left = 1
	}
	if v != v {
		left = n.bits >> 31
	}
	return left
}

func (w *interleaved) Leaves(dst []int64, rows []float32, features int) {
	leaves(w.f, dst, rows, features)
}
