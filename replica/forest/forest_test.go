package forest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/format"
	"github.com/coppice-mesh/coppice/replica/forest/internal/race"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/shap"
	"github.com/coppice-mesh/coppice/replica/forest/train"
)

const irisFile = "format/sklearn/testdata/golden/rf_iris_strings/model.pkl"

// Open reads what scikit-learn saved, and predicts what it predicts.
func Example() {
	m, err := forest.Open(irisFile)
	if err != nil {
		panic(err)
	}
	row := []float32{5.1, 3.5, 1.4, 0.2}
	scores := make([]float64, m.NumScores())
	if err := m.Predict(scores, row); err != nil {
		panic(err)
	}
	fmt.Println(m.Classes()[m.Label(scores)], scores)
	// Output: setosa [1 0 0]
}

func ExampleModel_Info() {
	m, err := forest.Open(irisFile)
	if err != nil {
		panic(err)
	}
	info := m.Info()
	fmt.Println(info.Kind, "of", info.Library, info.Version)
	fmt.Println(info.Features, "features;", strings.Join(info.Classes, ", "))
	// Output:
	// RandomForestClassifier of scikit-learn 1.1.3
	// 4 features; setosa, versicolor, virginica
}

// Predict takes any number of rows at once, one behind the other.
func ExampleModel_Predict() {
	m, err := forest.Open(irisFile)
	if err != nil {
		panic(err)
	}
	rows := []float32{
		6.0, 2.9, 4.5, 1.5,
		7.7, 3.8, 6.7, 2.2,
	}
	scores := make([]float64, 2*m.NumScores())
	if err := m.Predict(scores, rows); err != nil {
		panic(err)
	}
	for ; len(scores) > 0; scores = scores[m.NumScores():] {
		best := m.Label(scores[:m.NumScores()])
		fmt.Printf("%s %.2f\n", m.Classes()[best], scores[best])
	}
	// Output:
	// versicolor 1.00
	// virginica 1.00
}

// Leaves gives the leaf of every tree, by the number that scikit-learn's apply gives it.
func ExampleModel_Leaves() {
	m, err := forest.Open(irisFile)
	if err != nil {
		panic(err)
	}
	leaves := make([]int64, m.NumTrees())
	if err := m.Leaves(leaves, []float32{5.1, 3.5, 1.4, 0.2}); err != nil {
		panic(err)
	}
	fmt.Println(len(leaves), "trees; leaves", leaves[:5])
	// Output:
	// 25 trees; leaves [1 1 1 1 1]
}

// Rows that come as float64 are rounded as scikit-learn rounds them, and checked as it checks them.
func ExampleModel_CheckRows() {
	m, err := forest.Open(irisFile)
	if err != nil {
		panic(err)
	}
	row := make([]float32, m.NumFeatures())
	fmt.Println(forest.ToFloat32(row, []float64{5.1, 1e40, 1.4, 0.2}))
	if err := forest.ToFloat32(row, []float64{5.1, 3.5, math.NaN(), 0.2}); err != nil {
		panic(err)
	}
	fmt.Println(m.CheckRows(row))
	// Output:
	// infinite value: value 1 is 1e+40, which is too large for float32
	// missing value: row 0, feature 2 is NaN, and the model takes none
}

func demo(t *testing.T) *forest.Model {
	t.Helper()
	cfg := train.DemoConfig()
	cfg.Trees = 5
	m, err := train.Forest(context.Background(), cfg, train.Demo(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return forest.New(m)
}

func TestShapes(t *testing.T) {
	m := demo(t)
	for name, err := range map[string]error{
		"ragged rows":  m.Predict(make([]float64, 2), make([]float32, 21)),
		"small dst":    m.Predict(make([]float64, 1), make([]float32, 20)),
		"large dst":    m.Predict(make([]float64, 3), make([]float32, 20)),
		"leaves":       m.Leaves(make([]int64, 4), make([]float32, 20)),
		"check":        m.CheckRows(make([]float32, 19)),
		"to float32":   forest.ToFloat32(make([]float32, 1), make([]float64, 2)),
		"leaves' rows": m.Leaves(make([]int64, 5), make([]float32, 19)),
	} {
		if !errors.Is(err, forest.ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := m.Predict(nil, nil); err != nil {
		t.Errorf("no rows: %v", err)
	}
}

func TestCheckRows(t *testing.T) {
	m := demo(t)
	rows := make([]float32, 40)
	if err := m.CheckRows(rows); err != nil {
		t.Error(err)
	}
	rows[23] = float32(math.NaN())
	if err := m.CheckRows(rows); !errors.Is(err, forest.ErrMissing) || !strings.Contains(err.Error(), `row 1, feature 3 ("f3")`) {
		t.Error(err)
	}
	rows[23] = float32(math.Inf(1))
	if err := m.CheckRows(rows); !errors.Is(err, forest.ErrInfinite) {
		t.Error(err)
	}
	if err := forest.ToFloat32(rows[:2], []float64{1, 1e300}); !errors.Is(err, forest.ErrInfinite) || !strings.Contains(err.Error(), "value 1") {
		t.Error(err)
	}
}

// TestCheckMissing: a model that was trained with missing values takes NaN, and still no infinity.
func TestCheckMissing(t *testing.T) {
	m, err := forest.Open("format/sklearn/testdata/golden/rf_nan_weighted_pandas/model.joblib")
	if err != nil {
		t.Fatal(err)
	}
	if !m.TakesMissing() {
		t.Fatal("it takes no missing values")
	}
	rows := make([]float32, 2*m.NumFeatures())
	rows[0] = float32(math.NaN())
	if err := m.CheckRows(rows); err != nil {
		t.Error(err)
	}
	for _, v := range []float32{float32(math.Inf(1)), float32(math.Inf(-1))} {
		rows[m.NumFeatures()+1] = v
		want := fmt.Sprintf("row 1, feature 1 (%q)", m.FeatureName(1))
		if err := m.CheckRows(rows); !errors.Is(err, forest.ErrInfinite) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want …%s", v, err, want)
		}
	}
}

// TestToFloat32: ties go to even, as the hardware does it, and what would become infinite is refused.
func TestToFloat32(t *testing.T) {
	const (
		half = 1 << 103 // half of the distance from the largest float32 to what would be the next
	)
	for _, tt := range []struct {
		in   float64
		want float32
		err  error
	}{
		{0.1, 0.1, nil},
		{math.Copysign(0, -1), float32(math.Copysign(0, -1)), nil},
		{1 + 0x1p-24, 1, nil},
		{1 + 0x3p-24, 1 + 0x1p-22, nil},
		{math.Nextafter(1+0x1p-24, 2), 1 + 0x1p-23, nil},
		{5e-324, 0, nil},
		{math.SmallestNonzeroFloat32, math.SmallestNonzeroFloat32, nil},
		{math.MaxFloat32, math.MaxFloat32, nil},
		{math.Nextafter(math.MaxFloat32+half, 0), math.MaxFloat32, nil},
		{math.MaxFloat32 + half, 0, forest.ErrInfinite},
		{-math.MaxFloat32 - half, 0, forest.ErrInfinite},
		{math.MaxFloat64, 0, forest.ErrInfinite},
		{math.Inf(1), float32(math.Inf(1)), nil}, // as it came: CheckRows refuses it by row and feature
		{math.Inf(-1), float32(math.Inf(-1)), nil},
		{math.NaN(), float32(math.NaN()), nil},
	} {
		var got [1]float32
		err := forest.ToFloat32(got[:], []float64{tt.in})
		if !errors.Is(err, tt.err) {
			t.Errorf("%v: %v, want %v", tt.in, err, tt.err)
		}
		if err == nil && math.Float32bits(got[0]) != math.Float32bits(tt.want) && got[0] == got[0] {
			t.Errorf("%v: got %v, want %v", tt.in, got[0], tt.want)
		}
		if math.IsNaN(tt.in) && got[0] == got[0] {
			t.Errorf("NaN became %v", got[0])
		}
	}
}

// TestShapeErrors say what was expected and what came.
func TestShapeErrors(t *testing.T) {
	m := demo(t)
	for _, tt := range []struct {
		err error
		say []string
	}{
		{m.Predict(make([]float64, 2), make([]float32, 21)), []string{"21 values", "20 features"}},
		{m.Predict(make([]float64, 3), make([]float32, 40)), []string{"dst has 3", "2 rows have 4"}},
		{m.Leaves(make([]int64, 9), make([]float32, 40)), []string{"dst has 9", "2 rows have 10"}},
		{forest.ToFloat32(make([]float32, 1), make([]float64, 2)), []string{"dst has 1", "src 2"}},
	} {
		for _, say := range tt.say {
			if !errors.Is(tt.err, forest.ErrShape) || !strings.Contains(tt.err.Error(), say) {
				t.Errorf("got %v, want …%s…", tt.err, say)
			}
		}
	}
}

// TestInfo: what Info tells is its own.
func TestInfo(t *testing.T) {
	m := demo(t)
	info := m.Info()
	if info.Features != 20 || info.Trees != 5 || info.Nodes != info.Leaves*2-info.Trees || info.Depth < 1 || info.Golden < 1 || m.Cost() != info.Depth*5 {
		t.Errorf("%+v, cost %d", info, m.Cost())
	}
	info.Classes[0], info.Names[0] = "changed", "changed"
	if m.Classes()[0] == "changed" || m.FeatureName(0) == "changed" {
		t.Error("a caller changed the model")
	}
	if m.FeatureName(-1) != "" || m.FeatureName(20) != "" {
		t.Error("there is no such feature")
	}
}

func TestLabel(t *testing.T) {
	m := demo(t)
	if m.Label([]float64{0.5, 0.5}) != 0 || m.Label([]float64{0.4, 0.6}) != 1 {
		t.Error("the first of the largest is the label")
	}
}

func TestAllocations(t *testing.T) {
	if race.Enabled {
		t.Skip("pools forget what they were given")
	}
	m := demo(t)
	dst, leaves, rows := make([]float64, 20), make([]int64, 50), make([]float32, 200)
	if n := testing.AllocsPerRun(100, func() {
		if m.Predict(dst, rows) != nil || m.Leaves(leaves, rows) != nil {
			t.Error("it failed")
		}
	}); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
}

// TestOpen: formats are recognised by content, whatever the name.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	named := filepath.Join(dir, "model.csv")
	b, err := os.ReadFile(irisFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(named, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := forest.Open(named); err != nil {
		t.Error(err)
	}
	for name, content := range map[string]string{"empty": "", "text": "a,b\n1,2\n", "zeros": string(make([]byte, 100))} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := forest.Open(path); !errors.Is(err, format.ErrUnknown) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := forest.Open(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
}

// Contribs says how much each feature has to do with a margin, and what the margin is on average.
func ExampleModel_Contribs() {
	m, err := forest.Open(irisFile)
	if err != nil {
		panic(err)
	}
	row := []float32{6.0, 2.9, 4.5, 1.5}
	contribs := make([]float64, m.NumContribs())
	if err := m.Contribs(contribs, row, 1); err != nil {
		panic(err)
	}
	each := m.NumFeatures() + 1
	versicolor := contribs[each : 2*each] // the second class
	sum := 0.0
	for i, v := range versicolor {
		if sum += v; i < m.NumFeatures() {
			fmt.Printf("feature %d: %.3f\n", i, v)
		} else {
			fmt.Printf("average: %.3f\ntogether: %.3f\n", v, sum)
		}
	}
	// Output:
	// feature 0: 0.034
	// feature 1: 0.008
	// feature 2: 0.283
	// feature 3: 0.329
	// average: 0.346
	// together: 1.000
}

// TestContribs: contributions of every model that has some add up to its margins, also those of some rounds.
func TestContribs(t *testing.T) {
	paths, err := filepath.Glob("testdata/golden/*/model.*")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d models: %v", len(paths), err)
	}
	with := 0
	for _, path := range paths {
		m, err := forest.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		rows := readRows(t, filepath.Join(filepath.Dir(path), "X.npy"))
		n := len(rows) / m.NumFeatures()
		if linear := m.Canonical().Forest.Linear != nil; linear {
			if err := m.Contribs64(make([]float64, n*m.NumContribs()), rows, 1); !errors.Is(err, shap.ErrNone) {
				t.Errorf("%s: %v", path, err)
			}
			if _, err := m.Output("contribs"); !errors.Is(err, forest.ErrOutput) {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		if len(m.Info().Lost) > 0 && slices.Contains(m.Info().Lost, model.LostCovers) {
			t.Errorf("%s has no covers", path)
		}
		with++
		part, err := m.Rounds(0, max(1, m.NumRounds()/2))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*forest.Model{m, part} {
			contribs, margins := make([]float64, n*m.NumContribs()), make([]float64, n*m.NumMargins())
			if err := errors.Join(m.Contribs64(contribs, rows, 2), m.Margins64(margins, rows)); err != nil {
				t.Fatal(err)
			}
			tolerance := 1e-13
			if m.Canonical().Forest.Single {
				tolerance = 1e-6 // margins are sums of float32
			}
			each := m.NumFeatures() + 1
			for i, margin := range margins {
				sum, size := 0.0, 0.0
				for _, v := range contribs[i*each : (i+1)*each] {
					sum, size = sum+v, size+math.Abs(v)
				}
				if !(math.Abs(sum-margin) <= tolerance*size) {
					t.Fatalf("%s, margin %d: %v, its contributions add up to %v", path, i, margin, sum)
				}
			}
		}
		if err := m.Contribs64(make([]float64, m.NumContribs()-1), rows[:m.NumFeatures()], 1); !errors.Is(err, forest.ErrShape) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if with < 10 {
		t.Errorf("%d models have contributions", with)
	}
}

// Rows may lie in a wider table: a stride skips what is between them. A kernel can be forced.
func ExampleModel_With() {
	m, err := forest.Open(irisFile)
	if err != nil {
		panic(err)
	}
	table, err := m.With(forest.Options{Stride: 6, Threads: 1})
	if err != nil {
		panic(err)
	}
	rows := []float32{
		5.1, 3.5, 1.4, 0.2, 77, 77, // a row of four features, and two values of something else
		6.9, 3.1, 5.4, 2.1, 77, 77,
	}
	scores := make([]float64, 2*table.NumScores())
	if err := table.Predict(scores, rows); err != nil {
		panic(err)
	}
	fmt.Println(scores)
	// Output: [1 0 0 0 0 1]
}

// TestOptions: no option changes an answer.
func TestOptions(t *testing.T) {
	paths, err := filepath.Glob("testdata/golden/*/model.*")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d models: %v", len(paths), err)
	}
	for _, path := range paths {
		m, err := forest.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		features := m.NumFeatures()
		rows := readRows(t, filepath.Join(filepath.Dir(path), "X.npy"))
		n := len(rows) / features
		want, wantLeaves := make([]float64, n*m.NumScores()), make([]int64, n*m.NumTrees())
		if err := errors.Join(m.Predict64(want, rows), m.Leaves64(wantLeaves, rows)); err != nil {
			t.Fatal(err)
		}
		wide := make([]float64, n*(features+3))
		for i := range wide {
			wide[i] = math.NaN()
		}
		for i := range n {
			copy(wide[i*(features+3):], rows[i*features:(i+1)*features])
		}
		for _, o := range []forest.Options{{Stride: features + 3}, {Stride: features + 3, Threads: 1, Kernel: "scalar"}} {
			other, err := m.With(o)
			if err != nil {
				t.Fatal(err)
			}
			got, leaves := make([]float64, len(want)), make([]int64, len(wantLeaves))
			if err := errors.Join(other.Predict64(got, wide), other.Leaves64(leaves, wide), other.CheckRows64(wide[:0])); err != nil {
				t.Fatal(err)
			}
			for i := range got {
				if math.Float64bits(got[i]) != math.Float64bits(want[i]) {
					t.Fatalf("%s, %+v: score %d is %v, want %v", path, o, i, got[i], want[i])
				}
			}
			if !slices.Equal(leaves, wantLeaves) {
				t.Errorf("%s, %+v: other leaves", path, o)
			}
			for _, kind := range m.Info().Outputs {
				one, err1 := m.Output(kind)
				two, err2 := other.Output(kind)
				if err := errors.Join(err1, err2); err != nil {
					t.Fatal(err)
				}
				want, err1 := one.Append64(nil, rows)
				got, err2 := two.Append64(nil, wide)
				if err := errors.Join(err1, err2); err != nil || !slices.Equal(got, want) {
					t.Errorf("%s, %+v: %s differs, %v", path, o, kind, err)
				}
			}
			if m.NumContribs() == 0 || m.Canonical().Forest.Linear != nil {
				continue
			}
			plain, skipped := make([]float64, n*m.NumContribs()), make([]float64, n*m.NumContribs())
			if err := errors.Join(m.Contribs64(plain, rows, 1), other.Contribs64(skipped, wide, 2)); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(plain, skipped) {
				t.Errorf("%s, %+v: other contributions", path, o)
			}
		}
	}
	m := demo(t)
	for _, o := range []forest.Options{{Stride: 19}, {Kernel: "gpu"}} {
		if _, err := m.With(o); !errors.Is(err, forest.ErrShape) && !errors.Is(err, engine.ErrKernel) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	wide, err := m.With(forest.Options{Stride: 22})
	if err != nil {
		t.Fatal(err)
	}
	row := make([]float32, 22)
	row[21] = float32(math.Inf(1))
	if err := wide.CheckRows(row); err != nil {
		t.Errorf("what is skipped: %v", err)
	}
	if err := wide.Predict(make([]float64, 2), row[:20]); !errors.Is(err, forest.ErrShape) || !strings.Contains(err.Error(), "rows of 22") {
		t.Errorf("rows that are too short: %v", err)
	}
}
