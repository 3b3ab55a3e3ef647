package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	"github.com/coppice-mesh/coppice/balancer/supervise/process"
)

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func TestSaveLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	j := open(t, dir)
	if r, err := j.Load(); err != nil || len(r.Members) != 0 {
		t.Fatalf("an empty directory gives %+v, %v", r, err)
	}
	want := Record{
		Generation: 7,
		Scale:      autoscale.State{Desired: 2, Pinned: 2, Changed: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)},
		Members: []Member{
			{Replica: "r0", Incarnation: "a", Secret: "s", Spawned: true, Process: process.Identity{PID: 12, Start: "b:1"}, Address: "unix:/x"},
			{Replica: "r1", Incarnation: "b", Host: "h", PID: 9, Draining: true},
		},
	}
	for range 2 {
		if err := j.Save(want); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, dir).Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	files, err := os.ReadDir(filepath.Join(dir, "balancer"))
	if err != nil || len(files) != 1 {
		t.Errorf("files %v, %v", files, err)
	}
	if info, err := os.Stat(j.path()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state file has mode %v, %v", info.Mode(), err)
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	_, err := Open(dir)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("in use by pid %d", os.Getpid())) {
		t.Errorf("error %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestOtherVersion(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), `"99", expected 1`) {
		t.Errorf("error %v", err)
	}
	// The lock was given back.
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestNotADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("a file is opened as a state directory")
	}
}

func TestCorrupt(t *testing.T) {
	bad := map[string]string{
		"empty":       ``,
		"cut":         `{"generation": 3, "members": [{"rep`,
		"no name":     `{"members": [{"incarnation": "a"}]}`,
		"no secret":   `{"members": [{"replica": "r0", "incarnation": "a", "spawned": true}]}`,
		"twice":       `{"members": [{"replica": "r0", "incarnation": "a"}, {"replica": "r0", "incarnation": "b"}]}`,
		"size":        `{"scale": {"desired": -1}}`,
		"huge":        strings.Repeat(" ", maxFile+1),
		"other types": `{"members": 3}`,
	}
	for name, text := range bad {
		t.Run(name, func(t *testing.T) {
			j := open(t, t.TempDir())
			if err := os.WriteFile(j.path(), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := j.Load(); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), j.path()) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"generation":1,"scale":{"desired":1,"changed":"2026-01-02T03:04:05Z"},"members":[{"replica":"r0","incarnation":"a","secret":"s","spawned":true,"process":{"pid":1,"start":"x"}}]}`))
	f.Add([]byte(`{"members":[{"replica":"r0","incarnation":"a"},{"replica":"r0","incarnation":"a"}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parse(b)
		if err != nil {
			return
		}
		for _, m := range r.Members {
			if m.Replica == "" || m.Spawned && m.Secret == "" {
				t.Errorf("accepted %+v", m)
			}
		}
	})
}
