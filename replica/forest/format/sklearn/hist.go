package sklearn

import (
	"fmt"
	"math"
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// hist reads HistGradientBoosting: its predictors' nodes compare float64, or ask for a set of categories.
func (r *reader) hist(e *estimator) error {
	n, err := intOf(e.state, "n_trees_per_iteration_")
	if err != nil {
		return err
	}
	outputs := 1
	if k := len(e.m.Meta.Classes); k > 2 {
		outputs = k
	}
	if n != int64(outputs) {
		return fmt.Errorf("%w: %d trees an iteration, for %d outputs", ErrMalformed, n, outputs)
	}
	if err := e.histLink(outputs); err != nil {
		return err
	}
	v, _ := e.state.Get("_predictors")
	rounds, ok := v.(*pickle.List)
	if !ok || len(rounds.Items) < 1 || len(rounds.Items)*outputs > model.MaxTrees {
		return fmt.Errorf("%w: _predictors is %s", ErrMalformed, pickle.Describe(v))
	}
	im := &histImporter{estimator: e, budget: 4 * r.size}
	if err := im.readCategories(); err != nil {
		return err
	}
	im.b = model.NewBuilder(model.Shape{Outputs: outputs, Width: 1, Input: model.Float64, Categories: im.how})
	for i, v := range rounds.Items {
		trees, ok := v.(*pickle.List)
		if !ok || len(trees.Items) != outputs {
			return fmt.Errorf("%w: round %d is %s, expected %d trees", ErrMalformed, i, pickle.Describe(v), outputs)
		}
		for k, v := range trees.Items {
			if err := im.b.Output(k); err != nil {
				return err
			}
			if err := im.tree(v); err != nil {
				return fmt.Errorf("tree %d: %w", i*outputs+k, err)
			}
		}
	}
	if e.m.Forest, err = im.b.Forest(); err != nil {
		return err
	}
	if e.m.Forest.SetStarts == nil {
		e.m.Forest.Categories = ""
	}
	e.m.Forest.Round = outputs
	e.m.Forest.Base, err = histBases(e.state, outputs)
	e.m.Meta.Missing, e.m.Meta.Infinite = true, true
	return err
}

// histLink chooses the link by the loss.
func (e *estimator) histLink(outputs int) error {
	meta := &e.m.Meta
	loss, _ := e.state.Get("loss")
	if e.classifier() {
		if e.minor >= 4 {
			meta.ByMargin = model.Positive
		}
		if outputs == 1 {
			meta.Link = model.Link{Name: model.Sigmoid, Scale: 1}
		} else {
			meta.Link.Name = model.SoftmaxNumPy
		}
		switch loss {
		case "log_loss", "binary_crossentropy", "categorical_crossentropy", "auto":
			return nil
		}
	} else {
		switch loss {
		case "squared_error", "absolute_error", "quantile":
			return nil
		case "poisson", "gamma":
			meta.Link.Name = model.ExpNumPy
			return nil
		}
	}
	return fmt.Errorf("%w: the loss %s is not known, so neither is what its scores are", ErrUnsupported, pickle.Describe(loss))
}

func histBases(state *pickle.Dict, outputs int) ([]float64, error) {
	v, _ := state.Get("_baseline_prediction")
	var base []float64
	if x, err := parseFloat(v); err == nil {
		base = []float64{x}
	} else if base, err = floatsOf(state, "_baseline_prediction"); err != nil {
		return nil, err
	}
	if len(base) == 1 && outputs > 1 {
		for len(base) < outputs {
			base = append(base, base[0])
		}
	}
	if len(base) != outputs {
		return nil, fmt.Errorf("%w: the baseline has %d values for %d outputs", ErrMalformed, len(base), outputs)
	}
	return base, nil
}

// histImporter turns predictors into the canonical form, one after the other.
type histImporter struct {
	*estimator
	b      *model.Builder
	how    model.Categories
	budget int64

	// original has, for each feature that the trees know, the row's. Nil: the same.
	original []int
	// categories are those of the features that have some, by the feature that the trees know.
	categories map[int]*categories
	// sets counts the words of all sets.
	sets int64

	visited []bool
	stack   []int
}

// maxCodes is how many codes of categories there can be.
const maxCodes = 256

// categories are those of a feature.
type categories struct {
	values []float64 // by their codes
	known  [maxCodes]bool
}

// readCategories works out what the trees' features are. Since 1.4 an encoder comes first, which puts categorical
// features before the others and gives their categories codes; before, a category is its own code.
func (im *histImporter) readCategories() error {
	n := im.m.Meta.Features
	im.how = model.Floor
	v, _ := im.state.Get("is_categorical_")
	if v == nil {
		return nil
	}
	a, err := parseArray(v)
	if err != nil {
		return fmt.Errorf("is_categorical_: %w", err)
	}
	if a.count != n || a.dtype.size != 1 {
		return fmt.Errorf("%w: is_categorical_ has %d entries of %s for %d features", ErrMalformed, a.count, a.dtype, n)
	}
	var categorical, numerical []int
	for i := range n {
		if a.item(i)[0] != 0 {
			categorical = append(categorical, i)
		} else {
			numerical = append(numerical, i)
		}
	}
	if len(categorical) == 0 {
		return nil
	}
	// Each has arrays of its own, which take more.
	if int64(len(categorical)) > im.size/64 {
		return fmt.Errorf("%w: %d features have categories, in a file of %d bytes", pickle.ErrLimit, len(categorical), im.size)
	}
	im.categories = map[int]*categories{}
	for _, f := range categorical {
		if im.in != nil && im.in.columns[f].changes {
			return fmt.Errorf("%w: the categories of %s are scaled by steps of the pipeline", ErrUnsupported, im.feature(f))
		}
	}
	if im.minor < 4 {
		im.m.Meta.Lost = append(im.m.Meta.Lost, "that categories from 256 on are taken modulo 256")
	} else if im.minor >= 9 {
		im.m.Meta.Lost = append(im.m.Meta.Lost, "the refusal of infinite categories")
	}
	prep, _ := im.state.Get("_preprocessor")
	if prep == nil {
		values := make([]float64, maxCodes)
		for code := range values {
			values[code] = float64(code)
		}
		for _, f := range categorical {
			im.categories[f] = &categories{values: values}
		}
		return im.readKnown(categorical)
	}
	im.how = model.Whole
	im.original = slices.Concat(categorical, numerical)
	lists, err := encoderCategories(prep)
	if err != nil {
		return err
	}
	if len(lists) != len(categorical) {
		return fmt.Errorf("%w: the encoder has %d lists of categories for %d features", ErrMalformed, len(lists), len(categorical))
	}
	at := make([]int, len(categorical))
	for i, list := range lists {
		at[i] = i
		values, err := categoryValues(list)
		if err != nil {
			return fmt.Errorf("%s: %w", im.feature(categorical[i]), err)
		}
		im.categories[i] = &categories{values: values}
	}
	return im.readKnown(at)
}

// feature calls a feature by its number, and by its name if it has one.
func (im *histImporter) feature(f int) string {
	if im.m.Meta.Names == nil {
		return fmt.Sprintf("feature %d", f)
	}
	return fmt.Sprintf("feature %d, %q", f, im.m.Meta.Names[f])
}

// readKnown reads which codes training knew, for the features at these places of the trees' features.
func (im *histImporter) readKnown(at []int) error {
	v, _ := im.state.Get("_bin_mapper")
	o, ok := v.(*pickle.Object)
	if !ok {
		return fmt.Errorf("%w: _bin_mapper is %s", ErrMalformed, pickle.Describe(v))
	}
	state, _ := o.State.(*pickle.Dict)
	v, _ = state.Get("bin_thresholds_")
	l, ok := v.(*pickle.List)
	if !ok || len(l.Items) != im.m.Meta.Features {
		return fmt.Errorf("%w: bin_thresholds_ is %s", ErrMalformed, pickle.Describe(v))
	}
	for _, f := range at {
		a, err := parseArray(l.Items[f])
		if err != nil {
			return fmt.Errorf("bin_thresholds_: %w", err)
		}
		codes, err := floats(a, "bin_thresholds_")
		if err != nil {
			return err
		}
		for _, c := range codes {
			if !(c >= 0 && c < maxCodes) {
				return fmt.Errorf("%w: bin_thresholds_ has category %v, expected 0 to 255", ErrMalformed, c)
			}
			im.categories[f].known[int(c)] = true
		}
	}
	return nil
}

// encoderCategories finds the categories of the encoder in the preprocessor, a ColumnTransformer.
func encoderCategories(prep any) ([]any, error) {
	o, ok := prep.(*pickle.Object)
	if !ok {
		return nil, fmt.Errorf("%w: _preprocessor is %s", ErrMalformed, pickle.Describe(prep))
	}
	state, _ := o.State.(*pickle.Dict)
	v, _ := state.Get("transformers_")
	l, ok := v.(*pickle.List)
	if !ok || len(l.Items) == 0 {
		return nil, fmt.Errorf("%w: the preprocessor's transformers_ are %s", ErrMalformed, pickle.Describe(v))
	}
	first, ok := l.Items[0].(pickle.Tuple)
	if !ok || len(first) < 2 {
		return nil, fmt.Errorf("%w: the preprocessor's encoder is %s", ErrMalformed, pickle.Describe(l.Items[0]))
	}
	encoder, ok := first[1].(*pickle.Object)
	if !ok || encoder.Class.Name != "OrdinalEncoder" {
		return nil, fmt.Errorf("%w: the preprocessor's encoder is %s", ErrUnsupported, pickle.Describe(first[1]))
	}
	state, _ = encoder.State.(*pickle.Dict)
	v, _ = state.Get("categories_")
	lists, ok := v.(*pickle.List)
	if !ok {
		return nil, fmt.Errorf("%w: the encoder's categories_ are %s", ErrMalformed, pickle.Describe(v))
	}
	return lists.Items, nil
}

// categoryValues reads categories, of which NaN may be the last. Those that are no whole numbers cannot stand in a row
// as such.
func categoryValues(v any) ([]float64, error) {
	a, err := parseArray(v)
	if err != nil {
		return nil, err
	}
	if a.count > maxCodes+1 {
		return nil, fmt.Errorf("%w: it has %d categories, at most %d have a code", ErrMalformed, a.count, maxCodes)
	}
	var out []float64
	for i := range a.count {
		var c float64
		switch a.dtype.kind {
		case 'i', 'u':
			c = float64(a.dtype.int(a.item(i)))
		case 'f':
			c = a.dtype.float(a.item(i))
		default:
			return nil, fmt.Errorf("%w: its categories are of type %s; numbers are read", ErrUnsupported, a.dtype)
		}
		if c != c && i == a.count-1 {
			break
		}
		if !(c >= 0 && c < model.MaxCategory) || c != math.Trunc(c) {
			return nil, fmt.Errorf("%w: it has the category %v; whole numbers from 0 to %d are read", ErrUnsupported, c, model.MaxCategory-1)
		}
		out = append(out, c)
	}
	return out, nil
}

// histNodes are the fields of a predictor's nodes.
type histNodes struct {
	n                                                            int
	value, threshold                                             column
	feature, left, right, missingLeft, leaf, categorical, bitset column
	count                                                        column // without data when the file has none
	sets                                                         *array
}

func (im *histImporter) read(v any) (*histNodes, error) {
	o, ok := v.(*pickle.Object)
	if !ok || o.Class.Name != "TreePredictor" {
		return nil, fmt.Errorf("%w: it is %s", ErrMalformed, pickle.Describe(v))
	}
	state, _ := o.State.(*pickle.Dict)
	nodes, err := arrayOf(state, "nodes")
	if err != nil {
		return nil, err
	}
	if len(nodes.shape) != 1 || nodes.count < 1 {
		return nil, fmt.Errorf("%w: nodes of shape %v", ErrMalformed, nodes.shape)
	}
	if im.budget -= int64(len(nodes.data)); im.budget < 0 {
		return nil, fmt.Errorf("%w: the trees up to here hold more nodes than the file has bytes for", pickle.ErrLimit)
	}
	h := &histNodes{n: nodes.count}
	for _, f := range []struct {
		name string
		into *column
		kind string
	}{
		{"value", &h.value, "f"},
		{"num_threshold", &h.threshold, "f"},
		{"feature_idx", &h.feature, "iu"},
		{"left", &h.left, "iu"},
		{"right", &h.right, "iu"},
		{"missing_go_to_left", &h.missingLeft, "iub"},
		{"is_leaf", &h.leaf, "iub"},
		{"is_categorical", &h.categorical, "iub"},
		{"bitset_idx", &h.bitset, "iu"},
	} {
		var err error
		if *f.into, err = columnOf(nodes, f.name, f.kind); err != nil {
			return nil, err
		}
	}
	if _, ok := nodes.dtype.fields["count"]; ok {
		if h.count, err = columnOf(nodes, "count", "iu"); err != nil {
			return nil, err
		}
	}
	if h.sets, err = arrayOf(state, "raw_left_cat_bitsets"); err != nil {
		return nil, err
	}
	if h.sets.count > 0 && (len(h.sets.shape) != 2 || h.sets.shape[1] != 8 || h.sets.dtype.kind != 'u' || h.sets.dtype.size != 4) {
		return nil, fmt.Errorf("%w: raw_left_cat_bitsets of shape %v and type %s", ErrMalformed, h.sets.shape, h.sets.dtype)
	}
	return h, nil
}

// tree gives the nodes to the builder in preorder.
func (im *histImporter) tree(v any) error {
	h, err := im.read(v)
	if err != nil {
		return err
	}
	im.visited = append(im.visited[:0], make([]bool, h.n)...)
	im.stack = append(im.stack[:0], 0)
	for len(im.stack) > 0 {
		id := im.stack[len(im.stack)-1]
		im.stack = im.stack[:len(im.stack)-1]
		if im.visited[id] {
			return fmt.Errorf("%w: node %d is the child of two nodes, or of its own descendant", ErrMalformed, id)
		}
		im.visited[id] = true
		if h.leaf.int(id) != 0 {
			value := h.value.float(id)
			if value-value != 0 {
				return fmt.Errorf("node %d: %w: its value is %v", id, ErrMalformed, value)
			}
			if err := im.b.Leaf(value); err != nil {
				return fmt.Errorf("node %d: %w", id, err)
			}
			im.b.LeafID(uint32(id))
			im.addCover(h, id)
			continue
		}
		left, right := h.left.int(id), h.right.int(id)
		if left < 0 || right < 0 || left >= int64(h.n) || right >= int64(h.n) {
			return fmt.Errorf("node %d: %w: its children are the nodes %d and %d of %d", id, ErrMalformed, left, right, h.n)
		}
		im.stack = append(im.stack, int(right), int(left))
		if err := im.addSplit(h, id); err != nil {
			return fmt.Errorf("node %d: %w", id, err)
		}
		im.addCover(h, id)
	}
	return nil
}

// addCover adds the cover of the node that was added last.
func (im *histImporter) addCover(h *histNodes, id int) {
	if h.count.data != nil {
		im.b.Cover(float64(h.count.int(id)))
	}
}

func (im *histImporter) addSplit(h *histNodes, id int) error {
	feature := h.feature.int(id)
	if n := im.m.Meta.Features; feature < 0 || feature >= int64(n) {
		return fmt.Errorf("%w: it compares feature %d of %d", ErrMalformed, feature, n)
	}
	source := int(feature)
	if im.original != nil {
		source = im.original[feature]
	}
	missingLeft := h.missingLeft.int(id) != 0
	if h.categorical.int(id) == 0 {
		threshold := h.threshold.float(id)
		if math.IsNaN(threshold) {
			return fmt.Errorf("%w: its threshold is NaN", ErrMalformed)
		}
		return im.in.split(im.b, source, threshold, false, missingLeft)
	}
	c := im.categories[int(feature)]
	if c == nil {
		return fmt.Errorf("%w: it asks for categories of %s, which is a number", ErrMalformed, im.feature(source))
	}
	set := h.bitset.int(id)
	if set < 0 || set >= int64(h.sets.count/8) {
		return fmt.Errorf("%w: it has the set of categories %d of %d", ErrMalformed, set, h.sets.count/8)
	}
	inLeft := func(code int) bool {
		return code < maxCodes && h.sets.dtype.uint(h.sets.item(int(set)*8+code/32))>>(code%32)&1 != 0
	}
	return im.addSet(source, c, inLeft, missingLeft)
}

// addSet adds a split that sends the categories of the set left, the others that training knew right, and what it did not
// know where missing values go. So the set that is kept has those which go to the other side.
func (im *histImporter) addSet(source int, c *categories, inLeft func(code int) bool, missingLeft bool) error {
	var flags, missing model.Flags
	if missingLeft {
		flags, missing = model.SetRight, model.MissingLeft
	}
	filled := math.NaN()
	if im.in != nil {
		column := &im.in.columns[source]
		source, filled = column.source, im.category(column.image(filled))
	}
	var words []uint32
	for code, value := range c.values {
		if inLeft(code) == missingLeft || (missingLeft && !(code < maxCodes && c.known[code])) {
			continue
		}
		v := int(value)
		if short := v/32 + 1 - len(words); short > 0 {
			words = append(words, make([]uint32, short)...)
		}
		words[v/32] |= 1 << (v % 32)
		if value == filled { // NaN is imputed by a category that goes to the other side
			missing ^= model.MissingLeft
		}
	}
	if im.sets += int64(len(words)); im.sets > maxSetWords+4*im.size {
		return fmt.Errorf("%w: the sets of categories take more than %d bytes; smaller numbers of categories take less", pickle.ErrLimit, 4*im.sets)
	}
	return im.b.SplitSet(source, words, flags|missing)
}

// maxSetWords is how many words sets may have besides those that a file's size explains.
const maxSetWords = 16 << 20

// category is the category that a number stands for.
func (im *histImporter) category(x float64) float64 {
	if im.how == model.Floor {
		return math.Floor(x)
	}
	return x
}

// columnOf gives a field of all nodes.
func columnOf(nodes *array, name, kinds string) (column, error) {
	f, ok := nodes.dtype.fields[name]
	if !ok {
		return column{}, fmt.Errorf("%w: nodes of type %s have no field %q", ErrMalformed, nodes.dtype, name)
	}
	for _, k := range []byte(kinds) {
		if f.dtype.kind == k && (k != 'f' || f.dtype.size >= 4) {
			return column{dtype: f.dtype, data: nodes.data[f.offset:], stride: nodes.dtype.size}, nil
		}
	}
	return column{}, fmt.Errorf("%w: field %q of the nodes has the type %s", ErrUnsupported, name, f.dtype)
}
