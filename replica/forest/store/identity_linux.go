package store

import (
	"fmt"
	"os"
	"syscall"
)

// identity tells files apart, and a file from what it was before anybody wrote to it or changed its mode: the time
// of change is the kernel's, and no program can set it.
func identity(info os.FileInfo) string {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d %d %d %d.%09d", s.Dev, s.Ino, s.Size, s.Ctim.Sec, s.Ctim.Nsec)
}
