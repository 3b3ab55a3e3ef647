package sklearn_test

import (
	"encoding/binary"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/format/sklearn"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// TestRefusedModels refuses models of scikit-learn's that cannot be read exactly, naming what it is about them.
func TestRefusedModels(t *testing.T) {
	says := map[string]string{
		"ada_boost":                "an object of sklearn.ensemble._weight_boosting.AdaBoostClassifier; Coppice reads RandomForest",
		"gb_init_linear":           "init is an object of sklearn.linear_model._base.LinearRegression",
		"gb_init_stratified":       `a DummyClassifier of strategy "stratified"`,
		"grid_search":              "an object of sklearn.model_selection._search.GridSearchCV; save its best_estimator_",
		"hist_categories_halves":   "feature 1: unsupported model: it has the category 0.5",
		"hist_categories_negative": "feature 1: unsupported model: it has the category -2",
		"hist_categories_scaled":   `step "histgradientboostingclassifier": unsupported model: the categories of feature 1 are scaled`,
		"pipeline_function":        `step "functiontransformer": unsupported model: a sklearn.preprocessing._function_transformer.FunctionTransformer cannot`,
		"pipeline_indicator":       `step "simpleimputer": unsupported model: add_indicator`,
		"pipeline_one_hot":         `step "columntransformer": transformer "hot": unsupported model: a sklearn.preprocessing._encoders.OneHotEncoder cannot`,
		"pipeline_pca":             `step "pca": unsupported model: a sklearn.decomposition._pca.PCA cannot be folded`,
	}
	for _, path := range glob(t, "testdata/refused/*/*.model") {
		name := strings.TrimSuffix(filepath.Base(path), ".model")
		t.Run(filepath.Base(filepath.Dir(path))+"/"+name, func(t *testing.T) {
			if says[name] == "" {
				t.Fatal("no reason is known")
			}
			refused(t, readFile(t, path), sklearn.ErrUnsupported, says[name])
		})
	}
}

// numbers is an array of float64.
func numbers(v ...float64) object {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
	}
	return arrayOf(scalarType("<f8"), b, len(v))
}

// with is an object with one attribute of another value, or without it.
func (o object) with(key string, value any) object {
	state := slices.Clone(o.state.(dict))
	i := slices.IndexFunc(state, func(p pair) bool { return p.key == key })
	switch {
	case i < 0:
		state = append(state, pair{key, value})
	case value == absent:
		state = slices.Delete(state, i, i+1)
	default:
		state[i].value = value
	}
	o.state = state
	return o
}

const absent = global("an.attribute.that.is.not.there")

func standard() object {
	return object{"sklearn.preprocessing._data.StandardScaler", tuple{}, dict{
		{"n_features_in_", 3}, {"with_mean", true}, {"with_std", true}, {"mean_", numbers(1, 2, 3)}, {"scale_", numbers(4, 5, 6)},
	}}
}

func minMax() object {
	return object{"sklearn.preprocessing._data.MinMaxScaler", tuple{}, dict{
		{"n_features_in_", 3}, {"feature_range", tuple{0, 1}}, {"clip", false}, {"scale_", numbers(1, 2, 3)}, {"min_", numbers(0, 1, 2)},
	}}
}

func imputer() object {
	return object{"sklearn.impute._base.SimpleImputer", tuple{}, dict{
		{"n_features_in_", 3}, {"missing_values", math.NaN()}, {"add_indicator", false}, {"statistics_", numbers(1, 2, 3)},
	}}
}

// columns is a ColumnTransformer that passes columns on.
func columns(taken any) object {
	return object{"sklearn.compose._column_transformer.ColumnTransformer", tuple{}, dict{
		{"n_features_in_", 3}, {"transformer_weights", nil}, {"transformers_", list{tuple{"t", "passthrough", taken}}},
	}}
}

// pipeline is the pickle of a pipeline of steps and the sound classifier.
func pipeline(steps ...any) []byte {
	f := classifier()
	est := object{f.class, tuple{}, f.state()}
	l := list{}
	for i, s := range steps {
		l = append(l, tuple{string(rune('a' + i)), s})
	}
	l = append(l, tuple{"model", est})
	return pickled(object{"sklearn.pipeline.Pipeline", tuple{}, dict{{"steps", l}}})
}

// TestPipelineIsSound proves that what the next tests change is read as it is.
func TestPipelineIsSound(t *testing.T) {
	m, err := sklearn.Import(pipeline(standard(), minMax(), imputer(), columns(list{2, 1, 0})))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	if want := "Pipeline of StandardScaler, MinMaxScaler, SimpleImputer, ColumnTransformer, RandomForestClassifier"; m.Meta.Source.Kind != want {
		t.Errorf("it is a %s, want %s", m.Meta.Source.Kind, want)
	}
	if m.Forest.Input != model.Float64 || !m.Meta.Missing || m.Meta.Infinite {
		t.Errorf("input %s, takes NaN %v and infinities %v", m.Forest.Input, m.Meta.Missing, m.Meta.Infinite)
	}
	// The trees compare their features 2 and 0, which are the row's 0 and 2; NaN is imputed by 1 and 3, above 0.1 and -7.
	for i, want := range []int{0, 2} {
		if s := m.Forest.Splits[i]; s.Feature() != want || s.Has(model.MissingLeft) {
			t.Errorf("split %d: feature %d, NaN left %v; want feature %d, right", i, s.Feature(), s.Has(model.MissingLeft), want)
		}
	}
	// (x-1)/4 is to be at most 0.1, as float32; (x-3)/6*3+2 at most -7.
	image := []func(x float64) float64{
		func(x float64) float64 { return float64(float32((x - 1) / 4)) },
		func(x float64) float64 { return float64(float32(float64((x-3)/6*3) + 2)) },
	}
	for i, bound := range []float64{0.1, -7} {
		x := m.Forest.Threshold(m.Forest.Splits[i])
		if next := math.Nextafter(x, math.Inf(1)); image[i](x) > bound || image[i](next) <= bound {
			t.Errorf("split %d: %v becomes %v and %v becomes %v; the bound is %v", i, x, image[i](x), next, image[i](next), bound)
		}
	}
}

// TestColumns selects columns in every way in which scikit-learn saves it.
func TestColumns(t *testing.T) {
	named := columns(nil).with("feature_names_in_", object{
		"numpy.core.multiarray._reconstruct",
		tuple{global("numpy.ndarray"), tuple{0}, []byte("b")},
		tuple{1, tuple{3}, scalarType("|O8"), false, list{"x", "y", "z"}},
	})
	taking := func(c any) object { return named.with("transformers_", list{tuple{"t", "passthrough", c}}) }
	identity := object{"sklearn.preprocessing._function_transformer.FunctionTransformer", tuple{}, dict{{"func", nil}}}
	for name, step := range map[string]object{
		"indices":          columns(list{0, 1, 2}),
		"from the end":     columns(tuple{0, -2, -1}),
		"an array":         columns(ints(0, 1, 2)),
		"a mask":           columns(list{true, true, true}),
		"an array's mask":  columns(arrayOf(scalarType("|b1"), []byte{1, 1, 1}, 3)),
		"a slice":          columns(object{"builtins.slice", tuple{nil, nil, nil}, nil}),
		"Python 2":         columns(object{"__builtin__.slice", tuple{0, 3, 1}, nil}),
		"names":            taking(list{"x", "y", "z"}),
		"a slice of names": taking(object{"builtins.slice", tuple{"x", "z", nil}, nil}),
		"the rest in 1.5":  columns(object{"sklearn.compose._column_transformer._RemainderColsList", tuple{}, dict{{"data", list{0, 1, 2}}, {"future_dtype", "str"}}}),
		"one after the other": columns(nil).with("transformers_", list{
			tuple{"a", "passthrough", 0}, tuple{"b", "drop", list{1}}, tuple{"c", identity, object{"builtins.slice", tuple{1, -1, nil}, nil}}, tuple{"d", "passthrough", list{-1}},
		}),
	} {
		t.Run(name, func(t *testing.T) {
			m, err := sklearn.Import(pipeline(step))
			if err != nil {
				t.Fatal(err)
			}
			if a, b := m.Forest.Splits[0].Feature(), m.Forest.Splits[1].Feature(); a != 2 || b != 0 {
				t.Errorf("features %d and %d, want 2 and 0", a, b)
			}
		})
	}
}

// TestPipelineRefusals changes one thing of a sound pipeline at a time.
func TestPipelineRefusals(t *testing.T) {
	malformed, unsupported := sklearn.ErrMalformed, sklearn.ErrUnsupported
	wide := func(n int) object { return columns(list{0}).with("n_features_in_", n) }
	itself := selfish(func(me again) object {
		return columns(list{0, 1, 2}).with("transformers_", list{tuple{"t", me, list{0, 1, 2}}})
	})
	inItself := selfish(func(me again) object {
		return object{"sklearn.pipeline.Pipeline", tuple{}, dict{{"steps", list{tuple{"again", me}}}}}
	})
	for name, c := range map[string]struct {
		step any
		is   error
		says string
	}{
		"another class":       {object{"sklearn.decomposition._pca.PCA", tuple{}, dict{}}, unsupported, `step "a": unsupported model: a sklearn.decomposition._pca.PCA cannot be folded`},
		"a class of others":   {object{"mine.Scaler", tuple{}, dict{}}, sklearn.ErrForbidden, "mine.Scaler"},
		"a text":              {"scaler", unsupported, `step "a" is "scaler"`},
		"not fitted":          {standard().with("n_features_in_", absent), malformed, "there is no attribute n_features_in_"},
		"features of another": {imputer().with("n_features_in_", 4), malformed, "statistics_ has 3 values for 4 features"},
		"a mean too few":      {standard().with("mean_", numbers(1, 2)), malformed, "mean_ has 2 values for 3 features"},
		"a mean of NaN":       {standard().with("mean_", numbers(1, 2, math.NaN())), malformed, "mean_ of feature 2 is NaN"},
		"a scale of 0":        {standard().with("scale_", numbers(1, 0, 1)), unsupported, "scale_ of feature 1 is 0"},
		"a negative scale":    {minMax().with("scale_", numbers(1, 1, -1)), unsupported, "feature 2 is scaled by -1"},
		"an infinite scale":   {standard().with("scale_", numbers(math.Inf(1), 1, 1)), unsupported, "scale_ of feature 0 is +Inf"},
		"a scale of text":     {standard().with("scale_", arrayOf(scalarType("<U1"), make([]byte, 12), 3)), malformed, "scale_ is an array of <U1"},
		"a range of text":     {minMax().with("clip", true).with("feature_range", "01"), malformed, `feature_range is "01"`},
		"zeros are missing":   {imputer().with("missing_values", 0), unsupported, "missing_values is the integer 0"},
		"None is missing":     {imputer().with("missing_values", nil), unsupported, "missing_values is None"},
		"an indicator":        {imputer().with("add_indicator", true), unsupported, "add_indicator"},
		"imputed by infinity": {imputer().with("statistics_", numbers(1, math.Inf(1), 1)), malformed, "statistics_ of feature 1 is +Inf"},
		"imputed by text":     {imputer().with("_fill_dtype", scalarType("<U3")), unsupported, "what is imputed is of type <U3"},
		"a column beyond":     {columns(list{0, 1, 3}), malformed, `transformer "t": malformed scikit-learn forest: column the integer 3 of 3`},
		"a column before":     {columns(list{-4}), malformed, "column the integer -4 of 3"},
		"an unknown name":     {columns(list{"x"}), malformed, `column "x" of 3`},
		"a short mask":        {columns(list{true}), malformed, "a mask of 1 for 3 columns"},
		"columns by a float":  {columns(1.5), unsupported, "its columns are"},
		"a slice backwards":   {columns(object{"builtins.slice", tuple{nil, nil, -1}, nil}), unsupported, "a slice in steps of -1"},
		"no columns":          {columns(list{}), unsupported, "gives no features"},
		"a negative weight":   {columns(list{0, 1, 2}).with("transformer_weights", dict{{"t", -1.0}}), unsupported, `transformer "t": unsupported model: its weight is -1`},
		"a part of itself":    {itself, unsupported, "a pipeline of more than 64 steps"},
		"a step of itself":    {inItself, unsupported, "pipelines in pipelines"},
		"2^24 features":       {wide(1 << 24), unsupported, "16777216 features in a file of"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, pipeline(c.step), c.is, c.says) })
	}
	// Each step gives every column one more function, and the file has two bytes for that.
	often := list{}
	for range 60 {
		often = append(often, tuple{"t", "passthrough", object{"builtins.slice", tuple{nil, nil, nil}, nil}})
	}
	refused(t, pipeline(columns(nil).with("n_features_in_", 4000).with("transformers_", often)), unsupported, "gives")
}

// TestSharedArrays refuses small files whose references would multiply to much.
func TestSharedArrays(t *testing.T) {
	const n = 2000
	text := arrayOf(scalarType("<U"+"5000"), make([]byte, 20000), 1)
	f := classifier()
	classes := list{remembered{text}}
	for range n {
		classes = append(classes, again(0))
	}
	f.classes = classes
	// An array of zeros is an empty label; with a letter at its end it is long.
	data := bytesOfLabel(5000)
	classes[0] = remembered{arrayOf(scalarType("<U5000"), data, 1)}
	refused(t, f.file(), pickle.ErrLimit, "the names of the classes take more than the file has bytes for")
}

// bytesOfLabel is an item of numpy's text of n letters.
func bytesOfLabel(n int) []byte {
	b := make([]byte, 4*n)
	for i := range n {
		b[4*i] = 'a'
	}
	return b
}

// TestTie refuses a tree alone whose choice cannot be told from its probabilities: these counts differ, and their
// fractions do not.
func TestTie(t *testing.T) {
	const low, third = 1.9, 1.7
	high := math.Nextafter(low, 9)
	file := func(counts ...float64) []byte {
		f := classifier()
		f.class, f.version, f.nClasses, f.classes = "sklearn.tree._classes.DecisionTreeClassifier", "1.2.2", 3, ints(0, 1, 2)
		tree := f.trees[1]
		tree.width, tree.classes = 3, ints(3)
		tree.nodes[0].value = counts
		f.extra = dict{{"tree_", tree.object()}, {"criterion", "gini"}, {"splitter", "best"}}
		return f.file()
	}
	if _, err := sklearn.Import(file(high, low, third)); err != nil {
		t.Error(err)
	}
	refused(t, file(low, high, third), sklearn.ErrUnsupported, "of its classes, 1 has the largest weight and 0 the largest probability")
}
