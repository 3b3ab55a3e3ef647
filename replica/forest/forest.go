// Package forest runs random forests in a Go program: it reads a model file, such as one that scikit-learn
// saved with joblib, and predicts with the same bits as the library that trained it.
//
//	m, err := forest.Open("rf.joblib")
//	if err != nil {
//		return err
//	}
//	scores := make([]float64, m.NumOutputs())
//	if err := m.Predict(scores, row); err != nil { // row is []float32, m.NumFeatures() values
//		return err
//	}
//	label := m.Classes()[m.Label(scores)]
//
// Nothing in a model file is ever executed. A Model is immutable: any number of goroutines may use it at once,
// and Predict allocates nothing.
//
// The module imports neither gRPC nor OpenTelemetry. Its packages:
//
//   - model    the canonical form of a forest, and the proof that one is valid
//   - format   file formats, a package each
//   - engine   kernels that evaluate a forest
//   - train    a random-forest trainer
//   - store    a directory of models by their content, from which they are mapped
//   - npy, table   rows in files
package forest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/format"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// Errors about rows.
var (
	// ErrShape is wrapped by errors about a slice that has not the size that it must have.
	ErrShape = errors.New("wrong size")
	// ErrMissing is wrapped by errors about NaN in a row of a model that takes none.
	ErrMissing = errors.New("missing value")
	// ErrInfinite is wrapped by errors about a value that is infinite or too large for float32.
	ErrInfinite = errors.New("infinite value")
)

// Model is a forest that is ready to predict.
type Model struct {
	m      *model.Model
	kernel engine.Kernel
}

// Open reads a model file of any known format, recognised by its content, into memory. Errors name the file,
// and what was expected.
func Open(path string) (*Model, error) {
	m, err := format.ImportFile(path)
	if err != nil {
		return nil, err
	}
	return New(m), nil
}

// New makes a Model of a valid canonical one, whose arrays must not change.
func New(m *model.Model) *Model { return &Model{m: m, kernel: engine.New(&m.Forest)} }

// Info says what a model is.
type Info struct {
	Library   string     `json:"library"`
	Version   string     `json:"library_version"`
	Kind      string     `json:"kind"`
	Task      model.Task `json:"task"`
	Features  int        `json:"features"`
	Names     []string   `json:"feature_names,omitempty"`
	Classes   []string   `json:"classes,omitempty"`
	ClassKind string     `json:"class_kind,omitempty"`
	Outputs   int        `json:"outputs"`
	Missing   bool       `json:"takes_missing"`
	Trees     int        `json:"trees"`
	Nodes     int        `json:"nodes"`
	Leaves    int        `json:"leaves"`
	Depth     int        `json:"depth"`
	Golden    int        `json:"golden_rows"`
	SourceSum string     `json:"source_sha256,omitempty"`
}

// Info says what the model is.
func (m *Model) Info() Info {
	meta, f := &m.m.Meta, &m.m.Forest
	return Info{
		Library: meta.Source.Library, Version: meta.Source.Version, Kind: meta.Source.Kind, SourceSum: meta.Source.SHA256,
		Task: meta.Task, Features: meta.Features, Names: slices.Clone(meta.Names), Classes: slices.Clone(meta.Classes), ClassKind: meta.ClassKind,
		Outputs: f.Outputs, Missing: meta.Missing, Trees: f.NumTrees(), Nodes: f.NumNodes(), Leaves: len(f.Leaves), Depth: f.Depth,
		Golden: len(m.m.Golden.Rows) / meta.Features,
	}
}

// Canonical is the model's canonical form. It must not be changed.
func (m *Model) Canonical() *model.Model { return m.m }

// NumFeatures is the number of values in a row.
func (m *Model) NumFeatures() int { return m.m.Meta.Features }

// NumOutputs is the number of scores for a row: the number of classes, or 1.
func (m *Model) NumOutputs() int { return m.m.Forest.Outputs }

// NumTrees is the number of trees.
func (m *Model) NumTrees() int { return m.m.Forest.NumTrees() }

// Cost is the number of splits that a row passes at most: how much work a row is.
func (m *Model) Cost() int { return max(m.NumTrees()*m.m.Forest.Depth, 1) }

// Classes are a classifier's classes in the order of the scores, nil for a regressor. The slice must not be
// changed.
func (m *Model) Classes() []string { return m.m.Meta.Classes }

// FeatureName is the name of a feature, or empty when it has none.
func (m *Model) FeatureName(i int) string {
	if i < 0 || i >= len(m.m.Meta.Names) {
		return ""
	}
	return m.m.Meta.Names[i]
}

// TakesMissing tells whether rows may hold NaN.
func (m *Model) TakesMissing() bool { return m.m.Meta.Missing }

// Predict writes the scores of one or more rows, NumOutputs for each: a classifier's probabilities in the
// order of Classes, or a regressor's value. rows is row-major, NumFeatures values a row. A wrong size gives an
// error that wraps ErrShape. The values themselves are not checked: see CheckRows.
func (m *Model) Predict(dst []float64, rows []float32) error {
	n, err := m.count(rows)
	if err != nil {
		return err
	}
	if len(dst) != n*m.NumOutputs() {
		return fmt.Errorf("%w: dst has %d values, %d rows have %d scores", ErrShape, len(dst), n, n*m.NumOutputs())
	}
	m.kernel.Scores(dst, rows, m.NumFeatures())
	return nil
}

// Leaves writes, for every row and tree, the id of the leaf that the row falls into, as the source library
// numbers it. Sizes are as for Predict, with NumTrees values for a row.
func (m *Model) Leaves(dst []int64, rows []float32) error {
	n, err := m.count(rows)
	if err != nil {
		return err
	}
	if len(dst) != n*m.NumTrees() {
		return fmt.Errorf("%w: dst has %d values, %d rows have %d leaves", ErrShape, len(dst), n, n*m.NumTrees())
	}
	m.kernel.Leaves(dst, rows, m.NumFeatures())
	return nil
}

func (m *Model) count(rows []float32) (int, error) {
	if len(rows)%m.NumFeatures() != 0 {
		return 0, fmt.Errorf("%w: %d values are not whole rows of %d features", ErrShape, len(rows), m.NumFeatures())
	}
	return len(rows) / m.NumFeatures(), nil
}

// Label is the index of the class with the largest score, the first of equal ones.
func (m *Model) Label(scores []float64) int {
	best := 0
	for i, s := range scores {
		if s > scores[best] {
			best = i
		}
	}
	return best
}

// CheckRows refuses values that the model's library refuses: infinities, and NaN where the model takes none.
// Its error names the row and the feature and wraps ErrMissing or ErrInfinite.
func (m *Model) CheckRows(rows []float32) error {
	if _, err := m.count(rows); err != nil {
		return err
	}
	for i, v := range rows {
		switch {
		case v-v == 0: // finite
		case v != v && m.m.Meta.Missing:
		case v != v:
			return fmt.Errorf("%w: row %d, feature %s is NaN, and the model takes none", ErrMissing, i/m.NumFeatures(), m.feature(i%m.NumFeatures()))
		default:
			return fmt.Errorf("%w: row %d, feature %s", ErrInfinite, i/m.NumFeatures(), m.feature(i%m.NumFeatures()))
		}
	}
	return nil
}

func (m *Model) feature(i int) string {
	if name := m.FeatureName(i); name != "" {
		return strconv.Itoa(i) + " (" + strconv.Quote(name) + ")"
	}
	return strconv.Itoa(i)
}

// ToFloat32 rounds values to float32, as scikit-learn does before it compares them. A finite value that is too
// large for it gives an error that wraps ErrInfinite and names its index.
func ToFloat32(dst []float32, src []float64) error {
	if len(dst) != len(src) {
		return fmt.Errorf("%w: dst has %d values, src %d", ErrShape, len(dst), len(src))
	}
	for i, v := range src {
		dst[i] = float32(v)
		if math.IsInf(float64(dst[i]), 0) && !math.IsInf(v, 0) {
			return fmt.Errorf("%w: value %d is %v, which is too large for float32", ErrInfinite, i, v)
		}
	}
	return nil
}
