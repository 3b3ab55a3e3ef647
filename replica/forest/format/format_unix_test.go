//go:build unix

package format

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPipe: a named pipe that nobody writes to is refused and not waited for.
func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := ReadFile(path)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		// The read ends when the pipe gets a writer.
		fd, err := syscall.Open(path, syscall.O_RDWR, 0)
		if err == nil {
			<-done
			_ = syscall.Close(fd)
		}
		t.Error("it waits for a writer")
	}
}
