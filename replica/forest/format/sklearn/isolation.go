package sklearn

import (
	"fmt"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/libm"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// isolation reads an IsolationForest. What a tree adds for a row is the number of nodes on its path, and how much longer the path
// would be on average if the samples of the leaf were told apart, less 1.
func (r *reader) isolation(e *estimator) error {
	trees, err := estimatorsOf(e.state)
	if err != nil {
		return err
	}
	samples, err := intOf(e.state, "_max_samples")
	if err != nil {
		if samples, err = intOf(e.state, "max_samples_"); err != nil {
			return err
		}
	}
	offset, err := floatOf(e.state, "offset_")
	if err != nil {
		return err
	}
	subsets, err := listOf(e.state, "estimators_features_", len(trees))
	if err != nil {
		return err
	}
	lengths, err := listOf(e.state, "_average_path_length_per_tree", len(trees)) // since 1.3
	if err != nil {
		return err
	}
	im := r.importer(e, trees)
	for i, t := range trees {
		im.value = func(l leaf) (float64, error) { return float64(l.path) + pathLength(l.samples) - 1, nil }
		if lengths != nil {
			if im.value, err = im.pathLengths(lengths[i]); err != nil {
				return fmt.Errorf("tree %d: %w", i, err)
			}
		}
		im.features = e.m.Meta.Features
		if subsets != nil {
			if err := im.featuresOf(subsets[i], e.m.Meta.Features); err != nil {
				return fmt.Errorf("tree %d: %w", i, err)
			}
		}
		if err := im.treeOf(i, t); err != nil {
			return err
		}
	}
	if e.m.Forest, err = im.b.Forest(); err != nil {
		return err
	}
	meta := &e.m.Meta
	meta.Link = model.Link{Name: model.Isolation, Scale: float64(len(trees)) * pathLength(samples), Offset: offset}
	meta.Predict = model.PredictSign
	// "ensure_all_finite=False" came with the support of missing values.
	meta.Missing, meta.Infinite = e.minor >= 6, e.minor >= 6
	return nil
}

// listOf gives the items of an attribute that has one for each tree, nil when there is none.
func listOf(state *pickle.Dict, key string, trees int) ([]any, error) {
	var items []any
	v, _ := state.Get(key)
	switch v := v.(type) {
	case nil:
		return nil, nil
	case *pickle.List:
		items = v.Items
	case pickle.Tuple:
		items = v
	}
	if len(items) != trees {
		return nil, fmt.Errorf("%w: %s is %s, expected one for each of %d trees", ErrMalformed, key, pickle.Describe(v), trees)
	}
	return items, nil
}

// pathLengths makes the value of leaves out of pathLength of a tree's nodes as NumPy worked it out at training: its
// logarithm depends on NumPy's version and on the processor.
func (im *importer) pathLengths(v any) (func(l leaf) (float64, error), error) {
	a, err := parseArray(v)
	if err != nil {
		return nil, err
	}
	if a.dtype.kind != 'f' || a.dtype.size != 8 {
		return nil, fmt.Errorf("%w: average path lengths of type %s, expected <f8", ErrMalformed, a.dtype)
	}
	return func(l leaf) (float64, error) {
		if l.id >= a.count {
			return 0, fmt.Errorf("%w: there are average path lengths of %d nodes", ErrMalformed, a.count)
		}
		x := a.dtype.float(a.item(l.id))
		if x-x != 0 {
			return 0, fmt.Errorf("%w: its average path length is %v", ErrMalformed, x)
		}
		return float64(l.path) + x - 1, nil
	}, nil
}

// featuresOf takes the features of the forest that the next tree was grown on.
func (im *importer) featuresOf(v any, features int) error {
	a, err := parseArray(v)
	if err != nil {
		return fmt.Errorf("estimators_features_: %w", err)
	}
	if a.dtype.kind != 'i' && a.dtype.kind != 'u' || len(a.shape) != 1 || a.count < 1 || a.count > features {
		return fmt.Errorf("%w: its features are an array of %s of shape %v", ErrMalformed, a.dtype, a.shape)
	}
	if im.budget -= int64(a.count); im.budget < 0 {
		return fmt.Errorf("%w: the trees up to here were grown on more features than the file has bytes for", pickle.ErrLimit)
	}
	im.features, im.subset = a.count, im.subset[:0]
	for k := range a.count {
		f := a.dtype.int(a.item(k))
		if f < 0 || f >= int64(features) {
			return fmt.Errorf("%w: it was grown on feature %d of %d", ErrMalformed, f, features)
		}
		im.subset = append(im.subset, int(f))
	}
	return nil
}

// pathLength is the average length of an unsuccessful search in a binary search tree of n keys.
func pathLength(n int64) float64 {
	switch {
	case n <= 1:
		return 0
	case n == 2:
		return 1
	}
	const euler = 0.57721566490153286060651209008240243104215933593992
	m := float64(n) - 1
	return float64(2*(libm.Log(m)+euler)) - float64(2*m)/float64(n)
}
