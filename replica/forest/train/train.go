// Package train grows random forests: plain ones, as Breiman described them and scikit-learn grows them, with
// exact splits on bootstrap samples and a random choice of features at each node.
//
// A forest depends on its data, its Config and its seed alone, not on the number of cores or on their timing:
// every tree draws from a generator of its own.
package train

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// Errors of training.
var (
	// ErrConfig is wrapped by errors about a Config.
	ErrConfig = errors.New("training configuration")
	// ErrData is wrapped by errors about Data.
	ErrData = errors.New("training data")
	// ErrTooLarge is wrapped by the error about a forest whose leaves would not fit in memory.
	ErrTooLarge = errors.New("forest too large")
)

// Limits of what is learned.
const (
	// MaxTarget is the largest magnitude of a regressor's target: squares of sums of more would overflow.
	MaxTarget = 1e100
	// maxLeafValues bounds the values of all leaves with more than one class: 2 GiB of float64.
	maxLeafValues = 1 << 28
	// goldenRows is the number of rows of the training data that go into the model with their outputs.
	goldenRows = 4
)

// Config says what forest to grow. For every number 0 stands for the default; what is outside the range is
// refused with an error that wraps ErrConfig.
type Config struct {
	// Task is what to predict, model.Classify or model.Regress. There is no default.
	Task model.Task
	// Trees is their number, 1 to model.MaxTrees. Default 100.
	Trees int
	// MaxDepth is the number of splits on the longest path, 1 to model.MaxDepth. Default model.MaxDepth,
	// which all but a few strange data sets never reach.
	MaxDepth int
	// MinSplit is the number of rows from which on a node may be split, 2 or more. Default 2. Here and in
	// MinLeaf a row counts once, however often the bootstrap drew it.
	MinSplit int
	// MinLeaf is the number of rows that a split must leave on each side, 1 or more. Default 1.
	MinLeaf int
	// MaxFeatures is the number of features that are tried at each node, 1 to all. If all of those have a
	// single value in the node, more are drawn until one has not. Default: the square root of all, rounded
	// down, for a classifier; all for a regressor.
	MaxFeatures int
	// NoBootstrap grows every tree on all rows, instead of on as many rows drawn with replacement.
	NoBootstrap bool
	// Seed determines every random choice. Any value.
	Seed uint64
	// Workers is the number of trees that are grown at the same time, 1 or more. Default GOMAXPROCS. It
	// changes the time and the memory (about 40 bytes a row each), not the forest.
	Workers int
}

// Data is what a forest learns from. Forest reads it and keeps nothing of it. What is outside the ranges is
// refused with an error that wraps ErrData and names the row.
type Data struct {
	// Rows is row-major, Features values a row, all finite: missing values are refused. 1 to
	// math.MaxInt32 rows.
	Rows     []float32
	Features int      // values in a row, 1 to model.MaxFeatures
	Names    []string // of the features; nil, or one a feature
	// Labels are a classifier's, one a row: indices into Classes.
	Labels    []int32
	Classes   []string // 1 to model.MaxOutputs
	ClassKind string   // as model.Meta has it
	// Targets are a regressor's, one a row, from -MaxTarget to MaxTarget.
	Targets []float64
}

// Len is the number of rows.
func (d *Data) Len() int {
	if d.Features < 1 {
		return 0
	}
	return len(d.Rows) / d.Features
}

// Validate checks all that can be checked without the data.
func (c Config) Validate() error {
	switch {
	case c.Task != model.Classify && c.Task != model.Regress:
		return fmt.Errorf("%w: task %q, it can be %q or %q", ErrConfig, c.Task, model.Classify, model.Regress)
	case c.Trees < 0 || c.Trees > model.MaxTrees:
		return fmt.Errorf("%w: %d trees, 1 to %d are possible", ErrConfig, c.Trees, model.MaxTrees)
	case c.MaxDepth < 0 || c.MaxDepth > model.MaxDepth:
		return fmt.Errorf("%w: depth %d, 0 (no limit) to %d are possible", ErrConfig, c.MaxDepth, model.MaxDepth)
	case c.MinSplit < 0 || c.MinSplit == 1:
		return fmt.Errorf("%w: nodes of %d rows cannot be split, at least 2 are needed", ErrConfig, c.MinSplit)
	case c.MinLeaf < 0:
		return fmt.Errorf("%w: leaves of %d rows, at least 1 is needed", ErrConfig, c.MinLeaf)
	case c.MaxFeatures < 0:
		return fmt.Errorf("%w: %d features at a node, at least 1 is needed", ErrConfig, c.MaxFeatures)
	case c.Workers < 0:
		return fmt.Errorf("%w: %d workers, at least 1 is needed", ErrConfig, c.Workers)
	}
	return nil
}

// resolve puts the defaults in the place of zeros.
func (c Config) resolve(features int) (Config, error) {
	if c.MaxFeatures > features {
		return c, fmt.Errorf("%w: %d features at a node, 1 to %d are possible", ErrConfig, c.MaxFeatures, features)
	}
	if c.Trees == 0 {
		c.Trees = 100
	}
	if c.MaxDepth == 0 {
		c.MaxDepth = model.MaxDepth
	}
	c.MinSplit = max(c.MinSplit, 2)
	c.MinLeaf = max(c.MinLeaf, 1)
	if c.MaxFeatures == 0 {
		c.MaxFeatures = features
		if c.Task == model.Classify {
			c.MaxFeatures = int(math.Sqrt(float64(features)))
		}
	}
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	return c, nil
}

func (d *Data) validate(task model.Task) error {
	if d == nil {
		return fmt.Errorf("%w: there is none", ErrData)
	}
	if d.Features < 1 || d.Features > model.MaxFeatures {
		return fmt.Errorf("%w: %d features, 1 to %d are possible", ErrData, d.Features, model.MaxFeatures)
	}
	n := d.Len()
	if len(d.Rows) != n*d.Features || n < 1 || n > math.MaxInt32 {
		return fmt.Errorf("%w: %d values are not 1 to %d rows of %d features", ErrData, len(d.Rows), math.MaxInt32, d.Features)
	}
	if d.Names != nil && len(d.Names) != d.Features {
		return fmt.Errorf("%w: %d names for %d features", ErrData, len(d.Names), d.Features)
	}
	for i, v := range d.Rows {
		if v-v != 0 {
			name := strconv.Itoa(i % d.Features)
			if d.Names != nil {
				name = strconv.Quote(d.Names[i%d.Features])
			}
			return fmt.Errorf("%w: row %d, feature %s is %v; the trainer takes finite values", ErrData, i/d.Features, name, v)
		}
	}
	if task == model.Regress {
		if len(d.Targets) != n {
			return fmt.Errorf("%w: %d targets for %d rows", ErrData, len(d.Targets), n)
		}
		for i, v := range d.Targets {
			if !(math.Abs(v) <= MaxTarget) { // NaN, too
				return fmt.Errorf("%w: the target of row %d is %v, it must be a number from %v to %v", ErrData, i, v, -MaxTarget, MaxTarget)
			}
		}
		return nil
	}
	if len(d.Labels) != n {
		return fmt.Errorf("%w: %d labels for %d rows", ErrData, len(d.Labels), n)
	}
	if len(d.Classes) < 1 || len(d.Classes) > model.MaxOutputs {
		return fmt.Errorf("%w: %d classes, 1 to %d are possible", ErrData, len(d.Classes), model.MaxOutputs)
	}
	for i, l := range d.Labels {
		if l < 0 || int(l) >= len(d.Classes) {
			return fmt.Errorf("%w: the label of row %d is class %d, there are %d", ErrData, i, l, len(d.Classes))
		}
	}
	return nil
}

// Forest grows a forest. progress, which may be nil, is told of every tree that is done, by one goroutine at a
// time; trees wait for it. When ctx is done, Forest ends early with its cause. The errors wrap ErrConfig,
// ErrData, ErrTooLarge, or model.ErrInvalid if the forest is beyond the limits of a model.
func Forest(ctx context.Context, cfg Config, data *Data, progress func(done, total int)) (*model.Model, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := data.validate(cfg.Task); err != nil {
		return nil, err
	}
	cfg, err := cfg.resolve(data.Features)
	if err != nil {
		return nil, err
	}
	cols, err := newColumns(ctx, data, cfg.Workers)
	if err != nil {
		return nil, err
	}
	f, err := growAll(ctx, cfg, data, cols, maxLeafValues, progress)
	if err != nil {
		return nil, err
	}
	m := describe(cfg, data, f)
	return m, m.Validate()
}

// growAll grows the trees, on several goroutines, and joins them in their order. maxValues bounds the values of
// the leaves with more than one class.
func growAll(ctx context.Context, cfg Config, data *Data, cols *columns, maxValues int64, progress func(done, total int)) (model.Forest, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next    atomic.Int64
		room    atomic.Int64 // for values; below 0 there were too many
		workers sync.WaitGroup

		mu     sync.Mutex // of all below
		done   int
		joined int
		trees  = make([]*tree, cfg.Trees) // those that wait for one before them
		joiner = newJoiner(cfg, data)
	)
	room.Store(maxValues)
	finish := func(t int, grown *tree) error {
		mu.Lock()
		defer mu.Unlock()
		trees[t] = grown
		for joined < len(trees) && trees[joined] != nil {
			if err := joiner.add(trees[joined]); err != nil {
				return err
			}
			trees[joined] = nil
			joined++
		}
		done++
		if progress != nil {
			progress(done, cfg.Trees)
		}
		return nil
	}
	for range min(cfg.Workers, cfg.Trees) {
		workers.Go(func() {
			g := newGrower(cfg, data, cols, &room)
			for {
				t := int(next.Add(1)) - 1
				if t >= cfg.Trees {
					return
				}
				grown, err := g.grow(ctx, treeSeed(cfg.Seed, t))
				if errors.Is(err, ErrTooLarge) {
					err = fmt.Errorf("%w: more than %d probabilities of %d classes in leaves of several classes; take fewer trees, or a larger MinLeaf",
						err, maxValues, len(data.Classes))
				}
				if err == nil {
					err = finish(t, grown)
				}
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	workers.Wait()
	if ctx.Err() != nil {
		return model.Forest{}, context.Cause(ctx)
	}
	return joiner.b.Forest()
}

// treeSeed seeds the generator of one tree. ChaCha8 makes unrelated streams of seeds that differ in one bit.
func treeSeed(seed uint64, t int) (s [32]byte) {
	binary.LittleEndian.PutUint64(s[:], seed)
	binary.LittleEndian.PutUint64(s[8:], uint64(t))
	copy(s[16:], "coppice tree")
	return s
}

// joiner builds the forest of the trees.
type joiner struct {
	b   *model.Builder
	one []float64 // a leaf with a single class; all zero between uses
	// covered counts the nodes whose covers were given, up to model.MaxCovered: without one for every node the forest has
	// none.
	covered int
}

func newJoiner(cfg Config, data *Data) *joiner {
	outputs := 1
	if cfg.Task == model.Classify {
		outputs = len(data.Classes)
	}
	return &joiner{b: model.NewBuilder(model.Shape{Outputs: outputs}), one: make([]float64, outputs)}
}

func (j *joiner) add(t *tree) error {
	values := t.values
	for _, n := range t.nodes {
		var err error
		switch {
		case n.feature >= 0:
			err = j.b.Split(int(n.feature), float64(n.threshold), 0)
		case n.feature == mixedLeaf:
			err = j.b.Leaf(values[:len(j.one)]...)
			values = values[len(j.one):]
		default:
			class := n.class()
			j.one[class] = 1
			err = j.b.Leaf(j.one...)
			j.one[class] = 0
		}
		if err != nil {
			return err
		}
		if j.covered < model.MaxCovered {
			j.covered++
			j.b.Cover(float64(n.weight))
		}
	}
	return nil
}

// describe makes a model of a forest.
func describe(cfg Config, data *Data, f model.Forest) *model.Model {
	m := &model.Model{Forest: f, Meta: model.Meta{
		Task: cfg.Task, Features: data.Features, Names: slices.Clone(data.Names),
		Link: model.Link{Name: model.Identity}, Predict: model.PredictScores,
		Source: model.Source{Library: "coppice", Kind: "RandomForestRegressor"},
	}}
	m.Forest.Average = true
	if !f.HasCovers() {
		m.Meta.Lost = []string{model.LostLarge}
	}
	if cfg.Task == model.Classify {
		m.Meta.Source.Kind = "RandomForestClassifier"
		m.Meta.Predict = model.PredictLabel
		m.Meta.Classes, m.Meta.ClassKind = slices.Clone(data.Classes), data.ClassKind
	}
	// From all over the data: files are often sorted by their label.
	n := min(goldenRows, data.Len())
	for i := range n {
		at := i * data.Len() / n * data.Features
		row := data.Rows[at : at+data.Features]
		for _, v := range row {
			m.Golden.Rows = append(m.Golden.Rows, float64(v))
		}
		m.Golden.Margins = append(m.Golden.Margins, predict(&m.Forest, row)...)
	}
	return m
}

// predict walks every tree, as plainly as the model's definition reads: the golden margins are to prove the
// kernels, so they come from none of them.
func predict(f *model.Forest, row []float32) []float64 {
	out := make([]float64, f.Outputs)
	for t := range f.NumTrees() {
		splits := f.Splits[f.Trees[t].Split:f.Trees[t+1].Split]
		k, leaf, end := uint32(0), f.Trees[t].Leaf, uint32(len(splits))
		for k < end {
			s := splits[k]
			if row[s.Feature()] <= s.Threshold32() {
				k, end = k+1, s.Right
			} else {
				k, leaf = s.Right, leaf+s.Right-k
			}
		}
		for o := range out {
			out[o] += f.Values[f.Row(int(leaf))*f.Outputs+o]
		}
	}
	for o := range out {
		out[o] /= float64(f.NumTrees())
	}
	return out
}
