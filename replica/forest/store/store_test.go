package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/format"
	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/train"
)

func trained(t *testing.T) *model.Model {
	t.Helper()
	cfg := train.DemoConfig()
	cfg.Trees = 3
	m, err := train.Forest(context.Background(), cfg, train.Demo(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func encoded(t *testing.T, m *model.Model) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := coppice.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s := New(dir)
	m := trained(t)
	e, err := s.Add(m)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.SHA256) != 64 || e.Version != e.SHA256[:VersionDigits] || !s.Has(e.SHA256) || e.Info.Trees != 3 || e.Bytes != int64(len(encoded(t, m))) {
		t.Errorf("%+v", e)
	}
	for path, mode := range map[string]os.FileMode{filepath.Dir(e.Path): 0o700, e.Path: 0o400} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, mode)
		}
	}
	got, err := s.Open(e.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	row := train.Demo().Rows[:20]
	a, b := make([]float64, 2), make([]float64, 2)
	if err := got.Predict(a, row); err != nil {
		t.Fatal(err)
	}
	reference(m, b, row)
	if a[0] != b[0] || a[1] != b[1] {
		t.Errorf("the stored model says %v, the trained one %v", a, b)
	}
}

// reference sums the trees of a model by hand.
func reference(m *model.Model, dst []float64, row []float32) {
	f := &m.Forest
	for t := range f.NumTrees() {
		tree, next := f.Trees[t], f.Trees[t+1]
		k, l, end := uint32(0), uint32(0), next.Split-tree.Split
		for k < end {
			s := f.Splits[tree.Split+k]
			if row[s.Feature()] <= s.Threshold {
				k, end = k+1, s.Right
			} else {
				k, l = s.Right, l+s.Right-k
			}
		}
		for o := range dst {
			dst[o] += f.Values[int(f.Leaves[tree.Leaf+l])*f.Outputs+o]
		}
	}
	for o := range dst {
		dst[o] /= float64(f.NumTrees())
	}
}

// TestSourceChanges: what becomes of the file that was added does not matter, and adding it again finds the import.
func TestSourceChanges(t *testing.T) {
	s := New(t.TempDir())
	src := filepath.Join(t.TempDir(), "m.coppice")
	if err := os.WriteFile(src, encoded(t, trained(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := s.AddFile(src)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Open(e.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	again, err := s.AddFile(src)
	if err != nil || again.SHA256 != e.SHA256 || again.Bytes != e.Bytes || again.Cost != e.Cost {
		t.Errorf("added again: %+v, %v", again, err)
	}
	if err := os.WriteFile(src, bytes.Repeat([]byte{0xff}, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(src, 0); err != nil {
		t.Fatal(err)
	}
	if err := m.Predict(make([]float64, 2), make([]float32, 20)); err != nil {
		t.Error(err)
	}
	if _, err := s.AddFile(src); !errors.Is(err, format.ErrUnknown) || !strings.Contains(err.Error(), src) {
		t.Errorf("an empty file: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	s := New(t.TempDir())
	e, err := s.Add(trained(t))
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(e.Path)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("0", 64)
	if err := s.Put(other, bytes.NewReader(good), 1<<30); !errors.Is(err, ErrHash) {
		t.Errorf("another hash: %v", err)
	}
	if err := s.Put(e.SHA256, bytes.NewReader(good), 10); !errors.Is(err, format.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if err := s.Put(e.SHA256, bytes.NewReader(good), 1<<30); err != nil {
		t.Errorf("what is there already: %v", err)
	}
	for _, hash := range []string{"", "../../etc/passwd", strings.Repeat("g", 64), strings.Repeat("A", 64), other} {
		if _, err := s.Open(hash); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", hash, err)
		}
		if _, err := s.Reader(hash); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", hash, err)
		}
		if s.Has(hash) {
			t.Errorf("%q is there", hash)
		}
	}
	// A disk that lost a bit.
	if err := os.Chmod(e.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	good[len(good)/2] ^= 1
	if err := os.WriteFile(e.Path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(e.SHA256); !errors.Is(err, coppice.ErrFormat) {
		t.Errorf("damaged: %v", err)
	}
}

func TestConcurrentAdd(t *testing.T) {
	s := New(t.TempDir())
	m := trained(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			e, err := s.Add(m)
			if err != nil {
				t.Error(err)
				return
			}
			opened, err := s.Open(e.SHA256)
			if err != nil {
				t.Error(err)
				return
			}
			opened.Close()
		})
	}
	wg.Wait()
	left, err := filepath.Glob(filepath.Join(s.dir, ".new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
