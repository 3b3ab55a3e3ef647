package sklearn_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/format/sklearn"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
)

// TestGolden checks every answer of larger forests, of versions 1.1 to 1.9, against scikit-learn's own.
func TestGolden(t *testing.T) {
	for _, dir := range glob(t, "testdata/golden/*") {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var want struct {
				Version  string
				Task     string
				Features int      `json:"n_features"`
				Names    []string `json:"feature_names"`
				Classes  []any
			}
			readJSON(t, filepath.Join(dir, "case.json"), &want)
			m := load(t, glob(t, filepath.Join(dir, "model.*"))[0])
			x := readNPY(t, filepath.Join(dir, "X.npy"))
			rows := float32s(x)

			meta := m.Meta
			if meta.Source.Library != "scikit-learn" || meta.Source.Version != want.Version || meta.Source.Kind != want.Task {
				t.Errorf("source is %+v, want %s %s", meta.Source, want.Task, want.Version)
			}
			if meta.Features != want.Features || !slices.Equal(meta.Names, want.Names) {
				t.Errorf("%d features %q, want %d %q", meta.Features, meta.Names, want.Features, want.Names)
			}
			var classes []string
			for _, c := range want.Classes {
				switch c := c.(type) {
				case string:
					classes = append(classes, c)
				case float64:
					classes = append(classes, strconv.FormatFloat(c, 'f', -1, 64))
				}
			}
			if !slices.Equal(meta.Classes, classes) {
				t.Errorf("classes %q, want %q", meta.Classes, classes)
			}
			// The rows hold NaN exactly in the cases in which scikit-learn answered such rows.
			hasNaN := slices.ContainsFunc(rows, func(v float32) bool { return v != v })
			if meta.Missing != hasNaN {
				t.Errorf("takes NaN: %v, want %v", meta.Missing, hasNaN)
			}

			scores := readNPY(t, filepath.Join(dir, "predict.npy"))
			if meta.Task == model.Classify {
				predicted := scores
				scores = readNPY(t, filepath.Join(dir, "proba.npy"))
				checkLabels(t, m, scores.Float64, predicted)
			}
			checkAnswers(t, m, rows, scores.Float64, readNPY(t, filepath.Join(dir, "leaf.npy")).Int64)
		})
	}
}

// checkLabels compares the classes with the largest probability, as the engine gives it, with predict's.
func checkLabels(t *testing.T, m *model.Model, proba []float64, predicted *npy.Array) {
	t.Helper()
	k := m.Forest.Outputs
	for i := range predicted.Rows() {
		row := proba[i*k : (i+1)*k]
		best := 0
		for j, p := range row {
			if p > row[best] {
				best = j
			}
		}
		var want string
		if predicted.Strings != nil {
			want = predicted.Strings[i]
		} else {
			want = strconv.FormatInt(predicted.Int64[i], 10)
		}
		if m.Meta.Classes[best] != want {
			t.Fatalf("row %d: label %q, want %q", i, m.Meta.Classes[best], want)
		}
	}
}

// TestMade checks small forests that were saved in every way that is read: each protocol of pickle and of
// joblib, compressed and not, with all kinds of labels, parameters and trees.
func TestMade(t *testing.T) {
	for _, path := range glob(t, "testdata/made/*/*.model") {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(path), "testdata/made/"), ".model")
		t.Run(name, func(t *testing.T) {
			var want struct {
				Version, Kind string
				Features      int
				Missing       bool
				Classes       []string
				Names         []string
				Rows, Scores  [][]string
				Leaves        [][]int64
			}
			readJSON(t, strings.TrimSuffix(path, ".model")+".json", &want)
			m := load(t, path)
			meta := m.Meta
			if meta.Source.Version != want.Version || meta.Source.Kind != want.Kind || len(meta.Source.SHA256) != 64 {
				t.Errorf("source is %+v, want %s %s", meta.Source, want.Kind, want.Version)
			}
			if meta.Features != want.Features || meta.Missing != want.Missing {
				t.Errorf("%d features, NaN %v; want %d, %v", meta.Features, meta.Missing, want.Features, want.Missing)
			}
			if !slices.Equal(meta.Classes, want.Classes) || !slices.Equal(meta.Names, want.Names) {
				t.Errorf("classes %q, names %q; want %q, %q", meta.Classes, meta.Names, want.Classes, want.Names)
			}
			var rows []float32
			for _, v := range hexes(t, want.Rows) {
				rows = append(rows, float32(v))
			}
			checkAnswers(t, m, rows, hexes(t, want.Scores), slices.Concat(want.Leaves...))
		})
	}
}

// TestClassKind checks what the labels are said to spell.
func TestClassKind(t *testing.T) {
	for name, want := range map[string]string{
		"labels_text_joblib": "string", "labels_object_pickle": "string", "labels_float32_joblib": "float", "labels_float64_pickle": "float",
		"labels_uint8_joblib": "int", "labels_big_endian_pickle": "int", "labels_bool": "bool", "one_leaf": "",
	} {
		if got := load(t, "testdata/made/1.9.1/"+name+".model").Meta.ClassKind; got != want {
			t.Errorf("%s: kind %q, want %q", name, got, want)
		}
	}
}

// TestLeafIDs checks that ids are stored only for trees that scikit-learn did not number in preorder.
func TestLeafIDs(t *testing.T) {
	if m := load(t, "testdata/made/1.9.1/pickle_protocol_4.model"); m.Forest.LeafIDs != nil {
		t.Error("a forest in preorder has leaf ids")
	}
	if m := load(t, "testdata/made/1.9.1/best_first.model"); len(m.Forest.LeafIDs) != len(m.Forest.Leaves) {
		t.Errorf("a forest grown best first has %d leaf ids for %d leaves", len(m.Forest.LeafIDs), len(m.Forest.Leaves))
	}
}

// TestDoesNotAlias checks that a model outlives the bytes that it was read from.
func TestDoesNotAlias(t *testing.T) {
	path := "testdata/made/1.9.1/labels_text_joblib.model"
	want := load(t, path)
	data := readFile(t, path)
	got, err := sklearn.Import(data)
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	if !slices.Equal(got.Forest.Splits, want.Forest.Splits) || !slices.Equal(got.Forest.Values, want.Forest.Values) || !slices.Equal(got.Meta.Classes, want.Meta.Classes) {
		t.Error("the model changed with its file's bytes")
	}
}

// checkAnswers compares every score and leaf bit for bit, with each kernel.
func checkAnswers(t *testing.T, m *model.Model, rows []float32, scores []float64, leaves []int64) {
	t.Helper()
	n := len(rows) / m.Meta.Features
	if n == 0 || len(scores) != n*m.Forest.Outputs || len(leaves) != n*m.Forest.NumTrees() {
		t.Fatalf("%d rows with %d scores and %d leaves, of %d trees and %d outputs", n, len(scores), len(leaves), m.Forest.NumTrees(), m.Forest.Outputs)
	}
	for _, name := range engine.Names {
		kernel := engine.ByName[float32](name, &m.Forest)
		if kernel == nil {
			continue
		}
		got := make([]float64, len(scores))
		kernel.Margins(got, rows, m.Meta.Features)
		for i := range got {
			if math.Float64bits(got[i]) != math.Float64bits(scores[i]) {
				t.Fatalf("%s: row %d: score %v, want %v", name, i/m.Forest.Outputs, got[i], scores[i])
			}
		}
		ids := make([]int64, len(leaves))
		kernel.Leaves(ids, rows, m.Meta.Features)
		for i := range ids {
			if ids[i] != leaves[i] {
				t.Fatalf("%s: row %d, tree %d: leaf %d, want %d", name, i/m.Forest.NumTrees(), i%m.Forest.NumTrees(), ids[i], leaves[i])
			}
		}
	}
}

// load imports a file that must be sound and be recognised by its first bytes.
func load(t *testing.T, path string) *model.Model {
	t.Helper()
	data := readFile(t, path)
	if !sklearn.Detect(data[:min(len(data), 64)]) {
		t.Errorf("%s is not detected", path)
	}
	m, err := sklearn.Import(data)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if err := m.Validate(); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return m
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, path), v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func readNPY(t *testing.T, path string) *npy.Array {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := npy.Read(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return a
}

// float32s rounds rows as scikit-learn does before it compares them.
func float32s(a *npy.Array) []float32 {
	if a.Float32 != nil {
		return a.Float32
	}
	out := make([]float32, len(a.Float64))
	for i, v := range a.Float64 {
		out[i] = float32(v)
	}
	return out
}

// hexes reads numbers as Python's float.hex spells them.
func hexes(t *testing.T, rows [][]string) []float64 {
	t.Helper()
	var out []float64
	for _, row := range rows {
		for _, s := range row {
			v, err := strconv.ParseFloat(s, 64)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, v)
		}
	}
	return out
}

// glob lists files, of which there must be some.
func glob(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return paths
}
