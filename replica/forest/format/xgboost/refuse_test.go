package xgboost_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/format/xgboost"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// least1 is a small sound model: one tree of three nodes, two features.
func least1() string {
	return `{"version":[3,2,0],"learner":{"attributes":{},"feature_names":[],"feature_types":[],` +
		`"learner_model_param":{"base_score":"[5E-1]","num_class":"0","num_feature":"2","num_target":"1"},` +
		`"objective":{"name":"reg:squarederror"},` +
		`"gradient_booster":{"name":"gbtree","model":{` +
		`"gbtree_model_param":{"num_trees":"1","num_parallel_tree":"1"},"iteration_indptr":[0,1],"tree_info":[0],` +
		`"trees":[{"tree_param":{"num_nodes":"3","size_leaf_vector":"1","num_feature":"2"},"id":0,` +
		`"left_children":[1,-1,-1],"right_children":[2,-1,-1],"parents":[2147483647,0,0],` +
		`"split_indices":[1,0,0],"split_type":[0,0,0],"default_left":[1,0,0],"split_conditions":[2.5E-1,-1E0,1E0],` +
		`"categories":[],"categories_nodes":[],"categories_segments":[],"categories_sizes":[]}]}}}}`
}

func TestLeastIsSound(t *testing.T) {
	m := imported(t, []byte(least1()))
	if m.Forest.NumSplits() != 1 || m.Forest.NumTrees() != 1 || m.Meta.Features != 2 || m.Forest.Base[0] != 0.5 {
		t.Errorf("read %+v with %d splits", m.Meta, m.Forest.NumSplits())
	}
}

// edit changes a sound model into one that is refused.
type edit struct {
	name string
	swap []string // old, new, old, new, ...
	is   error
	says string
}

func (e edit) apply(t testing.TB) string {
	t.Helper()
	s := least1()
	for i := 0; i < len(e.swap); i += 2 {
		if strings.Count(s, e.swap[i]) != 1 {
			t.Fatalf("%s: %q is there %d times", e.name, e.swap[i], strings.Count(s, e.swap[i]))
		}
		s = strings.Replace(s, e.swap[i], e.swap[i+1], 1)
	}
	return s
}

const (
	oneSet  = `"split_type":[1,0,0]`
	noSets  = `"categories":[],"categories_nodes":[],"categories_segments":[],"categories_sizes":[]`
	vectors = `"leaf_weights":[1,2,3,4],"split_indices"`
)

var edits = []edit{
	{"left child beyond", []string{`[1,-1,-1]`, `[3,-1,-1]`}, xgboost.ErrMalformed, "tree 0: node 0: malformed XGBoost model: its child is node 3 of 3"},
	{"right child below", []string{`[2,-1,-1]`, `[-1,-1,-1]`}, xgboost.ErrMalformed, "its child is node -1 of 3"},
	{"child 2^40", []string{`[2,-1,-1]`, `[1099511627776,-1,-1]`}, xgboost.ErrMalformed, "right_children has 1.099511627776e+12, expected integers"},
	{"fraction", []string{`[2,-1,-1]`, `[1.5,-1,-1]`}, xgboost.ErrMalformed, "right_children has 1.5, expected integers"},
	{"cycle", []string{`[2,-1,-1]`, `[0,-1,-1]`}, xgboost.ErrMalformed, "node 0 is the child of two nodes"},
	{"shared child", []string{`[2,-1,-1]`, `[1,-1,-1]`}, xgboost.ErrMalformed, "node 1 is the child of two nodes"},
	{"feature beyond", []string{`[1,0,0],"split_type"`, `[2,0,0],"split_type"`}, xgboost.ErrMalformed, "it compares feature 2 of 2"},
	{"feature negative", []string{`[1,0,0],"split_type"`, `[-1,0,0],"split_type"`}, xgboost.ErrMalformed, "it compares feature -1 of 2"},
	{"NaN threshold", []string{`2.5E-1`, `NaN`}, xgboost.ErrMalformed, "its threshold is NaN"},
	{"NaN leaf", []string{`-1E0`, `NaN`}, xgboost.ErrMalformed, "its leaf value is NaN, expected a finite one"},
	{"infinite leaf", []string{`-1E0`, `1E39`}, xgboost.ErrMalformed, "its leaf value is +Inf, expected a finite one"},
	{"infinite by its weight", []string{`"name":"gbtree","model"`, `"name":"gbtree","weight_drop":[3e38],"model"`, `-1E0`, `9E0`}, xgboost.ErrMalformed, "times the tree's weight 3e+38 is +Inf"},
	{"weights", []string{`"name":"gbtree","model"`, `"name":"gbtree","weight_drop":[1,1],"model"`}, xgboost.ErrMalformed, "weight_drop has 2 weights for 1 trees"},
	{"no weights", []string{`"name":"gbtree","model":{`, `"name":"dart","weight_drop":[],"gbtree":{"model":{`, `]}}}}`, `]}}}}}`}, xgboost.ErrMalformed, "weight_drop has 0 weights for 1 trees"},
	{"not a number", []string{`2.5E-1`, `Infinite`}, xgboost.ErrMalformed, `split_conditions has "Infinite", expected a number`},
	{"trailing comma", []string{`2.5E-1,-1E0,1E0`, `2.5E-1,-1E0,1E0,`}, xgboost.ErrMalformed, "expected a number"},
	{"split type", []string{`"split_type":[0`, `"split_type":[2`}, xgboost.ErrUnsupported, "split_type 2, expected 0 or 1"},
	{"short right", []string{`[2,-1,-1]`, `[2,-1]`}, xgboost.ErrMalformed, "left_children has 3 entries, right_children 2"},
	{"short thresholds", []string{`,-1E0,1E0`, `,-1E0`}, xgboost.ErrMalformed, "left_children has 3 entries, split_conditions 2"},
	{"short default", []string{`"default_left":[1,0,0]`, `"default_left":[1,0]`}, xgboost.ErrMalformed, "left_children has 3 entries, default_left 2"},
	{"booleans and more", []string{`"default_left":[1,0,0]`, `"default_left":[true,false,"x"]`}, xgboost.ErrMalformed, "default_left has a string, expected numbers"},
	{"no nodes", []string{`[1,-1,-1]`, `[]`, `[2,-1,-1]`, `[]`, `"split_indices":[1,0,0]`, `"split_indices":[]`, `"split_type":[0,0,0]`, `"split_type":[]`, `"default_left":[1,0,0]`, `"default_left":[]`, `[2.5E-1,-1E0,1E0]`, `[]`, `"num_nodes":"3"`, `"num_nodes":"0"`}, xgboost.ErrMalformed, "num_nodes is 0"},
	{"num_nodes", []string{`"num_nodes":"3"`, `"num_nodes":"4"`}, xgboost.ErrMalformed, "num_nodes is 4, left_children has 3 entries"},
	{"num_nodes 2^40", []string{`"num_nodes":"3"`, `"num_nodes":"1099511627776"`}, xgboost.ErrMalformed, `num_nodes is "1099511627776", expected a number from 0 to 2147483647`},
	{"num_trees", []string{`"num_trees":"1"`, `"num_trees":"1000000000"`}, xgboost.ErrMalformed, "num_trees is 1000000000, there are 1 trees"},
	{"tree_info", []string{`"tree_info":[0]`, `"tree_info":[]`}, xgboost.ErrMalformed, "tree_info has 0 entries for 1 trees"},
	{"group", []string{`"tree_info":[0]`, `"tree_info":[1]`}, xgboost.ErrMalformed, "tree 0 is of output 1, there are 1"},
	{"rounds", []string{`"iteration_indptr":[0,1]`, `"iteration_indptr":[0,2]`}, xgboost.ErrMalformed, "iteration_indptr does not divide 1 trees"},
	{"no features", []string{`"num_feature":"2","num_target"`, `"num_feature":"0","num_target"`}, xgboost.ErrMalformed, "num_feature is 0, a model may have 1 to 16777216"},
	{"too many features", []string{`"num_feature":"2","num_target"`, `"num_feature":"20000000","num_target"`}, xgboost.ErrMalformed, "num_feature is 20000000"},
	{"too many outputs", []string{`"num_class":"0"`, `"num_class":"2000000"`}, xgboost.ErrMalformed, "2000000 outputs, a model may have up to 65536"},
	{"missing outputs", []string{`"num_class":"0"`, `"num_class":"3"`}, xgboost.ErrUnsupported, "the trees add to 1 of 3 outputs"},
	{"classes of targets", []string{`"num_class":"0"`, `"num_class":"3"`, `"num_target":"1"`, `"num_target":"2"`}, xgboost.ErrUnsupported, "3 classes of 2 targets"},
	{"width", []string{`"size_leaf_vector":"1"`, `"size_leaf_vector":"3"`}, xgboost.ErrMalformed, "leaves of 3 values for 1 outputs"},
	{"a number as text", []string{`"num_class":"0"`, `"num_class":0`}, xgboost.ErrMalformed, "learner_model_param.num_class is a number, expected a string"},
	{"names", []string{`"feature_names":[]`, `"feature_names":["a"]`}, xgboost.ErrMalformed, "1 feature names for 2 features"},
	{"names of numbers", []string{`"feature_names":[]`, `"feature_names":[1,2]`}, xgboost.ErrMalformed, "feature_names is an array of numbers, expected an array of strings"},
	{"names of nulls", []string{`"feature_names":[]`, `"feature_names":["a",null]`}, xgboost.ErrMalformed, "feature_names[1] is null, expected a string"},
	{"trees are an object", []string{`"trees":[{`, `"trees":{"a":{`, `"categories_sizes":[]}]`, `"categories_sizes":[]}}`}, xgboost.ErrMalformed, "model.trees is an object, expected an array"},
	{"a tree is a number", []string{`"trees":[{`, `"trees":[true,{`, `"num_trees":"1"`, `"num_trees":"2"`, `"tree_info":[0]`, `"tree_info":[0,0]`, `[0,1]`, `[0,2]`}, xgboost.ErrMalformed, "tree 0: malformed XGBoost model: it is a boolean"},
	{"no trees", []string{`"trees":[{`, `"trees":[],"others":[{`, `"num_trees":"1"`, `"num_trees":"0"`, `"tree_info":[0]`, `"tree_info":[]`}, xgboost.ErrUnsupported, "0 trees, a model may have 1 to"},
	{"no learner", []string{`"learner":`, `"teacher":`}, xgboost.ErrMalformed, `the document has no "learner"`},
	{"learner is null", []string{`"version":[3,2,0],"learner":`, `"version":[3,2,0],"learner":null,"other":`}, xgboost.ErrMalformed, "the document.learner is null, expected an object"},
	{"version", []string{`[3,2,0]`, `[3,2]`}, xgboost.ErrMalformed, "the version has 2 numbers, expected 3"},
	{"version is text", []string{`[3,2,0]`, `"3.2.0"`}, xgboost.ErrMalformed, "version is a string, expected an array of numbers"},
	{"linear booster", []string{`"name":"gbtree"`, `"name":"gblinear"`}, xgboost.ErrUnsupported, `the booster "gblinear" is not one of trees; gbtree and dart are read`},
	{"objective", []string{`reg:squarederror`, `reg:own`}, xgboost.ErrUnsupported, `the objective "reg:own" is not known`},
	{"sorted quantiles", []string{`reg:squarederror`, `reg:quantileerror`, `[3,2,0]`, `[3,4,1]`, `"num_target":"1"`, `"num_target":"2"`}, xgboost.ErrUnsupported, "XGBoost 3.4.1 with 2 quantiles, which that version sorts"},
	{"several expectiles", []string{`reg:squarederror`, `reg:expectileerror`, `"num_target":"1"`, `"num_target":"2"`}, xgboost.ErrUnsupported, "reg:expectileerror with 2 expectiles"},
	{"base", []string{`[5E-1]`, `half`}, xgboost.ErrMalformed, `base_score is "half"`},
	{"bases", []string{`[5E-1]`, `[1,2]`}, xgboost.ErrMalformed, "base_score has 2 values for 1 outputs"},
	{"base is no probability", []string{`[5E-1]`, `[2]`, `reg:squarederror`, `binary:logistic`}, xgboost.ErrMalformed, `base_score "2" is not one of the objective's scores`},
	{"base 0 of an early version", []string{`[5E-1]`, `0`, `reg:squarederror`, `binary:logistic`, `[3,2,0]`, `[2,1,4]`}, xgboost.ErrMalformed, `base_score "0" is not one of the objective's scores`},
	{"twice", []string{`"version":[3,2,0]`, `"version":[3,2,0],"version":[3,2,0]`}, xgboost.ErrMalformed, `key "version" is there twice`},
	{"no set", []string{`"split_type":[0,0,0]`, oneSet}, xgboost.ErrMalformed, "it compares categories and has none"},
	{"sets differ", []string{noSets, `"categories":[1],"categories_nodes":[0],"categories_segments":[],"categories_sizes":[1]`}, xgboost.ErrMalformed, "1 categories_nodes, 0 categories_segments and 1 categories_sizes"},
	{"set beyond", []string{noSets, `"categories":[1],"categories_nodes":[0],"categories_segments":[0],"categories_sizes":[2]`}, xgboost.ErrMalformed, "node 0 of 3 has the categories 0 to 2 of 1"},
	{"set of no node", []string{noSets, `"categories":[1],"categories_nodes":[3],"categories_segments":[0],"categories_sizes":[1]`}, xgboost.ErrMalformed, "node 3 of 3 has the categories"},
	{"two sets", []string{noSets, `"categories":[1,2],"categories_nodes":[0,0],"categories_segments":[0,1],"categories_sizes":[1,1]`}, xgboost.ErrMalformed, "node 0 has two sets of categories"},
	{"overlapping sets", []string{noSets, `"categories":[1,2],"categories_nodes":[0,1],"categories_segments":[0,0],"categories_sizes":[2,2]`}, xgboost.ErrMalformed, "have 4 categories together, there are 2"},
	{"category", []string{`"split_type":[0,0,0]`, oneSet, noSets, `"categories":[16777216],"categories_nodes":[0],"categories_segments":[0],"categories_sizes":[1]`}, xgboost.ErrMalformed, "category 16777216, expected 0 to 16777215"},
	{"negative category", []string{`"split_type":[0,0,0]`, oneSet, noSets, `"categories":[-1],"categories_nodes":[0],"categories_segments":[0],"categories_sizes":[1]`}, xgboost.ErrMalformed, "category -1, expected 0 to 16777215"},
	{"a leaf of two nodes", []string{`"num_target":"1"`, `"num_target":"2"`, `"size_leaf_vector":"1"`, `"size_leaf_vector":"2"`, `"split_indices"`, vectors, `[2,-1,-1]`, `[2,1,1]`}, xgboost.ErrMalformed, "leaf 1 is that of two nodes"},
	{"a leaf beyond", []string{`"num_target":"1"`, `"num_target":"2"`, `"size_leaf_vector":"1"`, `"size_leaf_vector":"2"`, `"split_indices"`, vectors, `[2,-1,-1]`, `[2,0,2]`}, xgboost.ErrMalformed, "leaf 2 of 2"},
	{"half a leaf", []string{`"num_target":"1"`, `"num_target":"2"`, `"size_leaf_vector":"1"`, `"size_leaf_vector":"2"`, `"split_indices"`, `"leaf_weights":[1,2,3],"split_indices"`}, xgboost.ErrMalformed, "leaf_weights has 3 values for 3 nodes and 2 outputs"},
	{"more behind", []string{`]}}}}`, `]}}}} x`}, xgboost.ErrMalformed, "something follows the end of the document"},
	{"array not closed", []string{`[2,-1,-1]`, `[2,-1,-1`}, xgboost.ErrMalformed, "is '\"', expected a number"},
	{"key is a number", []string{`"version":`, `1:`}, xgboost.ErrMalformed, "is '1', expected a key"},
	{"no colon", []string{`"version":`, `"version"`}, xgboost.ErrMalformed, "expected a colon"},
	{"word", []string{`"attributes":{}`, `"attributes":nothing`}, xgboost.ErrMalformed, "is 'n', expected a value"},
	{"escape", []string{`"attributes":{}`, `"attributes":"\q"`}, xgboost.ErrMalformed, "invalid character 'q'"},
	{"not UTF-8", []string{`"attributes":{}`, "\"attributes\":\"\xff\""}, xgboost.ErrMalformed, "a string that is not UTF-8"},
	{"nested", []string{`"attributes":{}`, `"attributes":` + strings.Repeat("[", 100) + strings.Repeat("]", 100)}, xgboost.ErrMalformed, "nested deeper than 64"},
}

// refused checks why bytes are refused, and that little memory was needed to see it.
func refused(t *testing.T, data []byte, is error, says string) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := read(data)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 256<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
	switch {
	case err == nil:
		t.Error("it was read")
	case !errors.Is(err, is):
		t.Errorf("refused with %q, which is not %q", err, is)
	case !strings.Contains(err.Error(), says):
		t.Errorf("refused with %q, which does not say %q", err, says)
	}
}

func TestRefusals(t *testing.T) {
	for _, e := range edits {
		t.Run(e.name, func(t *testing.T) { refused(t, []byte(e.apply(t)), e.is, e.says) })
	}
}

// head begins a document in UBJSON, as xgboost.DetectUBJSON knows it.
const head = "{L\x00\x00\x00\x00\x00\x00\x00\x07versionx"

var binaries = []struct{ name, data, says string }{
	{"2^40 numbers", "{L\x00\x00\x00\x00\x00\x00\x00\x07version[$L#L\x00\x00\x01\x00\x00\x00\x00\x00", "an array has 8796093022208 bytes, the file has 0 more"},
	{"2^40 values", "{L\x00\x00\x00\x00\x00\x00\x00\x07version[#L\x00\x00\x01\x00\x00\x00\x00\x00", "an array of 1099511627776 values, the file has 0 more bytes"},
	{"2^62 numbers", "{L\x00\x00\x00\x00\x00\x00\x00\x07version[$L#L\x40\x00\x00\x00\x00\x00\x00\x00", "a length of 4.611686018427388e+18"},
	{"a string of 2^40", "{L\x00\x00\x00\x00\x00\x00\x00\x07versionSL\x00\x00\x01\x00\x00\x00\x00\x00", "a string has 1099511627776 bytes, the file has 0 more"},
	{"a key of 2^40", "{L\x00\x00\x00\x00\x00\x00\x00\x07versionZL\x00\x00\x01\x00\x00\x00\x00\x00", "a string has 1099511627776 bytes"},
	{"negative length", "{L\x00\x00\x00\x00\x00\x00\x00\x07versionSi\xff", "a length of -1"},
	{"length is a float", "{L\x00\x00\x00\x00\x00\x00\x00\x07versionSd\x00\x00\x00\x00", "is 'd', expected the type of a length"},
	{"no count", "{L\x00\x00\x00\x00\x00\x00\x00\x07version[$Lx", "a typed array without a count"},
	{"values without bytes", "{L\x00\x00\x00\x00\x00\x00\x00\x07version[$Z#U\x03", "is 'Z', expected the type of an array's values"},
	{"no type", "{L\x00\x00\x00\x00\x00\x00\x00\x07version[$\x00#U\x03", "is '\\x00', expected the type of an array's values"},
	{"numbers and others", "{L\x00\x00\x00\x00\x00\x00\x00\x07version[U\x01Z]", "an array of numbers and of other values"},
	{"marker", head, "is 'x', expected the type of a value"},
	{"not UTF-8", "{L\x00\x00\x00\x00\x00\x00\x00\x07versionSU\x01\xff", "a string that is not UTF-8"},
	{"twice", "{L\x00\x00\x00\x00\x00\x00\x00\x07versionZL\x00\x00\x00\x00\x00\x00\x00\x07versionZ}", `key "version" is there twice`},
	{"nested", "{L\x00\x00\x00\x00\x00\x00\x00\x07version" + strings.Repeat("[", 100), "nested deeper than 64"},
	{"more behind", "{L\x00\x00\x00\x00\x00\x00\x00\x07versionZ}}", "something follows the end of the document"},
	{"wrong type", "{L\x00\x00\x00\x00\x00\x00\x00\x07learnerT}", "the document.learner is a boolean, expected an object"},
	{"nothing", "{L\x00\x00\x00\x00\x00\x00\x00\x07versionZ}", `the document has no "learner"`},
}

func TestBinaryRefusals(t *testing.T) {
	for _, c := range binaries {
		t.Run(c.name, func(t *testing.T) { refused(t, []byte(c.data), xgboost.ErrMalformed, c.says) })
	}
}

// TestCut: a file is refused wherever it ends.
func TestCut(t *testing.T) {
	binary := readFile(t, "testdata/golden/one_hot/model.ubj")
	for name, c := range map[string]struct {
		data []byte
		read func([]byte) (*model.Model, error)
	}{"JSON": {[]byte(least1()), xgboost.ImportJSON}, "UBJSON": {binary, xgboost.ImportUBJSON}} {
		if _, err := c.read(c.data); err != nil {
			t.Fatal(name, err)
		}
		for n := range c.data {
			if _, err := c.read(c.data[:n]); !errors.Is(err, xgboost.ErrMalformed) || !strings.Contains(err.Error(), name) {
				t.Fatalf("%s cut after %d bytes: %v", name, n, err)
			}
		}
	}
}

// TestForeign: what is no model in JSON or UBJSON is told from it, and refused in either.
func TestForeign(t *testing.T) {
	for _, s := range []string{
		"", "{", "{}", "[]", "null", "1", "\x00\x01\x02", "\x80\x04\x95", "binf\x00\x00\x00\x00\x00\x00\x00?", "{L\x00", "{L\x00\x00\x00\x00\x00\x00\x00\x03abc", "\xff\xfe", `{"a":1}`,
	} {
		if xgboost.DetectJSON([]byte(s)) || xgboost.DetectUBJSON([]byte(s)) {
			t.Errorf("%q is taken for a model", s)
		}
		for _, f := range []func([]byte) (*model.Model, error){xgboost.ImportJSON, xgboost.ImportUBJSON} {
			if _, err := f([]byte(s)); !errors.Is(err, xgboost.ErrMalformed) {
				t.Errorf("%q: %v", s, err)
			}
		}
	}
}

// chain is a tree in which each split is the right child of the one before.
func chain(depth int) string {
	left, right := make([]int, 2*depth+1), make([]int, 2*depth+1)
	for i := range left {
		left[i], right[i] = -1, -1
		if i%2 == 0 && i < 2*depth {
			left[i], right[i] = i+1, i+2
		}
	}
	list := func(v []int) string { return strings.ReplaceAll(fmt.Sprint(v), " ", ",") }
	zeros := list(make([]int, 2*depth+1))
	return strings.NewReplacer(`[1,-1,-1]`, list(left), `[2,-1,-1]`, list(right), `[1,0,0]`, zeros, `[0,0,0]`, zeros, `[2.5E-1,-1E0,1E0]`, zeros,
		`"num_nodes":"3"`, fmt.Sprintf(`"num_nodes":"%d"`, 2*depth+1)).Replace(least1())
}

func TestDeepChains(t *testing.T) {
	if m := imported(t, []byte(chain(model.MaxDepth))); m.Forest.Depth != model.MaxDepth {
		t.Errorf("depth %d", m.Forest.Depth)
	}
	for _, depth := range []int{model.MaxDepth + 1, 6000, 200_000} {
		refused(t, []byte(chain(depth)), model.ErrInvalid, "deeper than 4096")
	}
}

// TestLargeSets: a few bytes name a category that makes a set large; many such sets are too many for the file.
func TestLargeSets(t *testing.T) {
	with := func(depth int) string {
		nodes, starts, sizes, all := "", "", "", ""
		for i := range depth {
			nodes += fmt.Sprintf(",%d", 2*i)
			starts += fmt.Sprintf(",%d", i)
			sizes += ",1"
			all += fmt.Sprintf(",%d", model.MaxCategory-1-i)
		}
		kinds := strings.Repeat(",1,0", depth)
		s := chain(depth)
		zeros := strings.Repeat(",0", 2*depth)
		s = strings.Replace(s, `"split_type":[0`+zeros, `"split_type":[`+kinds[1:]+",0", 1)
		return strings.Replace(s, noSets, `"categories":[`+all[1:]+`],"categories_nodes":[`+nodes[1:]+`],"categories_segments":[`+starts[1:]+
			`],"categories_sizes":[`+sizes[1:]+`]`, 1)
	}
	imported(t, []byte(with(7)))
	refused(t, []byte(with(1000)), xgboost.ErrUnsupported, "the sets of categories up to here are too large for a file of this size")
}

// TestQuadratic: files that took a time of their size squared, or memory. They are read or refused in much less than
// the time limit of a test.
func TestQuadratic(t *testing.T) {
	many := strings.Repeat("1,", 300_000) + "1" + strings.Repeat(" ", 1_000_000)
	refused(t, []byte(strings.Replace(least1(), `[2,-1,-1]`, "["+many+"]", 1)), xgboost.ErrMalformed, "left_children has 3 entries, right_children 300001")

	nothing := "[$Z#L\x00\x00\x00\x00\x00\x0f\x42\x40" // a million values that need no bytes
	refused(t, []byte("{L\x00\x00\x00\x00\x00\x00\x00\x07version["+strings.Repeat(nothing, 100_000)), xgboost.ErrMalformed, "is 'Z'")
}
