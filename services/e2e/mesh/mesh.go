// Package mesh runs the real coppice binary for tests: it builds it once, starts its roles as processes on
// free ports of the loopback interface, and makes sure that none is left.
package mesh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var build struct {
	sync.Once
	path string
	err  error
}

// Binary is the path of the coppice binary, built from this tree by the first caller. COPPICE_BINARY names
// another one.
func Binary(tb testing.TB) string {
	tb.Helper()
	build.Do(func() {
		if build.path = os.Getenv("COPPICE_BINARY"); build.path != "" {
			return
		}
		dir, err := os.MkdirTemp("", "coppice-e2e")
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "coppice")
		cmd := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", build.path, "github.com/coppice-mesh/coppice/services/coppice")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		tb.Fatal(build.err)
	}
	return build.path
}

// RemoveBinary deletes what Binary built; for TestMain.
func RemoveBinary() {
	if build.path != "" && os.Getenv("COPPICE_BINARY") == "" {
		os.RemoveAll(filepath.Dir(build.path))
	}
}

// Addrs are the addresses of one mesh.
type Addrs struct{ GRPC, HTTP, Metrics, Control string }

// FreeAddrs finds ports that nobody listens on.
func FreeAddrs(tb testing.TB) Addrs {
	tb.Helper()
	var a [4]string
	for i := range a {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		defer l.Close()
		a[i] = l.Addr().String()
	}
	return Addrs{a[0], a[1], a[2], a[3]}
}

// Process is a running coppice.
type Process struct {
	tb     testing.TB
	name   string
	cmd    *exec.Cmd
	out    output
	exited chan struct{}
	err    error
}

// output is what a process printed, safe to read while it runs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Start runs coppice with arguments and extra variables of the environment ("NAME=value"). The process is
// killed at the end of the test if it still runs; its output is logged if the test failed.
func Start(tb testing.TB, env []string, args ...string) *Process {
	tb.Helper()
	p := &Process{tb: tb, name: args[0], cmd: exec.Command(Binary(tb), args...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	tb.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if tb.Failed() {
			tb.Logf("output of coppice %s:\n%s", strings.Join(args, " "), p.out.String())
		}
	})
	return p
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what it printed so far.
func (p *Process) Output() string { return p.out.String() }

// Signal sends a signal to this process alone.
func (p *Process) Signal(s os.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.tb.Fatalf("signal to %s: %v", p.name, err)
	}
}

// Wait waits for the end of the process and returns its exit code.
func (p *Process) Wait(timeout time.Duration) int {
	p.tb.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(timeout):
		p.tb.Fatalf("coppice %s still runs after %v; it printed:\n%s", p.name, timeout, p.out.String())
		return -1
	}
}

// Terminate sends SIGTERM and waits for exit code 0.
func (p *Process) Terminate() {
	p.tb.Helper()
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(20 * time.Second); code != 0 {
		p.tb.Errorf("coppice %s ended with %d:\n%s", p.name, code, p.out.String())
	}
}

// Run executes a command that ends by itself and returns its output and exit code.
func Run(tb testing.TB, timeout time.Duration, args ...string) (stdout, stderr string, code int) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(tb), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		tb.Fatalf("coppice %s did not end within %v: %s", strings.Join(args, " "), timeout, errs.String())
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		tb.Fatal(err)
	}
	return out.String(), errs.String(), code
}

// Status is the part of `coppice status --json` that tests look at.
type Status struct {
	Replicas []Replica `json:"replicas"`
	Gateways []struct {
		ID string `json:"id"`
	} `json:"gateways"`
	Scale struct {
		Desired int    `json:"desired"`
		Reason  string `json:"reason"`
	} `json:"scale"`
}

// Replica is one of a Status.
type Replica struct {
	ID          string   `json:"id"`
	PID         int      `json:"pid"`
	State       string   `json:"state"`
	Spawned     bool     `json:"spawned"`
	Incarnation string   `json:"incarnation"`
	Rate        float64  `json:"rate"`
	P99         *float64 `json:"p99"`
	Restarts    int      `json:"restarts"`
}

// Ready are the replicas that get requests.
func (s *Status) Ready() []Replica {
	var out []Replica
	for _, r := range s.Replicas {
		if r.State == "ready" {
			out = append(out, r)
		}
	}
	return out
}

// ReadStatus asks a balancer; nil when it does not answer.
func ReadStatus(tb testing.TB, control string) *Status {
	tb.Helper()
	out, _, code := Run(tb, 10*time.Second, "status", "--json", "--control-addr", control, "--timeout", "2s")
	if code != 0 {
		return nil
	}
	var s Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		tb.Fatalf("status --json printed %q: %v", out, err)
	}
	return &s
}

// Eventually waits until f is true.
func Eventually(tb testing.TB, timeout time.Duration, what string, f func() bool) {
	tb.Helper()
	deadline := time.Now().Add(timeout)
	for !f() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", timeout, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// AwaitReady waits until a pool has n ready replicas and a gateway, and returns its status.
func AwaitReady(tb testing.TB, control string, n int) *Status {
	tb.Helper()
	var s *Status
	Eventually(tb, 20*time.Second, fmt.Sprintf("%d ready replicas", n), func() bool {
		s = ReadStatus(tb, control)
		return s != nil && len(s.Ready()) == n && len(s.Gateways) > 0
	})
	return s
}

// Alive tells whether a process runs. One that has ended and that its parent has not asked about does not.
func Alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) || runtime.GOOS != "linux"
	}
	state := stat[bytes.LastIndexByte(stat, ')')+1:]
	return !bytes.HasPrefix(state, []byte(" Z"))
}
