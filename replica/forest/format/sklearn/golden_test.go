package sklearn_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/format/sklearn"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// TestGolden checks what is said about larger models, of versions 1.1 to 1.9, and every answer against scikit-learn's own.
func TestGolden(t *testing.T) {
	for _, dir := range append(glob(t, "testdata/golden/*"), glob(t, "testdata/packed/*")...) {
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
			checkOutputs(t, m, dir)
		})
	}
}

// TestKinds checks every answer of small models of every kind, in two versions.
func TestKinds(t *testing.T) {
	for _, path := range glob(t, "testdata/kinds/*/*.model") {
		name := strings.TrimSuffix(path, ".model")
		t.Run(strings.TrimPrefix(filepath.ToSlash(name), "testdata/kinds/"), func(t *testing.T) {
			checkOutputs(t, load(t, path), name)
		})
	}
}

// checkOutputs compares the answers of a model with those of scikit-learn: bits, type and shape. The rows hold NaN and
// infinities exactly if scikit-learn answered such rows.
func checkOutputs(t *testing.T, m *model.Model, path string) {
	t.Helper()
	answers := readArrays(t, path)
	rows := answers["X"].floats()
	delete(answers, "X")
	f := forest.New(m)
	if err := f.CheckRows64(rows); err != nil {
		t.Error(err)
	}
	isNaN := func(v float64) bool { return v != v }
	isInf := func(v float64) bool { return math.IsInf(v, 0) }
	if nan := slices.ContainsFunc(rows, isNaN); nan != m.Meta.Missing {
		t.Errorf("takes NaN: %v, want %v", m.Meta.Missing, nan)
	}
	if inf := slices.ContainsFunc(rows, isInf); inf != m.Meta.Infinite {
		t.Errorf("takes infinities: %v, want %v", m.Meta.Infinite, inf)
	}
	if len(answers) == 0 {
		t.Fatal("no answers")
	}
	for kind, want := range answers {
		o, err := f.Output(kind)
		if err != nil {
			t.Error(err)
			continue
		}
		got, err := o.Append64(nil, rows)
		if err != nil {
			t.Fatal(err)
		}
		n := len(rows) / f.NumFeatures()
		if shape := append([]int{n}, o.Shape...); o.Type != want.kind || !slices.Equal(shape, want.shape) {
			t.Errorf("%s is of type %s and shape %v, want %s and %v", kind, o.Type, shape, want.kind, want.shape)
			continue
		}
		if bytes.Equal(got, want.data) {
			continue
		}
		name := m.Meta.Link.Name
		switch {
		case want.kind != "f8" || name == model.Identity || kind == "margin" || kind == "leaf" || kind == "decision_function" && name != model.Isolation || !strings.Contains(path, "1.2.1"):
			t.Errorf("%s differs", kind)
		case kind == "decision_function": // a score less the offset
			checkNear(t, kind, floats(got), want.floats(), func(a, b float64) bool { return math.Abs(a-b) <= 0x1p-52 })
		default: // through NumPy's exp or power, on a processor without AVX-512
			checkNear(t, kind, floats(got), want.floats(), func(a, b float64) bool {
				return a*b >= 0 && max(math.Float64bits(a), math.Float64bits(b))-min(math.Float64bits(a), math.Float64bits(b)) <= 2
			})
		}
	}
}

func checkNear(t *testing.T, kind string, got, want []float64, near func(a, b float64) bool) {
	t.Helper()
	for i := range got {
		if !near(got[i], want[i]) {
			t.Errorf("%s: element %d is %v, want %v", kind, i, got[i], want[i])
			return
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
	for _, name := range engine.Names() {
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

// readFile gives a file, or what is in the gzip file of that name and .gz.
func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		return data
	}
	f, err := os.Open(path + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if data, err = io.ReadAll(z); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return data
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, path), v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// elements is an array of numpy's.
type elements struct {
	kind  string // "f8", without the byte order, which is little
	shape []int
	data  []byte
}

// floats gives numbers, those of f4 too.
func (e elements) floats() []float64 {
	if e.kind != "f4" {
		return floats(e.data)
	}
	out := make([]float64, len(e.data)/4)
	for i := range out {
		out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(e.data[4*i:])))
	}
	return out
}

func floats(b []byte) []float64 {
	out := make([]float64, len(b)/8)
	for i := range out {
		out[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
	}
	return out
}

var header = regexp.MustCompile(`'descr': '[<|]([^']*)', 'fortran_order': (False|True), 'shape': \(([^)]*)\)`)

// readArrays gives arrays by their names: the .npy files of a folder, or else what a file of numpy.savez has, in a folder
// or by the path and .npz.
func readArrays(t *testing.T, path string) map[string]elements {
	t.Helper()
	arrays := map[string]elements{}
	loose, _ := filepath.Glob(filepath.Join(path, "*.npy"))
	for _, p := range loose {
		arrays[strings.TrimSuffix(filepath.Base(p), ".npy")] = parseNPY(t, p, readFile(t, p))
	}
	if len(loose) > 0 {
		return arrays
	}
	z, err := zip.OpenReader(filepath.Join(path, "answers.npz"))
	if err != nil {
		z, err = zip.OpenReader(path + ".npz")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		arrays[strings.TrimSuffix(f.Name, ".npy")] = parseNPY(t, path, b)
	}
	return arrays
}

// parseNPY understands a .npy file of version 1.
func parseNPY(t *testing.T, path string, b []byte) elements {
	t.Helper()
	head := 10 + int(binary.LittleEndian.Uint16(b[8:]))
	parts := header.FindStringSubmatch(string(b[:head]))
	if parts == nil {
		t.Fatalf("%s: %q", path, b[:head])
	}
	e := elements{kind: parts[1], data: b[head:]}
	for side := range strings.SplitSeq(parts[3], ",") {
		if side = strings.TrimSpace(side); side != "" {
			n, err := strconv.Atoi(side)
			if err != nil {
				t.Fatal(err)
			}
			e.shape = append(e.shape, n)
		}
	}
	if parts[2] == "True" && len(e.shape) == 2 {
		e.data = transposed(e)
	}
	return e
}

// transposed brings the elements of a matrix in Fortran order into C order.
func transposed(e elements) []byte {
	rows, columns := e.shape[0], e.shape[1]
	size := len(e.data) / (rows * columns)
	var out []byte
	for i := range rows {
		for k := range columns {
			at := (k*rows + i) * size
			out = append(out, e.data[at:at+size]...)
		}
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

// glob lists files, of which there must be some, and those of gzip without their .gz.
func glob(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	packed, _ := filepath.Glob(pattern + ".gz")
	for i := range paths {
		paths[i] = strings.TrimSuffix(paths[i], ".gz")
	}
	for _, p := range packed {
		paths = append(paths, strings.TrimSuffix(p, ".gz"))
	}
	slices.Sort(paths)
	if paths = slices.Compact(paths); len(paths) == 0 {
		t.Fatalf("no files %s", pattern)
	}
	return paths
}
