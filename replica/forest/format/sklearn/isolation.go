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
	subsets, err := subsetsOf(e.state, len(trees), e.m.Meta.Features)
	if err != nil {
		return err
	}
	lengths, err := lengthsOf(e.state, len(trees))
	if err != nil {
		return err
	}
	im := r.importer(e, trees)
	for i, t := range trees {
		im.value = func(l leaf) (float64, error) { return float64(l.path) + pathLength(l.samples) - 1, nil }
		if lengths != nil {
			im.value = func(l leaf) (float64, error) {
				if l.id >= len(lengths[i]) {
					return 0, fmt.Errorf("%w: there are average path lengths of %d nodes", ErrMalformed, len(lengths[i]))
				}
				return float64(l.path) + lengths[i][l.id] - 1, nil
			}
		}
		im.features = e.m.Meta.Features
		if subsets != nil {
			im.subset, im.features = subsets[i], len(subsets[i])
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

// lengthsOf gives pathLength of each tree's nodes, as NumPy worked it out at training: since 1.3 it is kept. Its logarithm
// depends on NumPy's version and on the processor.
func lengthsOf(state *pickle.Dict, trees int) ([][]float64, error) {
	const key = "_average_path_length_per_tree"
	v, ok := state.Get(key)
	if !ok {
		return nil, nil
	}
	t, ok := v.(pickle.Tuple)
	if !ok || len(t) != trees {
		return nil, fmt.Errorf("%w: %s is %s, for %d trees", ErrMalformed, key, pickle.Describe(v), trees)
	}
	out := make([][]float64, trees)
	for i, v := range t {
		a, err := parseArray(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		if a.dtype.kind != 'f' {
			return nil, fmt.Errorf("%w: %s of tree %d is an array of %s", ErrMalformed, key, i, a.dtype)
		}
		if out[i], err = floats(a, key); err != nil {
			return nil, err
		}
		for _, x := range out[i] {
			if x-x != 0 {
				return nil, fmt.Errorf("%w: %s of tree %d has %v", ErrMalformed, key, i, x)
			}
		}
	}
	return out, nil
}

// subsetsOf gives the features that each tree was grown on, nil when all saw all in their order.
func subsetsOf(state *pickle.Dict, trees, features int) ([][]int, error) {
	v, ok := state.Get("estimators_features_")
	l, isList := v.(*pickle.List)
	if !ok || !isList {
		return nil, nil
	}
	if len(l.Items) != trees {
		return nil, fmt.Errorf("%w: estimators_features_ has %d entries for %d trees", ErrMalformed, len(l.Items), trees)
	}
	out := make([][]int, trees)
	for i, v := range l.Items {
		a, err := parseArray(v)
		if err != nil {
			return nil, fmt.Errorf("estimators_features_: %w", err)
		}
		if a.dtype.kind != 'i' && a.dtype.kind != 'u' || len(a.shape) != 1 || a.count < 1 || a.count > features {
			return nil, fmt.Errorf("%w: the features of tree %d are an array of %s of shape %v", ErrMalformed, i, a.dtype, a.shape)
		}
		for k := range a.count {
			f := a.dtype.int(a.item(k))
			if f < 0 || f >= int64(features) {
				return nil, fmt.Errorf("%w: tree %d was grown on feature %d of %d", ErrMalformed, i, f, features)
			}
			out[i] = append(out[i], int(f))
		}
	}
	return out, nil
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
