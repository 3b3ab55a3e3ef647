package model

import (
	"errors"
	"fmt"
	"math"
	"slices"
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
	if len(m.Golden.Rows)%m.Meta.Features != 0 || len(m.Golden.Margins) != rows*m.Forest.Outputs {
		return fmt.Errorf("%w: golden rows have %d values and %d margins, for %d features and %d outputs a row",
			ErrInvalid, len(m.Golden.Rows), len(m.Golden.Margins), m.Meta.Features, m.Forest.Outputs)
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
	case meta.Best < 0 || meta.Best > m.Forest.NumRounds():
		return fmt.Errorf("%w: the best of %d rounds is said to be %d", ErrInvalid, m.Forest.NumRounds(), meta.Best)
	}
	// Files and messages hold text as UTF-8: other bytes would come back changed, and two classes as one.
	for _, list := range []struct {
		what string
		text []string
	}{
		{"the name of feature", meta.Names},
		{"the name of class", meta.Classes},
		{"what is lost,", meta.Lost},
		{"its description,", []string{meta.ClassKind, meta.ClassType, meta.LeafType, meta.LeafShape, meta.Source.Library, meta.Source.Version, meta.Source.Kind, meta.Source.Objective, meta.Source.SHA256}},
	} {
		for i, text := range list.text {
			if !utf8.ValidString(text) {
				return fmt.Errorf("%w: %s %d is not UTF-8: %.80q", ErrInvalid, list.what, i, text)
			}
		}
	}
	if err := m.validateAnswers(); err != nil {
		return err
	}
	return m.validateTask()
}

// validateAnswers checks how margins become answers.
func (m *Model) validateAnswers() error {
	link, f := m.Meta.Link, &m.Forest
	switch link.Name {
	case Identity, Softmax, Exp, ExpDouble, Step, Square, Softplus, SoftmaxNumPy, SoftmaxPairs, SoftmaxLog, ExpNumPy:
		if link.Scale != 0 || link.Offset != 0 {
			return fmt.Errorf("%w: the link %s has neither scale nor offset", ErrInvalid, link.Name)
		}
		if f.Single && slices.Contains([]LinkName{SoftmaxNumPy, SoftmaxPairs, SoftmaxLog, ExpNumPy}, link.Name) {
			return fmt.Errorf("%w: the link %s is of float64 margins", ErrInvalid, link.Name)
		}
		if !f.Single && link.Name == ExpDouble {
			return fmt.Errorf("%w: the link %s is of float32 margins", ErrInvalid, link.Name)
		}
	case Sigmoid:
		if !(link.Scale > 0) || link.Scale-link.Scale != 0 || link.Offset != 0 || (f.Single && link.Scale != 1) {
			return fmt.Errorf("%w: the link sigmoid has a scale above 0, which is 1 in float32, and no offset; here they are %v and %v", ErrInvalid, link.Scale, link.Offset)
		}
	case Isolation:
		if f.Outputs != 1 || f.Single || link.Scale-link.Scale != 0 || link.Offset-link.Offset != 0 {
			return fmt.Errorf("%w: the link isolation is of one float64 output with a finite scale and offset, not of %d with %v and %v", ErrInvalid, f.Outputs, link.Scale, link.Offset)
		}
	default:
		return fmt.Errorf("%w: link %q", ErrInvalid, link.Name)
	}
	switch m.Meta.Predict {
	case PredictScores:
	case PredictLabel, PredictIndex:
		if m.Meta.Task != Classify {
			return fmt.Errorf("%w: a regressor that predicts a %s", ErrInvalid, m.Meta.Predict)
		}
	case PredictSign:
		if f.Outputs != 1 {
			return fmt.Errorf("%w: the sign of %d outputs", ErrInvalid, f.Outputs)
		}
	default:
		return fmt.Errorf("%w: predict %q", ErrInvalid, m.Meta.Predict)
	}
	switch m.Meta.ByMargin {
	case "", Positive, NotNegative:
	default:
		return fmt.Errorf("%w: labels by a margin that is %q", ErrInvalid, m.Meta.ByMargin)
	}
	switch m.Meta.LeafShape {
	case LeafTrees, LeafRounds, LeafAlone, LeafSqueezed:
	default:
		return fmt.Errorf("%w: leaf shape %q", ErrInvalid, m.Meta.LeafShape)
	}
	switch m.Meta.LeafType {
	case "", "i4", "f4", "f8":
	default:
		return fmt.Errorf("%w: leaves of type %q", ErrInvalid, m.Meta.LeafType)
	}
	return nil
}

func (m *Model) validateTask() error {
	meta, outputs := &m.Meta, m.Forest.Outputs
	switch meta.Task {
	case Classify:
		if meta.Targets != nil {
			total := 0
			for i, n := range meta.Targets {
				if n < 1 || n > MaxOutputs {
					return fmt.Errorf("%w: target %d has %d classes", ErrInvalid, i, n)
				}
				total += n
			}
			if total != outputs || len(meta.Classes) != outputs {
				return fmt.Errorf("%w: %d classes of %d targets with %d, for %d outputs", ErrInvalid, len(meta.Classes), len(meta.Targets), total, outputs)
			}
			return nil
		}
		if len(meta.Classes) != outputs && (outputs != 1 || len(meta.Classes) != 2) {
			return fmt.Errorf("%w: %d classes for %d outputs", ErrInvalid, len(meta.Classes), outputs)
		}
	case Regress:
		if meta.Classes != nil || meta.Targets != nil {
			return fmt.Errorf("%w: a regressor has no classes, this one has %d", ErrInvalid, len(meta.Classes))
		}
	default:
		return fmt.Errorf("%w: task %q, it can be %q or %q", ErrInvalid, meta.Task, Classify, Regress)
	}
	return nil
}

func (f *Forest) validate(features int) error {
	trees := f.NumTrees()
	switch {
	case f.Input != Float32 && f.Input != Float64:
		return fmt.Errorf("%w: input %q, it can be %q or %q", ErrInvalid, f.Input, Float32, Float64)
	case trees < 1 || trees > MaxTrees:
		return fmt.Errorf("%w: %d trees, 1 to %d are possible", ErrInvalid, trees, MaxTrees)
	case f.Round < 1 || trees%f.Round != 0:
		return fmt.Errorf("%w: %d trees are not whole rounds of %d", ErrInvalid, trees, f.Round)
	case len(f.Splits) > MaxSplits:
		return fmt.Errorf("%w: %d splits, at most %d are possible", ErrInvalid, len(f.Splits), MaxSplits)
	case f.Width != 1 && f.Width != f.Outputs:
		return fmt.Errorf("%w: leaves of %d values for %d outputs", ErrInvalid, f.Width, f.Outputs)
	case f.LeafIDs != nil && len(f.LeafIDs) != len(f.Splits)+trees:
		return fmt.Errorf("%w: %d leaf ids for %d leaves", ErrInvalid, len(f.LeafIDs), len(f.Splits)+trees)
	case f.Depth < 0 || f.Depth > MaxDepth:
		return fmt.Errorf("%w: depth %d, 0 to %d are possible", ErrInvalid, f.Depth, MaxDepth)
	case f.First == nil && f.Width != f.Outputs:
		return fmt.Errorf("%w: leaves of one value and nothing that says which of %d outputs they add to", ErrInvalid, f.Outputs)
	case f.First != nil && len(f.First) != trees:
		return fmt.Errorf("%w: %d first outputs for %d trees", ErrInvalid, len(f.First), trees)
	}
	for t, first := range f.First {
		if uint64(first)+uint64(f.Width) > uint64(f.Outputs) {
			return fmt.Errorf("%w: tree %d adds %d values to the outputs from %d on, there are %d", ErrInvalid, t, f.Width, first, f.Outputs)
		}
	}
	if err := f.validateValues(len(f.Splits) + trees); err != nil {
		return err
	}
	if err := f.validateCovers(len(f.Splits) + len(f.Splits) + trees); err != nil {
		return err
	}
	if err := f.validateTables(); err != nil {
		return err
	}
	if err := f.validateLinear(len(f.Splits)+trees, features); err != nil {
		return err
	}
	return f.validateTrees(features)
}

// validateValues checks what leaves give.
func (f *Forest) validateValues(leaves int) error {
	if f.Single && f.Values != nil || !f.Single && f.Values32 != nil {
		return fmt.Errorf("%w: leaf values of both types", ErrInvalid)
	}
	n := len(f.Values) + len(f.Values32)
	if n%f.Width != 0 || n == 0 {
		return fmt.Errorf("%w: %d leaf values are not rows of %d", ErrInvalid, n, f.Width)
	}
	if f.Leaves == nil && n != leaves*f.Width || f.Leaves != nil && len(f.Leaves) != leaves {
		return fmt.Errorf("%w: %d leaves with %d rows of values, there are %d leaves", ErrInvalid, len(f.Leaves), n/f.Width, leaves)
	}
	rows := uint32(min(n/f.Width, math.MaxUint32))
	highest := uint32(0)
	for _, row := range f.Leaves {
		highest = max(highest, row)
	}
	if highest >= rows {
		i := slices.IndexFunc(f.Leaves, func(row uint32) bool { return row >= rows })
		return fmt.Errorf("%w: leaf %d gives row %d of %d rows of values", ErrInvalid, i, f.Leaves[i], rows)
	}
	for i, v := range f.Values {
		if v-v != 0 {
			return fmt.Errorf("%w: leaf value %d is %v", ErrInvalid, i, v)
		}
	}
	for i, v := range f.Values32 {
		if v-v != 0 {
			return fmt.Errorf("%w: leaf value %d is %v", ErrInvalid, i, v)
		}
	}
	if f.Base != nil && len(f.Base) != f.Outputs {
		return fmt.Errorf("%w: %d bases for %d outputs", ErrInvalid, len(f.Base), f.Outputs)
	}
	for i, v := range f.Base {
		if math.IsNaN(v) || (f.Single && float64(float32(v)) != v) {
			return fmt.Errorf("%w: base %d is %v", ErrInvalid, i, v)
		}
	}
	return nil
}

// validateCovers checks how many samples nodes have seen.
func (f *Forest) validateCovers(nodes int) error {
	if f.Covers != nil && f.Covers32 != nil {
		return fmt.Errorf("%w: covers of both types", ErrInvalid)
	}
	if n := len(f.Covers) + len(f.Covers32); f.HasCovers() && n != nodes {
		return fmt.Errorf("%w: %d covers for %d nodes", ErrInvalid, n, nodes)
	}
	for i, v := range f.Covers {
		if !isCover(v) {
			return fmt.Errorf("%w: cover %d is %v", ErrInvalid, i, v)
		}
	}
	for i, v := range f.Covers32 {
		if !isCover(float64(v)) {
			return fmt.Errorf("%w: cover %d is %v", ErrInvalid, i, v)
		}
	}
	return nil
}

// isCover tells whether a number can be a cover: it is finite and not negative.
func isCover(v float64) bool { return v >= 0 && v <= math.MaxFloat64 }

// validateTables checks the thresholds and the sets that splits refer to.
func (f *Forest) validateTables() error {
	if f.Input == Float32 && f.Thresholds != nil {
		return fmt.Errorf("%w: a table of thresholds in a forest of float32 input", ErrInvalid)
	}
	for i, t := range f.Thresholds {
		if math.IsNaN(t) || i > 0 && !(f.Thresholds[i-1] < t) {
			return fmt.Errorf("%w: threshold %d is %v and does not ascend", ErrInvalid, i, t)
		}
	}
	switch f.Categories {
	case "":
		if f.SetStarts != nil || f.SetWords != nil {
			return fmt.Errorf("%w: sets in a forest without categories", ErrInvalid)
		}
		return nil
	case Truncate, Floor, Whole:
	default:
		return fmt.Errorf("%w: categories %q", ErrInvalid, f.Categories)
	}
	return ascends("sets", "words", f.SetStarts, len(f.SetWords), MaxCategory/32)
}

// ascends checks an array of starts, with one for the end.
func ascends(of, what string, starts []uint32, total, most int) error {
	if len(starts) == 0 {
		if total != 0 {
			return fmt.Errorf("%w: %d %s of no %s", ErrInvalid, total, what, of)
		}
		return nil
	}
	if starts[0] != 0 || int(starts[len(starts)-1]) != total {
		return fmt.Errorf("%w: %s have the %s %d to %d of %d", ErrInvalid, of, what, starts[0], starts[len(starts)-1], total)
	}
	for i := range starts[1:] {
		if starts[i+1] < starts[i] || int(starts[i+1]-starts[i]) > most {
			return fmt.Errorf("%w: %s %d have the %s %d to %d", ErrInvalid, of, i, what, starts[i], starts[i+1])
		}
	}
	return nil
}

func (f *Forest) validateLinear(leaves, features int) error {
	l := f.Linear
	if l == nil {
		return nil
	}
	if f.Width != 1 || f.Single || len(l.Const) != leaves || len(l.Starts) != leaves+1 || len(l.Features) != len(l.Coeffs) {
		return fmt.Errorf("%w: %d linear leaves with %d features and %d coefficients, in a forest of %d leaves of %d values",
			ErrInvalid, len(l.Const), len(l.Features), len(l.Coeffs), leaves, f.Width)
	}
	if err := ascends("linear leaves", "terms", l.Starts, len(l.Coeffs), MaxFeatures); err != nil {
		return err
	}
	for i, at := range l.Features {
		if at >= uint32(features) {
			return fmt.Errorf("%w: linear term %d has feature %d of %d", ErrInvalid, i, at, features)
		}
	}
	for _, list := range [][]float64{l.Const, l.Coeffs} {
		for i, v := range list {
			if v-v != 0 {
				return fmt.Errorf("%w: linear term %d is %v", ErrInvalid, i, v)
			}
		}
	}
	return nil
}

func (f *Forest) validateTrees(features int) error {
	check := checker{features: uint32(features), thresholds: uint32(len(f.Thresholds)), sets: uint32(max(len(f.SetStarts), 1) - 1), table: f.Input == Float64}
	var first Tree
	for t := range f.NumTrees() {
		begin, end := f.Trees[t], f.Trees[t+1]
		if begin != first || end.Split < begin.Split || uint64(end.Split) > uint64(len(f.Splits)) ||
			end.Leaf != begin.Leaf+(end.Split-begin.Split)+1 {
			return fmt.Errorf("%w: tree %d has splits %d to %d and leaves %d to %d", ErrInvalid, t, begin.Split, end.Split, begin.Leaf, end.Leaf)
		}
		if err := check.tree(f.Splits[begin.Split:end.Split]); err != nil {
			return fmt.Errorf("%w: tree %d: %w", ErrInvalid, t, err)
		}
		first = end
	}
	switch {
	case int(first.Split) != len(f.Splits):
		return fmt.Errorf("%w: the trees have %d splits, there are %d", ErrInvalid, first.Split, len(f.Splits))
	case check.depth != f.Depth:
		return fmt.Errorf("%w: depth is said to be %d and is %d", ErrInvalid, f.Depth, check.depth)
	case check.uses != f.Uses:
		return fmt.Errorf("%w: the splits' flags are said to be %#x and are %#x", ErrInvalid, uint32(f.Uses), uint32(check.uses))
	}
	return nil
}

// subtree is one that is still to be checked.
type subtree struct {
	end   uint32 // the split behind its last
	depth int32  // of its root
}

// checker proves trees sound, one after the other.
type checker struct {
	features, thresholds, sets uint32 // how many there are
	table                      bool   // thresholds are in a table

	depth int   // of the deepest tree so far
	uses  Flags // of the splits so far
	// stack has room for a path of MaxDepth splits, each with a right subtree that waits. One for all trees: clearing
	// it for each would cost more than a small tree.
	stack [MaxDepth + 1]subtree
}

// tree checks the splits of one tree. The stack holds the subtrees that have not begun: each begins where the one
// above it ends, and the topmost at the split that is looked at. What it holds before does not matter.
func (c *checker) tree(splits []Split) error {
	n := 0
	if len(splits) > 0 {
		c.stack[0] = subtree{uint32(len(splits)), 1}
		n = 1
	}
	for k := range splits {
		s := splits[k]
		n--
		at := c.stack[n]
		if s.Right <= uint32(k) || s.Right > at.end {
			return fmt.Errorf("split %d: the right child is split %d, it must be %d to %d", k, s.Right, k+1, at.end)
		}
		if s.Bits&featureBits >= c.features {
			return fmt.Errorf("split %d: feature %d of %d features", k, s.Feature(), c.features)
		}
		if err := c.question(s); err != nil {
			return fmt.Errorf("split %d: %w", k, err)
		}
		if int(at.depth) > c.depth {
			if c.depth = int(at.depth); c.depth > MaxDepth {
				return fmt.Errorf("split %d: deeper than %d", k, MaxDepth)
			}
		}
		if s.Right < at.end {
			c.stack[n] = subtree{at.end, at.depth + 1}
			n++
		}
		if uint32(k)+1 < s.Right {
			c.stack[n] = subtree{s.Right, at.depth + 1}
			n++
		}
	}
	return nil
}

// question checks what a split asks.
func (c *checker) question(s Split) error {
	flags := Flags(s.Bits &^ featureBits)
	c.uses |= flags
	switch {
	case flags&^allFlags != 0:
		return fmt.Errorf("flags %#x are unknown", uint32(flags&^allFlags))
	case flags&Set != 0:
		if flags&ZeroMissing != 0 {
			return fmt.Errorf("flags %#x contradict each other", uint32(flags))
		}
		if s.Value >= c.sets {
			return fmt.Errorf("set %d of %d sets", s.Value, c.sets)
		}
	case flags&SetRight != 0:
		return fmt.Errorf("flags %#x contradict each other", uint32(flags))
	case c.table:
		if s.Value >= c.thresholds {
			return fmt.Errorf("threshold %d of %d thresholds", s.Value, c.thresholds)
		}
	case s.Threshold32() != s.Threshold32():
		return errors.New("the threshold is NaN")
	}
	return nil
}
