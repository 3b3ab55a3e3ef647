package sklearn

import (
	"fmt"
	"math"
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
	source int
	apply  []func(float64) float64
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
	m.Meta.Features, m.Meta.Names = in.features, in.names
	m.Meta.Source.Kind = "Pipeline of " + strings.Join(append(in.steps, m.Meta.Source.Kind), ", ")
	m.Meta.Infinite = false // scalers and imputers refuse it
	for i := range in.columns {
		if !math.IsNaN(in.columns[i].image(math.NaN())) {
			m.Meta.Missing = true
		}
	}
	m.Meta.Lost = append(m.Meta.Lost, "the steps of the pipeline, which are folded into the thresholds")
	return nil
}

// pipeline reads steps that make each feature of one value, before an estimator.
func (r *reader) pipeline(o *pickle.Object) (*model.Model, error) {
	steps, err := stepsOf(o)
	if err != nil {
		return nil, err
	}
	last := steps[len(steps)-1]
	var in *inputs
	for _, s := range steps[:len(steps)-1] {
		if s.object == nil { // "passthrough"
			continue
		}
		if in == nil {
			if in, err = newInputs(s.object); err != nil {
				return nil, fmt.Errorf("step %q: %w", s.name, err)
			}
		}
		if in.columns, err = transform(s.object, in.columns, in.names); err != nil {
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

func stepsOf(o *pickle.Object) ([]step, error) {
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
		s := step{}
		if s.name, ok = t[0].(string); !ok {
			return nil, fmt.Errorf("%w: the name of step %d is %s", ErrMalformed, i, pickle.Describe(t[0]))
		}
		if s.object, ok = t[1].(*pickle.Object); !ok && t[1] != nil && t[1] != "passthrough" {
			return nil, fmt.Errorf("%w: step %q is %s", ErrUnsupported, s.name, pickle.Describe(t[1]))
		}
		out = append(out, s)
	}
	return out, nil
}

// newInputs are the features of the row, as the first step knows them.
func newInputs(o *pickle.Object) (*inputs, error) {
	state, _ := o.State.(*pickle.Dict)
	var meta model.Meta
	if err := features(&meta, state); err != nil {
		return nil, err
	}
	in := &inputs{features: meta.Features, names: meta.Names, columns: make([]chain, meta.Features)}
	for i := range in.columns {
		in.columns[i].source = i
	}
	return in, nil
}

// transform gives the columns behind a step.
func transform(o *pickle.Object, columns []chain, names []string) ([]chain, error) {
	state, ok := o.State.(*pickle.Dict)
	if !ok {
		return nil, fmt.Errorf("%w: the state of the %s is %s", ErrMalformed, o.Class.Name, pickle.Describe(o.State))
	}
	if n, err := intOf(state, "n_features_in_"); err != nil {
		return nil, err
	} else if n != int64(len(columns)) {
		return nil, fmt.Errorf("%w: the %s takes %d features and gets %d", ErrMalformed, o.Class.Name, n, len(columns))
	}
	switch o.Class.String() {
	case "sklearn.preprocessing._data.StandardScaler":
		return scaled(state, columns, linear{minus: "mean_", minusIf: "with_mean", by: "scale_", byIf: "with_std"})
	case "sklearn.preprocessing._data.RobustScaler":
		return scaled(state, columns, linear{minus: "center_", minusIf: "with_centering", by: "scale_", byIf: "with_scaling"})
	case "sklearn.preprocessing._data.MaxAbsScaler":
		return scaled(state, columns, linear{by: "scale_"})
	case "sklearn.preprocessing._data.MinMaxScaler":
		return minMax(state, columns)
	case "sklearn.impute._base.SimpleImputer":
		return imputed(state, columns)
	case "sklearn.compose._column_transformer.ColumnTransformer":
		return composed(state, columns, names)
	}
	return nil, fmt.Errorf("%w: a %s cannot be folded into a forest; scalers, SimpleImputer and ColumnTransformer of them can", ErrUnsupported, o.Class)
}

// linear names the attributes of a scaler that subtracts and then divides.
type linear struct{ minus, minusIf, by, byIf string }

// scaled subtracts one array and divides by another, as far as the scaler does either.
func scaled(state *pickle.Dict, columns []chain, l linear) ([]chain, error) {
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
		if minus != nil {
			m := minus[i]
			if m-m != 0 {
				return nil, fmt.Errorf("%w: %s of feature %d is %v", ErrMalformed, l.minus, i, m)
			}
			out[i].apply = append(out[i].apply, func(x float64) float64 { return x - m })
		}
		if by != nil {
			d := by[i]
			if !(d > 0) || math.IsInf(d, 0) {
				return nil, fmt.Errorf("%w: %s of feature %d is %v, expected a number above 0", ErrUnsupported, l.by, i, d)
			}
			out[i].apply = append(out[i].apply, func(x float64) float64 { return x / d })
		}
	}
	return out, nil
}

// then is a copy that more functions can be added to.
func (c chain) then() chain {
	c.apply = append([]func(float64) float64(nil), c.apply...)
	return c
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
		s, a := scale[i], add[i]
		if !(s > 0) || math.IsInf(s, 0) || a-a != 0 {
			return nil, fmt.Errorf("%w: feature %d is scaled by %v and moved by %v", ErrUnsupported, i, s, a)
		}
		out[i].apply = append(out[i].apply, func(x float64) float64 { return float64(x*s) + a })
		if clip == true {
			out[i].apply = append(out[i].apply, func(x float64) float64 {
				switch {
				case x < low:
					return low
				case x > high:
					return high
				}
				return x
			})
		}
	}
	return out, nil
}

// imputed puts a constant where a value is NaN.
func imputed(state *pickle.Dict, columns []chain) ([]chain, error) {
	if v, _ := state.Get("missing_values"); v != nil {
		if x, ok := v.(float64); !ok || !math.IsNaN(x) {
			return nil, fmt.Errorf("%w: missing_values is %s; nan is read", ErrUnsupported, pickle.Describe(v))
		}
	}
	if v, _ := state.Get("add_indicator"); v == true {
		return nil, fmt.Errorf("%w: add_indicator makes new features", ErrUnsupported)
	}
	statistics, err := floatsOf(state, "statistics_")
	if err != nil {
		return nil, err
	}
	if len(statistics) != len(columns) {
		return nil, fmt.Errorf("%w: statistics_ has %d values for %d features", ErrMalformed, len(statistics), len(columns))
	}
	out := make([]chain, len(columns))
	for i := range columns {
		s := statistics[i]
		if s-s != 0 {
			return nil, fmt.Errorf("%w: feature %d was empty in training, and the imputer drops it", ErrUnsupported, i)
		}
		out[i] = columns[i].then()
		out[i].apply = append(out[i].apply, func(x float64) float64 {
			if x != x {
				return s
			}
			return x
		})
	}
	return out, nil
}

// composed gives the columns of a ColumnTransformer, those of its transformers one after the other.
func composed(state *pickle.Dict, columns []chain, names []string) ([]chain, error) {
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
			if taken, err = chained(o, taken, names); err != nil {
				return nil, fmt.Errorf("transformer %q: %w", name, err)
			}
		}
		out = append(out, taken...)
	}
	if len(out) == 0 || len(out) > model.MaxFeatures {
		return nil, fmt.Errorf("%w: the ColumnTransformer gives %d features", ErrUnsupported, len(out))
	}
	return out, nil
}

// chained applies a step, or those of a pipeline.
func chained(o *pickle.Object, columns []chain, names []string) ([]chain, error) {
	if o.Class.String() != pipelineName {
		return transform(o, columns, names)
	}
	steps, err := stepsOf(o)
	if err != nil {
		return nil, err
	}
	for _, s := range steps {
		if s.object == nil {
			continue
		}
		if columns, err = transform(s.object, columns, names); err != nil {
			return nil, fmt.Errorf("step %q: %w", s.name, err)
		}
	}
	return columns, nil
}

// identity tells whether a transformer is a FunctionTransformer without a function.
func identity(o *pickle.Object) bool {
	if o.Class.Name != "FunctionTransformer" {
		return false
	}
	state, ok := o.State.(*pickle.Dict)
	f, _ := state.Get("func")
	return ok && f == nil
}

// selected gives the columns that a transformer takes: by index, by name, by a mask or by a slice.
func selected(v any, columns []chain, names []string) ([]chain, error) {
	var items []any
	switch v := v.(type) {
	case *pickle.List:
		items = v.Items
	case pickle.Tuple:
		items = v
	case string, int64:
		items = []any{v}
	case *pickle.Object:
		if v.Class.String() == "builtins.slice" && len(v.Args) == 3 {
			return sliced(v.Args, columns)
		}
		a, err := parseArray(v)
		if err != nil {
			return nil, err
		}
		return selectedBy(a, columns)
	case *array:
		return selectedBy(v, columns)
	default:
		return nil, fmt.Errorf("%w: its columns are %s", ErrUnsupported, pickle.Describe(v))
	}
	var out []chain
	for i, item := range items {
		at := -1
		switch item := item.(type) {
		case bool:
			if len(items) != len(columns) {
				return nil, fmt.Errorf("%w: a mask of %d for %d columns", ErrMalformed, len(items), len(columns))
			}
			if item {
				out = append(out, columns[i])
			}
			continue
		case string:
			for k, name := range names {
				if name == item {
					at = k
				}
			}
		default:
			n, err := parseInt(item)
			if err != nil {
				return nil, err
			}
			if n < 0 {
				n += int64(len(columns))
			}
			if n >= 0 && n < int64(len(columns)) {
				at = int(n)
			}
		}
		if at < 0 || at >= len(columns) {
			return nil, fmt.Errorf("%w: column %s of %d", ErrMalformed, pickle.Describe(item), len(columns))
		}
		out = append(out, columns[at])
	}
	return out, nil
}

func selectedBy(a *array, columns []chain) ([]chain, error) {
	var out []chain
	for i := range a.count {
		switch {
		case a.dtype.kind == 'b' && a.count == len(columns):
			if a.item(i)[0] != 0 {
				out = append(out, columns[i])
			}
			continue
		case a.dtype.kind == 'i' || a.dtype.kind == 'u':
			if n := a.dtype.int(a.item(i)); n >= 0 && n < int64(len(columns)) {
				out = append(out, columns[n])
				continue
			}
		}
		return nil, fmt.Errorf("%w: columns by an array of %d %s, of %d", ErrMalformed, a.count, a.dtype, len(columns))
	}
	return out, nil
}

func sliced(args pickle.Tuple, columns []chain) ([]chain, error) {
	ends := [2]int64{0, int64(len(columns))}
	for i := range ends {
		if args[i] == nil {
			continue
		}
		n, err := parseInt(args[i])
		if err != nil {
			return nil, err
		}
		if n < 0 {
			n += int64(len(columns))
		}
		ends[i] = min(max(n, 0), int64(len(columns)))
	}
	if args[2] != nil && args[2] != int64(1) || ends[0] > ends[1] {
		return nil, fmt.Errorf("%w: columns by a slice of %d to %d in steps of %s", ErrUnsupported, ends[0], ends[1], pickle.Describe(args[2]))
	}
	return columns[ends[0]:ends[1]], nil
}
