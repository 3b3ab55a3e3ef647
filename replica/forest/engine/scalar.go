package engine

import "github.com/coppice-mesh/coppice/replica/forest/model"

// scalar walks one tree for one row at a time, on the canonical nodes: the reference, for every forest.
type scalar[T Row] struct{ f *model.Forest }

func (s scalar[T]) Margins(dst []float64, rows []T, features int) {
	f := s.f
	for len(rows) > 0 {
		row, out := rows[:features], dst[:f.Outputs]
		begin(f, out)
		for t := range f.NumTrees() {
			leaf := walk(f, t, row).leaf
			if f.Linear != nil {
				out[first(f, t)] += linear(f, leaf, row)
			} else {
				add(f, t, leaf, out)
			}
		}
		end(f, out)
		rows, dst = rows[features:], dst[f.Outputs:]
	}
}

func (s scalar[T]) Leaves(dst []int64, rows []T, features int) {
	f := s.f
	for len(rows) > 0 {
		for t := range f.NumTrees() {
			dst[t] = walk(f, t, rows[:features]).id(f)
		}
		rows, dst = rows[features:], dst[f.NumTrees():]
	}
}

// begin sets the sums of a row to their bases.
func begin(f *model.Forest, out []float64) {
	if f.Base == nil {
		clear(out)
		return
	}
	copy(out, f.Base)
}

// first is the first output that a tree adds to.
func first(f *model.Forest, t int) int {
	if f.First == nil {
		return 0
	}
	return int(f.First[t])
}

// add adds the values of a leaf of a tree to the sums of a row.
func add(f *model.Forest, t, leaf int, out []float64) {
	addRow(f, f.Row(leaf), out[first(f, t):])
}

// addRow adds a row of values to sums.
func addRow(f *model.Forest, row int, out []float64) {
	row *= f.Width
	if f.Single {
		for o, v := range f.Values32[row : row+f.Width] {
			out[o] = float64(float32(out[o]) + v)
		}
		return
	}
	for o, v := range f.Values[row : row+f.Width] {
		out[o] += v
	}
}

// end divides the sums of a row, if the forest averages.
func end(f *model.Forest, out []float64) {
	if !f.Average {
		return
	}
	rounds := float64(f.NumRounds())
	for o := range out {
		if f.Single {
			out[o] = float64(float32(out[o]) / float32(rounds))
		} else {
			out[o] /= rounds
		}
	}
}

// linear is the value that a leaf gives to a row. A product is rounded before it is added: the conversion keeps the
// compiler from fusing the two.
func linear[T Row](f *model.Forest, leaf int, row []T) float64 {
	l := f.Linear
	from, to := l.Starts[leaf], l.Starts[leaf+1]
	sum := l.Const[leaf]
	for i, feature := range l.Features[from:to] {
		v := float64(row[feature])
		if v != v {
			return f.Values[f.Row(leaf)]
		}
		if v >= -model.NearZero && v <= model.NearZero {
			v = 0
		}
		sum += float64(l.Coeffs[int(from)+i] * v)
	}
	return sum
}

// place is where a walk ends.
type place struct {
	leaf int // index in Forest.Leaves
	node int // index in the preorder of the tree
}

// id is how the source library calls the leaf.
func (p place) id(f *model.Forest) int64 {
	if f.LeafIDs != nil {
		return int64(f.LeafIDs[p.leaf])
	}
	return int64(p.node)
}

// walk follows one row down one tree. A subtree is (k, l, end), as package model describes; each step makes
// it smaller, so the walk ends.
func walk[T Row](f *model.Forest, t int, row []T) place {
	tree, next := f.Trees[t], f.Trees[t+1]
	splits := f.Splits[tree.Split:next.Split]
	k, l, end := uint32(0), uint32(0), uint32(len(splits))
	for k < end {
		s := splits[k]
		if goesLeft(f, s, row[s.Feature()]) {
			k, end = k+1, s.Right
		} else {
			k, l = s.Right, l+s.Right-k
		}
	}
	return place{leaf: int(tree.Leaf + l), node: int(k + l)}
}

// goesLeft answers the question of a split, as model.Split defines it.
func goesLeft[T Row](f *model.Forest, s model.Split, v T) bool {
	x := float64(v)
	if f.Input == model.Float32 {
		x = float64(float32(v))
	}
	switch {
	case x != x:
		return s.Has(model.MissingLeft)
	case s.Has(model.Set):
		return in(f.Set(s.Value), f.Categories, x) != s.Has(model.SetRight)
	case s.Has(model.ZeroMissing) && x >= -model.NearZero && x <= model.NearZero:
		return s.Has(model.MissingLeft)
	}
	return x <= f.Threshold(s)
}

// in tells whether the category of a value is in a set. The bounds are checked before the conversion, whose result
// outside of them depends on the processor.
func in(set []uint32, how model.Categories, x float64) bool {
	if !(x > -1 && x < model.MaxCategory) || (x < 0 && how != model.Truncate) {
		return false
	}
	c := int(x)
	if c/32 >= len(set) || (how == model.Whole && float64(c) != x) {
		return false
	}
	return set[c/32]>>(c%32)&1 != 0
}

// scalarForest is a forest as it is.
type scalarForest struct {
	f     *model.Forest
	steps float64 // of a row
}

func newScalarForest(f *model.Forest) scalarForest { return scalarForest{f, meanSteps(f)} }

func (w scalarForest) kernels() (Kernel[float32], Kernel[float64]) {
	return scalar[float32]{w.f}, scalar[float64]{w.f}
}

func (scalarForest) bytes() int { return 0 }

func (w scalarForest) cost(rows int) float64 { return float64(rows) * w.steps * scalarStep }

func (w scalarForest) shares() []Share {
	return []Share{{w.f.NumTrees(), "walked on the canonical nodes"}}
}
