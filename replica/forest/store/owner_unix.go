//go:build unix

package store

import (
	"os"
	"syscall"
)

// stranger is the user, neither this one nor root, to whom a file belongs.
func stranger(info os.FileInfo) (uid int, ok bool) {
	s, known := info.Sys().(*syscall.Stat_t)
	if !known || s.Uid == 0 || int(s.Uid) == os.Geteuid() {
		return 0, false
	}
	return int(s.Uid), true
}
