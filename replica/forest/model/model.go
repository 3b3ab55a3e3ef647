// Package model holds the canonical form of a tree ensemble: what every importer and trainer
// produces, what the .coppice file stores byte for byte, and what every kernel starts from.
//
// # Layout
//
// A tree is a full binary tree: each node is a split with two children, or a leaf. The splits of a
// tree stand in preorder, its leaves from left to right. One number per split, Right, then suffices
// to walk: a subtree is the triple (k, l, end), where k is its first split, l its first leaf and end
// the split after its last. It is a leaf when k == end, and otherwise
//
//	left  = (k+1, l,       Right)
//	right = (Right, l+Right-k, end)
//
// because a subtree with s splits has s+1 leaves. Children therefore always stand after their
// parent: no array of this form can hold a cycle, and k < Right <= end is all there is to check.
// In the preorder of all nodes a node has the index k+l, both counted from the tree's first.
package model

import "errors"

// Limits on what a model may claim. Validate refuses what is beyond them.
const (
	MaxFeatures = 1 << 24
	MaxTrees    = 1 << 20
	MaxSplits   = 1 << 30 // in all trees together
	MaxOutputs  = 1 << 16 // values a leaf
	MaxDepth    = 4096
	// MaxGoldenRows bounds the work of opening a model, which evaluates them.
	MaxGoldenRows = 64
)

// ErrInvalid is wrapped by every error of Validate.
var ErrInvalid = errors.New("invalid model")

// Task says what the outputs of a model mean.
type Task string

// The tasks.
const (
	Classify Task = "classify" // Outputs values a leaf, one a class
	Regress  Task = "regress"  // one value a leaf
)

// Split is one internal node, 12 bytes. A row goes left when its feature <= Threshold, compared as
// float32; NaN goes left exactly when the MissingLeft bit is set.
type Split struct {
	Threshold float32
	// Bits is the feature in the low 31 bits and MissingLeft in the top one.
	Bits uint32
	// Right is the split at which the right subtree begins, counted from the tree's first split.
	Right uint32
}

// MissingLeft is the bit of Split.Bits that sends NaN to the left child.
const MissingLeft uint32 = 1 << 31

// Feature is the index of the feature that the split compares.
func (s Split) Feature() int { return int(s.Bits &^ MissingLeft) }

// MissingLeft tells whether NaN goes to the left child.
func (s Split) MissingLeft() bool { return s.Bits&MissingLeft != 0 }

// Tree locates one tree in the arrays of a Forest. Its splits end where the next tree's begin.
type Tree struct {
	Split uint32 // first split, in Forest.Splits
	Leaf  uint32 // first leaf, in Forest.Leaves
}

// Forest is the structure of an ensemble. It is immutable once it is validated, and its slices may
// lie in a read-only mapping of a file.
type Forest struct {
	// Trees has one entry a tree and a last one that holds the totals.
	Trees  []Tree
	Splits []Split
	// Leaves has, for every leaf, the row of Values that it gives.
	Leaves []uint32
	// Values is row-major, Outputs values a row; rows are shared between equal leaves.
	Values  []float64
	Outputs int
	// LeafIDs has, for every leaf, the id by which the source library knows it. Nil when that is the
	// leaf's index in the preorder of its tree.
	LeafIDs []uint32
	// Depth is the number of splits on the longest path.
	Depth int
}

// NumTrees is the number of trees.
func (f *Forest) NumTrees() int { return max(len(f.Trees)-1, 0) }

// NumNodes is the number of splits and leaves of all trees.
func (f *Forest) NumNodes() int { return len(f.Splits) + len(f.Leaves) }

// Source says where a model came from.
type Source struct {
	Library string `json:"library"` // such as "scikit-learn" or "coppice"
	Version string `json:"version"` // the library's version
	Kind    string `json:"kind"`    // the library's name for the model, such as "RandomForestClassifier"
	SHA256  string `json:"sha256"`  // of the source file's bytes, hex; empty when there was none
}

// Meta is what a model says about itself besides its structure.
type Meta struct {
	Task      Task     `json:"task"`
	Features  int      `json:"features"`             // values in a row
	Names     []string `json:"names,omitempty"`      // of the features, UTF-8; nil, or one a feature
	Classes   []string `json:"classes,omitempty"`    // UTF-8, in the order of the outputs; nil for a regressor
	ClassKind string   `json:"class_kind,omitempty"` // "int", "float", "bool" or "string": what Classes spell
	Missing   bool     `json:"missing"`              // whether NaN is a value that rows may hold
	Source    Source   `json:"source"`
}

// Golden is a few rows, at most MaxGoldenRows, with the outputs that they must give, checked when a model is opened.
type Golden struct {
	Rows    []float32 // row-major, Meta.Features values a row
	Outputs []float64 // row-major, Forest.Outputs values a row
}

// Model is a forest with its description. Its output for a row is, for each of the Outputs, the sum
// of the leaves in tree order divided by the number of trees, in float64: scikit-learn's mean.
type Model struct {
	Meta   Meta
	Forest Forest
	Golden Golden
}
