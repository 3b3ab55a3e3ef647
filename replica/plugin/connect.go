package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// exitGrace is how long a process whose handshake failed may take to end by itself.
const exitGrace = 250 * time.Millisecond

// Process is a worker process that this process started.
type Process struct {
	pid    int
	os     *os.Process
	exited chan struct{}
	err    error
}

// PID is the process id.
func (p *Process) PID() int { return p.pid }

// Exited is closed when the process has ended and has been waited for.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Err says how the process ended, as exec.Cmd.Wait does. It may be called after Exited is closed.
func (p *Process) Err() error { return p.err }

// Kill ends the process at once. It does nothing when the process has ended.
func (p *Process) Kill() error {
	if err := p.os.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Signal sends a signal to the process. It does nothing when the process has ended.
func (p *Process) Signal(s os.Signal) error {
	if err := p.os.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Connect starts cmd, which must call Serve, and asks it to describe itself. started, which may be nil, is
// called with the process as soon as it runs: before it can do anything that others see.
//
// The caller sets cmd's path, arguments, environment (nil: this process's), directory, attributes and
// standard error, which should be a file: it outlives this process. socketDir holds the handshake's socket
// for as long as Connect runs; it must exist.
//
// When Connect fails, the process has ended, and the error wraps ErrLaunch. When it succeeds, go-plugin is
// out of the way, and the process is the caller's, who should watch Exited.
func Connect(ctx context.Context, cmd *exec.Cmd, socketDir string, started func(*Process)) (*Process, Description, error) {
	timeout := time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
		if timeout <= 0 {
			return nil, Description{}, fmt.Errorf("%w: %w", ErrLaunch, context.DeadlineExceeded)
		}
	}
	r := &launcher{cmd: cmd, started: started, released: make(chan struct{})}
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  Handshake,
		Plugins:          goplugin.PluginSet{name: &worker{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		StartTimeout:     timeout + time.Second, // the context is what ends the wait
		SkipHostEnv:      true,
		Logger:           hclog.NewNullLogger(),
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: socketDir},
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, dir string) (runner.Runner, error) {
			r.dir = dir
			cmd.Env = append(cmd.Environ(), spec.Env...)
			return r, nil
		},
	})
	defer r.release()
	stop := context.AfterFunc(ctx, func() { _ = r.Kill(ctx) })
	defer stop()

	d, err := describe(ctx, client)
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	p := r.process.Load()
	if err == nil {
		return p, d, nil
	}
	if ctx.Err() != nil {
		// The death of the process is only what followed.
		err = context.Cause(ctx)
	}
	if p == nil {
		return nil, Description{}, fmt.Errorf("%w: %w", ErrLaunch, err)
	}
	select {
	case <-p.exited:
		// It ended by itself, and how it did tells more than that the handshake failed.
		return nil, Description{}, fmt.Errorf("%w: %w (the process ended: %s)", ErrLaunch, err, r.cmd.ProcessState)
	case <-time.After(exitGrace):
	case <-ctx.Done():
	}
	_ = p.Kill()
	<-p.exited
	return nil, Description{}, fmt.Errorf("%w: %w", ErrLaunch, err)
}

// describe shakes hands and asks the one question.
func describe(ctx context.Context, client *goplugin.Client) (Description, error) {
	protocol, err := client.Client()
	if err != nil {
		return Description{}, err
	}
	raw, err := protocol.Dispense(name)
	if err != nil {
		return Description{}, err
	}
	conn, ok := raw.(*grpc.ClientConn)
	if !ok {
		return Description{}, fmt.Errorf("dispensed a %T", raw)
	}
	// Not the protocol's Close, which tells the other side to shut down.
	defer conn.Close()
	resp, err := coppicev1.NewLaunchServiceClient(conn).Describe(ctx, &coppicev1.DescribeRequest{})
	if err != nil {
		return Description{}, err
	}
	return Description{PID: int(resp.GetPid()), Address: resp.GetAddress(), Version: resp.GetVersion()}, nil
}

// launcher runs the process for go-plugin. go-plugin's own runner would read the process's standard error
// through a pipe.
type launcher struct {
	cmd     *exec.Cmd
	started func(*Process)
	dir     string
	process atomic.Pointer[Process]
	stdout  io.ReadCloser

	once     sync.Once
	released chan struct{}
}

func (r *launcher) Start(context.Context) error {
	// Not StdoutPipe: Wait would close it under go-plugin's reader.
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	r.stdout = &pipeReader{pr}
	r.cmd.Stdin = nil
	r.cmd.Stdout = pw
	err = r.cmd.Start()
	pw.Close()
	if err != nil {
		pr.Close()
		return err
	}
	p := &Process{pid: r.cmd.Process.Pid, os: r.cmd.Process, exited: make(chan struct{})}
	r.process.Store(p)
	if r.started != nil {
		r.started(p)
	}
	go func() {
		p.err = r.cmd.Wait()
		close(p.exited)
	}()
	return nil
}

// release lets go-plugin go: to it, the process has ended.
func (r *launcher) release() {
	r.once.Do(func() {
		close(r.released)
		if r.dir != "" {
			os.RemoveAll(r.dir)
		}
	})
}

func (r *launcher) Kill(context.Context) error {
	select {
	case <-r.released:
		return nil
	default:
	}
	if p := r.process.Load(); p != nil {
		return p.Kill()
	}
	return nil
}

func (r *launcher) Wait(context.Context) error {
	p := r.process.Load()
	select {
	case <-p.exited:
		return p.err
	case <-r.released:
		return nil
	}
}

func (r *launcher) Stdout() io.ReadCloser { return r.stdout }

// Stderr has nothing to read: the process writes to the caller's file.
func (r *launcher) Stderr() io.ReadCloser { return io.NopCloser(bytes.NewReader(nil)) }

func (r *launcher) Name() string { return r.cmd.Path }

func (r *launcher) ID() string {
	if p := r.process.Load(); p != nil {
		return strconv.Itoa(p.pid)
	}
	return ""
}

func (r *launcher) Diagnose(context.Context) string { return "" }

func (r *launcher) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

func (r *launcher) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// pipeReader closes itself at its end.
type pipeReader struct{ *os.File }

func (r *pipeReader) Read(b []byte) (int, error) {
	n, err := r.File.Read(b)
	if err != nil {
		r.File.Close()
	}
	return n, err
}
