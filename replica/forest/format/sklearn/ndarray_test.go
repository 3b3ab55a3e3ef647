package sklearn

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
)

// TestArrays reads arrays of every kind, order and protocol as numpy and joblib write them.
func TestArrays(t *testing.T) {
	paths, err := filepath.Glob("testdata/arrays/*.pickle")
	if err != nil || len(paths) != 12 {
		t.Fatalf("%d files: %v", len(paths), err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		v, err := pickle.NewDecoder(pickle.FromBytes(data), pickle.Options{Allow: allow, Built: built}).Decode()
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		cases := v.(*pickle.List).Items
		if len(cases) < 20 {
			t.Errorf("%s has %d arrays", path, len(cases))
		}
		for i, c := range cases {
			a, err := parseArray(c.(pickle.Tuple)[0])
			if err != nil {
				t.Errorf("%s: array %d: %v", path, i, err)
				continue
			}
			var shape []int
			for _, side := range c.(pickle.Tuple)[1].(*pickle.List).Items {
				shape = append(shape, int(side.(int64)))
			}
			items, _ := c.(pickle.Tuple)[2].([]byte)
			if !slices.Equal(a.shape, shape) || !bytes.Equal(a.data, items) {
				t.Errorf("%s: array %d of %s: shape %v, items %v; want %v %v", path, i, a.dtype, a.shape, a.data, shape, items)
			}
			if a.count*a.dtype.size != len(a.data) {
				t.Errorf("%s: array %d: %d items of %d bytes are %d bytes", path, i, a.count, a.dtype.size, len(a.data))
			}
		}
	}
}

// TestArraysAlias checks that the arrays of an uncompressed file are its bytes, not copies of them.
func TestArraysAlias(t *testing.T) {
	for _, name := range []string{"joblib_5", "pickle_5", "pickle_3"} {
		data, err := os.ReadFile("testdata/arrays/" + name + ".pickle")
		if err != nil {
			t.Fatal(err)
		}
		v, err := pickle.NewDecoder(pickle.FromBytes(data), pickle.Options{Allow: allow, Built: built}).Decode()
		if err != nil {
			t.Fatal(err)
		}
		a, err := parseArray(v.(*pickle.List).Items[0].(pickle.Tuple)[0])
		if err != nil {
			t.Fatal(err)
		}
		clear(data)
		if !bytes.Equal(a.data, make([]byte, 24)) {
			t.Errorf("%s: an array was copied", name)
		}
	}
}

// TestOrderK refuses axes that are no permutation.
func TestOrderK(t *testing.T) {
	for says, axes := range map[string]any{
		"axis 1 of an array of shape [2 3]": pickle.Tuple{int64(0), int64(0)},
		"stands for axis 2":                 pickle.Tuple{int64(2), int64(0)},
		"stands for axis -1":                pickle.Tuple{int64(-1), int64(0)},
		"expected an integer, got None":     pickle.Tuple{nil, int64(0)},
		"in order \"K\" by the integer 7":   int64(7),
	} {
		a := &array{dtype: dtype{kind: 'i', size: 1}, shape: []int{2, 3}, count: 6}
		if _, err := a.parseOrder("K", axes); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("axes %v: %v, which does not say %q", axes, err, says)
		}
	}
	a := &array{dtype: dtype{kind: 'i', size: 1}, shape: []int{2, 3}, count: 6}
	if _, err := a.parseOrder("A", nil); err == nil || !strings.Contains(err.Error(), `in order "A"`) {
		t.Errorf("order A: %v", err)
	}
}
