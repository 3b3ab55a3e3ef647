// Package train grows random forests: plain ones, as Breiman described them and scikit-learn grows them, with
// exact splits on bootstrap samples and a random choice of features at each node.
//
// A forest depends on its data, its Config and its seed alone, not on the number of cores or on their timing:
// every tree draws from a generator of its own.
package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// Errors of training.
var (
	// ErrConfig is wrapped by errors about a Config.
	ErrConfig = errors.New("training configuration")
	// ErrData is wrapped by errors about Data.
	ErrData = errors.New("training data")
)

// goldenRows is the number of rows of the training data that go into the model with their outputs.
const goldenRows = 4

// Config says what forest to grow.
type Config struct {
	// Task is what to predict.
	Task model.Task
	// Trees is their number, 1 to model.MaxTrees. Default 100.
	Trees int
	// MaxDepth is the number of splits on the longest path, 1 to model.MaxDepth; 0 does not limit it.
	MaxDepth int
	// MinSplit is the number of rows in a node that may be split, at least 2. Default 2.
	MinSplit int
	// MinLeaf is the number of rows that a split must leave on each side, at least 1. Default 1.
	MinLeaf int
	// MaxFeatures is the number of features that are tried at each node, in which those with a single value do
	// not count. Default: the square root of all for a classifier, all for a regressor.
	MaxFeatures int
	// NoBootstrap grows every tree on all rows instead of on a sample drawn with replacement.
	NoBootstrap bool
	// Seed determines every random choice.
	Seed uint64
	// Workers is the number of trees that are grown at the same time. Default: the number of cores.
	Workers int
}

// Data is what a forest learns from.
type Data struct {
	// Rows is row-major, Features values a row, all finite.
	Rows     []float32
	Features int
	Names    []string // of the features; may be nil
	// Labels are a classifier's, one a row: indices into Classes.
	Labels    []int32
	Classes   []string
	ClassKind string // as model.Meta has it
	// Targets are a regressor's, one a row, all finite.
	Targets []float64
}

// Len is the number of rows.
func (d *Data) Len() int {
	if d.Features < 1 {
		return 0
	}
	return len(d.Rows) / d.Features
}

// withDefaults fills in the defaults and checks the result.
func (c Config) withDefaults(features int) (Config, error) {
	if c.Trees == 0 {
		c.Trees = 100
	}
	if c.MinSplit == 0 {
		c.MinSplit = 2
	}
	if c.MinLeaf == 0 {
		c.MinLeaf = 1
	}
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.MaxFeatures == 0 {
		c.MaxFeatures = features
		if c.Task == model.Classify {
			c.MaxFeatures = max(int(math.Sqrt(float64(features))), 1)
		}
	}
	switch {
	case c.Task != model.Classify && c.Task != model.Regress:
		return c, fmt.Errorf("%w: task %q, it can be %q or %q", ErrConfig, c.Task, model.Classify, model.Regress)
	case c.Trees < 1 || c.Trees > model.MaxTrees:
		return c, fmt.Errorf("%w: %d trees, 1 to %d are possible", ErrConfig, c.Trees, model.MaxTrees)
	case c.MaxDepth < 0 || c.MaxDepth > model.MaxDepth:
		return c, fmt.Errorf("%w: depth %d, 0 (no limit) to %d are possible", ErrConfig, c.MaxDepth, model.MaxDepth)
	case c.MinSplit < 2:
		return c, fmt.Errorf("%w: nodes of %d rows cannot be split, at least 2 are needed", ErrConfig, c.MinSplit)
	case c.MinLeaf < 1:
		return c, fmt.Errorf("%w: leaves of %d rows, at least 1 is needed", ErrConfig, c.MinLeaf)
	case c.MaxFeatures < 1 || c.MaxFeatures > features:
		return c, fmt.Errorf("%w: %d features at a node, 1 to %d are possible", ErrConfig, c.MaxFeatures, features)
	case c.Workers < 1:
		return c, fmt.Errorf("%w: %d workers, at least 1 is needed", ErrConfig, c.Workers)
	}
	return c, nil
}

func (d *Data) validate(task model.Task) error {
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
			if v-v != 0 {
				return fmt.Errorf("%w: the target of row %d is %v, it must be finite", ErrData, i, v)
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
			return fmt.Errorf("%w: the label of row %d is class %d of %d", ErrData, i, l, len(d.Classes))
		}
	}
	return nil
}

// Forest grows a forest. progress, which may be nil, is told of every tree that is done, by one goroutine at a
// time. When ctx is done, Forest ends early with its error.
func Forest(ctx context.Context, cfg Config, data *Data, progress func(done, total int)) (*model.Model, error) {
	if err := data.validate(cfg.Task); err != nil {
		return nil, err
	}
	cfg, err := cfg.withDefaults(data.Features)
	if err != nil {
		return nil, err
	}
	columns := transpose(data)
	trees := make([][]grown, cfg.Trees)
	var (
		next    atomic.Int64
		workers sync.WaitGroup
		mu      sync.Mutex
		done    int
	)
	for range min(cfg.Workers, cfg.Trees) {
		workers.Go(func() {
			g := newGrower(cfg, data, columns)
			for {
				t := int(next.Add(1)) - 1
				if t >= cfg.Trees || ctx.Err() != nil {
					return
				}
				trees[t] = g.grow(rand.New(rand.NewPCG(cfg.Seed, uint64(t))))
				mu.Lock()
				done++
				if progress != nil {
					progress(done, cfg.Trees)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	return assemble(cfg, data, trees)
}

// transpose lays the rows out by feature, as splits are searched.
func transpose(d *Data) []float32 {
	n := d.Len()
	out := make([]float32, len(d.Rows))
	for i := range n {
		for j := range d.Features {
			out[j*n+i] = d.Rows[i*d.Features+j]
		}
	}
	return out
}

// assemble makes a model of the trees, in their order.
func assemble(cfg Config, data *Data, trees [][]grown) (*model.Model, error) {
	outputs, kind := 1, "RandomForestRegressor"
	if cfg.Task == model.Classify {
		outputs, kind = len(data.Classes), "RandomForestClassifier"
	}
	b := model.NewBuilder(outputs)
	for _, nodes := range trees {
		for i := range nodes {
			n := &nodes[i]
			var err error
			if n.values != nil {
				err = b.Leaf(n.values...)
			} else {
				err = b.Split(int(n.feature), n.threshold, false)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	f, err := b.Forest()
	if err != nil {
		return nil, err
	}
	m := &model.Model{Forest: f, Meta: model.Meta{
		Task: cfg.Task, Features: data.Features, Names: data.Names,
		Source: model.Source{Library: "coppice", Kind: kind},
	}}
	if cfg.Task == model.Classify {
		m.Meta.Classes, m.Meta.ClassKind = data.Classes, data.ClassKind
	}
	n := min(goldenRows, data.Len())
	m.Golden.Rows = append(m.Golden.Rows, data.Rows[:n*data.Features]...)
	m.Golden.Outputs = make([]float64, n*outputs)
	engine.Kernels[0].New(&m.Forest).Scores(m.Golden.Outputs, m.Golden.Rows, data.Features)
	return m, m.Validate()
}
