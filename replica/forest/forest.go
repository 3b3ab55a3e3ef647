// Package forest runs tree ensembles in a Go program: it reads a model file that scikit-learn, XGBoost or LightGBM
// saved, and predicts with the same bits as the library that trained it.
//
//	m, err := forest.Open("rf.joblib")
//	if err != nil {
//		return err
//	}
//	scores := make([]float64, m.NumScores())
//	if err := m.Predict(scores, row); err != nil { // row is []float32, m.NumFeatures() values
//		return err
//	}
//	label := m.Classes()[m.Label(scores)]
//
// Nothing in a model file is ever executed. A Model is immutable: any number of goroutines may use it at once,
// and Predict allocates nothing.
//
// # What a model answers
//
// Margins are what the trees add up to. Scores are what a link function makes of them: a classifier's probabilities,
// one a class; a regressor's values, one a target. Leaves are where the row ends in each tree. Output gives each of
// these in the type and shape in which the library itself gives it.
//
// Rows are float32 or float64. A model compares in one of the two, as its library does (Input), and converts rows of
// the other.
//
// The module imports neither gRPC nor OpenTelemetry. Its packages:
//
//   - model    the canonical form of a forest, and the proof that one is valid
//   - format   file formats, a package each
//   - engine   kernels that evaluate a forest
//   - shap     what each feature contributes to a prediction
//   - link     from margins to scores, on libm, which has the bits of the C library
//   - train    a random-forest trainer
//   - store    a directory of models by their content, from which they are mapped
//   - npy, table   rows in files
package forest

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/format"
	"github.com/coppice-mesh/coppice/replica/forest/link"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/shap"
)

// Errors about rows.
var (
	// ErrShape is wrapped by errors about a slice that has not the size that it must have.
	ErrShape = errors.New("wrong size")
	// ErrMissing is wrapped by errors about NaN in a row of a model that takes none.
	ErrMissing = errors.New("missing value")
	// ErrInfinite is wrapped by errors about a value that is infinite or too large for the model's float32.
	ErrInfinite = errors.New("infinite value")
	// ErrRounds is wrapped by errors about rounds that the model has not.
	ErrRounds = errors.New("no such rounds")
)

// Model is a forest that is ready to predict.
type Model struct {
	m         *model.Model
	options   Options // with a stride
	engine    *engine.Engine
	kernel    engine.Kernel[float32]
	kernel64  engine.Kernel[float64]
	explainer *shap.Explainer // nil when there are no contributions
	allowance                 // which values rows may hold
}

// allowance says which values rows may hold.
type allowance struct{ missing, infinite bool }

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
func New(m *model.Model) *Model {
	ready, err := newModel(m, Options{})
	if err != nil {
		panic(err) // no options, no error
	}
	return ready
}

func newModel(m *model.Model, o Options) (*Model, error) {
	if o.Stride == 0 {
		o.Stride = m.Meta.Features
	}
	if o.Stride < m.Meta.Features {
		return nil, fmt.Errorf("%w: a stride of %d, a row has %d features", ErrShape, o.Stride, m.Meta.Features)
	}
	e, err := engine.New(&m.Forest, engine.Options{Kernel: o.Kernel, Threads: o.Threads})
	if err != nil {
		return nil, err
	}
	explainer, _ := shap.New(&m.Forest) // Contribs says why there is none
	return &Model{m, o, e, engine.Of[float32](e), engine.Of[float64](e), explainer, allowance{m.Meta.Missing, m.Meta.Infinite}}, nil
}

// Options say how a model is evaluated. The answers do not depend on them. The zero value is what New takes.
type Options struct {
	// Kernel is the name of the only kernel to use, one of engine.Names(). Empty: those that cost the least.
	Kernel string
	// Threads is how many a batch of 1024 rows or more, which takes 0.1 ms or more, is split over, at most. 0 or less: as
	// many as Go uses, GOMAXPROCS.
	Threads int
	// Stride is the number of values from the beginning of a row to that of the next, at least NumFeatures: what is
	// between them is skipped. The last row, too, has so many. 0: NumFeatures.
	Stride int
}

// With is the model evaluated otherwise: by these options, and none of those that m has. It shares the arrays of m. Its error wraps engine.ErrKernel, or ErrShape for a
// stride that is too small.
func (m *Model) With(o Options) (*Model, error) { return newModel(m.m, o) }

// threads is how many there are at most.
func (m *Model) threads() int {
	if m.options.Threads > 0 {
		return m.options.Threads
	}
	return runtime.GOMAXPROCS(0)
}

// Plan says which kernels evaluate a batch of so many rows.
func (m *Model) Plan(rows int) []engine.Step { return m.engine.Plan(rows) }

// Costs are what each kernel that takes the model would cost for such a batch, in nanoseconds.
func (m *Model) Costs(rows int) map[string]float64 { return m.engine.Costs(rows) }

// Shares says for each kernel that is used how it evaluates the trees.
func (m *Model) Shares() map[string][]engine.Share { return m.engine.Shares() }

// Prepare does the work, some tens of nanoseconds a node, that the first Predict would otherwise have to wait for.
// Bytes tells what memory that takes: about 8 bytes a node of a deep forest.
func (m *Model) Prepare() { m.engine.Prepare() }

// Rounds is the model of the boosting rounds from first to last, without last, or of these trees of a random forest.
// It shares the arrays of m.
func (m *Model) Rounds(first, last int) (*Model, error) {
	if n := m.m.Forest.NumRounds(); first < 0 || first >= last || last > n {
		return nil, fmt.Errorf("%w: %d to %d, the model has %d: 0 to %d", ErrRounds, first, last, n, n)
	}
	part := &model.Model{Meta: m.m.Meta, Forest: m.m.Forest.Slice(first, last)}
	part.Meta.Best = 0
	return newModel(part, m.options)
}

// Canonical is the model's canonical form. It must not be changed.
func (m *Model) Canonical() *model.Model { return m.m }

// NumFeatures is the number of values in a row.
func (m *Model) NumFeatures() int { return m.m.Meta.Features }

// NumMargins is the number of margins of a row.
func (m *Model) NumMargins() int { return m.m.Forest.Outputs }

// NumScores is the number of scores of a row: a classifier's classes, a regressor's targets.
func (m *Model) NumScores() int {
	if m.m.Meta.Task == model.Classify {
		return len(m.m.Meta.Classes)
	}
	return m.m.Forest.Outputs
}

// NumTrees is the number of trees.
func (m *Model) NumTrees() int { return m.m.Forest.NumTrees() }

// NumRounds is the number of boosting rounds, or of the trees of a random forest.
func (m *Model) NumRounds() int { return m.m.Forest.NumRounds() }

// NumTargets is the number of things that are predicted at once: 1 unless the model was trained with several.
func (m *Model) NumTargets() int {
	switch {
	case m.m.Meta.Task == model.Regress:
		return m.m.Forest.Outputs
	case m.m.Meta.Targets == nil:
		return 1
	}
	return len(m.m.Meta.Targets)
}

// Input is the type in which the model compares.
func (m *Model) Input() model.Input { return m.m.Forest.Input }

// Cost is the number of splits that a row passes at most: how much work a row is.
func (m *Model) Cost() int { return max(m.NumTrees()*m.m.Forest.Depth, 1) }

// Bytes is the size of the forest in memory, and of what Prepare makes, without its description and its golden rows.
func (m *Model) Bytes() int { return m.m.Forest.Bytes() + m.engine.Bytes() }

// Classes are a classifier's classes in the order of the scores, those of all targets one after the other; nil for a
// regressor. The slice must not be changed.
func (m *Model) Classes() []string { return m.m.Meta.Classes }

// FeatureName is the name of a feature, or empty when it has none.
func (m *Model) FeatureName(i int) string {
	if i < 0 || i >= len(m.m.Meta.Names) {
		return ""
	}
	return m.m.Meta.Names[i]
}

// TakesMissing tells whether rows may hold NaN.
func (m *Model) TakesMissing() bool { return m.missing }

// TakesInfinite tells whether rows may hold infinities.
func (m *Model) TakesInfinite() bool { return m.infinite }

// Predict writes the scores of one or more rows, NumScores for each: a classifier's probabilities in the
// order of Classes, or a regressor's values. rows is row-major, NumFeatures values a row. A wrong size gives an
// error that wraps ErrShape. The values themselves are not checked: see CheckRows.
func (m *Model) Predict(dst []float64, rows []float32) error { return predict(m, m.kernel, dst, rows) }

// Predict64 is Predict for rows of float64.
func (m *Model) Predict64(dst, rows []float64) error { return predict(m, m.kernel64, dst, rows) }

func predict[T engine.Row](m *Model, k engine.Kernel[T], dst []float64, rows []T) error {
	n, err := count(m, rows, len(dst), m.NumScores(), "scores")
	if err != nil {
		return err
	}
	k.Margins(dst[:n*m.NumMargins()], rows, m.options.Stride)
	return m.Scores(dst, dst[:n*m.NumMargins()])
}

// Margins writes the margins of one or more rows, NumMargins for each: the sums of the trees, before the link
// function. Sizes are as for Predict.
func (m *Model) Margins(dst []float64, rows []float32) error { return margins(m, m.kernel, dst, rows) }

// Margins64 is Margins for rows of float64.
func (m *Model) Margins64(dst, rows []float64) error { return margins(m, m.kernel64, dst, rows) }

func margins[T engine.Row](m *Model, k engine.Kernel[T], dst []float64, rows []T) error {
	if _, err := count(m, rows, len(dst), m.NumMargins(), "margins"); err != nil {
		return err
	}
	k.Margins(dst, rows, m.options.Stride)
	return nil
}

// Leaves writes, for every row and tree, the id of the leaf that the row falls into, as the source library
// numbers it. Sizes are as for Predict, with NumTrees values for a row.
func (m *Model) Leaves(dst []int64, rows []float32) error { return leaves(m, m.kernel, dst, rows) }

// Leaves64 is Leaves for rows of float64.
func (m *Model) Leaves64(dst []int64, rows []float64) error { return leaves(m, m.kernel64, dst, rows) }

func leaves[T engine.Row](m *Model, k engine.Kernel[T], dst []int64, rows []T) error {
	if _, err := count(m, rows, len(dst), m.NumTrees(), "leaves"); err != nil {
		return err
	}
	k.Leaves(dst, rows, m.options.Stride)
	return nil
}

// NumContribs is the number of contributions of a row: for each margin, one of every feature, and what the margin is on
// average.
func (m *Model) NumContribs() int { return m.NumMargins() * (m.NumFeatures() + 1) }

// Contribs writes for each row and margin what every feature contributes to it, and behind them what the margin is on
// average: SHAP values, exact and path-dependent, whose sum is the margin up to rounding; package shap says what they
// are. Sizes are as for Predict, with NumContribs values a row. The rows are divided over a number of threads, on which
// the values do not depend; with one nothing is allocated. A model without them gives an error that wraps shap.ErrNone.
func (m *Model) Contribs(dst []float64, rows []float32, threads int) error {
	return contribs(m, dst, rows, threads)
}

// Contribs64 is Contribs for rows of float64.
func (m *Model) Contribs64(dst, rows []float64, threads int) error {
	return contribs(m, dst, rows, threads)
}

func contribs[T engine.Row](m *Model, dst []float64, rows []T, threads int) error {
	if m.explainer == nil {
		_, err := shap.New(&m.m.Forest)
		return err
	}
	if _, err := count(m, rows, len(dst), m.NumContribs(), "contributions"); err != nil {
		return err
	}
	shap.Values(m.explainer, dst, rows, m.options.Stride, m.NumFeatures(), threads)
	return nil
}

// Scores makes scores of margins, for one or more rows. dst may begin where margins do.
func (m *Model) Scores(dst, margins []float64) error {
	from, to := m.NumMargins(), m.NumScores()
	n := len(margins) / from
	if len(margins)%from != 0 || len(dst) != n*to {
		return fmt.Errorf("%w: %d margins and room for %d scores, a row has %d and %d", ErrShape, len(margins), len(dst), from, to)
	}
	f := &m.m.Forest
	rounds := f.NumRounds()
	for i := n - 1; i >= 0; i-- { // from behind: a row may have more scores than margins
		row := dst[i*to : i*to+from]
		copy(row, margins[i*from:])
		link.Apply(m.m.Meta.Link, f.Single, rounds, row)
		if to > from {
			p := row[0]
			dst[i*to], dst[i*to+1] = 1-p, p
			if f.Single {
				dst[i*to] = float64(1 - float32(p))
			}
		}
	}
	return nil
}

// count is the number of rows, for which dst must have room.
func count[T engine.Row](m *Model, rows []T, room, each int, of string) (int, error) {
	n := len(rows) / m.options.Stride
	if len(rows)%m.options.Stride != 0 {
		return 0, m.notWhole(len(rows))
	}
	if room != n*each {
		return 0, fmt.Errorf("%w: dst has %d values, %d rows have %d %s", ErrShape, room, n, n*each, of)
	}
	return n, nil
}

// notWhole is the error about values that end within a row.
func (m *Model) notWhole(values int) error {
	if m.options.Stride != m.NumFeatures() {
		return fmt.Errorf("%w: %d values are not whole rows of %d, %d features and what is skipped", ErrShape, values, m.options.Stride, m.NumFeatures())
	}
	return fmt.Errorf("%w: %d values are not whole rows of %d features", ErrShape, values, m.NumFeatures())
}

// Label is the index of the predicted class of a row: by its scores, of which it is the largest, the first of equal ones. A model
// whose library decides by the margins needs LabelOf.
func (m *Model) Label(scores []float64) int { return m.LabelOf(0, nil, scores) }

// LabelOf is the index in Classes of the class that is predicted for one target, by the margins and the scores of one row. Margins may be nil
// when there are none that the scores do not tell: then a library that decides by the sign of a margin is followed as
// far as the scores show it.
func (m *Model) LabelOf(target int, margins, scores []float64) int {
	first, n := 0, len(scores)
	if m.m.Meta.Targets != nil {
		for _, k := range m.m.Meta.Targets[:target] {
			first += k
		}
		n = m.m.Meta.Targets[target]
	}
	if by := m.m.Meta.ByMargin; by != "" && margins != nil {
		if len(margins) == 1 {
			if margins[0] > 0 || (margins[0] == 0 && by == model.NotNegative) {
				return 1
			}
			return 0
		}
		scores = margins
	}
	return first + argmax(scores[first:first+n])
}

// argmax is the index of the largest value, the first of equal ones; NaN counts as the largest, as NumPy has it.
func argmax(v []float64) int {
	best := 0
	for i, s := range v {
		if s > v[best] || (math.IsNaN(s) && !math.IsNaN(v[best])) {
			best = i
		}
	}
	return best
}

// RowError is the error about a value that a model does not take. It wraps ErrMissing or ErrInfinite.
type RowError struct {
	Row     int     // counted from the first that was checked
	Feature int     // its index
	Name    string  // its name, or empty
	Value   float64 // what is refused
	Err     error
}

// Error names the row and the feature.
func (e *RowError) Error() string {
	feature := strconv.Itoa(e.Feature)
	if e.Name != "" {
		feature += " (" + strconv.Quote(e.Name) + ")"
	}
	switch {
	case errors.Is(e.Err, ErrMissing):
		return fmt.Sprintf("%v: row %d, feature %s is NaN, and the model takes none", e.Err, e.Row, feature)
	case math.IsInf(e.Value, 0):
		return fmt.Sprintf("%v: row %d, feature %s is infinite, or too large for the type in which the model compares", e.Err, e.Row, feature)
	}
	return fmt.Sprintf("%v: row %d, feature %s is %v, which is too large for float32", e.Err, e.Row, feature, e.Value)
}

// Unwrap gives ErrMissing or ErrInfinite.
func (e *RowError) Unwrap() error { return e.Err }

// CheckRows refuses values that the model's library refuses: infinities, and NaN where the model takes none.
// Its error is a RowError, or wraps ErrShape.
func (m *Model) CheckRows(rows []float32) error { return checkRows(m, rows) }

// CheckRows64 is CheckRows for rows of float64, of which those that become infinite as float32 are refused, too, by a
// model that compares float32.
func (m *Model) CheckRows64(rows []float64) error { return checkRows(m, rows) }

func checkRows[T engine.Row](m *Model, rows []T) error {
	n := m.options.Stride
	if len(rows)%n != 0 {
		return m.notWhole(len(rows))
	}
	if m.missing && m.infinite {
		return nil
	}
	single := m.m.Forest.Input == model.Float32
	for i, v := range rows {
		x := float64(v)
		if single {
			x = float64(float32(v))
		}
		if math.Abs(x) <= math.MaxFloat64 || i%n >= m.NumFeatures() { // finite, or skipped
			continue
		}
		allowed, err := m.infinite, ErrInfinite
		if math.IsNaN(x) {
			allowed, err = m.missing, ErrMissing
		}
		if !allowed {
			return &RowError{Row: i / n, Feature: i % n, Name: m.FeatureName(i % n), Value: float64(v), Err: err}
		}
	}
	return nil
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
