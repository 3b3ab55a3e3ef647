// Package store keeps models in a directory, in their canonical form, under the SHA-256 of their content.
//
// A model is served from here and never from the file that a user gave: that file may be overwritten or cut
// while it is mapped, which would change answers or end the process. What is here is read-only, and was
// validated before it got its name.
//
// Beside a model a stamp says which file it was that was validated: its device, inode, size and time of change.
// As long as they are the file's own, opening it reads its description and nothing else. Without a stamp that fits,
// such as after a copy of the directory, the model is validated in full and stamped anew.
package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/format"
	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// VersionDigits is the length of the beginning of the SHA-256 that is a model's version.
const VersionDigits = 16

// Errors of a store.
var (
	// ErrNotFound is wrapped by the error about a model that is not in the store.
	ErrNotFound = errors.New("model is not in the store")
	// ErrHash is wrapped by the error about content that is not what its name says.
	ErrHash = errors.New("content does not have its hash")
	// ErrWrite is wrapped by errors about the store's own files that cannot be written.
	ErrWrite = errors.New("cannot write to the model store")
	// ErrUnsafe is wrapped by the error about a store that others can write to.
	ErrUnsafe = errors.New("others can write to the model store")
)

// Store is a directory of models. Several processes may use it at once.
type Store struct{ dir string }

// Entry is a model in a store.
type Entry struct {
	SHA256  string // of the canonical file, hex
	Version string // its first VersionDigits digits
	Path    string // of the canonical file
	Bytes   int64
	Info    forest.Info
	Cost    int
}

// New names a store in a state directory. Nothing is created before something is added.
func New(stateDir string) *Store { return &Store{dir: filepath.Join(stateDir, "models")} }

// AddFile imports a model file of any known format. The file is read once; what becomes of it later does not
// matter. A source that was imported before is found again by its SHA-256. Errors are those of format.Import, or wrap
// ErrWrite.
func (s *Store) AddFile(path string) (*Entry, error) {
	source, err := hashFile(path)
	if err != nil {
		return nil, err
	}
	if e, err := s.imported(source); err == nil {
		return e, nil
	}
	data, err := format.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sums := make(chan string, 1)
	go func() { sums <- hexSum(data) }() // again: the file may have changed, and what counts is what is imported
	m, err := format.Import(data)
	source = <-sums
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !coppice.Detect(data) && m.Meta.Source.SHA256 == "" {
		m.Meta.Source.SHA256 = source
	}
	e, err := s.Add(m)
	if err != nil {
		return nil, err
	}
	if err := s.write(s.sourcePath(source), e.SHA256); err != nil {
		return nil, err
	}
	return e, nil
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// hashFile is the SHA-256 of a file, which is not held in memory.
func hashFile(path string) (string, error) {
	f, size, err := format.OpenFile(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, io.LimitReader(f, size), make([]byte, 1<<20)); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// OpenFile is AddFile and Open.
func (s *Store) OpenFile(path string) (*Mapped, error) {
	e, err := s.AddFile(path)
	if err != nil {
		return nil, err
	}
	return s.Open(e.SHA256)
}

// Add stores a model.
func (s *Store) Add(m *model.Model) (*Entry, error) {
	f, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer f.abandon()
	sum := sha256.New()
	if err := coppice.Encode(io.MultiWriter(f, sum), m); err != nil {
		return nil, err
	}
	hash := hex.EncodeToString(sum.Sum(nil))
	if err := s.keep(hash, f); err != nil {
		return nil, err
	}
	info, err := os.Stat(s.path(hash))
	if err != nil {
		return nil, err
	}
	return s.entry(hash, info.Size(), forest.New(m)), nil
}

// Put stores a canonical file that comes from elsewhere, at most maxBytes of it. It is refused with ErrHash
// unless its SHA-256 is hash, and validated as any other.
func (s *Store) Put(hash string, r io.Reader, maxBytes int64) error {
	if err := checkHash(hash); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(r, max(maxBytes, maxBytes+1))) // one byte more, unless that overflows
	if err != nil {
		return err
	}
	if int64(len(data)) > maxBytes {
		return fmt.Errorf("model %s: %w: more than %d bytes", hash, format.ErrTooLarge, maxBytes)
	}
	if _, err := validate(hash, data); err != nil {
		return fmt.Errorf("model %s: %w", hash, err)
	}
	f, err := s.begin()
	if err != nil {
		return err
	}
	defer f.abandon()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return s.keep(hash, f)
}

// Has tells whether a model is in the store.
func (s *Store) Has(hash string) bool {
	if checkHash(hash) != nil {
		return false
	}
	_, err := os.Stat(s.path(hash))
	return err == nil
}

// Reader opens the canonical file of a model for reading.
func (s *Store) Reader(hash string) (io.ReadCloser, error) {
	if err := checkHash(hash); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(hash))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, hash)
	}
	return f, err
}

// Mapped is a model whose arrays lie in a mapped file. It must not be used after Close.
type Mapped struct {
	*forest.Model
	unmap func() error
}

// Close gives the mapping back.
func (m *Mapped) Close() error { return m.unmap() }

// Open maps a model. Unless its stamp says that this very file was validated before, it is validated now: its
// checksums, its structure, its golden rows, and that it has the hash. A file that is damaged is refused with the
// errors of coppice.Decode, another model's file with ErrHash, one that others can write to with ErrUnsafe.
func (s *Store) Open(hash string) (*Mapped, error) {
	if err := checkHash(hash); err != nil {
		return nil, err
	}
	if err := s.private(); err != nil {
		return nil, err
	}
	path := s.path(hash)
	data, info, unmap, err := mapFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, hash)
	}
	if err != nil {
		return nil, err
	}
	var m *model.Model
	if s.stamped(hash, info) {
		m, err = coppice.DecodeTrusted(data)
	} else if m, err = validate(hash, data); err == nil {
		s.stamp(hash, info)
	}
	if err != nil {
		_ = unmap()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Mapped{forest.New(m), unmap}, nil
}

// validate proves that data is a canonical file and has the hash. The two are found out side by side, since each
// reads all of it.
func validate(hash string, data []byte) (*model.Model, error) {
	sums := make(chan string, 1)
	go func() { sums <- hexSum(data) }()
	m, err := coppice.Decode(data)
	switch sum := <-sums; {
	case sum == hash:
		return m, err
	case err != nil:
		return nil, fmt.Errorf("%w: it is %s; %w", ErrHash, sum, err)
	default:
		return nil, fmt.Errorf("%w: it is %s", ErrHash, sum)
	}
}

func (s *Store) entry(hash string, bytes int64, m *forest.Model) *Entry {
	return &Entry{SHA256: hash, Version: hash[:VersionDigits], Path: s.path(hash), Bytes: bytes, Info: m.Info(), Cost: m.Cost()}
}

// imported finds the model that a source file became.
func (s *Store) imported(source string) (*Entry, error) {
	b, err := os.ReadFile(s.sourcePath(source))
	if err != nil {
		return nil, err
	}
	hash := string(b)
	m, err := s.Open(hash)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	info, err := os.Stat(s.path(hash))
	if err != nil {
		return nil, err
	}
	return s.entry(hash, info.Size(), m.Model), nil
}

func (s *Store) path(hash string) string { return filepath.Join(s.dir, hash+".coppice") }

// importer is part of the name under which an import is found again: it changes when an importer does.
const importer = "6"

func (s *Store) sourcePath(sum string) string {
	return filepath.Join(s.dir, "source-"+importer+"-"+sum)
}

var hashes = regexp.MustCompile(`^[0-9a-f]{64}$`)

// checkHash keeps names that come from elsewhere from being paths.
func checkHash(hash string) error {
	if !hashes.MatchString(hash) {
		return fmt.Errorf("%w: %.80q is not a SHA-256", ErrNotFound, hash)
	}
	return nil
}

// private refuses a directory whose files somebody else may exchange while they are mapped.
func (s *Store) private() error {
	info, err := os.Stat(s.dir)
	if errors.Is(err, os.ErrNotExist) { // what comes next says which model is not there
		return nil
	}
	if err != nil {
		return err
	}
	if uid, ok := stranger(info); ok {
		return fmt.Errorf("%w: %s belongs to user %d", ErrUnsafe, s.dir, uid)
	}
	if info.Mode().Perm()&0o022 == 0 || runtime.GOOS == "windows" {
		return nil
	}
	return fmt.Errorf("%w: %s has mode %v; chmod go-w %s", ErrUnsafe, s.dir, info.Mode().Perm(), s.dir)
}

// checks is part of every stamp: it changes when Decode begins to refuse what it took before.
const checks = "1"

func (s *Store) stampPath(hash string) string { return filepath.Join(s.dir, hash+".stamp") }

// stamped tells whether a file is the one that was validated.
func (s *Store) stamped(hash string, info os.FileInfo) bool {
	id := identity(info)
	if id == "" {
		return false
	}
	b, err := os.ReadFile(s.stampPath(hash))
	return err == nil && string(b) == checks+" "+id
}

// stamp remembers that a file was validated. If that fails it will be validated again.
func (s *Store) stamp(hash string, info os.FileInfo) {
	if id := identity(info); id != "" {
		_ = s.write(s.stampPath(hash), checks+" "+id)
	}
}

// keep puts a canonical file that was validated in place and stamps it.
func (s *Store) keep(hash string, f *file) error {
	if err := f.commit(s.path(hash)); err != nil {
		return err
	}
	info, err := os.Stat(s.path(hash))
	if err != nil {
		return err
	}
	if !s.stamped(hash, info) {
		s.stamp(hash, info)
	}
	return nil
}
