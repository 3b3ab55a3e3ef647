package xgboost_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/format/xgboost"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
)

func readFile(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %d files: %v", pattern, len(paths), err)
	}
	return paths
}

// read imports a file in the one of the two encodings that it is in.
func read(data []byte) (*model.Model, error) {
	if xgboost.DetectUBJSON(data) {
		return xgboost.ImportUBJSON(data)
	}
	return xgboost.ImportJSON(data)
}

// imported is a model that is read and valid.
func imported(t *testing.T, data []byte) *model.Model {
	t.Helper()
	m, err := read(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestGolden compares answers with those of XGBoost: bits, type and shape. See testdata/README.md.
func TestGolden(t *testing.T) {
	for _, path := range glob(t, "testdata/golden/*/model.*") {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			data := readFile(t, path)
			if head := data[:min(len(data), 4<<10)]; xgboost.DetectJSON(head) == xgboost.DetectUBJSON(head) {
				t.Errorf("JSON: %v, UBJSON: %v", xgboost.DetectJSON(head), xgboost.DetectUBJSON(head))
			}
			m := forest.New(imported(t, data))
			x, err := npy.Read(bytes.NewReader(readFile(t, dir, "X.npy")))
			if err != nil {
				t.Fatal(err)
			}
			rows := x.Float32
			for _, kind := range []string{"predict", "margin", "leaf"} {
				o, err := m.Output(kind)
				if err != nil {
					t.Fatal(err)
				}
				var got bytes.Buffer
				shape := append([]int{len(rows) / m.NumFeatures()}, o.Shape...)
				if err := npy.WriteHeader(&got, o.Type, shape...); err != nil {
					t.Fatal(err)
				}
				values, err := o.Append(nil, rows)
				if err != nil {
					t.Fatal(err)
				}
				got.Write(values)
				if want := readFile(t, dir, kind+".npy"); !bytes.Equal(got.Bytes(), want) {
					t.Errorf("%s is of type %s and shape %v, and differs from %.128q", kind, o.Type, shape, want)
				}
			}
		})
	}
}

// TestWeights reads the weights of trees at the three places where they have been: in a DART booster, and in a gbtree
// beside the model and in it.
func TestWeights(t *testing.T) {
	for _, swap := range [][]string{
		{`"name":"gbtree","model":{`, `"name":"dart","weight_drop":[2.5E-1],"gbtree":{"name":"gbtree","model":{`, `]}}}}`, `]}}}}}`},
		{`"name":"gbtree","model":{`, `"name":"gbtree","weight_drop":[2.5E-1],"model":{`},
		{`"name":"gbtree","model":{`, `"name":"gbtree","model":{"weight_drop":[2.5E-1],`},
	} {
		m := imported(t, []byte(edit{name: swap[1], swap: swap}.apply(t)))
		if got := m.Forest.Values32; !slices.Equal(got, []float32{-0.25, 0.25}) {
			t.Errorf("%s: leaves of %v, expected those of -1 and 1 times 0.25", swap[1], got)
		}
	}
}

// TestBases: which base a score is, by objective and version.
func TestBases(t *testing.T) {
	for _, c := range []struct {
		objective, base, version string
		want                     float64
	}{
		{"reg:squarederror", "[2E0]", "[3,2,0]", 2},
		{"reg:squarederror", "2E0", "[1,7,6]", 2},
		{"binary:logitraw", "2.5E-1", "[1,7,6]", 0.25},
		{"binary:logitraw", "[-3E0]", "[3,2,0]", -3},
		{"binary:logistic", "5E-1", "[2,0,3]", 0},
		{"binary:logistic", "[0E0]", "[3,2,0]", float64(float32(-13.81551))},
		{"binary:logistic", "[1E0]", "[3,4,1]", float64(float32(13.74516))},
		{"binary:logistic", "1E-9", "[3,1,3]", float64(float32(-20.723267))},
		{"count:poisson", "0E0", "[3,2,0]", math.Inf(-1)},
		{"binary:hinge", "5E-1", "[3,2,0]", 0.5},
	} {
		e := edit{name: c.objective, swap: []string{"reg:squarederror", c.objective, "[5E-1]", c.base, "[3,2,0]", c.version}}
		if got := imported(t, []byte(e.apply(t))).Forest.Base[0]; got != c.want {
			t.Errorf("%+v: base %v", c, got)
		}
	}
}

func FuzzJSON(f *testing.F) {
	for _, path := range glob(f, "testdata/golden/*/model.json") {
		f.Add(readFile(f, path))
	}
	f.Add([]byte(least1()))
	for _, c := range edits {
		f.Add([]byte(c.apply(f)))
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkImport(t, data, xgboost.ImportJSON) })
}

func FuzzUBJSON(f *testing.F) {
	for _, path := range glob(f, "testdata/golden/*/model.ubj") {
		f.Add(readFile(f, path))
	}
	for _, c := range binaries {
		f.Add([]byte(c.data))
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkImport(t, data, xgboost.ImportUBJSON) })
}

// checkImport proves that bytes are read within bounds, and that what is accepted is valid and answers any row, by all
// kernels with the same bits.
func checkImport(t *testing.T, data []byte, read func([]byte) (*model.Model, error)) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := read(data)
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(200<<20+2000*len(data)); got > most {
		t.Fatalf("%d bytes made it allocate %d, expected %d at most", len(data), got, most)
	}
	if err != nil {
		return
	}
	if err := m.Validate(); err != nil {
		t.Fatalf("accepted, and then: %v", err)
	}
	f, features := &m.Forest, m.Meta.Features
	if features > 1<<16 || f.Outputs > 1<<12 {
		return // rows of it would take the time of all others
	}
	special := []float32{
		float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.Copysign(0, -1)), 0, 1, 2, 31, 32, 1.5, -1,
		1e-45, -1e-45, math.MaxFloat32, -math.MaxFloat32, 1 << 24, 1 << 31, 0.3,
	}
	n := len(special)
	if features > 1<<10 {
		n = 3
	}
	rows := make([]float32, 0, 2*n*features)
	for i := range n {
		for range features { // all the same, and then each another
			rows = append(rows, special[i])
		}
		for k := range features {
			rows = append(rows, special[(i+k)%len(special)])
		}
	}
	want := make([]float64, 2*n*f.Outputs)
	leaves := make([]int64, 2*n*f.NumTrees())
	reference := engine.ByName[float32]("scalar", f)
	reference.Margins(want, rows, features)
	reference.Leaves(leaves, rows, features)
	for _, name := range engine.Names()[1:] {
		kernel := engine.ByName[float32](name, f)
		if kernel == nil {
			continue
		}
		got := make([]float64, len(want))
		kernel.Margins(got, rows, features)
		for i := range got {
			if math.Float64bits(got[i]) != math.Float64bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
				t.Fatalf("kernel %s: margin %d is %v, that of the scalar one %v", name, i, got[i], want[i])
			}
		}
		ids := make([]int64, len(leaves))
		kernel.Leaves(ids, rows, features)
		if !slices.Equal(ids, leaves) {
			t.Fatalf("kernel %s: leaves %v, those of the scalar one %v", name, ids, leaves)
		}
	}
	for _, o := range forest.New(m).Outputs() {
		if _, err := o.Append(nil, rows); err != nil {
			t.Fatalf("%s: %v", o.Kind, err)
		}
	}
}
