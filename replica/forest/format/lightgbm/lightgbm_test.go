package lightgbm

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// golden are the models that the real library saved, whose outputs are compared in package forest.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "testdata", "golden", "lightgbm_*", "model.txt"))
	if err != nil || len(files) < 6 {
		t.Fatalf("%d models, %v", len(files), err)
	}
	out := map[string][]byte{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(filepath.Dir(file))] = data
	}
	return out
}

// small has a tree with a split, one with a set and a linear leaf, and one that is a leaf alone.
const small = `tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=2
objective=regression
feature_names=a b c
feature_infos=[0:1] [0:1] none
tree_sizes=1 2 3

Tree=0
num_leaves=3
num_cat=0
split_feature=0 1
split_gain=1 1
threshold=0.5 1.5
decision_type=2 8
left_child=-1 -2
right_child=1 -3
leaf_value=1 2 3
is_linear=0
shrinkage=1


Tree=1
num_leaves=2
num_cat=1
split_feature=2
threshold=0
decision_type=1
left_child=-1
right_child=-2
cat_boundaries=0 1
cat_threshold=5
leaf_value=4 5
is_linear=1
leaf_const=0.5 0.25
num_features=1 0
leaf_features=1  
leaf_coeff=2  
shrinkage=1


Tree=2
num_leaves=1
num_cat=0
split_feature=
threshold=
decision_type=
left_child=
right_child=
leaf_value=7
is_linear=0
shrinkage=1


end of trees

parameters:
[boosting: gbdt]
end of parameters
`

func TestSmall(t *testing.T) {
	for name, text := range map[string]string{"as saved": small, "with the line ends of Windows": strings.ReplaceAll(small, "\n", "\r\n")} {
		m, err := Import([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := m.Validate(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		nan := math.NaN()
		for _, tt := range []struct {
			row    []float64
			want   float64
			leaves [3]int64
		}{
			{[]float64{0.5, 1, 0}, 1 + (0.5 + 2*1) + 7, [3]int64{0, 0, 0}},
			{[]float64{math.Nextafter(0.5, 1), 1.5, 1}, 2 + 0.25 + 7, [3]int64{1, 1, 0}},
			{[]float64{1, 2, 2.9}, 3 + (0.5 + 2*2) + 7, [3]int64{2, 0, 0}},
			{[]float64{nan, nan, 2}, 1 + 4 + 7, [3]int64{0, 0, 0}}, // NaN is 0 in the first split; a linear leaf falls back
			{[]float64{1, nan, -1}, 3 + 0.25 + 7, [3]int64{2, 1, 0}},
		} {
			var margin [1]float64
			var leaves [3]int64
			k := engine.ByName[float64]("", &m.Forest)
			k.Margins(margin[:], tt.row, 3)
			k.Leaves(leaves[:], tt.row, 3)
			if margin[0] != tt.want || leaves != tt.leaves {
				t.Errorf("%s: %v: got %v and leaves %v, want %v and %v", name, tt.row, margin[0], leaves, tt.want, tt.leaves)
			}
		}
	}
}

// TestCut: a file that is cut off anywhere before its trees have ended is refused.
func TestCut(t *testing.T) {
	end := strings.Index(small, "end of trees") + len("end of trees")
	for i := range end {
		// "version=v" is one that is not read
		if _, err := Import([]byte(small[:i])); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
			t.Fatalf("cut at byte %d of %d: %v", i, len(small), err)
		}
	}
	for name, data := range golden(t) {
		end := bytes.Index(data, []byte("end of trees"))
		for i := 0; i < end; i += 1 + end/500 {
			if _, err := Import(data[:i]); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("%s cut at byte %d of %d: %v", name, i, len(data), err)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	chain := func(n int) string { // of n splits, one below the other
		var left, right, feature, decision, threshold, value strings.Builder
		for i := range n {
			fmt.Fprintf(&left, "%d ", -(i + 1))
			if i < n-1 {
				fmt.Fprintf(&right, "%d ", i+1)
			} else {
				fmt.Fprintf(&right, "%d ", -(n + 1))
			}
			feature.WriteString("0 ")
			decision.WriteString("2 ")
			fmt.Fprintf(&threshold, "%d ", i)
			value.WriteString("1 ")
		}
		return fmt.Sprintf("num_leaves=%d\nnum_cat=0\nsplit_feature=%s\nthreshold=%s\ndecision_type=%s\nleft_child=%s\nright_child=%s\nleaf_value=%s1",
			n+1, feature.String(), threshold.String(), decision.String(), left.String(), right.String(), value.String())
	}
	first := small[strings.Index(small, "num_leaves=3"):strings.Index(small, "\nis_linear=0\nshrinkage=1\n\n\nTree=1")]
	for _, tt := range []struct {
		name, old, now string
		is             error
		say            string
	}{
		{"magic", "tree\n", "trees\n", ErrMalformed, `line 1 is "trees", expected "tree"`},
		{"version", "version=v4", "version=v2", ErrUnsupported, `version "v2", v3 and v4 are read`},
		{"no version", "version=v4\n", "", ErrMalformed, "the header has no version"},
		{"twice", "label_index=0", "version=v4", ErrMalformed, `line 5: the header has "version" twice`},
		{"classes", "num_class=1", "num_class=0", ErrMalformed, `line 3: num_class is "0", expected a number from 1`},
		{"many classes", "num_class=1", "num_class=1099511627776", ErrMalformed, "expected a number from 1 to 65536"},
		{"iteration", "num_tree_per_iteration=1", "num_tree_per_iteration=2", ErrMalformed, "3 trees are not whole iterations of 2"},
		{"features", "max_feature_idx=2", "max_feature_idx=-1", ErrMalformed, "expected a number from 0"},
		{"many features", "max_feature_idx=2", "max_feature_idx=99999999999999999999", ErrMalformed, "max_feature_idx is"},
		{"names", "feature_names=a b c", "feature_names=a b", ErrMalformed, "feature_names has 2 values, expected 3"},
		{"Latin-1", "feature_names=a b c", "feature_names=a \xe9 c", ErrMalformed, "not UTF-8"},
		{"objective", "objective=regression", "objective=ranking", ErrUnsupported, `the objective "ranking" is not known`},
		{"sigmoid", "objective=regression", "objective=binary sigmoid:-1", ErrMalformed, `has the sigmoid "-1"`},
		{"objective's classes", "objective=regression", "objective=multiclass num_class:3", ErrMalformed, "has 3 classes, num_class is 1"},
		{"sizes", "tree_sizes=1 2 3", "tree_sizes=1 2", ErrMalformed, "tree_sizes has 2 values, expected 3"},
		{"tree", "Tree=1", "Tree=2", ErrMalformed, `is "Tree=2", expected Tree=1`},
		{"leaves", "num_leaves=3", "num_leaves=4", ErrMalformed, "tree 0, line 21: leaf_value has 3 values, expected 4"},
		{"fewer leaves", "num_leaves=3", "num_leaves=2", ErrMalformed, "leaf_value has more than 2 values"},
		{"no leaves", "num_leaves=3", "num_leaves=0", ErrMalformed, `num_leaves is "0"`},
		{"leaves by the billion", "num_leaves=3", "num_leaves=1000000000", ErrMalformed, "leaf_value has 3 values, expected 1000000000"},
		{"2^40 leaves", "num_leaves=3", "num_leaves=1099511627776", ErrMalformed, "num_leaves is"},
		{"no children", "left_child=-1 -2\n", "", ErrMalformed, "tree 0 has no left_child"},
		{"child", "left_child=-1 -2", "left_child=-1 2", ErrMalformed, "of node 1 is 2, there are 2 nodes and 3 leaves"},
		{"leaf", "left_child=-1 -2", "left_child=-1 -4", ErrMalformed, "of node 1 is -4, there are 2 nodes and 3 leaves"},
		{"far leaf", "left_child=-1 -2", "left_child=-1 -9223372036854775808", ErrMalformed, "of node 1 is -9223372036854775808"},
		{"cycle", "right_child=1 -3", "right_child=1 0", ErrMalformed, "reach node or leaf 0 twice"},
		{"one leaf twice", "left_child=-1 -2", "left_child=-1 -1", ErrMalformed, "reach node or leaf 0 twice"},
		{"left out", "right_child=1 -3", "right_child=-2 -3", ErrMalformed, "do not reach node 1 of 2"},
		{"feature", "split_feature=0 1", "split_feature=0 3", ErrMalformed, "tree 0, node 1"},
		{"negative feature", "split_feature=0 1", "split_feature=-1 1", ErrMalformed, "compares feature -1 of 3"},
		{"threshold", "threshold=0.5 1.5", "threshold=0.5 nan", ErrMalformed, "threshold has \"nan\" as value 1: not a number"},
		{"no number", "threshold=0.5 1.5", "threshold=0.5 x", ErrMalformed, `threshold has "x" as value 1: invalid syntax`},
		{"decision", "decision_type=2 8", "decision_type=2 12", ErrMalformed, "decision_type is 12"},
		{"leaf value", "leaf_value=1 2 3", "leaf_value=1 inf 3", ErrMalformed, "tree 0, leaf 1: "},
		{"leaf value is NaN", "leaf_value=1 2 3", "leaf_value=1 nan 3", ErrMalformed, "not a number"},
		{"set", "threshold=0\n", "threshold=1\n", ErrMalformed, "set of categories 1 of 1"},
		{"set between", "threshold=0\n", "threshold=-0.5\n", ErrMalformed, "set of categories -0.5 of 1"},
		{"sets", "num_cat=1", "num_cat=2", ErrMalformed, "cat_boundaries has 2 values, expected 3"},
		{"sets by the billion", "num_cat=1", "num_cat=1000000000", ErrMalformed, "cat_boundaries has 2 values"},
		{"boundaries", "cat_boundaries=0 1", "cat_boundaries=1 1", ErrMalformed, "do not ascend from 0"},
		{"descending", "cat_boundaries=0 1", "cat_boundaries=0 -1", ErrMalformed, "do not ascend from 0"},
		{"far boundary", "cat_boundaries=0 1", "cat_boundaries=0 1099511627776", ErrMalformed, "cat_threshold has 1 values"},
		{"words", "cat_threshold=5", "cat_threshold=4294967296", ErrMalformed, "value out of range"},
		{"terms", "num_features=1 0", "num_features=2 0", ErrMalformed, "leaf_features has 1 values, expected 2"},
		{"many terms", "num_features=1 0", "num_features=4 0", ErrMalformed, "leaf 0 has 4 terms, there are 3 features"},
		{"negative terms", "num_features=1 0", "num_features=-1 0", ErrMalformed, "leaf 0 has -1 terms"},
		{"term", "leaf_features=1", "leaf_features=3", ErrMalformed, "has feature 3 of 3"},
		{"no constants", "leaf_const=0.5 0.25\n", "", ErrMalformed, "tree 1 has no leaf_const"},
		{"constant beyond float64", "leaf_const=0.5 0.25", "leaf_const=0.5 1e999", ErrMalformed, "tree 1, leaf 1: malformed LightGBM model: a term of its linear model is +Inf"},
		{"coefficient beyond float64", "leaf_coeff=2", "leaf_coeff=-1e999", ErrMalformed, "tree 1, leaf 0: malformed LightGBM model: a term of its linear model is -Inf"},
		{"coefficient", "leaf_coeff=2", "leaf_coeff=nan", ErrMalformed, "not a number"},
		{"end", "end of trees", "end of tree", ErrMalformed, `expected Tree=3 or "end of trees"`},
		{"no trees", small[strings.Index(small, "Tree=0"):strings.Index(small, "end of trees")], "", ErrMalformed, "0 trees"},
		{"too deep", first, chain(model.MaxDepth + 1), model.ErrInvalid, "tree 0, node"},
		{"a chain of 100,000", first, chain(100_000), model.ErrInvalid, "tree 0, node"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(small, tt.old) {
				t.Fatalf("%q is not there", tt.old)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Import([]byte(strings.Replace(small, tt.old, tt.now, 1)))
			runtime.ReadMemStats(&after)
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.say) || !strings.HasPrefix(err.Error(), "LightGBM text: ") {
				t.Errorf("got %v, want …%s…", err, tt.say)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
				t.Errorf("it allocated %d bytes", n)
			}
		})
	}
}

// TestGarbage: what is no model of LightGBM.
func TestGarbage(t *testing.T) {
	data := []byte(small)
	for _, garbage := range [][]byte{nil, []byte("tree"), []byte("tree\n"), bytes.Repeat([]byte("tree\n"), 1000), data[5:], bytes.Repeat([]byte{0xff}, 4096)} {
		if _, err := Import(garbage); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.20q: %v", garbage, err)
		}
	}
	if !Detect(data) || Detect([]byte("trees")) || Detect(nil) {
		t.Error("a model is known by its first line")
	}
}

// FuzzImport: what is read is a valid model that every kernel evaluates alike.
func FuzzImport(f *testing.F) {
	f.Add([]byte(small))
	for _, data := range golden(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Import(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, model.ErrInvalid) && !errors.Is(err, model.ErrBuild) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if err := m.Validate(); err != nil {
			if !errors.Is(err, model.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		forest := &m.Forest
		if m.Meta.Features > 1<<10 || forest.Outputs > 1<<8 || forest.NumTrees() > 1<<10 {
			return
		}
		var rows []float64
		for _, v := range []float64{0, -1, 1, -0.5, math.NaN(), math.Inf(1), math.Inf(-1), 1e-35, 1 << 40, 31, 32} {
			for range m.Meta.Features {
				rows = append(rows, v)
			}
		}
		n := len(rows) / m.Meta.Features
		want, wantLeaves := make([]float64, n*forest.Outputs), make([]int64, n*forest.NumTrees())
		got, gotLeaves := make([]float64, len(want)), make([]int64, len(wantLeaves))
		for i, name := range engine.Names() {
			k := engine.ByName[float64](name, forest)
			if k == nil {
				continue
			}
			k.Margins(got, rows, m.Meta.Features)
			k.Leaves(gotLeaves, rows, m.Meta.Features)
			if i == 0 {
				copy(want, got)
				copy(wantLeaves, gotLeaves)
			}
			for j := range want {
				if math.Float64bits(got[j]) != math.Float64bits(want[j]) && (got[j] == got[j] || want[j] == want[j]) {
					t.Fatalf("%s: margin %d is %v, want %v", name, j, got[j], want[j])
				}
			}
			for j := range wantLeaves {
				if gotLeaves[j] != wantLeaves[j] {
					t.Fatalf("%s: leaf %d is %v, want %v", name, j, gotLeaves[j], wantLeaves[j])
				}
			}
		}
	})
}
