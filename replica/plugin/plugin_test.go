package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

const roleVariable = "COPPICE_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(child(role))
	}
	goleak.VerifyTestMain(m)
}

// child is the launched process.
func child(role string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	switch role {
	case "silent":
		<-ctx.Done()
		return 0
	case "crash":
		fmt.Fprintln(os.Stderr, "no model")
		return 3
	case "babble":
		fmt.Println("hello, I am no worker")
		<-ctx.Done()
		return 0
	}
	l, err := Parse(os.LookupEnv)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := Serve(ctx, Description{PID: os.Getpid(), Address: l.Listen, Version: "v0-test"}); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		return 1
	}
	// More than a pipe holds, on both, some of it past Go's own variables.
	line := strings.Repeat("x", 1023) + "\n"
	for range 256 {
		fmt.Fprint(os.Stdout, line)
		fmt.Fprint(os.Stderr, line)
		os.NewFile(1, "raw").WriteString(line)
	}
	fmt.Fprintln(os.Stderr, "written")
	<-ctx.Done()
	return 0
}

var launch = Launch{
	Balancer: "127.0.0.1:7600", Replica: "r0", Incarnation: "i1", Secret: "s", Listen: "unix:/tmp/x.sock", Advertise: "", StateDir: "/state",
}

func command(t *testing.T, role string) (*exec.Cmd, string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "r0.log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), launch.Environ()...)
	cmd.Env = append(cmd.Env, roleVariable+"="+role)
	cmd.Stderr = f
	return cmd, log
}

// socketDir is short: a socket's path may have 108 bytes.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func end(t *testing.T, p *Process) {
	t.Helper()
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	select {
	case <-p.Exited():
	case <-time.After(10 * time.Second):
		t.Fatal("a killed process did not end")
	}
}

func TestLaunch(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd, log := command(t, "worker")
	dir := socketDir(t)
	var early *Process
	p, d, err := Connect(ctx, cmd, dir, func(p *Process) { early = p })
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, p)
	if early != p {
		t.Error("started was not called with the process")
	}
	want := Description{PID: cmd.Process.Pid, Address: launch.Listen, Version: "v0-test"}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("description (-want +got):\n%s", diff)
	}
	// The worker writes on, although nobody holds the other end of its handshake.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasSuffix(b, []byte("written\n")) {
			if got := bytes.Count(b, []byte("x\n")); got != 3*256 {
				t.Errorf("%d lines of the worker are in its file, want %d", got, 3*256)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the worker's output has not arrived in its file; it ends with %q", b[max(0, len(b)-200):])
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("the handshake left %v", left)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the worker ended: %v", err)
	}
}

func TestLaunchFails(t *testing.T) {
	tests := []struct {
		role string
		want string
	}{
		{"silent", "deadline"},
		{"crash", "exit status 3"},
		{"babble", "hello, I am no worker"},
	}
	for _, tt := range tests {
		t.Run(tt.role, func(t *testing.T) {
			timeout := 20 * time.Second
			if tt.role == "silent" {
				timeout = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			cmd, _ := command(t, tt.role)
			dir := socketDir(t)
			_, _, err := Connect(ctx, cmd, dir, nil)
			if !errors.Is(err, ErrLaunch) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if cmd.ProcessState == nil {
				t.Error("the process was not waited for")
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("the handshake left %v", left)
			}
		})
	}
}

func TestConnectMissingBinary(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, _, err := Connect(ctx, exec.Command(filepath.Join(t.TempDir(), "absent")), socketDir(t), nil)
	if !errors.Is(err, ErrLaunch) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestServeWithoutBalancer(t *testing.T) {
	if err := Serve(t.Context(), Description{}); !errors.Is(err, ErrNotLaunched) {
		t.Errorf("error %v, want ErrNotLaunched", err)
	}
}

func environment(env []string) func(string) (string, bool) {
	m := make(map[string]string)
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		m[k] = v
	}
	return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
}

func TestParse(t *testing.T) {
	cookie := Handshake.MagicCookieKey + "=" + Handshake.MagicCookieValue
	got, err := Parse(environment(append(launch.Environ(), cookie)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(launch, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	bad := []struct {
		name string
		env  []string
		want string
	}{
		{"no cookie", launch.Environ(), "not launched"},
		{"no secret", append(launch.Environ(), cookie, "COPPICE_WORKER_SECRET="), "COPPICE_WORKER_SECRET is not set"},
		{"endless", append(launch.Environ(), cookie, "COPPICE_WORKER_REPLICA="+strings.Repeat("r", 5000)), "at most 4096"},
		{"zero byte", append(launch.Environ(), cookie, "COPPICE_WORKER_REPLICA=r\x00"), "zero byte"},
		{"listen", append(launch.Environ(), cookie, "COPPICE_WORKER_LISTEN=/tmp/x"), "unix:/path"},
	}
	for _, tt := range bad {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Parse(environment(tt.env)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}
