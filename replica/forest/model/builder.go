package model

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// Shape is what a Builder must know of a forest before its first node.
type Shape struct {
	Outputs    int        // margins of a row
	Width      int        // values of a leaf: Outputs or 1; 0: Outputs
	Input      Input      // empty: Float32
	Single     bool       // leaves and their sums are float32
	Categories Categories // needed for SplitSet
}

// Builder assembles a Forest from nodes that are given in preorder: a split, then the whole of its
// left subtree, then the whole of its right one. Equal leaves share their values. The zero Builder is
// not usable; see NewBuilder.
type Builder struct {
	f      Forest
	output uint32 // the first output of the trees that begin
	rows   rows   // of leaf values
	open   []pending
	in     bool // a tree has begun and has not ended

	thresholds map[float64]uint32 // of Float64 input, by value
	sets       map[string]uint32  // by their words
	ownIDs     bool               // an id is not the index in preorder
	covers     []float64          // of the nodes so far, as far as they were given
}

// pending is a split that waits for its subtrees.
type pending struct {
	split uint32
	right bool // the left subtree is complete
}

// ErrBuild is wrapped by the errors of a Builder that was given something else than a full binary tree.
var ErrBuild = errors.New("not a full binary tree")

// NewBuilder makes a Builder of forests of a shape. Average, Base and Round are for the caller to set in the Forest,
// whose Round is 1.
func NewBuilder(s Shape) *Builder {
	if s.Width == 0 {
		s.Width = s.Outputs
	}
	if s.Input == "" {
		s.Input = Float32
	}
	return &Builder{
		f:    Forest{Input: s.Input, Single: s.Single, Outputs: s.Outputs, Width: s.Width, Categories: s.Categories, Round: 1},
		rows: rows{secret: rand.Uint64()}, thresholds: map[float64]uint32{}, sets: map[string]uint32{},
	}
}

// Grow makes room for more splits and leaves, so that large forests are not copied while they grow. It is for a caller
// that has seen as many: it allocates what it is told.
func (b *Builder) Grow(splits, leaves int) {
	b.f.Splits = slices.Grow(b.f.Splits, splits)
	b.f.Leaves = slices.Grow(b.f.Leaves, leaves)
}

// Output makes the trees that begin from now on add to the outputs from first on.
func (b *Builder) Output(first int) error {
	if first < 0 || first+b.f.Width > b.f.Outputs {
		return fmt.Errorf("%w: a tree of %d values adds to the outputs from %d on, there are %d", ErrInvalid, b.f.Width, first, b.f.Outputs)
	}
	if b.in {
		return fmt.Errorf("%w: tree %d has not ended", ErrBuild, len(b.f.Trees)-1)
	}
	if first != 0 && b.f.First == nil {
		b.f.First = make([]uint32, len(b.f.Trees))
	}
	b.output = uint32(first)
	return nil
}

// Split adds a split that compares: left when the value is <= threshold, which must not be NaN and, for Float32
// input, must be a float32. Of the flags it takes MissingLeft and ZeroMissing.
func (b *Builder) Split(feature int, threshold float64, flags Flags) error {
	if math.IsNaN(threshold) {
		return fmt.Errorf("%w: threshold is NaN", ErrInvalid)
	}
	threshold += 0 // -0 is 0
	var value uint32
	if b.f.Input == Float64 {
		var ok bool
		if value, ok = b.thresholds[threshold]; !ok {
			value = uint32(len(b.thresholds))
			b.thresholds[threshold] = value
		}
	} else {
		t := float32(threshold)
		if float64(t) != threshold {
			return fmt.Errorf("%w: threshold %v is not a float32", ErrInvalid, threshold)
		}
		value = math.Float32bits(t)
	}
	return b.split(feature, value, flags&^(Set|SetRight))
}

// SplitSet adds a split that asks whether the value's category is in a set: bit c%32 of words[c/32] is category c.
// Of the flags it takes MissingLeft and SetRight. An empty set sends all values to one side.
func (b *Builder) SplitSet(feature int, words []uint32, flags Flags) error {
	for len(words) > 0 && words[len(words)-1] == 0 {
		words = words[:len(words)-1]
	}
	if len(words) > MaxCategory/32 {
		return fmt.Errorf("%w: a set holds category %d or a higher one, %d is the limit", ErrInvalid, 32*len(words)-32, MaxCategory)
	}
	if b.f.Categories == "" {
		return fmt.Errorf("%w: a split by a set, in a forest without categories", ErrInvalid)
	}
	key := string(toBytes(words))
	number, ok := b.sets[key]
	if !ok {
		if b.f.SetStarts == nil {
			b.f.SetStarts = []uint32{0}
		}
		number = uint32(len(b.sets))
		b.sets[key] = number
		b.f.SetWords = append(b.f.SetWords, words...)
		b.f.SetStarts = append(b.f.SetStarts, uint32(len(b.f.SetWords)))
	}
	return b.split(feature, number, flags&^ZeroMissing|Set)
}

func toBytes(words []uint32) []byte {
	out := make([]byte, 0, 4*len(words))
	for _, w := range words {
		out = append(out, byte(w), byte(w>>8), byte(w>>16), byte(w>>24))
	}
	return out
}

func (b *Builder) split(feature int, value uint32, flags Flags) error {
	if err := b.begin(); err != nil {
		return err
	}
	if feature < 0 || feature >= MaxFeatures {
		return fmt.Errorf("%w: feature %d is outside [0, %d)", ErrInvalid, feature, MaxFeatures)
	}
	if len(b.f.Splits) >= MaxSplits {
		return fmt.Errorf("%w: more than %d splits", ErrInvalid, MaxSplits)
	}
	if len(b.open) >= MaxDepth {
		return fmt.Errorf("%w: deeper than %d", ErrInvalid, MaxDepth)
	}
	flags &= allFlags
	b.open = append(b.open, pending{split: uint32(len(b.f.Splits))})
	b.f.Depth = max(b.f.Depth, len(b.open))
	b.f.Uses |= flags
	b.f.Splits = append(b.f.Splits, Split{Value: value, Bits: uint32(feature) | uint32(flags)})
	return nil
}

// Leaf adds a leaf with its values, which are copied. Those of a forest with Single must be float32.
func (b *Builder) Leaf(values ...float64) error {
	if err := b.begin(); err != nil {
		return err
	}
	if len(values) != b.f.Width {
		return fmt.Errorf("%w: leaf has %d values, the forest's have %d", ErrInvalid, len(values), b.f.Width)
	}
	if b.f.Single {
		for _, v := range values {
			if float64(float32(v)) != v && v == v {
				return fmt.Errorf("%w: leaf value %v is not a float32", ErrInvalid, v)
			}
		}
	}
	b.f.Leaves = append(b.f.Leaves, b.rows.add(&b.f, values))
	if l := b.f.Linear; l != nil {
		l.Const = append(l.Const, values[0])
		l.Starts = append(l.Starts, uint32(len(l.Coeffs)))
	}
	b.closeSubtrees()
	return nil
}

// LinearLeaf adds a leaf that is linear in the row: constant + coeffs[0]*row[features[0]] + …, or value where one of
// the features is NaN.
func (b *Builder) LinearLeaf(value, constant float64, features []uint32, coeffs []float64) error {
	switch {
	case b.f.Width != 1 || b.f.Single:
		return fmt.Errorf("%w: a linear leaf in a forest of %d values a leaf", ErrInvalid, b.f.Width)
	case len(features) != len(coeffs):
		return fmt.Errorf("%w: a linear leaf with %d features and %d coefficients", ErrInvalid, len(features), len(coeffs))
	}
	if b.f.Linear == nil {
		l := &Linear{Starts: make([]uint32, len(b.f.Leaves)+1)}
		for i := range b.f.Leaves { // those up to here are plain
			l.Const = append(l.Const, b.f.Values[b.f.Leaves[i]])
		}
		b.f.Linear = l
	}
	if err := b.Leaf(value); err != nil {
		return err
	}
	l := b.f.Linear
	l.Const[len(l.Const)-1] = constant
	l.Features = append(l.Features, features...)
	l.Coeffs = append(l.Coeffs, coeffs...)
	l.Starts[len(l.Starts)-1] = uint32(len(l.Coeffs))
	return nil
}

// closeSubtrees notes, after a leaf, which subtrees it completed.
func (b *Builder) closeSubtrees() {
	first := b.f.Trees[len(b.f.Trees)-1].Split
	for len(b.open) > 0 {
		top := &b.open[len(b.open)-1]
		if !top.right {
			top.right = true
			b.f.Splits[top.split].Right = uint32(len(b.f.Splits)) - first
			return
		}
		b.open = b.open[:len(b.open)-1]
	}
	b.in = false
}

// begin starts a tree when none is open.
func (b *Builder) begin() error {
	if b.in {
		return nil
	}
	if len(b.f.Trees) >= MaxTrees {
		return fmt.Errorf("%w: more than %d trees", ErrInvalid, MaxTrees)
	}
	b.f.Trees = append(b.f.Trees, Tree{Split: uint32(len(b.f.Splits)), Leaf: uint32(len(b.f.Leaves))})
	if b.f.First != nil {
		b.f.First = append(b.f.First, b.output)
	}
	b.in = true
	return nil
}

// LeafID gives the source library's id of the leaf that was added last. Either all leaves get one, or none: then
// their ids are their indices in the preorder of their tree.
func (b *Builder) LeafID(id uint32) {
	leaf := len(b.f.Leaves) - 1
	tree := b.f.Trees[len(b.f.Trees)-1]
	preorder := len(b.f.Splits) - int(tree.Split) + leaf - int(tree.Leaf)
	b.ownIDs = b.ownIDs || int(id) != preorder
	if b.f.LeafIDs == nil {
		b.f.LeafIDs = make([]uint32, 0, cap(b.f.Leaves))
	}
	b.f.LeafIDs = append(b.f.LeafIDs, id)
}

// Cover gives the cover of the node that was added last. The forest has covers if all of its nodes get one that is
// finite and not negative.
func (b *Builder) Cover(cover float64) { b.covers = append(b.covers, cover) }

// Forest ends the work and returns the forest. The Builder must not be used after it.
func (b *Builder) Forest() (Forest, error) {
	if b.in {
		return Forest{}, fmt.Errorf("%w: %d subtrees of tree %d are missing", ErrBuild, len(b.open), len(b.f.Trees)-1)
	}
	f := &b.f
	if f.LeafIDs != nil && len(f.LeafIDs) != len(f.Leaves) {
		return Forest{}, fmt.Errorf("%w: %d leaf ids for %d leaves", ErrBuild, len(f.LeafIDs), len(f.Leaves))
	}
	if !b.ownIDs {
		f.LeafIDs = nil
	}
	f.Trees = append(f.Trees, Tree{Split: uint32(len(f.Splits)), Leaf: uint32(len(f.Leaves))})
	b.sortThresholds()
	b.placeValues()
	b.placeCovers()
	return *f, nil
}

// placeCovers keeps the covers if there are all of them.
func (b *Builder) placeCovers() {
	f := &b.f
	if len(b.covers) != f.NumNodes() || !all(b.covers, isCover) {
		return
	}
	if !all(b.covers, func(v float64) bool { return float64(float32(v)) == v }) {
		f.Covers = b.covers
		return
	}
	f.Covers32 = make([]float32, len(b.covers))
	for i, v := range b.covers {
		f.Covers32[i] = float32(v)
	}
}

// all tells whether a condition holds for all elements.
func all[T any](s []T, holds func(T) bool) bool {
	return !slices.ContainsFunc(s, func(v T) bool { return !holds(v) })
}

// sortThresholds makes thresholds ascend: then their indices compare as they do.
func (b *Builder) sortThresholds() {
	f := &b.f
	if f.Input != Float64 {
		return
	}
	f.Thresholds = make([]float64, 0, len(b.thresholds))
	for t := range b.thresholds {
		f.Thresholds = append(f.Thresholds, t)
	}
	slices.Sort(f.Thresholds)
	rank := make([]uint32, len(b.thresholds))
	for i, t := range f.Thresholds {
		rank[b.thresholds[t]] = uint32(i)
	}
	for i := range f.Splits {
		if s := &f.Splits[i]; !s.Has(Set) {
			s.Value = rank[s.Value]
		}
	}
}

// placeValues puts the values in the order of the leaves when that is smaller than to refer to them.
func (b *Builder) placeValues() {
	f := &b.f
	size := 8
	if f.Single {
		size = 4
	}
	shared := 4*len(f.Leaves) + f.Rows()*f.Width*size
	if shared < len(f.Leaves)*f.Width*size {
		return
	}
	if f.Rows() < len(f.Leaves) {
		f.Values, f.Values32 = spread(f.Values, f.Leaves, f.Width), spread(f.Values32, f.Leaves, f.Width)
	} // otherwise row i is leaf i's already
	f.Leaves = nil
}

// spread gives every leaf a row of its own.
func spread[T any](values []T, leaves []uint32, width int) []T {
	if values == nil {
		return nil
	}
	out := make([]T, 0, len(leaves)*width)
	for _, row := range leaves {
		out = append(out, values[int(row)*width:(int(row)+1)*width]...)
	}
	return out
}

// rows finds rows of values that were added before: a hash table of the rows of a Forest, by open addressing. The keys
// are where they are needed anyway, in the Forest.
type rows struct {
	slots  []uint32 // a row and 1, or 0
	n      int
	secret uint64
}

// add gives the row that holds the values, bit for bit, and appends it if there is none.
func (r *rows) add(f *Forest, values []float64) uint32 {
	if 2*r.n >= len(r.slots) {
		r.grow(f)
	}
	slot := r.hash(values) & uint64(len(r.slots)-1)
	for ; r.slots[slot] != 0; slot = (slot + 1) & uint64(len(r.slots)-1) {
		if row := r.slots[slot] - 1; f.holds(row, values) {
			return row
		}
	}
	row := uint32(r.n)
	r.n++
	r.slots[slot] = row + 1
	if !f.Single {
		f.Values = append(f.Values, values...)
		return row
	}
	for _, v := range values {
		f.Values32 = append(f.Values32, float32(v))
	}
	return row
}

// holds tells whether a row has these values.
func (f *Forest) holds(row uint32, values []float64) bool {
	for i, v := range values {
		if math.Float64bits(f.value(int(row)*f.Width+i)) != math.Float64bits(v) {
			return false
		}
	}
	return true
}

func (f *Forest) value(i int) float64 {
	if f.Single {
		return float64(f.Values32[i])
	}
	return f.Values[i]
}

func (r *rows) grow(f *Forest) {
	r.slots = make([]uint32, max(2*len(r.slots), 64))
	values := make([]float64, f.Width)
	for row := range r.n {
		for i := range values {
			values[i] = f.value(row*f.Width + i)
		}
		slot := r.hash(values) & uint64(len(r.slots)-1)
		for r.slots[slot] != 0 {
			slot = (slot + 1) & uint64(len(r.slots)-1)
		}
		r.slots[slot] = uint32(row) + 1
	}
}

// hash mixes the bits of all values. The rows' order does not depend on it; its secret keeps a file from being made
// so that all of its values collide.
func (r *rows) hash(values []float64) uint64 {
	h := r.secret
	for _, v := range values {
		hi, lo := bits.Mul64(h^math.Float64bits(v), r.secret|1)
		h = hi ^ lo
	}
	return h
}
