// Package local launches workers as child processes on this machine.
//
// A worker is this same executable, started through the handshake of package plugin, in a process group of its
// own: a Ctrl-C at the terminal is for the balancer, which drains its workers. It does not get a signal when
// the balancer dies, because the next balancer wants to find it alive; if none comes it ends by itself after
// its lease. Its standard error is a file of the state directory.
package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/coppice-mesh/coppice/balancer/supervise"
	"github.com/coppice-mesh/coppice/balancer/supervise/process"
	"github.com/coppice-mesh/coppice/replica/plugin"
)

// DefaultLogBytes is the default of Config.LogBytes.
const DefaultLogBytes = 8 << 20

const (
	// maxSocketPath is what the smallest of the systems allows for the path of a Unix socket, less a zero byte.
	maxSocketPath = 103
	// socketName is the room that the longest name of a socket below the run directory needs.
	socketName = 45
	// trimEvery is how often the size of a worker's log is looked at.
	trimEvery = 5 * time.Second
)

// ErrPath says that the paths of sockets would be longer than the system allows.
var ErrPath = errors.New("path is too long for Unix sockets")

// Config says how workers are launched.
type Config struct {
	// Executable is the program. Empty: the one that runs.
	Executable string
	// Args are its arguments, such as "replica", "--plugin".
	Args []string
	// Environ is the environment that a worker gets besides its launch. nil: this process's, without the
	// settings of the balancer (COPPICE_*).
	Environ []string
	// StateDir is the state directory. Sockets go to its "run" and logs to its "logs".
	StateDir string
	// Listen is "unix" for a socket that only this user may open, or "tcp:HOST" for a port of that host or
	// address that the system chooses. Empty: "unix".
	Listen string
	// Advertise is the host under which gateways reach a worker that listens on TCP. Empty: HOST of Listen.
	Advertise string
	// LogBytes bounds a worker's log in bytes; one of the same size is kept from before. 0: DefaultLogBytes.
	LogBytes int64
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	if c.StateDir == "" {
		return errors.New("local: no state directory")
	}
	if c.LogBytes < 0 {
		return fmt.Errorf("local: logs of at most %d bytes, expected a positive number (or 0 for %d)", c.LogBytes, int64(DefaultLogBytes))
	}
	host, tcp := strings.CutPrefix(c.Listen, "tcp:")
	if c.Listen != "" && c.Listen != "unix" && (!tcp || host == "") {
		return fmt.Errorf("local: workers cannot listen on %q, expected \"unix\" or \"tcp:HOST\"", c.Listen)
	}
	if c.Advertise != "" && !tcp {
		return fmt.Errorf("local: workers that listen on a Unix socket cannot be advertised as %q", c.Advertise)
	}
	if ip := net.ParseIP(host); tcp && c.Advertise == "" && ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("local: workers that listen on all addresses (%q) need a host to be advertised as", c.Listen)
	}
	return nil
}

// Spawner launches workers.
type Spawner struct {
	c        Config
	run      string // directory of sockets
	temp     bool   // run is not in the state directory
	balancer string
}

// New makes a spawner. The configuration must be valid. Start comes before any launch.
func New(c Config) *Spawner {
	if c.LogBytes == 0 {
		c.LogBytes = DefaultLogBytes
	}
	return &Spawner{c: c}
}

// Start makes the directories and removes the sockets that are left in them, except those at which a worker
// still serves: keep has their addresses. balancer is the address that workers join. The error wraps ErrPath
// when there is no directory that is short enough for sockets.
func (s *Spawner) Start(balancer string, keep []string) error {
	s.balancer = balancer
	dir, err := filepath.Abs(s.c.StateDir)
	if err != nil {
		return err
	}
	s.c.StateDir = dir
	if s.c.Executable == "" {
		if s.c.Executable, err = os.Executable(); err != nil {
			return fmt.Errorf("local: %w", err)
		}
	}
	if err := os.MkdirAll(s.logs(), 0o700); err != nil {
		return fmt.Errorf("local: %w", err)
	}
	if s.run, s.temp, err = runDir(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(s.run, 0o700); err != nil {
		return fmt.Errorf("local: %w", err)
	}
	if err := private(s.run); err != nil {
		return err
	}
	left, err := os.ReadDir(s.run)
	if err != nil {
		return fmt.Errorf("local: %w", err)
	}
	used := make(map[string]bool)
	for _, address := range keep {
		used[strings.TrimPrefix(address, "unix:")] = true
	}
	for _, e := range left {
		if path := filepath.Join(s.run, e.Name()); !used[path] {
			os.RemoveAll(path)
		}
	}
	return nil
}

// runDir finds a place for sockets: in the state directory, or, because a deep one is no reason to fail, among
// the temporary files.
func runDir(state string) (dir string, temp bool, err error) {
	sum := sha256.Sum256([]byte(state))
	name := fmt.Sprintf("coppice-%d-%s", os.Getuid(), hex.EncodeToString(sum[:6]))
	dirs := []string{filepath.Join(state, "run"), filepath.Join(os.TempDir(), name), filepath.Join("/tmp", name)}
	for i, dir := range dirs {
		if len(dir)+1+socketName <= maxSocketPath {
			return dir, i > 0, nil
		}
	}
	return "", false, fmt.Errorf("local: %w: none of %s has at most %d bytes", ErrPath, strings.Join(dirs, ", "), maxSocketPath-socketName-1)
}

// private checks that nobody else can put anything into a directory.
func private(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("local: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || (ok && int(st.Uid) != os.Getuid()) {
		return fmt.Errorf("local: %s must be a directory that only its owner, user %d, may use; it is %v", dir, os.Getuid(), info.Mode())
	}
	return nil
}

// Close removes a directory for sockets that is not in the state directory. No worker may be left.
func (s *Spawner) Close() {
	if s.temp {
		os.Remove(s.run) // unless something is in it
	}
}

func (s *Spawner) logs() string { return filepath.Join(s.c.StateDir, "logs") }

// LogFile is where a replica's output goes.
func (s *Spawner) LogFile(replica string) string { return filepath.Join(s.logs(), replica+".log") }

// environ is what a worker gets of the environment of this process.
func environ() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "COPPICE_") {
			env = append(env, e)
		}
	}
	return env
}

func (s *Spawner) socket(spec supervise.Spec) string {
	return filepath.Join(s.run, spec.Replica+"-"+spec.Incarnation+".sock")
}

// Spawn launches a worker, as supervise.Spawner says.
func (s *Spawner) Spawn(ctx context.Context, spec supervise.Spec, started func(process.Identity)) (supervise.Worker, error) {
	launch := plugin.Launch{
		Balancer: s.balancer, Replica: spec.Replica, Incarnation: spec.Incarnation, Secret: spec.Secret,
		Listen: "unix:" + s.socket(spec), Advertise: s.c.Advertise, StateDir: s.c.StateDir,
	}
	if host, ok := strings.CutPrefix(s.c.Listen, "tcp:"); ok {
		launch.Listen = "tcp:" + net.JoinHostPort(strings.Trim(host, "[]"), "0")
	}
	log := s.LogFile(spec.Replica)
	trim(log, s.c.LogBytes)
	// For appending, so that it can be cut while the worker writes.
	file, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("local: %w", err)
	}
	defer file.Close() // the worker has its own

	cmd := exec.Command(s.c.Executable, s.c.Args...) //nolint:noctx // ctx is for the launch, the process goes on
	cmd.Env = s.c.Environ
	if cmd.Env == nil {
		cmd.Env = environ()
	}
	cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], launch.Environ()...)
	cmd.Stderr = file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	w := &worker{exited: make(chan struct{}), log: log, logBytes: s.c.LogBytes, socket: s.socket(spec)}
	p, d, err := plugin.Connect(ctx, cmd, s.run, func(p *plugin.Process) {
		// It cannot be gone: nobody has waited for it.
		id, err := process.Of(p.PID())
		if err != nil {
			id = process.Identity{PID: p.PID()}
		}
		started(id)
	})
	if err != nil {
		os.Remove(w.socket)
		return nil, fmt.Errorf("%w; its output is in %s", err, log)
	}
	w.process, w.address = child{p}, d.Address
	go w.tend()
	return w, nil
}

// Adopt finds a worker, as supervise.Spawner says.
func (s *Spawner) Adopt(id process.Identity, spec supervise.Spec) (supervise.Worker, error) {
	h, err := process.Open(id)
	if err != nil {
		return nil, err
	}
	w := &worker{exited: make(chan struct{}), log: s.LogFile(spec.Replica), logBytes: s.c.LogBytes, socket: s.socket(spec), process: adopted{h}}
	go w.tend()
	return w, nil
}

// running is a process, a child or not.
type running interface {
	Exited() <-chan struct{}
	Signal(os.Signal) error
	Err() error
}

type child struct{ *plugin.Process }

// adopted is a process whose end nobody can be told the reason of.
type adopted struct{ *process.Handle }

func (adopted) Err() error { return errors.New("it ended") }

// worker is a supervise.Worker.
type worker struct {
	process  running
	address  string
	log      string
	logBytes int64
	socket   string
	exited   chan struct{}
}

func (w *worker) Address() string         { return w.address }
func (w *worker) Terminate() error        { return w.process.Signal(syscall.SIGTERM) }
func (w *worker) Kill() error             { return w.process.Signal(syscall.SIGKILL) }
func (w *worker) Exited() <-chan struct{} { return w.exited }
func (w *worker) Err() error              { return w.process.Err() }

// tend keeps the worker's log small for as long as the worker lives.
func (w *worker) tend() {
	defer close(w.exited)
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.process.Exited():
			os.Remove(w.socket) // a worker that was killed leaves it
			return
		case <-tick.C:
			trim(w.log, w.logBytes)
		}
	}
}

// trim moves what a log has to a second file when it is too large. The log is cut in place, because its writer
// has it open; lines that are written at just this time may be lost. A log that cannot be trimmed stays.
func trim(path string, limit int64) {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= limit {
		return
	}
	from, err := os.Open(path)
	if err != nil {
		return
	}
	defer from.Close()
	// If it grew far beyond its limit in between, its end is what is of interest.
	if _, err := from.Seek(max(info.Size()-limit, 0), 0); err != nil {
		return
	}
	to, err := os.OpenFile(path+".old", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return
	}
	_, err = io.CopyN(to, from, limit)
	if closing := to.Close(); err != nil || closing != nil {
		return
	}
	_ = os.Truncate(path, 0)
}
