package plugin

import (
	"errors"
	"fmt"
	"strings"
)

// prefix begins the names of all variables of a launch.
const prefix = "COPPICE_WORKER_"

// maxValue bounds a variable of a launch in bytes. They are addresses, names and paths.
const maxValue = 4096

// Launch is what a balancer hands to a worker, through its environment: command lines are seen by every user
// of a machine, environments only by the process's own.
type Launch struct {
	// Balancer is the control address to join, "host:port".
	Balancer string
	// Replica is the slot that the worker fills, such as "r0".
	Replica string
	// Incarnation differs between two processes of the same slot.
	Incarnation string
	// Secret proves to the balancer that this is the process that it launched. It takes the place of the
	// join token.
	Secret string
	// Listen is where to serve WorkerService: "unix:/path" or "tcp:host:port", port 0 for any.
	Listen string
	// Advertise is the host under which gateways reach a worker that listens on TCP. Empty: the one that it
	// listens on.
	Advertise string
	// StateDir is the balancer's state directory, whose model files the worker maps. Empty: the worker
	// fetches models from the balancer.
	StateDir string
}

// fields lists the variables, in the order in which they are written.
func (l *Launch) fields() []field {
	return []field{
		{"BALANCER", &l.Balancer, true},
		{"REPLICA", &l.Replica, true},
		{"INCARNATION", &l.Incarnation, true},
		{"SECRET", &l.Secret, true},
		{"LISTEN", &l.Listen, true},
		{"ADVERTISE", &l.Advertise, false},
		{"STATE_DIR", &l.StateDir, false},
	}
}

type field struct {
	name     string
	value    *string
	required bool
}

// Environ gives the launch as "NAME=value" strings for a process's environment.
func (l Launch) Environ() []string {
	var env []string
	for _, f := range l.fields() {
		env = append(env, prefix+f.name+"="+*f.value)
	}
	return env
}

// Parse reads a launch from an environment, which lookup gives as os.LookupEnv does. It returns an error that
// wraps ErrNotLaunched when there is none.
func Parse(lookup func(name string) (string, bool)) (Launch, error) {
	if v, _ := lookup(Handshake.MagicCookieKey); v != Handshake.MagicCookieValue {
		return Launch{}, ErrNotLaunched
	}
	var l Launch
	for _, f := range l.fields() {
		v, ok := lookup(prefix + f.name)
		switch {
		case f.required && (!ok || v == ""):
			return Launch{}, fmt.Errorf("%w: %s%s is not set", ErrNotLaunched, prefix, f.name)
		case len(v) > maxValue:
			return Launch{}, fmt.Errorf("plugin: %s%s has %d bytes, at most %d are allowed", prefix, f.name, len(v), maxValue)
		case strings.ContainsRune(v, 0):
			return Launch{}, fmt.Errorf("plugin: %s%s contains a zero byte", prefix, f.name)
		}
		*f.value = v
	}
	if _, _, err := SplitListen(l.Listen); err != nil {
		return Launch{}, err
	}
	return l, nil
}

// SplitListen turns "unix:/path" or "tcp:host:port" into what net.Listen takes.
func SplitListen(listen string) (network, address string, err error) {
	network, address, ok := strings.Cut(listen, ":")
	if !ok || address == "" || (network != "unix" && network != "tcp") {
		return "", "", fmt.Errorf("plugin: cannot listen on %q: %w", listen, errListen)
	}
	return network, address, nil
}

var errListen = errors.New(`expected "unix:/path" or "tcp:host:port"`)
