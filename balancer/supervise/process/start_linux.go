package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// boot differs between two runs of the system, in which ticks begin anew.
var boot = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "boot"
	}
	return strings.TrimSpace(string(b))
})

// start reads when a process began: the run of the system and the clock ticks since it began.
func start(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return "", fmt.Errorf("%w: no process %d", ErrGone, pid)
	}
	if err != nil {
		return "", err
	}
	state, ticks, err := parseStat(b)
	if err != nil {
		return "", fmt.Errorf("process %d: %w", pid, err)
	}
	if state == 'Z' || state == 'X' {
		return "", fmt.Errorf("%w: process %d has ended and was not waited for", ErrGone, pid)
	}
	return boot() + ":" + ticks, nil
}

var errStat = errors.New("process: /proc/PID/stat has an unknown form")

// parseStat gives fields 3 and 22 of proc_pid_stat(5). The second field is a file name in parentheses, which
// may itself contain spaces and parentheses.
func parseStat(b []byte) (state byte, ticks string, err error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, "", errStat
	}
	fields := bytes.Fields(b[i+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return 0, "", errStat
	}
	if _, err := strconv.ParseUint(string(fields[19]), 10, 64); err != nil {
		return 0, "", errStat
	}
	return fields[0][0], string(fields[19]), nil
}
