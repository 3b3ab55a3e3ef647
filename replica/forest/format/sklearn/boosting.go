package sklearn

import (
	"fmt"
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/libm"
	"github.com/coppice-mesh/coppice/replica/forest/link"
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
		value:    func(l leaf) (float64, error) { return float64(rate * l.value), nil },
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
		case e.minor >= 4:
			meta.Link.Name = model.SoftmaxPairs
		default:
			meta.Link.Name = model.SoftmaxLog
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
		return nil, fmt.Errorf("%w: init is %s; without init, with \"zero\" or with a Dummy estimator it is read", ErrUnsupported, pickle.Describe(v))
	}
	state, _ := o.State.(*pickle.Dict)
	if !e.classifier() {
		base, err := floatsOf(state, "constant_")
		if err == nil && len(base) != 1 {
			err = fmt.Errorf("%w: init_ has %d constants", ErrMalformed, len(base))
		}
		return base, err
	}
	p, err := dummyProba(state, len(meta.Classes))
	if err != nil {
		return nil, fmt.Errorf("init_: %w", err)
	}
	return initial(p, outputs, exponential, e.minor), nil
}

// dummyProba is what a DummyClassifier gives for every row.
func dummyProba(state *pickle.Dict, classes int) ([]float64, error) {
	priors, err := floatsOf(state, "class_prior_")
	if err != nil {
		return nil, err
	}
	if len(priors) != classes {
		return nil, fmt.Errorf("%w: %d priors for %d classes", ErrMalformed, len(priors), classes)
	}
	p := make([]float64, classes)
	strategy, _ := state.Get("strategy")
	switch strategy {
	case "prior":
		return priors, nil
	case "uniform":
		for i := range p {
			p[i] = 1 / float64(classes)
		}
		return p, nil
	case "most_frequent":
		p[argmax(priors)] = 1
		return p, nil
	case "constant":
		constant, err := floatOf(state, "constant")
		if err != nil {
			return nil, err
		}
		labels, err := floatsOf(state, "classes_") // the booster numbers its classes
		if err != nil {
			return nil, err
		}
		if i := slices.Index(labels, constant); i >= 0 && i < classes {
			p[i] = 1
			return p, nil
		}
		return nil, fmt.Errorf("%w: the constant %v is none of the classes %v", ErrMalformed, constant, labels)
	}
	return nil, fmt.Errorf("%w: a DummyClassifier of strategy %s; prior, most_frequent, uniform and constant are read", ErrUnsupported, pickle.Describe(strategy))
}

// initial are the margins of the probabilities p of the classes, in the steps of scikit-learn 1.minor.
func initial(p []float64, outputs int, exponential bool, minor int) []float64 {
	eps := 0x1p-23 // of float32, and of float64 from 1.8 on
	if minor >= 8 {
		eps = 0x1p-52
	}
	clipped := make([]float64, len(p))
	for i, v := range p {
		clipped[i] = min(max(v, eps), 1-eps)
	}
	if outputs == 1 {
		v := logit(clipped[len(clipped)-1], minor >= 4)
		if exponential {
			v *= 0.5
		}
		return []float64{v}
	}
	out := make([]float64, outputs)
	if minor < 4 {
		for i, v := range clipped {
			out[i] = oldLog(v)
		}
		return out
	}
	for i, v := range clipped {
		out[i] = libm.Log(v)
	}
	// "log(y_pred / gmean(y_pred))", and SciPy's gmean is exp of the mean of the logarithms.
	mean := libm.Exp(link.Sum(out) / float64(outputs))
	for i, v := range clipped {
		out[i] = libm.Log(v / mean)
	}
	return out
}

// logit is the logarithm of p/(1-p). SciPy's, as of 1.11, takes another way near 1/2.
func logit(p float64, scipy bool) float64 {
	switch {
	case !scipy:
		return oldLog(p / (1 - p))
	case p >= 0.3 && p <= 0.65:
		s := 2 * (p - 0.5)
		return libm.Log1p(s) - libm.Log1p(-s)
	}
	return libm.Log(p / (1 - p))
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
	x, err := number(v)
	if err == nil && x-x != 0 {
		err = fmt.Errorf("%w: expected a finite number, got %v", ErrMalformed, x)
	}
	return x, err
}

// number understands a number of Python's or of numpy's.
func number(v any) (float64, error) {
	switch v := v.(type) {
	case float64:
		return v, nil
	case int64:
		return float64(v), nil
	case *pickle.Object:
		t, b, err := parseScalar(v)
		switch {
		case err != nil:
			return 0, err
		case t.kind == 'f' && t.size >= 4:
			return t.float(b), nil
		case t.kind == 'i':
			return float64(t.int(b)), nil
		case t.kind == 'u':
			return float64(t.uint(b)), nil
		}
	}
	return 0, fmt.Errorf("%w: expected a number, got %s", ErrMalformed, pickle.Describe(v))
}

// floatsOf gives an attribute that is an array of numbers, of whatever shape.
func floatsOf(d *pickle.Dict, key string) ([]float64, error) {
	a, err := arrayOf(d, key)
	if err != nil {
		return nil, err
	}
	return floats(a, key)
}

func floats(a *array, key string) ([]float64, error) {
	out := make([]float64, a.count)
	for i := range out {
		switch k := a.dtype.kind; {
		case k == 'f' && a.dtype.size >= 4:
			out[i] = a.dtype.float(a.item(i))
		case k == 'i':
			out[i] = float64(a.dtype.int(a.item(i)))
		case k == 'u':
			out[i] = float64(a.dtype.uint(a.item(i)))
		case k == 'O':
			v, err := number(a.objects[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			out[i] = v
		default:
			return nil, fmt.Errorf("%w: %s is an array of %s, expected numbers", ErrMalformed, key, a.dtype)
		}
	}
	return out, nil
}
