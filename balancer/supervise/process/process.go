// Package process names processes so that no other one is ever taken for them. A process id alone does not:
// the system gives it to another process after the first has ended, and a supervisor that was down meanwhile
// would kill a stranger.
package process

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrGone says that a process has ended, or that another has its id now.
var ErrGone = errors.New("process: gone")

// Identity names one process of this machine, for all time.
type Identity struct {
	PID int `json:"pid"`
	// Start says when the process began, in the words of the system. Two processes that had the same id
	// differ in it.
	Start string `json:"start"`
}

// Of returns the identity of a running process. The error wraps ErrGone when there is none with this id.
func Of(pid int) (Identity, error) {
	if pid <= 0 {
		return Identity{}, fmt.Errorf("%w: %d is no process id", ErrGone, pid)
	}
	start, err := start(pid)
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, Start: start}, nil
}

// pollEvery is how often a process that is not a child is looked at.
const pollEvery = 25 * time.Millisecond

// Handle is a process that was found by its identity. It need not be a child.
type Handle struct {
	id     Identity
	os     *os.Process
	exited chan struct{}
	stop   chan struct{}
}

// Open finds a process. The error wraps ErrGone when it has ended. The handle watches the process until it
// ends or Close is called.
func Open(id Identity) (*Handle, error) {
	if id.PID <= 0 {
		return nil, fmt.Errorf("%w: %d is no process id", ErrGone, id.PID)
	}
	// The handle first, then the comparison: where the system has handles for processes, it stays with the one
	// that was compared.
	p, err := os.FindProcess(id.PID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	now, err := Of(id.PID)
	if err == nil && now != id {
		err = fmt.Errorf("%w: process %d began at %s, not at %s", ErrGone, id.PID, now.Start, id.Start)
	}
	if err != nil {
		_ = p.Release()
		return nil, err
	}
	h := &Handle{id: id, os: p, exited: make(chan struct{}), stop: make(chan struct{})}
	go h.watch()
	return h, nil
}

// Identity is what Open was called with.
func (h *Handle) Identity() Identity { return h.id }

// Exited is closed when the process has ended, or when Close was called.
func (h *Handle) Exited() <-chan struct{} { return h.exited }

// Signal sends a signal to the process. It does nothing when the process has ended.
func (h *Handle) Signal(s os.Signal) error {
	if !h.alive() {
		return nil
	}
	if err := h.os.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Close ends the watch. The process goes on.
func (h *Handle) Close() {
	select {
	case <-h.stop:
	default:
		close(h.stop)
	}
	<-h.exited
}

func (h *Handle) alive() bool {
	now, err := Of(h.id.PID)
	return err == nil && now == h.id
}

func (h *Handle) watch() {
	defer close(h.exited)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-tick.C:
			if !h.alive() {
				_ = h.os.Release()
				return
			}
		}
	}
}
