package process

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// zombie is SZOMB of sys/proc.h: ended and not yet waited for.
const zombie = 5

// start reads when a process began.
func start(pid int) (string, error) {
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EIO) {
		return "", fmt.Errorf("%w: no process %d", ErrGone, pid)
	}
	if err != nil {
		return "", err
	}
	if int(k.Proc.P_pid) != pid || k.Proc.P_stat == zombie {
		return "", fmt.Errorf("%w: no process %d", ErrGone, pid)
	}
	return fmt.Sprintf("%d.%06d", k.Proc.P_starttime.Sec, k.Proc.P_starttime.Usec), nil
}
