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

import (
	"errors"
	"math"
)

// Limits on what a model may claim. Validate refuses what is beyond them.
const (
	MaxFeatures = 1 << 24
	MaxTrees    = 1 << 20
	MaxSplits   = 1 << 30 // in all trees together
	MaxOutputs  = 1 << 16 // of a row
	MaxCategory = 1 << 24 // a set holds categories below it
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
	Classify Task = "classify" // its answer is one of the classes
	Regress  Task = "regress"  // its answer is a number, or one a target
)

// Input is the type in which a model compares the values of a row.
type Input string

// The types. Rows of the other type are converted: to the nearest float32, or exactly to float64.
const (
	Float32 Input = "float32"
	Float64 Input = "float64"
)

// Categories says how a value of a row becomes the number of a category.
type Categories string

// The ways. A value that becomes no number is in no set; NaN is missing.
const (
	// Truncate drops the fraction and then takes what is not negative: -0.5 is category 0. LightGBM's way.
	Truncate Categories = "truncate"
	// Floor takes what is not negative and then drops the fraction. XGBoost's way.
	Floor Categories = "floor"
	// Whole takes whole numbers that are not negative. scikit-learn's way.
	Whole Categories = "whole"
)

// Split is one internal node, 12 bytes: a comparison with a threshold or a question for membership in a set.
//
// A value goes left when it is <= the threshold, or when it is in the set; with SetRight, when it is not in
// the set. NaN, and with ZeroMissing a value near 0, goes left exactly when MissingLeft is set.
type Split struct {
	// Value is the threshold's bits in a forest of Float32 input, its index in Forest.Thresholds in one of
	// Float64 input, and with Set the number of the set.
	Value uint32
	// Bits is the feature in the low 24 bits and Flags above.
	Bits uint32
	// Right is the split at which the right subtree begins, counted from the tree's first split.
	Right uint32
}

// Flags are the upper bits of Split.Bits.
type Flags uint32

// The flags. Those that are not listed are zero.
const (
	MissingLeft Flags = 1 << 31 // what is missing goes left
	Set         Flags = 1 << 30 // the split asks for a set
	SetRight    Flags = 1 << 29 // what is in the set goes right
	ZeroMissing Flags = 1 << 28 // values from -NearZero to NearZero are missing; not with Set

	allFlags           = MissingLeft | Set | SetRight | ZeroMissing
	featureBits uint32 = 1<<24 - 1
)

// NearZero is the largest value that LightGBM takes for 0.
const NearZero = float64(float32(1e-35))

// Feature is the index of the feature that the split looks at.
func (s Split) Feature() int { return int(s.Bits & featureBits) }

// Has tells whether a flag is set.
func (s Split) Has(f Flags) bool { return s.Bits&uint32(f) != 0 }

// Threshold32 is the threshold in a forest of Float32 input.
func (s Split) Threshold32() float32 { return math.Float32frombits(s.Value) }

// Tree locates one tree in the arrays of a Forest. Its splits end where the next tree's begin.
type Tree struct {
	Split uint32 // first split, in Forest.Splits
	Leaf  uint32 // first leaf, in Forest.Leaves
}

// Forest is the structure of an ensemble. It is immutable once it is validated, and its slices may
// lie in a read-only mapping of a file.
//
// What it computes for a row is its margins, Outputs numbers: each begins as its Base; then every tree, in order,
// adds the Width values of the leaf that the row falls into to the outputs from the tree's First on; at last, with
// Average, each is divided by the number of rounds. All of it is done in float64, or with Single in float32,
// rounded after every step.
type Forest struct {
	Input      Input
	Single     bool       // sums, leaves and bases are float32
	Average    bool       // the sums are divided by the number of rounds
	Categories Categories // empty without sets
	Outputs    int        // margins of a row
	Width      int        // values of a leaf: Outputs or 1
	Round      int        // trees of a boosting round, 1 for a random forest; divides the number of trees
	Depth      int        // splits on the longest path
	Uses       Flags      // all flags that splits have

	// Trees has one entry a tree and a last one that holds the end.
	Trees  []Tree
	Splits []Split
	// First has, for every tree, the first output that it adds to. Nil: 0 for all.
	First []uint32
	// Leaves has, for every leaf, the row of values that it gives. Nil: leaf i gives row i.
	Leaves []uint32
	// Values, or with Single Values32, is row-major, Width values a row.
	Values   []float64
	Values32 []float32
	// Base has what each output begins with. Nil: 0 for all.
	Base []float64
	// LeafIDs has, for every leaf, the id by which the source library knows it. Nil when that is the
	// leaf's index in the preorder of its tree.
	LeafIDs []uint32
	// Covers has, for every node, the weight of the training samples that reached it, as the source library counts them;
	// nodes in preorder, tree after tree. Covers32 has them instead when all are float32. Both nil: they are not known.
	Covers   []float64
	Covers32 []float32
	// Thresholds are those of a forest of Float64 input, ascending, each once.
	Thresholds []float64
	// SetStarts has for each set, and for the end, where it begins in SetWords. Bit c%32 of its word c/32 is
	// category c.
	SetStarts []uint32
	SetWords  []uint32
	// Linear is nil unless leaves are linear in the row.
	Linear *Linear
}

// Linear gives leaves values that depend on the row: the constant and then, in order, each coefficient times its
// feature, where values from -NearZero to NearZero are 0. A row in which one of these features is NaN gets the leaf's plain value. Width is 1 and the sums are float64.
type Linear struct {
	Const    []float64 // of every leaf
	Starts   []uint32  // for every leaf, and for the end: its first term
	Features []uint32  // of every term
	Coeffs   []float64 // of every term
}

// NumTrees is the number of trees.
func (f *Forest) NumTrees() int { return max(len(f.Trees)-1, 0) }

// NumRounds is the number of boosting rounds, or of the trees of a random forest.
func (f *Forest) NumRounds() int { return f.NumTrees() / max(f.Round, 1) }

// NumSplits is the number of splits of all trees.
func (f *Forest) NumSplits() int {
	if len(f.Trees) == 0 {
		return 0
	}
	return int(f.Trees[len(f.Trees)-1].Split - f.Trees[0].Split)
}

// NumLeaves is the number of leaves of all trees.
func (f *Forest) NumLeaves() int { return f.NumSplits() + f.NumTrees() }

// NumNodes is the number of splits and leaves of all trees.
func (f *Forest) NumNodes() int { return f.NumSplits() + f.NumLeaves() }

// Bytes is the size of the arrays.
func (f *Forest) Bytes() int {
	n := 8*len(f.Trees) + 12*len(f.Splits) + 8*(len(f.Values)+len(f.Base)+len(f.Covers)+len(f.Thresholds))
	n += 4 * (len(f.First) + len(f.Leaves) + len(f.Values32) + len(f.LeafIDs) + len(f.Covers32) + len(f.SetStarts) + len(f.SetWords))
	if l := f.Linear; l != nil {
		n += 8*(len(l.Const)+len(l.Coeffs)) + 4*(len(l.Starts)+len(l.Features))
	}
	return n
}

// TreeDepth is the number of splits on the longest path of one tree.
func (f *Forest) TreeDepth(t int) int {
	splits := f.Splits[f.Trees[t].Split:f.Trees[t+1].Split]
	depth := 0
	waiting := []subtree{{uint32(len(splits)), 1}} // the subtrees that have not begun, the next one last
	for k := 0; k < len(splits); k++ {
		at := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		depth = max(depth, int(at.depth))
		if right := splits[k].Right; right < at.end {
			waiting = append(waiting, subtree{at.end, at.depth + 1})
		}
		if right := splits[k].Right; uint32(k)+1 < right {
			waiting = append(waiting, subtree{right, at.depth + 1})
		}
	}
	return depth
}

// Threshold is the threshold of a split that has one.
func (f *Forest) Threshold(s Split) float64 {
	if f.Input == Float64 {
		return f.Thresholds[s.Value]
	}
	return float64(s.Threshold32())
}

// Set is the bit set with a number.
func (f *Forest) Set(i uint32) []uint32 { return f.SetWords[f.SetStarts[i]:f.SetStarts[i+1]] }

// HasCovers tells whether the covers of nodes are known.
func (f *Forest) HasCovers() bool { return f.Covers != nil || f.Covers32 != nil }

// Cover is the cover of a node: the tree's first split and first leaf, and the node's index in preorder, added up.
func (f *Forest) Cover(node int) float64 {
	if f.Covers32 != nil {
		return float64(f.Covers32[node])
	}
	return f.Covers[node]
}

// Rows is the number of rows of leaf values.
func (f *Forest) Rows() int { return (len(f.Values) + len(f.Values32)) / f.Width }

// Row is the row of values that a leaf gives.
func (f *Forest) Row(leaf int) int {
	if f.Leaves == nil {
		return leaf
	}
	return int(f.Leaves[leaf])
}

// Slice is the forest of the rounds from first to last, without last. It shares all arrays with f.
func (f *Forest) Slice(first, last int) Forest {
	s := *f
	s.Trees = f.Trees[first*f.Round : last*f.Round+1]
	if f.First != nil {
		s.First = f.First[first*f.Round : last*f.Round]
	}
	return s
}

// Link is the function that makes a model's scores from its margins.
type Link struct {
	Name   LinkName `json:"name"`
	Scale  float64  `json:"scale,omitempty"`
	Offset float64  `json:"offset,omitempty"`
	// Mean divides the margins by the number of rounds first: LightGBM's random forests, whose margins are sums.
	Mean bool `json:"mean,omitempty"`
}

// LinkName names a link function of the margins x, in the precision of the sums.
type LinkName string

// The link functions.
const (
	Identity LinkName = "identity" // x
	Sigmoid  LinkName = "sigmoid"  // 1/(1+exp(-Scale x)); in float32 1/(exp(-x)+1+1e-16)
	Softmax  LinkName = "softmax"  // exp(x-max) divided by their sum
	// SoftmaxNumPy is a softmax with NumPy's exp: scikit-learn's HistGradientBoosting.
	SoftmaxNumPy LinkName = "softmax_numpy"
	// SoftmaxPairs is that with a sum that is added up as NumPy does, by halves: scikit-learn's GradientBoosting.
	SoftmaxPairs LinkName = "softmax_pairs"
	// SoftmaxLog is exp(x - (max + log(sum))), with such a sum: the same up to scikit-learn 1.3.
	SoftmaxLog LinkName = "softmax_log"
	Exp        LinkName = "exp" // exp(x)
	// ExpNumPy is NumPy's exp: means of scikit-learn's HistGradientBoosting.
	ExpNumPy LinkName = "exp_numpy"
	// ExpDouble is exp(x) in float64, rounded to float32 at last: XGBoost's survival:aft. Of float32 margins only.
	ExpDouble LinkName = "exp_double"
	Step      LinkName = "step"     // 1 when x > 0, otherwise 0
	Square    LinkName = "square"   // x|x|
	Softplus  LinkName = "softplus" // log1p(exp(x))
	// Isolation is an isolation forest's decision function: -2^(-x/Scale) - Offset, with NumPy's power.
	Isolation LinkName = "isolation"
)

// Predict says what the library's predict answers.
type Predict string

// What predict can be.
const (
	PredictScores Predict = "scores" // the link of the margins: regressors, and boosters of XGBoost and LightGBM
	PredictLabel  Predict = "label"  // the class's label, as it was trained with
	PredictIndex  Predict = "index"  // the class's index, as a number
	PredictSign   Predict = "sign"   // 1, or -1 where the decision function is negative
)

// ByMargin says how labels follow from margins: the largest wins, and a single one stands for the second class when
type ByMargin string

// The ways.
const (
	Positive    ByMargin = "positive"    // it is above 0
	NotNegative ByMargin = "notnegative" // it is 0 or above
)

// Source says where a model came from.
type Source struct {
	Library   string `json:"library"`             // such as "scikit-learn" or "coppice"
	Version   string `json:"version"`             // the library's version
	Kind      string `json:"kind"`                // the library's name for the model, such as "RandomForestClassifier"
	Objective string `json:"objective,omitempty"` // what was minimised, in the library's words, such as "binary:logistic"
	SHA256    string `json:"sha256"`              // of the source file's bytes, hex; empty when there was none
}

// Meta is what a model says about itself besides its structure.
type Meta struct {
	Task     Task     `json:"task"`
	Features int      `json:"features"`        // values in a row
	Names    []string `json:"names,omitempty"` // of the features, UTF-8; nil, or one a feature
	// Classes are UTF-8, in the order of the scores; nil for a regressor. A classifier of one output may have two:
	// the output is the score of the second.
	Classes []string `json:"classes,omitempty"`
	// Targets has, for a classifier of several targets, how many of the classes each has.
	Targets   []int    `json:"targets,omitempty"`
	ClassKind string   `json:"class_kind,omitempty"` // "int", "float", "bool" or "string": what Classes spell
	ClassType string   `json:"class_type,omitempty"` // their NumPy type, such as "i4"; empty: "i8", "f8", "b1" or "U"
	Missing   bool     `json:"missing"`              // whether NaN is a value that rows may hold
	Infinite  bool     `json:"infinite,omitempty"`   // whether rows may hold infinities
	Link      Link     `json:"link"`
	Predict   Predict  `json:"predict"`
	ByMargin  ByMargin `json:"by_margin,omitempty"`  // how labels follow from the margins; empty: from the scores
	Best      int      `json:"best,omitempty"`       // rounds up to the best one of training; 0: not known
	LeafType  string   `json:"leaf_type,omitempty"`  // NumPy type in which the library gives leaves; empty: "i8"
	LeafShape string   `json:"leaf_shape,omitempty"` // a row's: LeafTrees, LeafRounds or LeafAlone
	Lost      []string `json:"lost,omitempty"`       // what the source holds and the model does not
	Source    Source   `json:"source"`
}

// MaxCovered is the largest number of nodes of a random forest whose covers are kept: they make its file half as large
// again, and are there to explain predictions, for which larger forests take long.
const MaxCovered = 1_000_000

// LostCovers is what Lost says of a model whose covers are not there or make no sense.
const (
	LostCovers = "covers of nodes, without which there are no contribs"
	// LostLarge is the same of a forest of more than MaxCovered nodes.
	LostLarge = "covers of more than 1000000 nodes, without which there are no contribs"
)

// The shapes in which libraries give a row's leaves.
const (
	LeafTrees    = ""         // [trees]
	LeafRounds   = "rounds"   // [rounds, trees of a round]
	LeafAlone    = "alone"    // [] for the only tree
	LeafSqueezed = "squeezed" // [trees], or [] when there is one
)

// Golden is a few rows, at most MaxGoldenRows, with the margins that they must give, checked when a model is opened.
type Golden struct {
	Rows    []float64 // row-major, Meta.Features values a row
	Margins []float64 // row-major, Forest.Outputs values a row
}

// Model is a forest with its description.
type Model struct {
	Meta   Meta
	Forest Forest
	Golden Golden
}
