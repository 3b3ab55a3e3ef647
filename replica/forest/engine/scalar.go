package engine

import "github.com/coppice-mesh/coppice/replica/forest/model"

// scalar walks one tree for one row at a time, on the canonical nodes: the reference.
type scalar struct{ f *model.Forest }

func newScalar(f *model.Forest) Kernel { return scalar{f} }

func (s scalar) Scores(dst []float64, rows []float32, features int) {
	f := s.f
	trees := float64(f.NumTrees())
	for len(rows) > 0 {
		row := rows[:features]
		out := dst[:f.Outputs]
		clear(out)
		for t := range f.NumTrees() {
			leaf := f.Leaves[walk(f, t, row).leaf]
			for o, v := range f.Values[int(leaf)*f.Outputs : (int(leaf)+1)*f.Outputs] {
				out[o] += v
			}
		}
		for o := range out {
			out[o] /= trees
		}
		rows, dst = rows[features:], dst[f.Outputs:]
	}
}

func (s scalar) Leaves(dst []int64, rows []float32, features int) {
	f := s.f
	for len(rows) > 0 {
		for t := range f.NumTrees() {
			at := walk(f, t, rows[:features])
			if f.LeafIDs != nil {
				dst[t] = int64(f.LeafIDs[at.leaf])
			} else {
				dst[t] = int64(at.node)
			}
		}
		rows, dst = rows[features:], dst[f.NumTrees():]
	}
}

// place is where a walk ends.
type place struct {
	leaf int // index in Forest.Leaves
	node int // index in the preorder of the tree
}

// walk follows one row down one tree. A subtree is (k, l, end), as package model describes; each step makes
// it smaller, so the walk ends.
func walk(f *model.Forest, t int, row []float32) place {
	tree, next := f.Trees[t], f.Trees[t+1]
	splits := f.Splits[tree.Split:next.Split]
	k, l, end := uint32(0), uint32(0), uint32(len(splits))
	for k < end {
		s := &splits[k]
		v := row[s.Feature()]
		if v <= s.Threshold || (v != v && s.MissingLeft()) {
			k, end = k+1, s.Right
		} else {
			k, l = s.Right, l+s.Right-k
		}
	}
	return place{leaf: int(tree.Leaf + l), node: int(k + l)}
}
