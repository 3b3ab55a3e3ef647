package sklearn

import (
	"fmt"
	"math"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// boosting reads GradientBoosting: what init_ says and then, round by round and class by class, a tree's value
// times the learning rate.
func (r *reader) boosting(e *estimator) error {
	v, _ := e.state.Get("estimators_")
	a, err := parseArray(v)
	if err != nil {
		return fmt.Errorf("estimators_: %w", err)
	}
	trees, err := estimatorsOf(e.state)
	if err != nil {
		return err
	}
	outputs := 1
	if n := len(e.m.Meta.Classes); n > 2 {
		outputs = n
	}
	if len(a.shape) != 2 || a.shape[1] != outputs || len(trees) != a.count {
		return fmt.Errorf("%w: estimators_ has the shape %v, for %d outputs", ErrMalformed, a.shape, outputs)
	}
	rate, err := floatOf(e.state, "learning_rate")
	if err != nil {
		return err
	}
	loss, _ := e.state.Get("loss")
	base, err := e.bases(loss, outputs)
	if err != nil {
		return err
	}
	im := &importer{
		b:        model.NewBuilder(model.Shape{Outputs: outputs, Width: 1, Input: e.in.input()}),
		features: e.m.Meta.Features,
		widths:   []int{1},
		in:       e.in,
		budget:   4 * r.size,
		value:    func(v float64, _ int64, _ int) float64 { return float64(rate * v) },
	}
	im.reserve(trees, r.size)
	for i, t := range trees {
		if err := im.b.Output(i % outputs); err != nil {
			return err
		}
		if err := im.treeOf(i, t); err != nil {
			return err
		}
	}
	if e.m.Forest, err = im.b.Forest(); err != nil {
		return err
	}
	e.m.Forest.Base, e.m.Forest.Round = base, outputs
	e.m.Meta.LeafType = "f8"
	if e.classifier() {
		e.m.Meta.LeafShape = model.LeafRounds
	}
	return nil
}

// bases are the margins before the first tree. It also chooses the link.
func (e *estimator) bases(loss any, outputs int) ([]float64, error) {
	meta := &e.m.Meta
	exponential := loss == "exponential"
	if e.classifier() {
		switch {
		case loss != "log_loss" && loss != "deviance" && !exponential:
			return nil, fmt.Errorf("%w: the loss is %s, expected log_loss or exponential", ErrUnsupported, pickle.Describe(loss))
		case exponential:
			meta.Link = model.Link{Name: model.Sigmoid, Scale: 2}
		case outputs == 1:
			meta.Link = model.Link{Name: model.Sigmoid, Scale: 1}
		default:
			meta.Link.Name = model.Softmax
		}
		if e.minor >= 4 || exponential {
			meta.ByMargin = model.NotNegative
		}
	}
	v, _ := e.state.Get("init_")
	if v == "zero" {
		return nil, nil
	}
	o, ok := v.(*pickle.Object)
	if !ok || o.Class.Module != "sklearn.dummy" {
		return nil, fmt.Errorf("%w: init is %s; without init, and with \"zero\", it is read", ErrUnsupported, pickle.Describe(v))
	}
	state, _ := o.State.(*pickle.Dict)
	if !e.classifier() {
		base, err := floatsOf(state, "constant_")
		if err == nil && len(base) != 1 {
			err = fmt.Errorf("%w: init_ has %d constants", ErrMalformed, len(base))
		}
		return base, err
	}
	if s, _ := state.Get("strategy"); s != "prior" {
		return nil, fmt.Errorf("%w: init is a DummyClassifier of strategy %s; \"prior\" is read", ErrUnsupported, pickle.Describe(s))
	}
	priors, err := floatsOf(state, "class_prior_")
	if err != nil {
		return nil, err
	}
	if len(priors) != len(meta.Classes) {
		return nil, fmt.Errorf("%w: init_ has %d priors for %d classes", ErrMalformed, len(priors), len(meta.Classes))
	}
	return margins(priors, outputs, exponential, e.minor >= 4), nil
}

// margins are the inverse link of the classes' priors. From 1.4 on, several classes' are centred.
func margins(priors []float64, outputs int, exponential, centred bool) []float64 {
	const eps = 0x1p-23 // of float32
	clipped := make([]float64, len(priors))
	for i, p := range priors {
		clipped[i] = min(max(p, eps), 1-eps)
	}
	if outputs == 1 {
		p := clipped[len(clipped)-1]
		v := math.Log(p / (1 - p))
		if exponential {
			v *= 0.5
		}
		return []float64{v}
	}
	out := make([]float64, outputs)
	if !centred {
		for i, p := range clipped {
			out[i] = math.Log(p)
		}
		return out
	}
	mean := 0.0 // of the logarithms: scipy's gmean is exp of it
	for _, p := range clipped {
		mean += math.Log(p)
	}
	mean = math.Exp(mean / float64(len(clipped)))
	for i, p := range clipped {
		out[i] = math.Log(p / mean)
	}
	return out
}

// floatOf gives an attribute that is a number.
func floatOf(d *pickle.Dict, key string) (float64, error) {
	v, ok := d.Get(key)
	if !ok {
		return 0, fmt.Errorf("%w: there is no attribute %s", ErrMalformed, key)
	}
	x, err := parseFloat(v)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", key, err)
	}
	return x, nil
}

// parseFloat understands a finite number of Python's or of numpy's.
func parseFloat(v any) (float64, error) {
	x := math.NaN()
	switch v := v.(type) {
	case float64:
		x = v
	case int64:
		x = float64(v)
	case *pickle.Object:
		t, b, err := parseScalar(v)
		if err != nil {
			return 0, err
		}
		switch {
		case t.kind == 'f' && t.size >= 4:
			x = t.float(b)
		case t.kind == 'i' || t.kind == 'u':
			x = float64(t.int(b))
		}
	}
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0, fmt.Errorf("%w: expected a finite number, got %s", ErrMalformed, pickle.Describe(v))
	}
	return x, nil
}

// floatsOf gives an attribute that is an array of float64, of whatever shape.
func floatsOf(d *pickle.Dict, key string) ([]float64, error) {
	a, err := arrayOf(d, key)
	if err != nil {
		return nil, err
	}
	return floats(a, key)
}

func floats(a *array, key string) ([]float64, error) {
	if a.dtype.kind != 'f' || a.dtype.size < 4 {
		return nil, fmt.Errorf("%w: %s is an array of %s, expected floats", ErrMalformed, key, a.dtype)
	}
	out := make([]float64, a.count)
	for i := range out {
		out[i] = a.dtype.float(a.item(i))
	}
	return out, nil
}
