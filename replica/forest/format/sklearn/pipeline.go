package sklearn

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// inputs says what becomes of a row before the trees see it. Nil: nothing.
type inputs struct {
	features int      // of the row
	names    []string // of its features
	columns  []chain  // one for each feature that the trees see
	steps    []string // what was folded, for people
}

// chain makes a feature of the trees out of one value of the row, by functions that never fall and that are of float64,
// like the steps that they stand for.
type chain struct {
	source  int
	apply   []func(float64) float64
	changes bool // another number, not only NaN
	checks  bool // a step refuses infinity
}

// image is what becomes of a value.
func (c *chain) image(x float64) float64 {
	for _, f := range c.apply {
		x = f(x)
	}
	return x
}

// input is the type in which the model compares.
func (in *inputs) input() model.Input {
	if in == nil {
		return model.Float32
	}
	return model.Float64
}

// split adds a split of the trees' features: the image of a value, as float32 with single, is compared with the threshold.
func (in *inputs) split(b *model.Builder, feature int, threshold float64, single, missingLeft bool) error {
	if in == nil {
		if single {
			threshold = float64(roundDown(threshold))
		}
		return b.Split(feature, threshold, left(missingLeft))
	}
	c := &in.columns[feature]
	goesLeft := func(x float64) bool {
		v := c.image(x)
		if single {
			v = float64(float32(v))
		}
		return v <= threshold
	}
	if v := c.image(math.NaN()); !math.IsNaN(v) { // it was imputed
		missingLeft = goesLeft(math.NaN())
	}
	return b.Split(c.source, largest(goesLeft), left(missingLeft))
}

func left(missing bool) model.Flags {
	if missing {
		return model.MissingLeft
	}
	return 0
}

// largest is the largest number that goes left, -Inf when none does and +Inf when all do. What is below one that goes
// left goes left, too.
func largest(goesLeft func(x float64) bool) float64 {
	// Numbers in their order: the bits of positive ones ascend, those of negative ones descend.
	number := func(i uint64) float64 {
		if i>>63 != 0 {
			return math.Float64frombits(i &^ (1 << 63))
		}
		return math.Float64frombits(^i)
	}
	low, high := uint64(1<<52), uint64(1<<63|0x7ff<<52) // the places of -MaxFloat64 and of +Inf
	lowest, beyond := low, high
	for low < high { // all before low go left, all from high on do not
		if mid := low + (high-low)/2; goesLeft(number(mid)) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	switch low {
	case lowest:
		return math.Inf(-1)
	case beyond:
		return math.Inf(1)
	}
	return number(low - 1)
}

// roundDown is the largest float32 that is not above t.
func roundDown(t float64) float32 {
	f := float32(t)
	if float64(f) > t {
		f = math.Nextafter32(f, float32(math.Inf(-1)))
	}
	return f
}

// describe makes the model one of the rows before the steps.
func (in *inputs) describe(m *model.Model) error {
	if in == nil {
		return nil
	}
	meta := &m.Meta
	meta.Features, meta.Names = in.features, in.names
	meta.Source.Kind = "Pipeline of " + strings.Join(append(in.steps, meta.Source.Kind), ", ")
	meta.Lost = append(meta.Lost, "the steps of the pipeline, which are folded into the thresholds")
	imputed, plain, checked, unchecked := false, false, false, false
	used := make([]bool, in.features)
	for i := range in.columns {
		c := &in.columns[i]
		used[c.source] = true
		if math.IsNaN(c.image(math.NaN())) {
			plain = true
		} else {
			imputed = true
		}
		if c.checks {
			checked = true
		} else {
			unchecked = true
		}
	}
	if checked && unchecked && meta.Infinite {
		meta.Lost = append(meta.Lost, "that features which no step checks may be infinite")
	}
	meta.Infinite = meta.Infinite && !checked
	if imputed && plain && !meta.Missing {
		meta.Lost = append(meta.Lost, "the refusal of NaN in features that are not imputed")
	}
	meta.Missing = meta.Missing || imputed
	if slices.Contains(used, false) && !(meta.Missing && meta.Infinite) {
		meta.Lost = append(meta.Lost, "that features which the pipeline drops may hold anything")
	}
	return nil
}

// pipeline reads steps that make each feature of one value, before an estimator.
func (r *reader) pipeline(o *pickle.Object) (*model.Model, error) {
	steps, err := stepsOf(o, "")
	if err != nil {
		return nil, err
	}
	last := steps[len(steps)-1]
	var in *inputs
	f := newFolder(r.size)
	for _, s := range steps[:len(steps)-1] {
		if s.object == nil { // "passthrough"
			continue
		}
		if _, err := f.foldOf(s.object.Class); err != nil {
			return nil, fmt.Errorf("step %q: %w", s.name, err)
		}
		if in == nil {
			if in, err = newInputs(s.object, r.size); err != nil {
				return nil, fmt.Errorf("step %q: %w", s.name, err)
			}
		}
		if in.columns, err = f.transform(s.object, in.columns); err != nil {
			return nil, fmt.Errorf("step %q: %w", s.name, err)
		}
		in.steps = append(in.steps, s.object.Class.Name)
	}
	if last.object == nil {
		return nil, fmt.Errorf("%w: the last step, %q, is no estimator", ErrUnsupported, last.name)
	}
	m, err := r.estimator(last.object, in)
	if err != nil {
		return nil, fmt.Errorf("step %q: %w", last.name, err)
	}
	return m, nil
}

// step is one of a pipeline; its object is nil when it does nothing.
type step struct {
	name   string
	object *pickle.Object
}

// stepsOf gives the steps of a pipeline, and in the place of a pipeline in it that one's.
func stepsOf(o *pickle.Object, prefix string) ([]step, error) {
	const deep = 8
	if strings.Count(prefix, ".") > deep {
		return nil, fmt.Errorf("%w: pipelines in pipelines, more than %d", ErrUnsupported, deep)
	}
	state, _ := o.State.(*pickle.Dict)
	v, _ := state.Get("steps")
	l, ok := v.(*pickle.List)
	if !ok || len(l.Items) == 0 {
		return nil, fmt.Errorf("%w: the steps of the pipeline are %s", ErrMalformed, pickle.Describe(v))
	}
	var out []step
	for i, v := range l.Items {
		t, ok := v.(pickle.Tuple)
		if !ok || len(t) != 2 {
			return nil, fmt.Errorf("%w: step %d of the pipeline is %s", ErrMalformed, i, pickle.Describe(v))
		}
		name, ok := t[0].(string)
		if !ok {
			return nil, fmt.Errorf("%w: the name of step %d is %s", ErrMalformed, i, pickle.Describe(t[0]))
		}
		s := step{name: prefix + name}
		if s.object, ok = t[1].(*pickle.Object); !ok && t[1] != nil && t[1] != "passthrough" {
			return nil, fmt.Errorf("%w: step %q is %s", ErrUnsupported, s.name, pickle.Describe(t[1]))
		}
		if s.object == nil || s.object.Class.String() != pipelineName {
			out = append(out, s)
			continue
		}
		inner, err := stepsOf(s.object, s.name+".")
		if err != nil {
			return nil, err
		}
		if out = append(out, inner...); len(out) > maxSteps {
			return nil, fmt.Errorf("%w: a pipeline of more than %d steps", ErrUnsupported, maxSteps)
		}
	}
	return out, nil
}

// newInputs are the features of the row, as the first step of a file of size bytes knows them.
func newInputs(o *pickle.Object, size int64) (*inputs, error) {
	state, _ := o.State.(*pickle.Dict)
	var meta model.Meta
	if err := features(&meta, state); err != nil {
		return nil, err
	}
	// All steps but those that drop nearly everything keep a number a feature.
	if few := int64(1 << 12); int64(meta.Features) > max(size, few) {
		return nil, fmt.Errorf("%w: %d features in a file of %d bytes", ErrUnsupported, meta.Features, size)
	}
	in := &inputs{features: meta.Features, names: meta.Names, columns: make([]chain, meta.Features)}
	for i := range in.columns {
		in.columns[i].source = i
	}
	return in, nil
}

// folder folds steps. It counts what it does, since a small file may refer to one step many times, and to one that is
// part of itself.
type folder struct {
	steps  int
	budget int64 // functions that columns may still have
}

// maxSteps is how many steps are folded at most.
const maxSteps = 64

func newFolder(size int64) *folder { return &folder{budget: 1<<20 + 8*size} }

// charge counts the functions of columns that are about to get one more.
func (f *folder) charge(columns []chain) error {
	for i := range columns {
		f.budget -= int64(len(columns[i].apply)) + 1
	}
	if f.budget < 0 {
		return fmt.Errorf("%w: the pipeline's columns take more than the file has bytes for", pickle.ErrLimit)
	}
	return nil
}

// fold gives the columns behind a step of these attributes.
type fold func(state *pickle.Dict, columns []chain) ([]chain, error)

// foldOf finds how a step of a class is folded.
func (f *folder) foldOf(class pickle.Global) (fold, error) {
	if class.String() == "sklearn.compose._column_transformer.ColumnTransformer" {
		return f.composed, nil
	}
	if fold, ok := folds[class.String()]; ok {
		return fold, nil
	}
	return nil, fmt.Errorf("%w: a %s cannot be folded into a forest; StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, "+
		"SimpleImputer and a ColumnTransformer of them can", ErrUnsupported, class)
}

// folds are the steps that can be folded, by their class, besides ColumnTransformer.
var folds = map[string]fold{
	"sklearn.preprocessing._data.StandardScaler": linear{minus: "mean_", minusIf: "with_mean", by: "scale_", byIf: "with_std"}.fold,
	"sklearn.preprocessing._data.RobustScaler":   linear{minus: "center_", minusIf: "with_centering", by: "scale_", byIf: "with_scaling"}.fold,
	"sklearn.preprocessing._data.MaxAbsScaler":   maxAbs,
	"sklearn.preprocessing._data.MinMaxScaler":   minMax,
	"sklearn.impute._base.SimpleImputer":         imputed,
}

// transform gives the columns behind a step.
func (f *folder) transform(o *pickle.Object, columns []chain) ([]chain, error) {
	if f.steps++; f.steps > maxSteps {
		return nil, fmt.Errorf("%w: a pipeline of more than %d steps", ErrUnsupported, maxSteps)
	}
	if err := f.charge(columns); err != nil {
		return nil, err
	}
	fold, err := f.foldOf(o.Class)
	if err != nil {
		return nil, err
	}
	state, ok := o.State.(*pickle.Dict)
	if !ok {
		return nil, fmt.Errorf("%w: the state of the %s is %s", ErrMalformed, o.Class.Name, pickle.Describe(o.State))
	}
	if n, err := intOf(state, "n_features_in_"); err != nil {
		return nil, err
	} else if n != int64(len(columns)) {
		return nil, fmt.Errorf("%w: the %s takes %d features and gets %d", ErrMalformed, o.Class.Name, n, len(columns))
	}
	return fold(state, columns)
}

// linear names the attributes of a scaler that subtracts and then divides.
type linear struct{ minus, minusIf, by, byIf string }

// fold subtracts one array and divides by another, as far as the scaler does either.
func (l linear) fold(state *pickle.Dict, columns []chain) ([]chain, error) {
	get := func(key, if_ string) ([]float64, error) {
		if on, ok := state.Get(if_); key == "" || ok && on == false {
			return nil, nil
		}
		v, err := floatsOf(state, key)
		if err == nil && len(v) != len(columns) {
			err = fmt.Errorf("%w: %s has %d values for %d features", ErrMalformed, key, len(v), len(columns))
		}
		return v, err
	}
	minus, err := get(l.minus, l.minusIf)
	if err != nil {
		return nil, err
	}
	by, err := get(l.by, l.byIf)
	if err != nil {
		return nil, err
	}
	out := make([]chain, len(columns))
	for i := range columns {
		out[i] = columns[i].then()
		out[i].checks = true
		if minus != nil {
			m := minus[i]
			if m-m != 0 {
				return nil, fmt.Errorf("%w: %s of feature %d is %v", ErrMalformed, l.minus, i, m)
			}
			out[i].add(func(x float64) float64 { return x - m })
		}
		if by != nil {
			d := by[i]
			if !(d > 0) || math.IsInf(d, 0) {
				return nil, fmt.Errorf("%w: %s of feature %d is %v, expected a number above 0", ErrUnsupported, l.by, i, d)
			}
			out[i].add(func(x float64) float64 { return x / d })
		}
	}
	return out, nil
}

// then is a copy that more functions can be added to.
func (c chain) then() chain {
	c.apply = append([]func(float64) float64(nil), c.apply...)
	return c
}

// add adds a function that changes numbers.
func (c *chain) add(f func(float64) float64) {
	c.apply = append(c.apply, f)
	c.changes = true
}

// clip adds what keeps numbers within bounds.
func (c *chain) clip(low, high float64) {
	c.add(func(x float64) float64 {
		switch {
		case x < low:
			return low
		case x > high:
			return high
		}
		return x
	})
}

// maxAbs divides, and from 1.9 on may clip.
func maxAbs(state *pickle.Dict, columns []chain) ([]chain, error) {
	out, err := linear{by: "scale_"}.fold(state, columns)
	if clip, _ := state.Get("clip"); err == nil && clip == true {
		for i := range out {
			out[i].clip(-1, 1)
		}
	}
	return out, err
}

// minMax multiplies and then adds.
func minMax(state *pickle.Dict, columns []chain) ([]chain, error) {
	scale, err := floatsOf(state, "scale_")
	if err != nil {
		return nil, err
	}
	add, err := floatsOf(state, "min_")
	if err != nil {
		return nil, err
	}
	if len(scale) != len(columns) || len(add) != len(columns) {
		return nil, fmt.Errorf("%w: scale_ and min_ have %d and %d values for %d features", ErrMalformed, len(scale), len(add), len(columns))
	}
	var low, high float64
	clip, _ := state.Get("clip")
	if clip == true {
		v, _ := state.Get("feature_range")
		t, ok := v.(pickle.Tuple)
		if !ok || len(t) != 2 {
			return nil, fmt.Errorf("%w: feature_range is %s", ErrMalformed, pickle.Describe(v))
		}
		if low, err = parseFloat(t[0]); err != nil {
			return nil, err
		}
		if high, err = parseFloat(t[1]); err != nil {
			return nil, err
		}
	}
	out := make([]chain, len(columns))
	for i := range columns {
		out[i] = columns[i].then()
		out[i].checks = true
		s, a := scale[i], add[i]
		if !(s > 0) || math.IsInf(s, 0) || a-a != 0 {
			return nil, fmt.Errorf("%w: feature %d is scaled by %v and moved by %v", ErrUnsupported, i, s, a)
		}
		out[i].add(func(x float64) float64 { return float64(x*s) + a })
		if clip == true {
			out[i].clip(low, high)
		}
	}
	return out, nil
}

// imputed puts a constant where a value is NaN. A feature that was empty in training is left out.
func imputed(state *pickle.Dict, columns []chain) ([]chain, error) {
	v, _ := state.Get("missing_values")
	if x, ok := v.(float64); !ok || !math.IsNaN(x) {
		return nil, fmt.Errorf("%w: missing_values is %s; nan is read", ErrUnsupported, pickle.Describe(v))
	}
	if v, _ := state.Get("add_indicator"); v != false {
		return nil, fmt.Errorf("%w: add_indicator is %s, which makes new features", ErrUnsupported, pickle.Describe(v))
	}
	statistics, err := floatsOf(state, "statistics_")
	if err != nil {
		return nil, err
	}
	if len(statistics) != len(columns) {
		return nil, fmt.Errorf("%w: statistics_ has %d values for %d features", ErrMalformed, len(statistics), len(columns))
	}
	// "valid_statistics = statistics.astype(self._fill_dtype)": the type that the training rows had, known since 1.5.
	round := func(x float64) float64 { return x }
	if v, ok := state.Get("_fill_dtype"); ok {
		t, err := parseDType(v)
		switch {
		case err != nil:
			return nil, fmt.Errorf("_fill_dtype: %w", err)
		case t.kind == 'f' && t.size == 4:
			round = func(x float64) float64 { return float64(float32(x)) }
		case t.kind == 'i' || t.kind == 'u':
			round = math.Trunc
		case t.kind != 'O' && (t.kind != 'f' || t.size != 8):
			return nil, fmt.Errorf("%w: what is imputed is of type %s", ErrUnsupported, t)
		}
	}
	var out []chain
	for i := range columns {
		s := statistics[i]
		if s != s {
			continue
		}
		if s = round(s); math.IsInf(s, 0) {
			return nil, fmt.Errorf("%w: statistics_ of feature %d is %v", ErrMalformed, i, s)
		}
		c := columns[i].then()
		c.checks = true
		c.apply = append(c.apply, func(x float64) float64 {
			if x != x {
				return s
			}
			return x
		})
		out = append(out, c)
	}
	return out, nil
}

// composed gives the columns of a ColumnTransformer, those of its transformers one after the other.
func (f *folder) composed(state *pickle.Dict, columns []chain) ([]chain, error) {
	weights, _ := state.Get("transformer_weights")
	byName, ok := weights.(*pickle.Dict)
	if weights != nil && !ok {
		return nil, fmt.Errorf("%w: transformer_weights is %s", ErrMalformed, pickle.Describe(weights))
	}
	var meta model.Meta
	if err := features(&meta, state); err != nil {
		return nil, err
	}
	names := make(map[string]int, len(meta.Names))
	for i, name := range meta.Names {
		names[name] = i
	}
	v, _ := state.Get("transformers_")
	l, ok := v.(*pickle.List)
	if !ok {
		return nil, fmt.Errorf("%w: transformers_ is %s", ErrMalformed, pickle.Describe(v))
	}
	var out []chain
	for i, v := range l.Items {
		t, ok := v.(pickle.Tuple)
		if !ok || len(t) != 3 {
			return nil, fmt.Errorf("%w: transformer %d is %s", ErrMalformed, i, pickle.Describe(v))
		}
		name, _ := t[0].(string)
		if t[1] == "drop" {
			continue
		}
		taken, err := selected(t[2], columns, names)
		if err != nil {
			return nil, fmt.Errorf("transformer %q: %w", name, err)
		}
		// "passthrough" is kept as such, and since 1.4 as a FunctionTransformer without a function.
		o, ok := t[1].(*pickle.Object)
		if !ok && t[1] != "passthrough" {
			return nil, fmt.Errorf("transformer %q: %w: it is %s", name, ErrUnsupported, pickle.Describe(t[1]))
		}
		if ok && !identity(o) && len(taken) > 0 {
			if taken, err = f.chained(o, taken); err != nil {
				return nil, fmt.Errorf("transformer %q: %w", name, err)
			}
		}
		if err := f.charge(taken); err != nil {
			return nil, err
		}
		if v, ok := byName.Get(name); ok {
			if taken, err = weighted(v, taken); err != nil {
				return nil, fmt.Errorf("transformer %q: %w", name, err)
			}
		}
		// Columns may be taken several times; a file of some bytes must not make many of them.
		if out = append(out, taken...); len(out) > len(columns)+maxRepeated {
			return nil, fmt.Errorf("%w: the ColumnTransformer gives %d features out of %d", ErrUnsupported, len(out), len(columns))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: the ColumnTransformer gives no features", ErrUnsupported)
	}
	return out, nil
}

// weighted multiplies by a weight.
func weighted(v any, columns []chain) ([]chain, error) {
	w, err := parseFloat(v)
	if err != nil {
		return nil, err
	}
	if !(w > 0) {
		return nil, fmt.Errorf("%w: its weight is %v, expected a number above 0", ErrUnsupported, w)
	}
	out := make([]chain, len(columns))
	for i := range columns {
		out[i] = columns[i].then()
		out[i].add(func(x float64) float64 { return x * w })
	}
	return out, nil
}

// maxRepeated is how many more features a ColumnTransformer may give than it takes.
const maxRepeated = 1 << 16

// chained applies a step, or those of a pipeline.
func (f *folder) chained(o *pickle.Object, columns []chain) ([]chain, error) {
	if o.Class.String() != pipelineName {
		return f.transform(o, columns)
	}
	steps, err := stepsOf(o, "")
	if err != nil {
		return nil, err
	}
	for _, s := range steps {
		if s.object == nil {
			continue
		}
		if columns, err = f.transform(s.object, columns); err != nil {
			return nil, fmt.Errorf("step %q: %w", s.name, err)
		}
	}
	return columns, nil
}

// identity tells whether a transformer is a FunctionTransformer without a function.
func identity(o *pickle.Object) bool {
	if o.Class.String() != "sklearn.preprocessing._function_transformer.FunctionTransformer" {
		return false
	}
	state, _ := o.State.(*pickle.Dict)
	f, ok := state.Get("func")
	return ok && f == nil
}

// selected gives the columns that a transformer takes: by index, by name, by a mask or by a slice.
func selected(v any, columns []chain, names map[string]int) ([]chain, error) {
	var items []any
	switch v := v.(type) {
	case *pickle.List:
		items = v.Items
	case pickle.Tuple:
		items = v
	case string, int64:
		items = []any{v}
	case *array:
		return selectedBy(v, columns, names)
	case *pickle.Object:
		switch v.Class.String() {
		case "builtins.slice", "__builtin__.slice":
			return sliced(v.Args, columns, names)
		case "sklearn.compose._column_transformer._RemainderColsList": // 1.5 to 1.8: a list that warns its readers
			state, _ := v.State.(*pickle.Dict)
			data, _ := state.Get("data")
			l, ok := data.(*pickle.List)
			if !ok {
				return nil, fmt.Errorf("%w: the remaining columns are %s", ErrMalformed, pickle.Describe(data))
			}
			items = l.Items
		default:
			a, err := parseArray(v)
			if err != nil {
				return nil, err
			}
			return selectedBy(a, columns, names)
		}
	default:
		return nil, fmt.Errorf("%w: its columns are %s", ErrUnsupported, pickle.Describe(v))
	}
	out := make([]chain, 0, len(items))
	for i, item := range items {
		if on, ok := item.(bool); ok {
			if len(items) != len(columns) {
				return nil, fmt.Errorf("%w: a mask of %d for %d columns", ErrMalformed, len(items), len(columns))
			}
			if on {
				out = append(out, columns[i])
			}
			continue
		}
		at, err := place(item, len(columns), names)
		if err != nil {
			return nil, err
		}
		out = append(out, columns[at])
	}
	return out, nil
}

// place finds one of n columns by its index, which counts from the end when it is negative, or by its name.
func place(v any, n int, names map[string]int) (int, error) {
	at := int64(-1)
	if name, ok := v.(string); ok {
		if i, ok := names[name]; ok {
			at = int64(i)
		}
	} else {
		var err error
		if at, err = parseInt(v); err != nil {
			return 0, err
		}
		if at < 0 {
			at += int64(n)
		}
	}
	if at < 0 || at >= int64(n) {
		return 0, fmt.Errorf("%w: column %s of %d", ErrMalformed, pickle.Describe(v), n)
	}
	return int(at), nil
}

func selectedBy(a *array, columns []chain, names map[string]int) ([]chain, error) {
	if k := a.dtype.kind; k == 'U' || k == 'O' {
		wanted, _, err := texts(a)
		if err != nil {
			return nil, err
		}
		items := make([]any, len(wanted))
		for i, name := range wanted {
			items[i] = name
		}
		return selected(pickle.Tuple(items), columns, names)
	}
	out := make([]chain, 0, a.count)
	for i := range a.count {
		switch {
		case a.dtype.kind == 'b' && a.count == len(columns):
			if a.item(i)[0] != 0 {
				out = append(out, columns[i])
			}
			continue
		case a.dtype.kind == 'i' || a.dtype.kind == 'u':
			at, err := place(a.dtype.int(a.item(i)), len(columns), names)
			if err != nil {
				return nil, err
			}
			out = append(out, columns[at])
			continue
		}
		return nil, fmt.Errorf("%w: columns by an array of %d %s, of %d", ErrMalformed, a.count, a.dtype, len(columns))
	}
	return out, nil
}

// sliced gives the columns of a slice: of indices without its end, of names with it.
func sliced(args pickle.Tuple, columns []chain, names map[string]int) ([]chain, error) {
	if len(args) != 3 {
		return nil, fmt.Errorf("%w: a slice with %d arguments", ErrMalformed, len(args))
	}
	n := len(columns)
	ends := [2]int{0, n}
	for i := range ends {
		switch v := args[i].(type) {
		case nil:
		case string:
			at, err := place(v, n, names)
			if err != nil {
				return nil, err
			}
			ends[i] = at + i
		default:
			at, err := parseInt(v)
			if err != nil {
				return nil, err
			}
			if at < 0 {
				at += int64(n)
			}
			ends[i] = int(min(max(at, 0), int64(n)))
		}
	}
	step := int64(1)
	if args[2] != nil {
		var err error
		if step, err = parseInt(args[2]); err != nil {
			return nil, err
		}
	}
	if step < 1 {
		return nil, fmt.Errorf("%w: columns by a slice in steps of %d", ErrUnsupported, step)
	}
	var out []chain
	for i := int64(ends[0]); i < int64(ends[1]); i += min(step, int64(n)) {
		out = append(out, columns[i])
	}
	return out, nil
}
