//go:build unix && !linux

package plugin

import (
	"os"

	"golang.org/x/sys/unix"
)

// redirect makes to the same open file as from.
func redirect(from, to *os.File) error {
	return unix.Dup2(int(from.Fd()), int(to.Fd()))
}
