package process

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("COPPICE_TEST_SLEEP") != "" {
		time.Sleep(time.Minute)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "COPPICE_TEST_SLEEP=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestOpen(t *testing.T) {
	cmd := sleeper(t)
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	if h.Identity() != id {
		t.Errorf("identity %+v, want %+v", h.Identity(), id)
	}
	select {
	case <-h.Exited():
		t.Fatal("a running process has exited")
	case <-time.After(3 * pollEvery):
	}
	if err := h.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-h.Exited(): // although it has not been waited for
	case <-time.After(10 * time.Second):
		t.Fatal("a killed process has not exited")
	}
	if err := h.Signal(syscall.SIGKILL); err != nil {
		t.Errorf("a signal to an ended process: %v", err)
	}
	if _, err := Open(id); !errors.Is(err, ErrGone) {
		t.Errorf("opening an ended process: %v", err)
	}
}

// TestAnother: a process that has the id of one that ended is left alone.
func TestAnother(t *testing.T) {
	cmd := sleeper(t)
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	before := id
	before.Start = "another:1"
	if _, err := Open(before); !errors.Is(err, ErrGone) {
		t.Fatalf("error %v, want ErrGone", err)
	}
	// Also when the id changes hands after the handle was made.
	h := &Handle{id: before, os: cmd.Process}
	if err := h.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if now, err := Of(id.PID); err != nil || now != id {
		t.Errorf("the other process is %+v (%v)", now, err)
	}
}

func TestClose(t *testing.T) {
	id, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	h.Close()
}

func TestNoProcess(t *testing.T) {
	for _, pid := range []int{0, -1, 1 << 30} {
		if _, err := Of(pid); !errors.Is(err, ErrGone) {
			t.Errorf("Of(%d): %v", pid, err)
		}
		if _, err := Open(Identity{PID: pid}); !errors.Is(err, ErrGone) {
			t.Errorf("Open(%d): %v", pid, err)
		}
	}
}
