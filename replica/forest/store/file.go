package store

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	unfinished = ".new-*" // files that are being written
	abandoned  = time.Hour
)

// file is being written to the store: it gets its name whole or not at all, and is read-only then. Errors of its
// methods wrap ErrWrite.
type file struct {
	*bufio.Writer
	f *os.File
}

// begin makes a file that has no name yet.
func (s *Store) begin() (*file, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWrite, err)
	}
	f, err := os.CreateTemp(s.dir, unfinished)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWrite, err)
	}
	s.sweep(f)
	return &file{bufio.NewWriterSize(f, 64<<10), f}, nil
}

// Write wraps errors of the disk.
func (f *file) Write(b []byte) (int, error) {
	n, err := f.Writer.Write(b)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrWrite, err)
	}
	return n, err
}

// abandon gives the file up, unless it has its name already.
func (f *file) abandon() {
	_ = f.f.Close()
	_ = os.Remove(f.f.Name())
}

// commit gives the file its name. One that is there stays if it has the same content, and is replaced if it is
// damaged: a name alone does not say what a file holds, since a disk may have lost a bit.
func (f *file) commit(path string) error {
	err := f.Flush()
	if err == nil && same(path, f.f.Name()) {
		return nil
	}
	if err == nil {
		err = f.f.Chmod(0o400)
	}
	if err == nil {
		err = f.f.Sync()
	}
	if err == nil {
		err = os.Rename(f.f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrWrite, path, err)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// same tells whether two files have the same content.
func same(a, b string) bool {
	x, _, unmap, err := mapFile(a)
	if err != nil {
		return false
	}
	defer func() { _ = unmap() }()
	y, _, unmapOther, err := mapFile(b)
	if err != nil {
		return false
	}
	defer func() { _ = unmapOther() }()
	return bytes.Equal(x, y)
}

// write puts a small file in place.
func (s *Store) write(path, text string) error {
	f, err := s.begin()
	if err != nil {
		return err
	}
	defer f.abandon()
	if _, err := f.Write([]byte(text)); err != nil {
		return err
	}
	return f.commit(path)
}

// sweep removes what writers that were killed have left: files that nobody has written to for long, by the clock of
// the file system that f was just made in.
func (s *Store) sweep(f *os.File) {
	now, err := f.Stat()
	if err != nil {
		return
	}
	old, _ := filepath.Glob(filepath.Join(s.dir, unfinished)) // fails for bad patterns only
	for _, path := range old {
		if info, err := os.Stat(path); err == nil && now.ModTime().Sub(info.ModTime()) > abandoned {
			_ = os.Remove(path)
		}
	}
}
