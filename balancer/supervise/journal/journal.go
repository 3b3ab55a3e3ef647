// Package journal keeps what a balancer must know after it was killed: which workers it started, under which
// secrets they will come back, and what size the pool was to have. It holds the lock of the state directory.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	"github.com/coppice-mesh/coppice/balancer/supervise/process"
)

// Version is the version of the state directory that this code reads and writes.
const Version = 1

// maxFile bounds the state file in bytes: a member has under 1 KiB.
const maxFile = 4 << 20

// Errors of Open and Load, to be matched with errors.Is.
var (
	// ErrInUse says that another process has the state directory.
	ErrInUse = errors.New("state directory in use")
	// ErrVersion says that another version of coppice wrote the state directory.
	ErrVersion = errors.New("state directory of another version")
	// ErrCorrupt says that the state file cannot be understood.
	ErrCorrupt = errors.New("state file is corrupt")
)

// Record is everything that is kept.
type Record struct {
	// Generation is above every generation of the pool that was published.
	Generation uint64 `json:"generation"`
	// Scale is the size that the pool was to have.
	Scale autoscale.State `json:"scale"`
	// Members are the replicas of the pool, those that were being launched included.
	Members []Member `json:"members"`
}

// Member is one replica.
type Member struct {
	Replica     string `json:"replica"`
	Incarnation string `json:"incarnation"`
	// Secret is what a spawned worker joins with.
	Secret  string `json:"secret,omitempty"`
	Spawned bool   `json:"spawned"`
	// Process is the zero Identity for a worker that was to be launched when the record was written, and for
	// one that joined by itself, whose process may be on another machine.
	Process  process.Identity `json:"process"`
	Address  string           `json:"address,omitempty"`
	Host     string           `json:"host,omitempty"`
	PID      int64            `json:"pid,omitempty"`
	Draining bool             `json:"draining,omitempty"`
	Restarts uint64           `json:"restarts,omitempty"`
}

// Journal is an open, locked state directory. Its methods may be called concurrently.
type Journal struct {
	dir  string
	lock *os.File

	mu sync.Mutex
}

// Open makes the directory if need be, takes its lock and checks its version. It does not wait for the lock:
// if another process has it, the error wraps ErrInUse and names the process. The error wraps ErrVersion if the
// directory is another version's.
func Open(dir string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Join(dir, "balancer"), 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer lock.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s: lock: %w", dir, err)
		}
		b, _ := io.ReadAll(io.LimitReader(lock, 32))
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return nil, fmt.Errorf("%w by pid %d: %s", ErrInUse, pid, dir)
		}
		return nil, fmt.Errorf("%w by another process: %s", ErrInUse, dir)
	}
	j := &Journal{dir: dir, lock: lock}
	if err := j.begin(); err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

// begin checks the version and writes the id of this process for those who find the lock taken.
func (j *Journal) begin() error {
	path := filepath.Join(j.dir, "version")
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := j.replace(path, []byte(strconv.Itoa(Version)+"\n")); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("state directory: %w", err)
	default:
		if got := strings.TrimSpace(string(b[:min(len(b), 32)])); got != strconv.Itoa(Version) {
			return fmt.Errorf("%w: %s is of version %q, expected %d: use another directory or remove this one",
				ErrVersion, j.dir, got, Version)
		}
	}
	if err := j.lock.Truncate(0); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if _, err := j.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// Dir is the state directory.
func (j *Journal) Dir() string { return j.dir }

func (j *Journal) path() string { return filepath.Join(j.dir, "balancer", "state.json") }

// Load reads what was saved last. It gives the zero Record if nothing was. The error wraps ErrCorrupt if the
// file is not one that Save wrote.
func (j *Journal) Load() (Record, error) {
	f, err := os.Open(j.path())
	if errors.Is(err, os.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("state file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Record{}, fmt.Errorf("state file: %w", err)
	}
	r, err := parse(b)
	if err != nil {
		return Record{}, fmt.Errorf("%w: %s: %w (remove it to begin with an empty pool)", ErrCorrupt, j.path(), err)
	}
	return r, nil
}

// parse reads a record and checks what others rely on.
func parse(b []byte) (Record, error) {
	if len(b) > maxFile {
		return Record{}, fmt.Errorf("over %d bytes", maxFile)
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, err
	}
	seen := make(map[string]bool)
	for _, m := range r.Members {
		switch {
		case m.Replica == "" || m.Incarnation == "":
			return Record{}, errors.New("a member without a name")
		case seen[m.Replica]:
			return Record{}, fmt.Errorf("two members are called %q", m.Replica)
		case m.Spawned && m.Secret == "":
			return Record{}, fmt.Errorf("member %q has no secret", m.Replica)
		}
		seen[m.Replica] = true
	}
	if r.Scale.Desired < 0 || r.Scale.Pinned < 0 {
		return Record{}, errors.New("a negative size")
	}
	return r, nil
}

// Save replaces what is kept. When it returns nil, a Load after a crash of the process or of the machine gives
// this record. It blocks for as long as the disk takes.
func (j *Journal) Save(r Record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.replace(j.path(), append(b, '\n'))
}

// replace puts a file in place of another so that there is always one or the other.
func (j *Journal) replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// Close gives the lock back.
func (j *Journal) Close() error { return j.lock.Close() }
