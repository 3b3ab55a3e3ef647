package sklearn_test

import (
	"bytes"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/format/sklearn"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// TestBadFiles refuses each file of testdata/bad for the right reason.
func TestBadFiles(t *testing.T) {
	type reason struct {
		is   error
		says string
	}
	malformed, unsupported, forbidden := pickle.ErrMalformed, sklearn.ErrUnsupported, sklearn.ErrForbidden
	reasons := []struct {
		files string // a pattern
		reason
	}{
		{"cut_forest_gzip_*", reason{malformed, "the file ends inside"}},
		{"cut_forest_lz4_3.*", reason{malformed, "begins with 04 22 4d"}},
		{"cut_forest_lz4_2*", reason{malformed, "the file ends inside the lz4 stream"}},
		{"cut_forest_[0-9]*.pkl", reason{malformed, ""}},
		{"cut_forest_[0-9]*.joblib", reason{malformed, ""}},
		{"cut_forest_zlib_*", reason{malformed, "the file ends inside"}},
		{"empty.*", reason{malformed, "the file is empty"}},
		{"garbage.*", reason{malformed, "neither a pickle nor"}},
		{"corrupt_zlib.*", reason{malformed, ""}},
		{"binbytes8.pkl", reason{malformed, "BINBYTES8 claims 1099511627776 bytes, 2 are left"}},
		{"frame_size.pkl", reason{malformed, "FRAME: claims 1125899906842624 bytes, 2 are left"}},
		{"joblib_shape_2to40.*", reason{malformed, "shape [1099511627776] and type <V64 claims 70368744177664 bytes"}},
		{"joblib_shape_2to62.*", reason{sklearn.ErrMalformed, "shape [4611686018427387904]"}},
		{"knn.pkl", reason{unsupported, "an object of sklearn.neighbors._classification.KNeighborsClassifier; Coppice reads RandomForest"}},
		{"logistic_regression.*", reason{unsupported, "an object of sklearn.linear_model._logistic.LogisticRegression"}},
		{"pickle_builtins_eval.*", reason{forbidden, "builtins.eval"}},
		{"pickle_codecs_decode.*", reason{forbidden, "_codecs.decode"}},
		{"pickle_getattr.*", reason{forbidden, "builtins.getattr"}},
		{"pickle_importlib.*", reason{forbidden, "importlib.import_module"}},
		{"pickle_os_system*", reason{forbidden, "os.system"}},
		{"pickle_posix_system*", reason{forbidden, "posix.system"}},
		{"pickle_real_forest_with_eval.*", reason{forbidden, "builtins.eval"}},
		{"pickle_shutil_rmtree.*", reason{forbidden, "shutil.rmtree"}},
		{"pickle_subprocess_check_output.*", reason{forbidden, "subprocess.check_output"}},
		{"pickle_stack_underflow.*", reason{malformed, "REDUCE: the stack is empty"}},
		{"pickle_unknown_opcode.*", reason{malformed, "no instruction 0xff"}},
		{"sklearn_cycle.*", reason{sklearn.ErrMalformed, "tree 0: malformed scikit-learn forest: node 0 is the child of two nodes"}},
		{"sklearn_feature_too_big.*", reason{sklearn.ErrMalformed, "tree 0: node 0: malformed scikit-learn forest: it compares feature 1000 of 4"}},
		{"sklearn_left_out_of_range.*", reason{sklearn.ErrMalformed, "its left child is node 9999 of 13"}},
		{"sklearn_threshold_nan.*", reason{sklearn.ErrMalformed, "its threshold is NaN"}},
	}
	for _, path := range glob(t, "testdata/bad/*") {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			data := readFile(t, path)
			for _, r := range reasons {
				if ok, _ := filepath.Match(r.files, name); ok {
					refused(t, data, r.is, r.says)
					return
				}
			}
			t.Errorf("no reason is known for %s", name)
		})
	}
}

// refused checks why bytes are refused.
func refused(t *testing.T, data []byte, is error, says string) {
	t.Helper()
	_, err := sklearn.Import(data)
	switch {
	case err == nil:
		t.Error("it was read")
	case !errors.Is(err, is):
		t.Errorf("refused with %q, which is not %q", err, is)
	case !strings.Contains(err.Error(), says):
		t.Errorf("refused with %q, which does not say %q", err, says)
	}
}

// TestClassifierIsSound proves that what the next tests change is read as it is.
func TestClassifierIsSound(t *testing.T) {
	f := classifier()
	m, err := sklearn.Import(f.file())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	want := []model.Split{
		// 0.1 lies above the float32 that is nearest to it, or below: the threshold must not be above it.
		{Value: math.Float32bits(math.Nextafter32(0.1, 0)), Bits: 2 | uint32(model.MissingLeft), Right: 2},
		{Value: math.Float32bits(-7), Bits: 0, Right: 2},
	}
	if !slices.Equal(m.Forest.Splits, want) {
		t.Errorf("splits are %v, want %v", m.Forest.Splits, want)
	}
	if !m.Meta.Missing || m.Forest.NumTrees() != 2 || m.Forest.LeafIDs != nil {
		t.Errorf("read %+v with %d trees", m.Meta, m.Forest.NumTrees())
	}
}

// TestNodeTypes reads nodes by the names of their fields, whatever their order, width and byte order.
func TestNodeTypes(t *testing.T) {
	want, err := sklearn.Import(classifier().file())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		fields []testField
		size   int
	}{
		"int32":      {[]testField{{"left_child", "<i4", 0}, {"right_child", "<i4", 4}, {"feature", "<i4", 8}, {"threshold", "<f8", 16}, {"missing_go_to_left", "<u1", 12}}, 24},
		"big endian": {[]testField{{"left_child", ">i8", 0}, {"right_child", ">i8", 8}, {"feature", ">i8", 16}, {"threshold", ">f8", 24}, {"missing_go_to_left", "<u1", 56}}, 64},
		"packed, in another order, with one more": {[]testField{
			{"category", "<u2", 33}, {"missing_go_to_left", "<i1", 0}, {"threshold", "<f8", 1}, {"feature", "<i8", 9}, {"right_child", "<i8", 17}, {"left_child", "<i8", 25},
		}, 35},
	} {
		t.Run(name, func(t *testing.T) {
			f := classifier()
			for _, tree := range f.trees {
				tree.fields, tree.size = c.fields, c.size
			}
			got, err := sklearn.Import(f.file())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Forest.Splits, want.Forest.Splits) || !slices.Equal(got.Forest.Values, want.Forest.Values) {
				t.Errorf("read %v %v, want %v %v", got.Forest.Splits, got.Forest.Values, want.Forest.Splits, want.Forest.Values)
			}
		})
	}
}

// TestJoblibArrays reads arrays behind joblib's wrapper: unaligned as before joblib 1.2, aligned, and of
// objects, which are a pickle of their own.
func TestJoblibArrays(t *testing.T) {
	labels := []byte("a\x00\x00\x00b\x00\x00\x00")
	wrapper := func(typ any, shape tuple, more ...pair) object {
		state := dict{{"subclass", global("numpy.ndarray")}, {"shape", shape}, {"order", "C"}, {"dtype", typ}, {"allow_mmap", true}}
		return object{"joblib.numpy_pickle.NumpyArrayWrapper", tuple{}, append(state, more...)}
	}
	objects := object{
		"numpy._core.multiarray._reconstruct",
		tuple{global("numpy.ndarray"), tuple{0}, []byte("b")},
		tuple{1, tuple{2}, scalarType("|O8"), false, list{"a", object{"numpy._core.multiarray.scalar", tuple{scalarType(">U2"), []byte("\x00\x00\x00b\x00\x00\x00\x00")}, nil}}},
	}
	aligned := pair{"numpy_array_alignment_bytes", 16}
	for name, v := range map[string]any{
		"unaligned": followed{wrapper(scalarType("<U1"), tuple{2}), labels},
		"aligned":   followed{wrapper(scalarType("<U1"), tuple{2}, aligned), append([]byte("\x03\xff\xff\xff"), labels...)},
		"objects":   followed{wrapper(scalarType("|O8"), tuple{2}, aligned), pickled(objects)},
	} {
		f := classifier()
		f.classes = v
		m, err := sklearn.Import(f.file())
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !slices.Equal(m.Meta.Classes, []string{"a", "b"}) {
			t.Errorf("%s: classes %q", name, m.Meta.Classes)
		}
	}
	for says, v := range map[string]any{
		"an array of class the name numpy.dtype":    followed{object{"joblib.numpy_pickle.NumpyArrayWrapper", tuple{}, dict{{"subclass", global("numpy.dtype")}}}, nil},
		"the state of a joblib array is a tuple":    followed{object{"joblib.numpy_pickle.NumpyArrayWrapper", tuple{}, tuple{}}, nil},
		"expected a dtype, got None":                followed{wrapper(nil, tuple{2}), nil},
		"the shape of an array is None":             followed{wrapper(scalarType("<U1"), tuple{}, pair{"shape", nil}), nil},
		"an array of shape [1 1] in order \"A\"":    followed{wrapper(scalarType("<i8"), tuple{1, 1}, pair{"order", "A"}), make([]byte, 8)},
		"an array of shape [9223372036854775807]":   followed{wrapper(scalarType("<i8"), tuple{math.MaxInt64}), nil},
		"an array of shape [1152921504606846975]":   followed{wrapper(scalarType("<i8"), tuple{math.MaxInt64 / 8}), nil},
		"expected an array, got an object of numpy": followed{wrapper(scalarType("|O8"), tuple{1}), pickled(scalarType("<i8"))},
	} {
		f := classifier()
		f.classes = v
		refusedAs(t, f.file(), says)
	}
}

// TestNumpyNumbers reads numpy's integers where Python's are usual.
func TestNumpyNumbers(t *testing.T) {
	f := classifier()
	f.features = object{"numpy.core.multiarray.scalar", tuple{scalarType("<i8"), []byte("\x03\x00\x00\x00\x00\x00\x00\x00")}, nil}
	f.outputs = object{"numpy._core.multiarray.scalar", tuple{scalarType(">u2"), []byte("\x00\x01")}, nil}
	m, err := sklearn.Import(f.file())
	if err != nil || m.Meta.Features != 3 {
		t.Errorf("%v", err)
	}
	for says, v := range map[string]any{
		"expected an integer, got an object of numpy._core.multiarray.scalar": object{"numpy._core.multiarray.scalar", tuple{scalarType("<f8"), make([]byte, 8)}, nil},
		"a numpy scalar of type <i8 is bytes":                                 object{"numpy._core.multiarray.scalar", tuple{scalarType("<i8"), make([]byte, 4)}, nil},
		"a numpy scalar with 1 arguments":                                     object{"numpy._core.multiarray.scalar", tuple{scalarType("<i8")}, nil},
		"expected a number, got an object of numpy.dtype":                     scalarType("<i8"),
		"expected a dtype, got None":                                          object{"numpy._core.multiarray.scalar", tuple{nil, make([]byte, 4)}, nil},
		`dtype "i3"`:                                                          object{"numpy._core.multiarray.scalar", tuple{scalarType("<i3"), make([]byte, 3)}, nil},
		`dtype "i99999999999999999"`:                                          object{"numpy._core.multiarray.scalar", tuple{scalarType("<i99999999999999999"), make([]byte, 3)}, nil},
		`in byte order "?"`:                                                   object{"numpy._core.multiarray.scalar", tuple{scalarType("?i8"), make([]byte, 8)}, nil},
		`dtype "i8" has no state`:                                             object{"numpy._core.multiarray.scalar", tuple{object{"numpy.dtype", tuple{"i8", false, true}, nil}, make([]byte, 8)}, nil},
		"a dtype by the name of None":                                         object{"numpy._core.multiarray.scalar", tuple{object{"numpy.dtype", tuple{nil}, nil}, make([]byte, 8)}, nil},
	} {
		f := classifier()
		f.features = v
		refusedAs(t, f.file(), says)
	}
}

// refusedAs checks only what a refusal says.
func refusedAs(t *testing.T, data []byte, says string) {
	t.Helper()
	if _, err := sklearn.Import(data); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, which does not say %q", err, says)
	}
}

// TestMissing checks for which forests NaN is a value.
func TestMissing(t *testing.T) {
	for _, c := range []struct {
		version, criterion string
		monotonic          any
		want               bool
	}{
		{"1.1.3", "gini", nil, false},
		{"1.3.2", "gini", nil, false},
		{"1.4.0", "gini", nil, true},
		{"1.8.0", "absolute_error", nil, false},
		{"1.8.0", "entropy", list{1, 0, 0}, false},
		{"1.9.0", "absolute_error", nil, true},
		{"1.9.1", "gini", list{1, 0, 0}, true},
	} {
		f := classifier()
		f.version, f.criteria = c.version, c.criterion
		est := f.estimator(f.trees[0].object())
		est.state.(dict)[2].value = c.monotonic
		f.estimators = list{est}
		m, err := sklearn.Import(f.file())
		if err != nil {
			t.Errorf("%+v: %v", c, err)
		} else if m.Meta.Missing != c.want {
			t.Errorf("%+v: takes NaN: %v", c, m.Meta.Missing)
		}
	}
}

// TestCounts checks that leaves hold counts up to 1.3, fractions from 1.4.1 on, and either in between.
func TestCounts(t *testing.T) {
	leaf := func(version string, values ...float64) *testForest {
		f := classifier()
		f.version = version
		f.trees = f.trees[1:]
		f.trees[0].nodes[0].value = values
		return f
	}
	for _, c := range []struct {
		version     string
		value, want []float64
	}{
		{"1.3.2", []float64{3, 7}, []float64{0.3, 0.7}},
		{"1.3.2", []float64{0.3, 0.6}, []float64{0.3 / 0.8999999999999999, 0.6 / 0.8999999999999999}},
		{"1.4.0", []float64{3, 7}, []float64{0.3, 0.7}},
		{"1.4.0", []float64{0.3, 0.7000000000000001}, []float64{0.3, 0.7000000000000001}},
		{"1.4.1", []float64{0.3, 0.7000000000000001}, []float64{0.3, 0.7000000000000001}},
	} {
		m, err := sklearn.Import(leaf(c.version, c.value...).file())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(m.Forest.Values, c.want) {
			t.Errorf("%s: the leaf %v is read as %v, want %v", c.version, c.value, m.Forest.Values, c.want)
		}
	}
	refused(t, leaf("1.4.1", 3, 7).file(), sklearn.ErrMalformed, "the fractions of its classes add up to 10")
	// "normalizer[normalizer == 0.0] = 1.0" - scikit-learn's predict_proba up to 1.3.
	m, err := sklearn.Import(leaf("1.3.2", 0, 0).file())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.Forest.Values, []float64{0, 0}) {
		t.Errorf("a leaf without samples is %v", m.Forest.Values)
	}
}

// TestRefusals changes one thing of a sound forest at a time.
func TestRefusals(t *testing.T) {
	malformed, unsupported := sklearn.ErrMalformed, sklearn.ErrUnsupported
	node := func(f *testForest, i int) *testNode { return &f.trees[0].nodes[i] }
	for _, c := range []struct {
		name   string
		change func(f *testForest)
		is     error
		says   string
	}{
		{"old version", func(f *testForest) { f.version = "0.24.2" }, unsupported, `scikit-learn "0.24.2"; versions 1.1 to 1.9`},
		{"new version", func(f *testForest) { f.version = "1.10.0" }, unsupported, `"1.10.0"`},
		{"a version that is no text", func(f *testForest) { f.version = "1.6.\xb1" }, pickle.ErrMalformed, "text of 5 bytes is not UTF-8"},
		{"no version", func(f *testForest) { f.version = nil }, unsupported, "None"},
		{"no features", func(f *testForest) { f.features = 0 }, malformed, "0 features"},
		{"too many features", func(f *testForest) { f.features = 1 << 40 }, malformed, "1099511627776 features"},
		{"features as text", func(f *testForest) { f.features = "3" }, malformed, `n_features_in_: malformed scikit-learn forest: expected an integer, got "3"`},
		{"no trees", func(f *testForest) { f.estimators = list{} }, malformed, "0 trees"},
		{"trees as a dict", func(f *testForest) { f.estimators = dict{} }, malformed, "estimators_: malformed scikit-learn forest: expected an array, got a dict"},
		{"a tree as text", func(f *testForest) { f.estimators = list{"tree"} }, malformed, `tree 0: malformed scikit-learn forest: it is "tree"`},
		{"a tree without a tree", func(f *testForest) {
			f.estimators = list{object{"sklearn.tree._classes.DecisionTreeClassifier", tuple{}, dict{}}}
		}, malformed, "tree 0: malformed scikit-learn forest: it has no attribute tree_"},
		{"more classes than labels", func(f *testForest) { f.nClasses = 3 }, malformed, "n_classes_ is 3, there are 2 labels"},
		{"2^40 classes", func(f *testForest) { f.nClasses = 1 << 40 }, malformed, "n_classes_ is 1099511627776"},
		{"classes of nothing", func(f *testForest) { f.classes = arrayOf(scalarType("<U0"), nil, 1<<40) }, unsupported, `dtype "U0"`},
		{"classes of half floats", func(f *testForest) { f.classes = arrayOf(scalarType("<f2"), make([]byte, 4), 2) }, unsupported, "labels of type <f2"},
		{"classes of bytes", func(f *testForest) { f.classes = arrayOf(scalarType("|S2"), make([]byte, 4), 2) }, unsupported, "type <S2"},
		{"classes in two dimensions", func(f *testForest) { f.classes = arrayOf(scalarType("<i8"), make([]byte, 16), 2, 1) }, malformed, "2 dimensions"},
		{"classes of objects", func(f *testForest) { f.classes = arrayOf(scalarType("|O8"), nil, 2) }, malformed, "the data of an array of <O8 are bytes"},
		{"a label that is no character", func(f *testForest) { f.classes = arrayOf(scalarType("<U1"), bytes.Repeat([]byte{0xff}, 8), 2) }, unsupported, "code point 0xffffffff"},
		{"names of another number", func(f *testForest) { f.names = arrayOf(scalarType("<U1"), []byte("a\x00\x00\x00"), 1) }, malformed, "1 feature names for 3 features"},
		{"names that are numbers", func(f *testForest) { f.names = ints(1, 2, 3) }, unsupported, "feature names of type <i8"},
		{"an array of a subclass", func(f *testForest) {
			a := ints(0, 1)
			a.args = tuple{global("numpy.dtype")}
			f.classes = a
		}, unsupported, "an array of class the name numpy.dtype"},
		{"an array shorter than its shape", func(f *testForest) { f.classes = arrayOf(scalarType("<i8"), make([]byte, 8), 2) }, malformed, "shape [2] and type <i8 has 8 bytes"},
		{"an array with a negative side", func(f *testForest) { f.classes = arrayOf(scalarType("<i8"), nil, -1) }, malformed, "a side of -1"},
		{"an array with 2^64 items", func(f *testForest) { f.classes = arrayOf(scalarType("<i8"), nil, 1<<32, 1<<32) }, malformed, "an array of shape [4294967296 4294967296]"},
		{"an array of many dimensions", func(f *testForest) { f.classes = arrayOf(scalarType("<i8"), nil, 1, 1, 1, 1, 1, 1, 1, 1, 1) }, malformed, "9 dimensions"},

		{"a tree of other features", func(f *testForest) { f.trees[1].features = 4 }, malformed, "tree 1: malformed scikit-learn forest: n_features is 4, the forest has 3"},
		{"a tree of other outputs", func(f *testForest) { f.trees[1].outputs = 2 }, malformed, "n_outputs is 2"},
		{"a tree of other classes", func(f *testForest) { f.trees[1].classes = ints(3) }, malformed, "n_classes of the tree and of the forest, which has [2]"},
		{"a tree with a wrong count", func(f *testForest) { f.trees[0].count = 6 }, malformed, "node_count is 6 and nodes has the shape [5]"},
		{"a tree without nodes", func(f *testForest) { f.trees[0].nodes = nil }, malformed, "node_count is 0"},
		{"values of another shape", func(f *testForest) { f.trees[0].shape = []int{5, 2, 1} }, malformed, "values has the shape [5 2 1], expected [5 1 2]"},
		{"values of another type", func(f *testForest) { f.trees[0].valueTyp = "<i8" }, unsupported, "values of type <i8"},
		{"nodes without thresholds", func(f *testForest) { f.trees[0].fields = fields[:3] }, malformed, `no field "threshold"`},
		{"nodes without fields", func(f *testForest) {
			f.trees[0].nodeTyp = scalarType("<f8")
			f.trees[0].size = 8
			f.trees[0].fields = nil
		}, malformed, `no field "left_child"`},
		{"a field beyond the node", func(f *testForest) { f.trees[0].size = 56; f.trees[0].nodes = nil }, malformed, `field "missing_go_to_left" at byte 56 of an item of 56`},
		{"a child that is a float", func(f *testForest) {
			f.trees[0].fields = append(slices.Clone(fields[1:]), testField{"left_child", "<f8", 0})
		}, unsupported, `field "left_child" of the nodes has the type <f8`},

		{"a child beyond the tree", func(f *testForest) { node(f, 1).right = 5 }, malformed, "tree 0: node 1: malformed scikit-learn forest: its right child is node 5 of 5"},
		{"a negative child", func(f *testForest) { node(f, 0).left = -3 }, malformed, "its left child is node -3 of 5"},
		{"one child", func(f *testForest) { node(f, 0).right = -1 }, malformed, "its right child is node -1 of 5"},
		{"a cycle", func(f *testForest) { node(f, 1).left = 0 }, malformed, "tree 0: malformed scikit-learn forest: node 0 is the child of two nodes"},
		{"a shared child", func(f *testForest) { node(f, 1).left = 4 }, malformed, "node 4 is the child of two nodes"},
		{"a node that nothing reaches", func(f *testForest) { *node(f, 1) = *node(f, 2) }, malformed, "node 2 is the child of no node"},
		{"a feature beyond the row", func(f *testForest) { node(f, 1).feature = 3 }, malformed, "it compares feature 3 of 3"},
		{"a negative feature", func(f *testForest) { node(f, 1).feature = -1 }, malformed, "it compares feature -1 of 3"},
		{"a threshold of NaN", func(f *testForest) { node(f, 0).threshold = math.NaN() }, malformed, "tree 0: node 0: malformed scikit-learn forest: its threshold is NaN"},
		{"a value of NaN", func(f *testForest) { node(f, 3).value[1] = math.NaN() }, malformed, "tree 0: node 3: malformed scikit-learn forest: value 1 of the leaf is NaN"},
		{"an infinite value", func(f *testForest) { node(f, 4).value[0] = math.Inf(-1) }, malformed, "value 0 of the leaf is -Inf"},
		{"bytes after the end", func(f *testForest) { f.trailing = []byte("more") }, pickle.ErrMalformed, "4 bytes follow the end of the pickle"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := classifier()
			c.change(f)
			refused(t, f.file(), c.is, c.says)
		})
	}
}

// TestRefusesOtherValues refuses sound pickles that hold no forest.
func TestRefusesOtherValues(t *testing.T) {
	for _, c := range []struct {
		value any
		says  string
	}{
		{dict{{"model", 1}}, "the file holds a dict and no model"},
		{list{}, "the file holds a list and no model"},
		{nil, "the file holds None and no model"},
		{ints(1), "the file holds an object of numpy.core.multiarray._reconstruct"},
		{global("sklearn.ensemble._forest.RandomForestClassifier"), "the file holds the name sklearn.ensemble._forest.RandomForestClassifier and no model"},
		{object{"sklearn.tree._classes.DecisionTreeRegressor", tuple{}, dict{}}, "does not say which version"},
		{object{"sklearn.ensemble._forest.RandomForestRegressor", tuple{}, dict{{"_sklearn_version", "1.9.1"}}}, "saved before it was fitted"},
	} {
		refused(t, pickled(c.value), sklearn.ErrUnsupported, c.says)
	}
	for _, name := range []global{"joblib.numpy_pickle.NDArrayWrapper", "joblib.numpy_pickle_compat.ZNDArrayWrapper"} {
		refused(t, pickled(object{name, tuple{}, dict{}}), sklearn.ErrUnsupported, string(name)+", an array of joblib before 0.10, is not read")
	}
	refused(t, pickled(object{"xgboost.sklearn.XGBClassifier", tuple{}, dict{}}), sklearn.ErrForbidden, "xgboost.sklearn.XGBClassifier")
}

// TestDeepTree refuses a chain of splits without recursing over it.
func TestDeepTree(t *testing.T) {
	const depth = 100_000
	f := classifier()
	nodes := make([]testNode, 0, 2*depth+1)
	for i := range depth {
		nodes = append(nodes, testNode{left: 2*i + 1, right: 2*i + 2}, testNode{left: -1, right: -1, value: []float64{1, 0}})
	}
	nodes = append(nodes, testNode{left: -1, right: -1, value: []float64{1, 0}})
	f.trees[0].nodes = nodes
	refused(t, f.file(), model.ErrInvalid, "deeper than 4096")
}

// TestSharedTree refuses a small file that refers to one large tree very often, and reads one that does it
// now and then.
func TestSharedTree(t *testing.T) {
	file := func(times int) []byte {
		f := classifier()
		first := f.estimator(remembered{f.trees[0].object()})
		l := list{first}
		for range times {
			l = append(l, f.estimator(again(0)))
		}
		f.estimators = l
		return f.file()
	}
	m, err := sklearn.Import(file(2))
	if err != nil || m.Forest.NumTrees() != 3 {
		t.Errorf("a tree that is listed three times: %v", err)
	}

	f := classifier()
	nodes := []testNode{}
	for range 1000 {
		nodes = append(nodes, testNode{left: len(nodes) + 1, right: len(nodes) + 2}, testNode{left: -1, right: -1, value: []float64{1, 0}})
	}
	nodes = append(nodes, testNode{left: -1, right: -1, value: []float64{1, 0}})
	f.trees[0].nodes = nodes
	est := f.estimator(f.trees[0].object())
	l := list{remembered{est}}
	for range 20_000 {
		l = append(l, again(0))
	}
	f.estimators = l
	refused(t, f.file(), pickle.ErrLimit, "hold more nodes than the file has bytes for")
}

// FuzzImport feeds Import files that were damaged. Whatever it accepts must be valid.
func FuzzImport(f *testing.F) {
	for _, pattern := range []string{
		"testdata/bad/*", "testdata/refused/*/*.model", "testdata/made/1.9.1/pickle_*.model", "testdata/made/1.9.1/joblib_*_[0-5].model",
		"testdata/made/1.2.1/labels_*.model", "testdata/golden/rf_iris_strings/model.pkl", "testdata/kinds/*/*.model",
	} {
		for _, path := range glob(f, pattern) {
			data := readFile(f, path)
			f.Add(data)
			for _, part := range []int{4, 2} {
				f.Add(data[:len(data)-len(data)/part])
			}
		}
	}
	f.Add(classifier().file())
	f.Add(packed(f, "lz4", classifier().file()))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := sklearn.Import(data)
		if err != nil {
			return
		}
		if err := m.Validate(); err != nil {
			t.Fatalf("an invalid model was imported: %v", err)
		}
		// A node takes at least 12 bytes, of at most 4 times what the file may unpack to.
		if most := 4 * (16<<20 + 64*len(data)) / 12; len(m.Forest.Leaves) > most {
			t.Fatalf("%d bytes gave %d leaves", len(data), len(m.Forest.Leaves))
		}
	})
}
