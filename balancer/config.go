package balancer

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	"github.com/coppice-mesh/coppice/balancer/autoscale/policies"
	"github.com/coppice-mesh/coppice/balancer/supervise"
	"github.com/coppice-mesh/coppice/balancer/supervise/local"
)

// Defaults of Config.
const (
	DefaultControlAddr  = "127.0.0.1:7600"
	DefaultMetricsAddr  = "127.0.0.1:8002"
	DefaultReplicas     = 2
	DefaultLease        = supervise.DefaultLease
	DefaultDrainTimeout = supervise.DefaultDrainTimeout
)

// Off is the address of something that is not served.
const Off = "off"

// ErrConfig is wrapped by every error about a configuration.
var ErrConfig = errors.New("balancer configuration")

// Config is what a user writes. The zero value is not valid; DefaultConfig is, once it has a StateDir.
type Config struct {
	// ControlAddr is where gateways, replicas and operators reach the balancer, "host:port". Port 0 is any.
	// It is not encrypted: keep it on this machine or in a private network.
	ControlAddr string
	// MetricsAddr is where the metrics page is served, "host:port", or "off".
	MetricsAddr string
	// StateDir is the state directory: models, sockets, logs, what a restarted balancer needs to know. One
	// balancer uses it at a time. It is made if it does not exist.
	StateDir string

	// Replicas fixes the number of replicas that the balancer spawns, at least 1 and at most MaxWorkers. It is
	// 0 if, and only if, MinReplicas or MaxReplicas is set.
	Replicas int
	// MinReplicas and MaxReplicas turn scaling on: the pool has at least the one and at most the other. If
	// only one is set, the other is 1 or MaxWorkers. MaxReplicas may be above MaxWorkers, which then counts.
	MinReplicas, MaxReplicas int
	// MaxWorkers is how many workers this machine may run. 0: twice its CPUs, but at least 4. A worker is
	// content with a part of a CPU, so that this is a bound on memory and on switching more than on work.
	MaxWorkers int
	// Policy is the law of scaling, one of policies.Names. Empty: the first of them.
	Policy string

	// Lease is how long a replica may be silent, and how long it may be without its balancer. At least 100 ms.
	// 0: DefaultLease.
	Lease time.Duration
	// DrainTimeout is how long the requests of a replica may take that has to go. 0: DefaultDrainTimeout.
	DrainTimeout time.Duration

	// WorkerListen is where workers serve gateways: "unix" for sockets that only this user may open, or
	// "tcp:HOST" for ports of that host or address. Empty: "unix".
	WorkerListen string
	// WorkerAdvertise is the host under which gateways reach workers that listen on TCP. Empty: HOST.
	WorkerAdvertise string
	// WorkerArgs are arguments that every worker gets, such as "--threads", "1".
	WorkerArgs []string

	// AllowWork lets requests ask for more work than once: for load tests.
	AllowWork bool
	// OTLPEndpoint is where traces go, such as "http://127.0.0.1:4317". Empty: where the OTEL_* variables say,
	// or nowhere.
	OTLPEndpoint string
	// JoinToken is what replicas join with that were started by hand. Empty: one that is made at the first
	// start and kept in StateDir, in the file "join-token".
	JoinToken string
}

// DefaultConfig is a fixed pool on this machine. It lacks a StateDir.
func DefaultConfig() Config {
	return Config{ControlAddr: DefaultControlAddr, MetricsAddr: DefaultMetricsAddr, Replicas: DefaultReplicas}
}

// DefaultMaxWorkers is how many workers a machine with so many CPUs may run if nobody says otherwise.
func DefaultMaxWorkers(cpus int) int { return max(4, 2*cpus) }

// Validate says what is wrong with the configuration. The error wraps ErrConfig.
func (c Config) Validate() error { return c.validate(runtime.NumCPU()) }

func (c Config) validate(cpus int) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ErrConfig, fmt.Errorf(format, args...))
	}
	for _, a := range []struct{ name, value string }{{"control-addr", c.ControlAddr}, {"metrics-addr", c.MetricsAddr}} {
		if a.name == "metrics-addr" && a.value == Off {
			continue
		}
		if _, _, err := net.SplitHostPort(a.value); err != nil {
			return fail("%s is %q, expected host:port", a.name, a.value)
		}
	}
	if c.MaxWorkers < 0 {
		return fail("max-workers is %d, expected at least 1 (or 0 for %d)", c.MaxWorkers, DefaultMaxWorkers(cpus))
	}
	machine := c.machine(cpus)
	scaling := c.MinReplicas != 0 || c.MaxReplicas != 0
	switch {
	case scaling && c.Replicas != 0:
		return fail("replicas fixes the pool and is %d: it cannot be given with min-replicas or max-replicas", c.Replicas)
	case !scaling && c.Replicas < 1:
		return fail("replicas is %d, expected at least 1", c.Replicas)
	case c.Replicas > machine:
		return fail("replicas is %d, but this machine runs at most %d workers; max-workers changes that", c.Replicas, machine)
	case scaling && c.MinReplicas < 0:
		return fail("min-replicas is %d, expected at least 1", c.MinReplicas)
	case scaling && c.MaxReplicas < 0:
		return fail("max-replicas is %d, expected at least 1", c.MaxReplicas)
	case c.MinReplicas > machine:
		return fail("min-replicas is %d, but this machine runs at most %d workers; max-workers changes that", c.MinReplicas, machine)
	case c.MaxReplicas != 0 && c.MinReplicas > c.MaxReplicas:
		return fail("min-replicas is %d, more than max-replicas, which is %d", c.MinReplicas, c.MaxReplicas)
	case c.Lease != 0 && c.Lease < 100*time.Millisecond:
		return fail("lease is %v, expected at least 100ms (or 0 for %v)", c.Lease, DefaultLease)
	}
	if _, err := policies.ByName(c.Policy); err != nil {
		return fail("policy: %w", err)
	}
	for _, err := range []error{c.local().Validate(), c.supervise().Validate()} {
		if err != nil {
			return fail("%w", err)
		}
	}
	if len(c.JoinToken) > maxToken || strings.TrimSpace(c.JoinToken) != c.JoinToken {
		return fail("the join token has %d bytes, expected at most %d without space around them", len(c.JoinToken), maxToken)
	}
	return nil
}

func (c Config) machine(cpus int) int {
	if c.MaxWorkers > 0 {
		return c.MaxWorkers
	}
	return DefaultMaxWorkers(cpus)
}

// bounds are those of the autoscaler.
func (c Config) bounds(cpus int) autoscale.Bounds {
	b := autoscale.Bounds{Min: c.MinReplicas, Max: c.MaxReplicas, Machine: c.machine(cpus)}
	if c.Replicas > 0 {
		b.Min, b.Max = c.Replicas, c.Replicas
	}
	if b.Min == 0 {
		b.Min = 1
	}
	if b.Max == 0 {
		b.Max = max(b.Machine, b.Min)
	}
	return b
}

func (c Config) supervise() supervise.Config {
	return supervise.Config{Lease: c.Lease, DrainTimeout: c.DrainTimeout}
}

func (c Config) local() local.Config {
	return local.Config{
		Args: append([]string{"replica", "--plugin"}, c.WorkerArgs...), StateDir: c.StateDir,
		Listen: c.WorkerListen, Advertise: c.WorkerAdvertise,
	}
}
