package forest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/format"
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
	scores := make([]float64, m.NumOutputs())
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

func TestLabel(t *testing.T) {
	m := demo(t)
	if m.Label([]float64{0.5, 0.5}) != 0 || m.Label([]float64{0.4, 0.6}) != 1 {
		t.Error("the first of the largest is the label")
	}
}

func TestAllocations(t *testing.T) {
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
