package sklearn

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// The versions of scikit-learn, 1.x, whose forests are read.
const (
	oldest = 1
	newest = 9
)

// forest understands the value of a file of size bytes, unpacked.
func forest(v any, size int64) (*model.Model, error) {
	o, ok := v.(*pickle.Object)
	if !ok {
		return nil, fmt.Errorf("%w: the file holds %s and no model; %s", ErrUnsupported, pickle.Describe(v), reads)
	}
	var task model.Task
	switch name := o.Class.String(); {
	case name == classifierName:
		task = model.Classify
	case name == regressorName:
		task = model.Regress
	case ensembles[name]:
		return nil, fmt.Errorf("%w: %s is not read yet; %s", ErrUnsupported, name, reads)
	default:
		return nil, fmt.Errorf("%w: the file holds an object of %s; %s", ErrUnsupported, name, reads)
	}
	state, ok := o.State.(*pickle.Dict)
	if !ok {
		return nil, fmt.Errorf("%w: the state of the forest is %s", ErrMalformed, pickle.Describe(o.State))
	}
	version, minor, err := versionOf(state)
	if err != nil {
		return nil, err
	}
	if _, ok := state.Get("estimators_"); !ok {
		return nil, fmt.Errorf("%w: the forest was saved before it was fitted", ErrUnsupported)
	}
	outputs, err := intOf(state, "n_outputs_")
	if err != nil {
		return nil, err
	}
	if outputs != 1 {
		return nil, fmt.Errorf("%w: a forest of %d outputs; forests of one output are read", ErrUnsupported, outputs)
	}
	m := &model.Model{Meta: model.Meta{
		Task:    task,
		Link:    model.Link{Name: model.Identity},
		Predict: model.PredictScores,
		Source:  model.Source{Library: "scikit-learn", Version: version, Kind: o.Class.Name},
	}}
	if err := features(&m.Meta, state); err != nil {
		return nil, err
	}
	width := 1
	if task == model.Classify {
		m.Meta.Predict = model.PredictLabel
		if width, err = classes(&m.Meta, state); err != nil {
			return nil, err
		}
	}
	trees, err := estimators(state)
	if err != nil {
		return nil, err
	}
	m.Meta.Missing = takesMissing(trees[0], minor)
	im := &importer{
		b:        model.NewBuilder(model.Shape{Outputs: width}),
		features: m.Meta.Features,
		classes:  width,
		leaves:   leavesOf(task, version, minor),
		budget:   4 * size, // a forest that lists a tree of its own twice is still fine
	}
	im.reserve(trees, size)
	for i, t := range trees {
		v, ok := t.Get("tree_")
		if !ok {
			return nil, fmt.Errorf("tree %d: %w: it has no attribute tree_", i, ErrMalformed)
		}
		if err := im.tree(v); err != nil {
			return nil, fmt.Errorf("tree %d: %w", i, err)
		}
	}
	if m.Forest, err = im.b.Forest(); err != nil {
		return nil, err
	}
	m.Forest.Average = true
	return m, nil
}

// versionOf gives the version of scikit-learn that saved the forest, whole and as the x of 1.x.
func versionOf(state *pickle.Dict) (version string, minor int, err error) {
	v, ok := state.Get("_sklearn_version")
	if !ok {
		return "", 0, fmt.Errorf("%w: the forest does not say which version of scikit-learn saved it", ErrUnsupported)
	}
	version, _ = v.(string)
	parts := strings.SplitN(version, ".", 3)
	if len(parts) >= 2 && parts[0] == "1" {
		if minor, err = strconv.Atoi(parts[1]); err == nil && minor >= oldest && minor <= newest {
			return version, minor, nil
		}
	}
	return "", 0, fmt.Errorf("%w: a forest of scikit-learn %s; versions 1.%d to 1.%d are read", ErrUnsupported, pickle.Describe(v), oldest, newest)
}

// features fills in how many features there are, and their names if the forest was fitted with some.
func features(meta *model.Meta, state *pickle.Dict) error {
	n, err := intOf(state, "n_features_in_")
	if err != nil {
		return err
	}
	if n < 1 || n > model.MaxFeatures {
		return fmt.Errorf("%w: %d features, a model may have 1 to %d", ErrMalformed, n, model.MaxFeatures)
	}
	meta.Features = int(n)
	if _, ok := state.Get("feature_names_in_"); !ok {
		return nil
	}
	a, err := arrayOf(state, "feature_names_in_")
	if err != nil {
		return err
	}
	if a.count != meta.Features {
		return fmt.Errorf("%w: %d feature names for %d features", ErrMalformed, a.count, n)
	}
	names, kind, err := texts(a)
	if err != nil {
		return fmt.Errorf("feature_names_in_: %w", err)
	}
	if kind != "string" {
		return fmt.Errorf("%w: feature names of type %s", ErrUnsupported, a.dtype)
	}
	meta.Names = names
	return nil
}

// classes fills in the class labels and gives their number.
func classes(meta *model.Meta, state *pickle.Dict) (int, error) {
	n, err := intOf(state, "n_classes_")
	if err != nil {
		return 0, err
	}
	if n < 1 || n > model.MaxOutputs {
		return 0, fmt.Errorf("%w: %d classes, a model may have 1 to %d", ErrMalformed, n, model.MaxOutputs)
	}
	a, err := arrayOf(state, "classes_")
	if err != nil {
		return 0, err
	}
	if int64(a.count) != n {
		return 0, fmt.Errorf("%w: %d class labels for %d classes", ErrMalformed, a.count, n)
	}
	meta.Classes, meta.ClassKind, err = texts(a)
	if err != nil {
		return 0, fmt.Errorf("classes_: %w", err)
	}
	return int(n), nil
}

// estimators gives the attributes of each tree's estimator, at least one.
func estimators(state *pickle.Dict) ([]*pickle.Dict, error) {
	v, _ := state.Get("estimators_")
	l, ok := v.(*pickle.List)
	if !ok {
		return nil, fmt.Errorf("%w: estimators_ is %s", ErrMalformed, pickle.Describe(v))
	}
	if len(l.Items) < 1 || len(l.Items) > model.MaxTrees {
		return nil, fmt.Errorf("%w: %d trees, a model may have 1 to %d", ErrMalformed, len(l.Items), model.MaxTrees)
	}
	out := make([]*pickle.Dict, len(l.Items))
	for i, v := range l.Items {
		o, ok := v.(*pickle.Object)
		if !ok || o.Class.Module != "sklearn.tree._classes" {
			return nil, fmt.Errorf("tree %d: %w: it is %s", i, ErrMalformed, pickle.Describe(v))
		}
		if out[i], ok = o.State.(*pickle.Dict); !ok {
			return nil, fmt.Errorf("tree %d: %w: its state is %s", i, ErrMalformed, pickle.Describe(o.State))
		}
	}
	return out, nil
}

// leavesOf tells what the leaves of a version's trees hold. Counts gave way to fractions in 1.4.1 by its
// release notes; whether 1.4.0 had the change already is left to its values.
func leavesOf(task model.Task, version string, minor int) leafKind {
	switch {
	case task == model.Regress:
		return means
	case minor < 4:
		return counts
	case strings.HasPrefix(version, "1.4.0"):
		return either
	}
	return fractions
}

// takesMissing tells whether the forest's predict takes NaN, as scikit-learn decides it from the first
// tree: forests do since 1.4, with most criteria; since 1.9 with all of them and with monotonic
// constraints too.
func takesMissing(tree *pickle.Dict, minor int) bool {
	if minor < 4 {
		return false
	}
	if minor >= 9 {
		return true
	}
	if v, _ := tree.Get("monotonic_cst"); v != nil {
		return false
	}
	if v, _ := tree.Get("splitter"); v != "best" {
		return false
	}
	v, _ := tree.Get("criterion")
	switch v {
	case "gini", "log_loss", "entropy", "squared_error", "friedman_mse", "poisson":
		return true
	}
	return false
}

// intOf gives an attribute that is an integer.
func intOf(d *pickle.Dict, key string) (int64, error) {
	v, ok := d.Get(key)
	if !ok {
		return 0, fmt.Errorf("%w: there is no attribute %s", ErrMalformed, key)
	}
	n, err := parseInt(v)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", key, err)
	}
	return n, nil
}

// arrayOf gives an attribute that is an array.
func arrayOf(d *pickle.Dict, key string) (*array, error) {
	v, ok := d.Get(key)
	if !ok {
		return nil, fmt.Errorf("%w: there is no attribute %s", ErrMalformed, key)
	}
	a, err := parseArray(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return a, nil
}
