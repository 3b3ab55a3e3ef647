//go:build unix

package store

import (
	"fmt"
	"math"
	"os"
	"syscall"
)

// mapFile maps a file read-only; processes that map the same file share its memory.
func mapFile(path string) (data []byte, info os.FileInfo, unmap func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, nil, err
	}
	defer f.Close()
	info, err = f.Stat()
	if err != nil {
		return nil, nil, nil, err
	}
	if info.Size() < 1 || info.Size() > math.MaxInt {
		return nil, nil, nil, fmt.Errorf("%s has %d bytes and cannot be mapped", path, info.Size())
	}
	data, err = syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("map %s: %w", path, err)
	}
	return data, info, func() error { return syscall.Munmap(data) }, nil
}
