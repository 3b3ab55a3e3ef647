package local

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/coppice-mesh/coppice/balancer/internal/testworker"
	"github.com/coppice-mesh/coppice/balancer/supervise"
	"github.com/coppice-mesh/coppice/balancer/supervise/process"
)

func TestMain(m *testing.M) {
	testworker.Main()
	goleak.VerifyTestMain(m)
}

var spec = supervise.Spec{Replica: "r0", Incarnation: "0123456789abcdef", Secret: "secret"}

// start makes a spawner whose workers find no balancer.
func start(t *testing.T, c Config, keep ...string) *Spawner {
	t.Helper()
	if c.StateDir == "" {
		dir, err := os.MkdirTemp("", "c")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		c.StateDir = dir
	}
	if c.Environ == nil {
		c.Environ = testworker.Environ("worker")
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s := New(c)
	if err := s.Start("127.0.0.1:1", keep); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func spawn(t *testing.T, s *Spawner) (supervise.Worker, process.Identity) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var id process.Identity
	w, err := s.Spawn(ctx, spec, func(p process.Identity) { id = p })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(t, w) })
	return w, id
}

func kill(t *testing.T, w supervise.Worker) {
	t.Helper()
	if err := w.Kill(); err != nil {
		t.Error(err)
	}
	select {
	case <-w.Exited():
	case <-time.After(10 * time.Second):
		t.Error("a killed worker did not end")
	}
}

func TestSpawn(t *testing.T) {
	s := start(t, Config{})
	w, id := spawn(t, s)
	now, err := process.Of(id.PID)
	if err != nil || now != id {
		t.Errorf("the worker is %+v (%v), said was %+v", now, err, id)
	}
	socket, ok := strings.CutPrefix(w.Address(), "unix:")
	if info, err := os.Stat(socket); !ok || err != nil || info.Mode().Type() != os.ModeSocket {
		t.Errorf("address %q: %v", w.Address(), err)
	}
	if group, err := syscall.Getpgid(id.PID); err != nil || group != id.PID {
		t.Errorf("its process group is %d (%v), expected its own", group, err)
	}
	for _, dir := range []string{s.run, s.logs()} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
	kill(t, w)
	if w.Err() == nil || !strings.Contains(w.Err().Error(), "killed") {
		t.Errorf("it ended by %v", w.Err())
	}
	if left, _ := os.ReadDir(s.run); len(left) != 0 {
		t.Errorf("it left %v", left)
	}
}

func TestSpawnTCP(t *testing.T) {
	s := start(t, Config{Listen: "tcp:127.0.0.1"})
	w, _ := spawn(t, s)
	if !strings.HasPrefix(w.Address(), "127.0.0.1:") {
		t.Errorf("address %q", w.Address())
	}
}

func TestSpawnFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := start(t, Config{Environ: testworker.Environ("crash")})
	_, err := s.Spawn(ctx, spec, func(process.Identity) {})
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), s.LogFile("r0")) {
		t.Errorf("error %v", err)
	}
	if b, err := os.ReadFile(s.LogFile("r0")); err != nil || !bytes.Contains(b, []byte("as it was told to")) {
		t.Errorf("its log is %q (%v)", b, err)
	}
}

func TestAdopt(t *testing.T) {
	s := start(t, Config{})
	w, id := spawn(t, s)
	again, err := s.Adopt(id, spec)
	if err != nil {
		t.Fatal(err)
	}
	other := id
	other.Start = "another"
	if _, err := s.Adopt(other, spec); !errors.Is(err, process.ErrGone) {
		t.Errorf("another process was adopted: %v", err)
	}
	if err := again.Terminate(); err != nil {
		t.Error(err)
	}
	kill(t, again)
	select {
	case <-w.Exited():
	case <-time.After(10 * time.Second):
		t.Error("it was not the same process")
	}
	if _, err := s.Adopt(id, spec); !errors.Is(err, process.ErrGone) {
		t.Errorf("an ended process was adopted: %v", err)
	}
}

// TestLeftSockets: what killed workers left is cleared away, those at which one serves are not.
func TestLeftSockets(t *testing.T) {
	s := start(t, Config{})
	for _, name := range []string{"r0-a.sock", "r1-b.sock"} {
		if err := os.WriteFile(filepath.Join(s.run, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, Config{StateDir: s.c.StateDir}, "unix:"+filepath.Join(s.run, "r1-b.sock"), "10.0.0.1:80")
	left, err := os.ReadDir(s.run)
	if err != nil || len(left) != 1 || left[0].Name() != "r1-b.sock" {
		t.Errorf("left %v (%v)", left, err)
	}
}

func TestDeepStateDir(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("deep", 30))
	s := start(t, Config{StateDir: deep})
	spawn(t, s)
	if strings.HasPrefix(s.run, deep) {
		t.Errorf("sockets are in %s", s.run)
	}
	t.Setenv("TMPDIR", deep)
	if dir, temp, err := runDir(deep); err != nil || !temp || !strings.HasPrefix(dir, "/tmp/coppice-") {
		t.Errorf("%s, %v, %v", dir, temp, err)
	}
}

func TestPrivate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := New(Config{StateDir: dir}).Start("", nil); err == nil || !strings.Contains(err.Error(), "only its owner") {
		t.Errorf("a directory for all is used: %v", err)
	}
}

func TestTrim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r0.log")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write := func(s string) {
		t.Helper()
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write("0123456789")
	trim(path, 10)
	if read(path) != "0123456789" {
		t.Error("a log within its limit was cut")
	}
	write("abc")
	trim(path, 10)
	if now, old := read(path), read(path+".old"); now != "" || old != "3456789abc" {
		t.Errorf("now %q, before %q", now, old)
	}
	write("next")
	if read(path) != "next" {
		t.Errorf("after it was cut, %q", read(path))
	}
	trim(filepath.Join(t.TempDir(), "absent"), 1)
}

func TestEnviron(t *testing.T) {
	t.Setenv("COPPICE_JOIN_TOKEN", "secret")
	t.Setenv("OTHER", "x")
	env := strings.Join(environ(), "\n")
	if strings.Contains(env, "COPPICE_") || !strings.Contains(env, "OTHER=x") {
		t.Error("the balancer's settings are handed on, or other variables are not")
	}
}

func TestConfig(t *testing.T) {
	bad := []Config{
		{},
		{StateDir: "s", LogBytes: -1},
		{StateDir: "s", Listen: "udp:x"},
		{StateDir: "s", Listen: "tcp:"},
		{StateDir: "s", Listen: "tcp:0.0.0.0"},
		{StateDir: "s", Listen: "unix", Advertise: "host"},
	}
	for _, c := range bad {
		if c.Validate() == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	for _, c := range []Config{{StateDir: "s"}, {StateDir: "s", Listen: "unix"}, {StateDir: "s", Listen: "tcp:0.0.0.0", Advertise: "balancer"}} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
