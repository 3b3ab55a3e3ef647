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

// reader understands the objects of one file.
type reader struct {
	size int64 // of the file, unpacked
}

// understand makes a model of the value of a file.
func (r *reader) understand(v any) (*model.Model, error) {
	o, ok := v.(*pickle.Object)
	if !ok {
		return nil, fmt.Errorf("%w: the file holds %s and no model; %s", ErrUnsupported, pickle.Describe(v), reads)
	}
	if o.Class.String() == pipelineName {
		return r.pipeline(o)
	}
	return r.estimator(o, nil)
}

// estimators are the classes that are read, by their name.
var estimators = map[string]func(r *reader, e *estimator) error{
	"sklearn.ensemble._forest.RandomForestClassifier":                                           (*reader).forest,
	"sklearn.ensemble._forest.RandomForestRegressor":                                            (*reader).forest,
	"sklearn.ensemble._forest.ExtraTreesClassifier":                                             (*reader).forest,
	"sklearn.ensemble._forest.ExtraTreesRegressor":                                              (*reader).forest,
	"sklearn.tree._classes.DecisionTreeClassifier":                                              (*reader).tree,
	"sklearn.tree._classes.DecisionTreeRegressor":                                               (*reader).tree,
	"sklearn.tree._classes.ExtraTreeClassifier":                                                 (*reader).tree,
	"sklearn.tree._classes.ExtraTreeRegressor":                                                  (*reader).tree,
	"sklearn.ensemble._gb.GradientBoostingClassifier":                                           (*reader).boosting,
	"sklearn.ensemble._gb.GradientBoostingRegressor":                                            (*reader).boosting,
	"sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier": (*reader).hist,
	"sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor":  (*reader).hist,
	"sklearn.ensemble._iforest.IsolationForest":                                                 (*reader).isolation,
}

// estimator is one that is being read.
type estimator struct {
	state *pickle.Dict
	minor int // of scikit-learn's version 1.x
	in    *inputs
	m     *model.Model
	// widths are the classes of each target of a classifier, or a 1 for each of a regressor.
	widths []int
	size   int64 // of the file, unpacked
}

func (e *estimator) classifier() bool { return e.m.Meta.Task == model.Classify }

// estimator makes a model of an estimator whose rows come through in, nil for as they are.
func (r *reader) estimator(o *pickle.Object, in *inputs) (*model.Model, error) {
	read, ok := estimators[o.Class.String()]
	if !ok && strings.HasSuffix(o.Class.Name, "SearchCV") {
		return nil, fmt.Errorf("%w: the file holds an object of %s; save its best_estimator_; %s", ErrUnsupported, o.Class, reads)
	}
	if !ok {
		return nil, fmt.Errorf("%w: the file holds an object of %s; %s", ErrUnsupported, o.Class, reads)
	}
	state, ok := o.State.(*pickle.Dict)
	if !ok {
		return nil, fmt.Errorf("%w: the state of the %s is %s", ErrMalformed, o.Class.Name, pickle.Describe(o.State))
	}
	version, minor, err := versionOf(state)
	if err != nil {
		return nil, err
	}
	if _, ok := state.Get("n_features_in_"); !ok {
		return nil, fmt.Errorf("%w: the %s was saved before it was fitted", ErrUnsupported, o.Class.Name)
	}
	e := &estimator{state: state, minor: minor, in: in, size: r.size, m: &model.Model{Meta: model.Meta{
		Task: model.Regress, Link: model.Link{Name: model.Identity}, Predict: model.PredictScores,
		Lost:   []string{"impurity of nodes", "training parameters and scores"},
		Source: model.Source{Library: "scikit-learn", Version: version, Kind: o.Class.Name},
	}}}
	if err := features(&e.m.Meta, state); err != nil {
		return nil, err
	}
	if strings.HasSuffix(o.Class.Name, "Classifier") {
		e.m.Meta.Task, e.m.Meta.Predict = model.Classify, model.PredictLabel
		err = e.classes()
	} else {
		err = e.targets()
	}
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"criterion", "loss"} { // of a booster the loss is what counts
		if v, _ := state.Get(key); v != nil {
			if s, ok := v.(string); ok {
				e.m.Meta.Source.Objective = s
			}
		}
	}
	if err := read(r, e); err != nil {
		return nil, err
	}
	switch {
	case e.m.Forest.HasCovers():
	case e.m.Forest.NumNodes() > model.MaxCovered:
		e.m.Meta.Lost = append(e.m.Meta.Lost, model.LostLarge)
	default:
		e.m.Meta.Lost = append(e.m.Meta.Lost, model.LostCovers)
	}
	return e.m, in.describe(e.m)
}

// forest reads the mean of trees.
func (r *reader) forest(e *estimator) error {
	trees, err := estimatorsOf(e.state)
	if err != nil {
		return err
	}
	return r.trees(e, trees, 4)
}

// tree reads one tree alone.
func (r *reader) tree(e *estimator) error {
	e.m.Meta.LeafShape = model.LeafAlone
	return r.trees(e, []*pickle.Dict{e.state}, 3)
}

// trees reads trees that are averaged. since is the version from which on they may take missing values.
func (r *reader) trees(e *estimator, trees []*pickle.Dict, since int) error {
	e.m.Meta.Missing = e.minor >= since && e.takesMissing(trees[0])
	im := r.importer(e, trees)
	im.alone = e.m.Meta.LeafShape == model.LeafAlone
	if e.classifier() {
		im.leaves = leavesOf(e.m.Meta.Source.Version, e.minor)
	}
	for i, t := range trees {
		if err := im.treeOf(i, t); err != nil {
			return err
		}
	}
	var err error
	e.m.Forest, err = im.b.Forest()
	e.m.Forest.Average = !im.alone
	return err
}

// importer makes one for trees of the estimator's targets, with room for them.
func (r *reader) importer(e *estimator, trees []*pickle.Dict) *importer {
	total := 0
	for _, n := range e.widths {
		total += n
	}
	im := &importer{
		b:        model.NewBuilder(model.Shape{Outputs: total, Input: e.in.input()}),
		features: e.m.Meta.Features,
		widths:   e.widths,
		in:       e.in,
		budget:   4 * r.size, // a forest that lists a tree of its own twice is still fine
	}
	im.reserve(trees, r.size)
	return im
}

// treeOf adds the tree of the estimator with a number and these attributes.
func (im *importer) treeOf(i int, t *pickle.Dict) error {
	v, ok := t.Get("tree_")
	if !ok {
		return fmt.Errorf("tree %d: %w: it has no attribute tree_", i, ErrMalformed)
	}
	if err := im.tree(v); err != nil {
		return fmt.Errorf("tree %d: %w", i, err)
	}
	return nil
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

// classes fills in the class labels, of several targets one after the other.
func (e *estimator) classes() error {
	v, _ := e.state.Get("classes_")
	lists := []any{v}
	if l, ok := v.(*pickle.List); ok {
		lists = l.Items
	}
	total, text := 0, int64(0)
	meta := &e.m.Meta
	for t, v := range lists {
		a, err := parseArray(v)
		if err != nil {
			return fmt.Errorf("classes_: %w", err)
		}
		items, kind, err := texts(a)
		if err != nil {
			return fmt.Errorf("classes_: %w", err)
		}
		if total += len(items); len(items) < 1 || total > model.MaxOutputs {
			return fmt.Errorf("%w: %d classes, a model may have 1 to %d", ErrMalformed, total, model.MaxOutputs)
		}
		for _, item := range items {
			text += int64(len(item))
		}
		if text > 4*e.size { // one array may be listed many times
			return fmt.Errorf("%w: the names of the classes take more than the file has bytes for", pickle.ErrLimit)
		}
		if t > 0 && kind != meta.ClassKind {
			return fmt.Errorf("%w: classes of targets are %s and %s", ErrUnsupported, meta.ClassKind, kind)
		}
		if v, ok := e.state.Get("n_classes_"); ok && len(lists) == 1 {
			if n, err := parseInt(v); err == nil && n != int64(len(items)) {
				return fmt.Errorf("%w: n_classes_ is %d, there are %d labels", ErrMalformed, n, len(items))
			}
		}
		if t == 0 {
			meta.ClassKind, meta.ClassType = kind, classType(a.dtype)
		}
		meta.Classes = append(meta.Classes, items...)
		e.widths = append(e.widths, len(items))
	}
	if len(lists) > 1 {
		meta.Targets = e.widths
	}
	return nil
}

// classType is the NumPy type of labels, empty for those that their kind says.
func classType(t dtype) string {
	switch {
	case t.kind == 'U':
		return "U" + strconv.Itoa(t.size/4)
	case t.kind == 'O' || t.kind == 'b' || (t.size == 8 && t.kind != 'u'):
		return ""
	}
	return string(t.kind) + strconv.Itoa(t.size)
}

// targets counts a regressor's targets.
func (e *estimator) targets() error {
	n := int64(1)
	if _, ok := e.state.Get("n_outputs_"); ok {
		var err error
		if n, err = intOf(e.state, "n_outputs_"); err != nil {
			return err
		}
	}
	if n < 1 || n > model.MaxOutputs {
		return fmt.Errorf("%w: %d targets, a model may have 1 to %d", ErrMalformed, n, model.MaxOutputs)
	}
	for range n {
		e.widths = append(e.widths, 1)
	}
	return nil
}

// estimatorsOf gives the attributes of each tree's estimator, at least one: a list, or an array of rounds and outputs.
func estimatorsOf(state *pickle.Dict) ([]*pickle.Dict, error) {
	v, _ := state.Get("estimators_")
	var items []any
	if l, ok := v.(*pickle.List); ok {
		items = l.Items
	} else {
		a, err := parseArray(v)
		if err != nil {
			return nil, fmt.Errorf("estimators_: %w", err)
		}
		items = a.objects
	}
	if len(items) < 1 || len(items) > model.MaxTrees {
		return nil, fmt.Errorf("%w: %d trees, a model may have 1 to %d", ErrMalformed, len(items), model.MaxTrees)
	}
	out := make([]*pickle.Dict, len(items))
	for i, v := range items {
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

// leavesOf tells what the leaves of a version's classifiers hold. Counts gave way to fractions in 1.4.1 by its
// release notes; whether 1.4.0 had the change already is left to its values.
func leavesOf(version string, minor int) leafKind {
	switch {
	case minor < 4:
		return counts
	case strings.HasPrefix(version, "1.4.0"):
		return either
	}
	return fractions
}

// takesMissing tells whether predict takes NaN, as scikit-learn decides it from the first tree, where trees do at all:
// those of random splits do since 1.6, and all criteria and monotonic constraints are fine since 1.9.
func (e *estimator) takesMissing(tree *pickle.Dict) bool {
	splitter, _ := tree.Get("splitter")
	extra := strings.HasPrefix(e.m.Meta.Source.Kind, "Extra")
	switch {
	case e.minor < 6:
		if splitter != "best" {
			return false
		}
	case extra && splitter != "random":
		return false
	}
	if e.minor >= 9 {
		return true
	}
	if v, _ := tree.Get("monotonic_cst"); v != nil {
		return false
	}
	criterion, _ := tree.Get("criterion")
	switch criterion {
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
