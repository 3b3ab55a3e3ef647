package model

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Builder assembles a Forest from nodes that are given in preorder: a split, then the whole of its
// left subtree, then the whole of its right one. Equal leaves share their values. The zero Builder is
// not usable; see NewBuilder.
type Builder struct {
	f    Forest
	rows map[string]uint32 // leaf values, as bytes -> row of Values
	key  []byte
	open []pending // splits of the current tree whose right subtree has not ended
	in   bool      // a tree has begun and has not ended
}

// pending is a split that waits for its subtrees.
type pending struct {
	split uint32
	right bool // the left subtree is complete
}

// ErrBuild is wrapped by the errors of a Builder that was given something else than a full binary tree.
var ErrBuild = errors.New("not a full binary tree")

// NewBuilder makes a Builder of forests with the given number of values a leaf.
func NewBuilder(outputs int) *Builder {
	return &Builder{f: Forest{Outputs: outputs}, rows: map[string]uint32{}}
}

// Split adds an internal node. threshold must not be NaN.
func (b *Builder) Split(feature int, threshold float32, missingLeft bool) error {
	if err := b.begin(); err != nil {
		return err
	}
	if feature < 0 || feature >= MaxFeatures {
		return fmt.Errorf("%w: feature %d is outside [0, %d)", ErrInvalid, feature, MaxFeatures)
	}
	if threshold != threshold {
		return fmt.Errorf("%w: threshold is NaN", ErrInvalid)
	}
	if len(b.f.Splits) >= MaxSplits {
		return fmt.Errorf("%w: more than %d splits", ErrInvalid, MaxSplits)
	}
	if len(b.open) >= MaxDepth {
		return fmt.Errorf("%w: deeper than %d", ErrInvalid, MaxDepth)
	}
	bits := uint32(feature)
	if missingLeft {
		bits |= MissingLeft
	}
	b.open = append(b.open, pending{split: uint32(len(b.f.Splits))})
	b.f.Depth = max(b.f.Depth, len(b.open))
	b.f.Splits = append(b.f.Splits, Split{Threshold: threshold, Bits: bits})
	return nil
}

// Leaf adds a leaf with its values, which are copied.
func (b *Builder) Leaf(values ...float64) error {
	if err := b.begin(); err != nil {
		return err
	}
	if len(values) != b.f.Outputs {
		return fmt.Errorf("%w: leaf has %d values, the forest has %d outputs", ErrInvalid, len(values), b.f.Outputs)
	}
	b.key = b.key[:0]
	for _, v := range values {
		bits := math.Float64bits(v)
		b.key = append(b.key, byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24),
			byte(bits>>32), byte(bits>>40), byte(bits>>48), byte(bits>>56))
	}
	row, ok := b.rows[string(b.key)]
	if !ok {
		row = uint32(len(b.rows))
		b.rows[string(b.key)] = row
		b.f.Values = append(b.f.Values, values...)
	}
	b.f.Leaves = append(b.f.Leaves, row)
	b.closeSubtrees()
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
	b.in = true
	return nil
}

// SetLeafIDs gives the source library's id of every leaf so far, for libraries that do not number
// their nodes in preorder.
func (b *Builder) SetLeafIDs(ids []uint32) { b.f.LeafIDs = slices.Clone(ids) }

// Forest ends the work and returns the forest. The Builder must not be used after it.
func (b *Builder) Forest() (Forest, error) {
	if b.in {
		return Forest{}, fmt.Errorf("%w: %d subtrees of tree %d are missing", ErrBuild, len(b.open), len(b.f.Trees)-1)
	}
	if b.f.LeafIDs != nil && len(b.f.LeafIDs) != len(b.f.Leaves) {
		return Forest{}, fmt.Errorf("%w: %d leaf ids for %d leaves", ErrBuild, len(b.f.LeafIDs), len(b.f.Leaves))
	}
	b.f.Trees = append(b.f.Trees, Tree{Split: uint32(len(b.f.Splits)), Leaf: uint32(len(b.f.Leaves))})
	return b.f, nil
}
