//go:build exact

// Package exact is a test of its own: `make exact` prints, for every model whose library answered, how many rows of each
// output differ, and by how much.
package exact

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/format"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
	"github.com/coppice-mesh/coppice/services/exact"
)

const (
	// inside is where the cases of the repository are.
	inside = "../../../replica/forest"
	// numpyULP is how far outputs may be off that NumPy's vectorised exp or pow took part in: its last bits depend on
	// the processor.
	numpyULP = 2
	// contribsTolerance is how far contribs may be off, as a part of the largest of their row: XGBoost rounds them to
	// float32 at every step.
	contribsTolerance = 1e-6
)

var (
	brief    = flag.Bool("brief", false, "print the outputs that differ, and the totals")
	fixtures = flag.String("fixtures", "", "`DIR` of further cases")
)

// about is what case.json of a case says. Cases of the repository have none.
type about struct {
	Model   string `json:"model"`
	Outputs map[string]struct {
		Rounds  []int  `json:"iteration_range"`
		Through string `json:"through"`
	} `json:"outputs"`
}

// TestExact fails when an output differs that should not.
func TestExact(t *testing.T) {
	cases := find(t, inside)
	if *fixtures != "" {
		cases = append(cases, find(t, *fixtures)...)
	}
	if len(cases) < 10 {
		t.Fatalf("%d cases", len(cases))
	}
	fmt.Printf("%s\n%-52s %-18s %6s %7s %8s\n", platform(), "case", "output", "rows", "differ", "max ulp")
	var outputs, equal, near, allowed, unread int
	for _, folder := range cases {
		lines, err := check(folder)
		name := filepath.ToSlash(folder)
		if *fixtures != "" {
			name = strings.TrimPrefix(name, filepath.ToSlash(filepath.Clean(*fixtures))+"/")
		}
		name = strings.NewReplacer(inside+"/", "", "testdata/golden/", "").Replace(name)
		if errors.Is(err, format.ErrUnsupported) {
			unread++
			if !*brief {
				fmt.Printf("%-52s not read\n", name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, l := range lines {
			note := ""
			switch d := l.Largest; {
			case l.missing:
				note = "not computed"
				unread++
			case l.why != "":
				note = "FAIL: " + l.why
				t.Errorf("%s, %s: %s", name, l.output, l.why)
			case l.Differing == 0 && l.Relative > 0:
				note = fmt.Sprintf("%.1e of the row's largest", l.Relative)
				near++
			case l.Differing == 0:
				equal++
			case l.numpy && d.Kind == exact.Apart && d.ULP <= numpyULP:
				note = "NumPy's exp or pow"
				allowed++
			default:
				note = "FAIL"
				t.Errorf("%s, %s: %d of %d rows differ, by %s", name, l.output, l.Differing, l.Rows, d.Describe())
			}
			if !l.missing {
				outputs++
			}
			if note != "" && note != "not computed" || !*brief {
				fmt.Printf("%-52s %-18s %6d %7d %8s %s\n", name, l.output, l.Rows, l.Differing, l.Largest, note)
			}
		}
	}
	fmt.Printf("%d cases, %d outputs: %d equal, %d contribs within %v, %d within %d ulp through NumPy's exp or pow, %d failing; %d not read or not computed\n",
		len(cases), outputs, equal, near, contribsTolerance, allowed, numpyULP, outputs-equal-near-allowed, unread)
}

// platform is what the test was built for.
func platform() string {
	s := runtime.GOOS + "/" + runtime.GOARCH
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, kv := range info.Settings {
			if kv.Key == "GOAMD64" || kv.Key == "GOARM64" {
				s += " " + kv.Value
			}
		}
	}
	return s
}

// find lists the folders in which a model and its rows are.
func find(t *testing.T, dir string) (folders []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "X.npy" {
			if models, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "model.*")); len(models) > 0 {
				folders = append(folders, filepath.Dir(path))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return folders
}

// line is what was found about one output.
type line struct {
	exact.Comparison
	output  string
	numpy   bool // NumPy's vectorised functions took part
	missing bool // it is an output that a forest has not
	why     string
}

// check compares every output of a case.
func check(folder string) (lines []line, err error) {
	var of about
	if b, err := os.ReadFile(filepath.Join(folder, "case.json")); err == nil {
		if err := json.Unmarshal(b, &of); err != nil {
			return nil, err
		}
	}
	if of.Model == "" {
		models, _ := filepath.Glob(filepath.Join(folder, "model.*"))
		of.Model = filepath.Base(models[0])
	}
	whole, err := forest.Open(filepath.Join(folder, of.Model))
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(folder, "*.npy"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		l := line{output: strings.TrimSuffix(filepath.Base(path), ".npy")}
		if l.output == "X" {
			continue
		}
		said := of.Outputs[l.output]
		l.numpy = strings.Contains(said.Through, "numpy")
		m, kind := whole, l.output
		if first, ok := strings.CutSuffix(kind, "_best"); ok {
			rounds := []int{0, whole.Info().Best}
			if said.Rounds != nil {
				rounds = said.Rounds
			}
			if m, err = whole.Rounds(rounds[0], rounds[1]); err != nil {
				return nil, err
			}
			kind = first
		}
		o, err := m.Output(kind)
		if errors.Is(err, forest.ErrOutput) {
			l.missing = true
		} else if err != nil {
			return nil, err
		} else if err := l.compare(m, o, filepath.Join(folder, "X.npy"), path); err != nil {
			return nil, err
		}
		lines = append(lines, l)
	}
	return lines, nil
}

func (l *line) compare(m *forest.Model, o *forest.Output, input, path string) error {
	var got []byte
	var rows int
	var err error
	if m.Input() == model.Float64 {
		got, rows, err = evaluate(input, m.CheckRows64, o.Append64)
	} else {
		got, rows, err = evaluate(input, m.CheckRows, o.Append)
	}
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := npy.NewReader(f)
	if err != nil {
		return err
	}
	l.Type, l.Shape = o.Type, o.Shape
	if o.Kind == "contribs" {
		l.Tolerance = contribsTolerance
	}
	if want := append([]int{rows}, o.Shape...); r.Type != o.Type || !slices.Equal(r.Shape, want) {
		l.why = fmt.Sprintf("%s %v, the model gives %s %v", r.Type, r.Shape, o.Type, want)
		return nil
	}
	want := make([]byte, len(got))
	if n, err := r.ReadBytes(want); err != nil || n != rows {
		return fmt.Errorf("%s: %d rows, %w", path, n, err)
	}
	return l.Add(want, got)
}

// evaluate gives the elements of an output for all rows of a file.
func evaluate[T npy.Float](path string, check func([]T) error, add func([]byte, []T) ([]byte, error)) (elements []byte, rows int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	r, err := npy.NewReader(f)
	if err != nil {
		return nil, 0, err
	}
	x := make([]T, r.Rows()*r.Columns())
	if _, err := npy.ReadRows(r, x); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	if err := check(x); err != nil {
		return nil, 0, err
	}
	elements, err = add(nil, x)
	return elements, r.Rows(), err
}
