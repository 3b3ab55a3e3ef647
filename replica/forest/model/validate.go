package model

import (
	"fmt"
	"math"
	"unicode/utf8"
)

// Validate proves that every walk of every row ends in a leaf inside the arrays, in one pass over the
// splits and without recursion. Its memory is bounded by MaxDepth. The error wraps ErrInvalid and names the
// tree and the split.
func (m *Model) Validate() error {
	if err := m.validateMeta(); err != nil {
		return err
	}
	if err := m.Forest.validate(m.Meta.Features); err != nil {
		return err
	}
	rows := len(m.Golden.Rows) / m.Meta.Features
	if len(m.Golden.Rows)%m.Meta.Features != 0 || len(m.Golden.Outputs) != rows*m.Forest.Outputs {
		return fmt.Errorf("%w: golden rows have %d values and %d outputs, for %d features and %d outputs a row",
			ErrInvalid, len(m.Golden.Rows), len(m.Golden.Outputs), m.Meta.Features, m.Forest.Outputs)
	}
	if rows > MaxGoldenRows {
		return fmt.Errorf("%w: %d golden rows, at most %d are possible", ErrInvalid, rows, MaxGoldenRows)
	}
	return nil
}

func (m *Model) validateMeta() error {
	meta, outputs := &m.Meta, m.Forest.Outputs
	switch {
	case meta.Features < 1 || meta.Features > MaxFeatures:
		return fmt.Errorf("%w: %d features, 1 to %d are possible", ErrInvalid, meta.Features, MaxFeatures)
	case outputs < 1 || outputs > MaxOutputs:
		return fmt.Errorf("%w: %d outputs, 1 to %d are possible", ErrInvalid, outputs, MaxOutputs)
	case meta.Names != nil && len(meta.Names) != meta.Features:
		return fmt.Errorf("%w: %d feature names for %d features", ErrInvalid, len(meta.Names), meta.Features)
	}
	// Files and messages hold text as UTF-8: other bytes would come back changed, and two classes as one.
	for i, name := range meta.Names {
		if !utf8.ValidString(name) {
			return fmt.Errorf("%w: the name of feature %d is not UTF-8: %.80q", ErrInvalid, i, name)
		}
	}
	for i, class := range meta.Classes {
		if !utf8.ValidString(class) {
			return fmt.Errorf("%w: the name of class %d is not UTF-8: %.80q", ErrInvalid, i, class)
		}
	}
	for _, text := range []string{meta.ClassKind, meta.Source.Library, meta.Source.Version, meta.Source.Kind, meta.Source.SHA256} {
		if !utf8.ValidString(text) {
			return fmt.Errorf("%w: its description is not UTF-8: %.80q", ErrInvalid, text)
		}
	}
	switch meta.Task {
	case Classify:
		if len(meta.Classes) != outputs {
			return fmt.Errorf("%w: %d classes for %d outputs", ErrInvalid, len(meta.Classes), outputs)
		}
	case Regress:
		if meta.Classes != nil || outputs != 1 {
			return fmt.Errorf("%w: a regressor has one output and no classes, not %d and %d", ErrInvalid, outputs, len(meta.Classes))
		}
	default:
		return fmt.Errorf("%w: task %q, it can be %q or %q", ErrInvalid, meta.Task, Classify, Regress)
	}
	return nil
}

func (f *Forest) validate(features int) error {
	trees := f.NumTrees()
	switch {
	case trees < 1 || trees > MaxTrees:
		return fmt.Errorf("%w: %d trees, 1 to %d are possible", ErrInvalid, trees, MaxTrees)
	case len(f.Splits) > MaxSplits:
		return fmt.Errorf("%w: %d splits, at most %d are possible", ErrInvalid, len(f.Splits), MaxSplits)
	case len(f.Leaves) != len(f.Splits)+trees:
		return fmt.Errorf("%w: %d leaves for %d splits in %d trees, which have %d", ErrInvalid, len(f.Leaves), len(f.Splits), trees, len(f.Splits)+trees)
	case len(f.Values)%f.Outputs != 0 || len(f.Values) == 0:
		return fmt.Errorf("%w: %d leaf values are not rows of %d outputs", ErrInvalid, len(f.Values), f.Outputs)
	case f.LeafIDs != nil && len(f.LeafIDs) != len(f.Leaves):
		return fmt.Errorf("%w: %d leaf ids for %d leaves", ErrInvalid, len(f.LeafIDs), len(f.Leaves))
	case f.Depth < 0 || f.Depth > MaxDepth:
		return fmt.Errorf("%w: depth %d, 0 to %d are possible", ErrInvalid, f.Depth, MaxDepth)
	}
	rows := uint32(min(len(f.Values)/f.Outputs, math.MaxUint32))
	for i, row := range f.Leaves {
		if row >= rows {
			return fmt.Errorf("%w: leaf %d gives row %d of %d rows of values", ErrInvalid, i, row, rows)
		}
	}
	for i, v := range f.Values {
		if v-v != 0 {
			return fmt.Errorf("%w: leaf value %d is %v", ErrInvalid, i, v)
		}
	}
	depth := 0
	stack := new(stack) // one for all trees: clearing it for each would cost more than a small tree
	var first Tree
	for t := range trees {
		begin, end := f.Trees[t], f.Trees[t+1]
		if begin != first || end.Split < begin.Split || uint64(end.Split) > uint64(len(f.Splits)) ||
			end.Leaf != begin.Leaf+(end.Split-begin.Split)+1 {
			return fmt.Errorf("%w: tree %d has splits %d to %d and leaves %d to %d", ErrInvalid, t, begin.Split, end.Split, begin.Leaf, end.Leaf)
		}
		d, err := validateTree(f.Splits[begin.Split:end.Split], features, stack)
		if err != nil {
			return fmt.Errorf("%w: tree %d: %w", ErrInvalid, t, err)
		}
		depth = max(depth, d)
		first = end
	}
	if int(first.Split) != len(f.Splits) || int(first.Leaf) != len(f.Leaves) {
		return fmt.Errorf("%w: the trees have %d splits and %d leaves, there are %d and %d", ErrInvalid, first.Split, first.Leaf, len(f.Splits), len(f.Leaves))
	}
	if depth != f.Depth {
		return fmt.Errorf("%w: depth is said to be %d and is %d", ErrInvalid, f.Depth, depth)
	}
	return nil
}

// subtree is one that is still to be checked.
type subtree struct {
	end   uint32 // the split behind its last
	depth int32  // of its root
}

// stack has room for a path of MaxDepth splits, each with a right subtree that waits.
type stack [MaxDepth + 1]subtree

// validateTree checks the splits of one tree and returns its depth. The stack holds the subtrees that have
// not begun: each begins where the one above it ends, and the topmost at the split that is looked at. What it
// holds before does not matter.
func validateTree(splits []Split, features int, stack *stack) (depth int, err error) {
	n := 0
	if len(splits) > 0 {
		stack[0] = subtree{uint32(len(splits)), 1}
		n = 1
	}
	for k := range splits {
		s := &splits[k]
		n--
		at := stack[n]
		if s.Right <= uint32(k) || s.Right > at.end {
			return 0, fmt.Errorf("split %d: the right child is split %d, it must be %d to %d", k, s.Right, k+1, at.end)
		}
		if s.Feature() >= features {
			return 0, fmt.Errorf("split %d: feature %d of %d features", k, s.Feature(), features)
		}
		if s.Threshold != s.Threshold {
			return 0, fmt.Errorf("split %d: the threshold is NaN", k)
		}
		if int(at.depth) > depth {
			if depth = int(at.depth); depth > MaxDepth {
				return 0, fmt.Errorf("split %d: deeper than %d", k, MaxDepth)
			}
		}
		if s.Right < at.end {
			stack[n] = subtree{at.end, at.depth + 1}
			n++
		}
		if uint32(k)+1 < s.Right {
			stack[n] = subtree{s.Right, at.depth + 1}
			n++
		}
	}
	return depth, nil
}
