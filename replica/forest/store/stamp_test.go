package store

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// TestStamp: a file is validated once, and again as soon as it may be another.
func TestStamp(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there are no stamps here")
	}
	dir := t.TempDir()
	s := New(dir)
	m := trained(t)
	e, err := s.Add(m)
	if err != nil {
		t.Fatal(err)
	}
	stamp := s.stampPath(e.SHA256)
	stampOf := func() string {
		t.Helper()
		b, err := os.ReadFile(stamp)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	open := func(when string) {
		t.Helper()
		got, err := s.Open(e.SHA256)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if err := got.Close(); err != nil {
			t.Error(err)
		}
	}
	first := stampOf()
	open("stamped")

	// A stamp of something else, and none: the file is validated and stamped.
	for _, text := range []string{"", "1", strings.Replace(first, checks+" ", checks+"0 ", 1), first + " "} {
		if err := os.Remove(stamp); err != nil {
			t.Fatal(err)
		}
		if text != "" {
			if err := os.WriteFile(stamp, []byte(text), 0o400); err != nil {
				t.Fatal(err)
			}
		}
		open("stamp " + text)
		if got := stampOf(); got != first {
			t.Errorf("stamp %q became %q, want %q", text, got, first)
		}
	}

	// The same bytes in another file: a new stamp.
	good, err := os.ReadFile(e.Path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "copied")
	if err := os.WriteFile(copied, good, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(copied, e.Path); err != nil {
		t.Fatal(err)
	}
	open("copied")
	if stampOf() == first {
		t.Error("the stamp is still that of the file before")
	}

	// A damaged file has no stamp that fits. If it had one, its arrays would not be looked at: this is what makes
	// opening quick, and what the time of change in the stamp is for.
	before := stampOf()
	damage(t, e.Path)
	if _, err := s.Open(e.SHA256); !errors.Is(err, ErrHash) {
		t.Errorf("damaged: %v", err)
	}
	if got := stampOf(); got != before {
		t.Errorf("a damaged file was stamped: %q", got)
	}
	info, err := os.Stat(e.Path)
	if err != nil {
		t.Fatal(err)
	}
	s.stamp(e.SHA256, info)
	open("damaged, with a forged stamp")
}

// TestUnsafe: a directory in which others can exchange files is not mapped from.
func TestUnsafe(t *testing.T) {
	s := New(t.TempDir())
	e, err := s.Add(trained(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o720, 0o702, 0o777} {
		if err := os.Chmod(s.dir, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(e.SHA256); runtime.GOOS != "windows" && (!errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "chmod go-w "+s.dir)) {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := s.Open(e.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// TestStranger: nor is one that belongs to another user, who could exchange them too.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives a directory away")
	}
	s := New(t.TempDir())
	e, err := s.Add(trained(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(s.dir, 65534, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(e.SHA256); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "belongs to user 65534") {
		t.Errorf("got %v", err)
	}
}

// TestSweep: what a killed writer left goes away, what one is writing stays.
func TestSweep(t *testing.T) {
	s := New(t.TempDir())
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	left, writing := filepath.Join(s.dir, ".new-1"), filepath.Join(s.dir, ".new-2")
	for path, age := range map[string]time.Duration{left: 2 * time.Hour, writing: time.Minute} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, info.ModTime().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Add(trained(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if _, err := os.Stat(writing); err != nil {
		t.Errorf("being written: %v", err)
	}
}

// BenchmarkOpen opens a forest of 4 million nodes that was validated before, beside one that was not.
func BenchmarkOpen(b *testing.B) {
	const depth = 15
	builder := model.NewBuilder(model.Shape{Outputs: 2})
	var grow func(d int)
	grow = func(d int) {
		if d == depth {
			_ = builder.Leaf(float64(d&1), float64(1-d&1))
			return
		}
		_ = builder.Split(d, float64(d), 0)
		grow(d + 1)
		grow(d + 1)
	}
	for range 64 {
		grow(0)
	}
	f, err := builder.Forest()
	if err != nil {
		b.Fatal(err)
	}
	s := New(b.TempDir())
	e, err := s.Add(&model.Model{Forest: f, Meta: model.Meta{
		Link: model.Link{Name: model.Identity}, Predict: model.PredictScores, Task: model.Classify, Features: depth, Classes: []string{"a", "b"},
	}})
	if err != nil {
		b.Fatal(err)
	}
	open := func(b *testing.B) {
		m, err := s.Open(e.SHA256)
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("stamped", func(b *testing.B) {
		for b.Loop() {
			open(b)
		}
	})
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if err := os.Remove(s.stampPath(e.SHA256)); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			open(b)
		}
	})
}
