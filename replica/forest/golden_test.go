package forest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
)

// TestGolden compares every output of models that the real libraries saved with what these libraries said about the
// same rows, byte by byte: values, types and order. A folder is a model, X.npy, and a file for each kind of output; those
// that end in _best are of the first rounds, up to the best.
func TestGolden(t *testing.T) {
	folders, err := filepath.Glob("testdata/golden/*")
	if err != nil || len(folders) < 10 {
		t.Fatalf("%d folders: %v", len(folders), err)
	}
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			models, _ := filepath.Glob(filepath.Join(folder, "model.*"))
			m, err := forest.Open(models[0])
			if err != nil {
				t.Fatal(err)
			}
			rows := readRows(t, filepath.Join(folder, "X.npy"))
			if err := m.CheckRows64(rows); err != nil {
				t.Error(err)
			}
			outputs, _ := filepath.Glob(filepath.Join(folder, "*.npy"))
			for _, path := range outputs {
				kind := strings.TrimSuffix(filepath.Base(path), ".npy")
				if kind == "X" {
					continue
				}
				part := m
				if first, ok := strings.CutSuffix(kind, "_best"); ok {
					kind = first
					if part, err = m.Rounds(0, m.Info().Best); err != nil {
						t.Fatal(err)
					}
				}
				o, err := part.Output(kind)
				if err != nil {
					t.Error(err)
					continue
				}
				got, err := o.Append64(nil, rows)
				if err != nil {
					t.Fatal(err)
				}
				want := elements(t, path)
				if kind == "contribs" {
					near(t, m, got, want)
				} else if !bytes.Equal(got, want) {
					t.Errorf("%s differs, in %d bytes of %d", path, len(got), len(want))
				}
			}
		})
	}
}

// near compares contributions, in which XGBoost has the errors of float32, and LightGBM those of float64.
func near(t *testing.T, m *forest.Model, got, want []byte) {
	t.Helper()
	read, tolerance := func(b []byte, i int) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])) }, 1e-13
	size := 8
	if m.Canonical().Forest.Single {
		read, tolerance = func(b []byte, i int) float64 {
			return float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
		}, 1e-6
		size = 4
	}
	if len(got) != len(want) {
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
	each := m.NumFeatures() + 1
	for at := 0; at < len(want)/size; at += each {
		largest := 0.0
		for i := at; i < at+each; i++ {
			largest = max(largest, math.Abs(read(want, i)))
		}
		for i := at; i < at+each; i++ {
			if d := read(got, i) - read(want, i); !(math.Abs(d) <= tolerance*largest) {
				t.Fatalf("row or output %d, feature %d: %v, want %v, the largest is %v", at/each, i-at, read(got, i), read(want, i), largest)
			}
		}
	}
}

// elements are the bytes behind the header of a .npy file of version 1.
func elements(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b[10+int(binary.LittleEndian.Uint16(b[8:])):]
}

func readRows(t *testing.T, path string) []float64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := npy.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	rows := make([]float64, r.Rows()*r.Columns())
	if n, err := npy.ReadRows(r, rows); err != nil || n != r.Rows() {
		t.Fatal(n, err)
	}
	if _, err := npy.ReadRows(r, rows); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return rows
}
