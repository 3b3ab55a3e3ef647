package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

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
			if row[s.Feature()] <= s.Threshold32() {
				k, end = k+1, s.Right
			} else {
				k, l = s.Right, l+s.Right-k
			}
		}
		for o := range dst {
			dst[o] += f.Values[f.Row(int(tree.Leaf+l))*f.Outputs+o]
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
	// A valid file of another model, under this one's name.
	if err := os.Chmod(e.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	stranger := trained(t)
	stranger.Meta.Source.Version = "another"
	if err := os.WriteFile(e.Path, encoded(t, stranger), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(e.SHA256); !errors.Is(err, ErrHash) || !strings.Contains(err.Error(), e.Path) {
		t.Errorf("another model's file: %v", err)
	}
	// A disk that lost a bit.
	good[len(good)/2] ^= 1
	if err := os.WriteFile(e.Path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(e.SHA256); !errors.Is(err, coppice.ErrFormat) {
		t.Errorf("damaged: %v", err)
	}
}

// damage flips a bit of a stored file, whose size and name stay.
func damage(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := len(b) / 2
	for b[at] == 0 { // a gap between sections is looked at when arrays are not
		at++
	}
	b[at] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRepair: a damaged file is refused, and replaced by whatever brings the model again.
func TestRepair(t *testing.T) {
	m := trained(t)
	good := encoded(t, m)
	src := filepath.Join(t.TempDir(), "m.coppice")
	if err := os.WriteFile(src, good, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, again := range map[string]func(s *Store, hash string) error{
		"Add":     func(s *Store, _ string) error { _, err := s.Add(m); return err },
		"AddFile": func(s *Store, _ string) error { _, err := s.AddFile(src); return err },
		"Put":     func(s *Store, hash string) error { return s.Put(hash, bytes.NewReader(good), 1<<30) },
	} {
		t.Run(name, func(t *testing.T) {
			s := New(t.TempDir())
			e, err := s.AddFile(src)
			if err != nil {
				t.Fatal(err)
			}
			damage(t, e.Path)
			if _, err := s.Open(e.SHA256); !errors.Is(err, coppice.ErrFormat) || !strings.Contains(err.Error(), e.Path) {
				t.Fatalf("damaged: %v", err)
			}
			if err := again(s, e.SHA256); err != nil {
				t.Fatal(err)
			}
			got, err := s.Open(e.SHA256)
			if err != nil {
				t.Fatalf("brought again: %v", err)
			}
			defer got.Close()
			if info, err := os.Stat(e.Path); err != nil || info.Mode().Perm() != 0o400 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
		})
	}
}

// TestCache: a source that was imported before is not imported again, and a note of it that is damaged does no harm.
func TestCache(t *testing.T) {
	s := New(t.TempDir())
	src := filepath.Join("..", "format", "sklearn", "testdata", "golden", "rf_iris_strings", "model.pkl")
	first, err := s.AddFile(src)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if first.Info.SourceSum != hex.EncodeToString(sum[:]) {
		t.Errorf("the source is said to be %s, it is %x", first.Info.SourceSum, sum)
	}
	note := s.sourcePath(hex.EncodeToString(sum[:]))
	if info, err := os.Stat(note); err != nil || info.Mode().Perm() != 0o400 {
		t.Fatalf("%v, %v", info, err)
	}
	again, err := s.AddFile(src)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("found again: %s", diff)
	}
	// Where the note leads to another model, that one is given: the source was not read by its importer.
	other, err := s.Add(trained(t))
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.Remove(note); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(note, []byte(text), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	write(other.SHA256)
	if e, err := s.AddFile(src); err != nil || e.SHA256 != other.SHA256 {
		t.Errorf("%+v, %v", e, err)
	}
	for _, text := range []string{"", "../../../etc/passwd", strings.Repeat("0", 64), strings.Repeat("x", 64), other.SHA256 + "\n"} {
		write(text)
		if e, err := s.AddFile(src); err != nil || e.SHA256 != first.SHA256 {
			t.Errorf("note %q: %+v, %v", text, e, err)
		}
		if b, err := os.ReadFile(note); err != nil || string(b) != first.SHA256 {
			t.Errorf("note %q is now %q, %v", text, b, err)
		}
	}
}

// TestStoredFileReplaced: who has a model mapped keeps it when the stored file is replaced or removed.
func TestStoredFileReplaced(t *testing.T) {
	s := New(t.TempDir())
	m := trained(t)
	e, err := s.Add(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Open(e.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	row := train.Demo().Rows[:20]
	want := make([]float64, 2)
	reference(m, want, row)
	same := func(when string) {
		t.Helper()
		scores := make([]float64, 2)
		if err := got.Predict(scores, row); err != nil || scores[0] != want[0] || scores[1] != want[1] {
			t.Errorf("%s: %v, %v, want %v", when, scores, err, want)
		}
	}
	if err := os.Remove(e.Path); err != nil {
		t.Fatal(err)
	}
	same("removed")
	if s.Has(e.SHA256) {
		t.Error("it is still there")
	}
	if err := s.Put(e.SHA256, bytes.NewReader(encoded(t, m)), 1<<30); err != nil {
		t.Fatal(err)
	}
	same("brought again")
}

// TestPutRefused: what is refused leaves nothing behind.
func TestPutRefused(t *testing.T) {
	dir := t.TempDir()
	s := New(dir)
	good := encoded(t, trained(t))
	sum := func(b []byte) string {
		h := sha256.Sum256(b)
		return hex.EncodeToString(h[:])
	}
	broken := errors.New("the peer went away")
	for name, tt := range map[string]struct {
		hash string
		r    io.Reader
		max  int64
		want error
	}{
		"a path":         {"../" + sum(good)[3:], bytes.NewReader(good), 1 << 30, ErrNotFound},
		"upper case":     {strings.ToUpper(sum(good)), bytes.NewReader(good), 1 << 30, ErrNotFound},
		"a line more":    {sum(good) + "\n", bytes.NewReader(good), 1 << 30, ErrNotFound},
		"another hash":   {sum(good[1:]), bytes.NewReader(good), 1 << 30, ErrHash},
		"cut":            {sum(good), bytes.NewReader(good[:len(good)-1]), 1 << 30, ErrHash},
		"no model":       {sum([]byte("no model")), strings.NewReader("no model"), 1 << 30, coppice.ErrFormat},
		"nothing":        {sum(nil), strings.NewReader(""), 1 << 30, coppice.ErrFormat},
		"a byte too big": {sum(good), bytes.NewReader(good), int64(len(good)) - 1, format.ErrTooLarge},
		"broken off":     {sum(good), io.MultiReader(bytes.NewReader(good[:100]), iotest.ErrReader(broken)), 1 << 30, broken},
	} {
		if err := s.Put(tt.hash, tt.r, tt.max); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
	for _, limit := range []int64{int64(len(good)), math.MaxInt64} {
		if err := s.Put(sum(good), bytes.NewReader(good), limit); err != nil {
			t.Errorf("at most %d bytes: %v", limit, err)
		}
	}
}

func TestReader(t *testing.T) {
	s := New(t.TempDir())
	m := trained(t)
	e, err := s.Add(m)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Reader(e.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	to := New(t.TempDir())
	if err := to.Put(e.SHA256, r, e.Bytes); err != nil {
		t.Fatal(err)
	}
	got, err := to.Open(e.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Close(); err != nil {
		t.Error(err)
	}
}

// TestReadOnly: where nothing can be written, the error says what.
func TestReadOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(file).Add(trained(t)); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a state directory that is a file: %v", err)
	}
}

func TestConcurrentAdd(t *testing.T) {
	dir := t.TempDir()
	s := New(dir)
	m := trained(t)
	good := encoded(t, m)
	src := filepath.Join(t.TempDir(), "m.coppice")
	if err := os.WriteFile(src, good, 0o600); err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(good)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			s := New(dir) // as another process
			var e *Entry
			var err error
			switch i % 3 {
			case 0:
				e, err = s.Add(m)
			case 1:
				e, err = s.AddFile(src)
			default:
				e = &Entry{SHA256: hex.EncodeToString(hash[:])}
				err = s.Put(e.SHA256, bytes.NewReader(good), 1<<30)
			}
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
