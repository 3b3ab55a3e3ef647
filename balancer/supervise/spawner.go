package supervise

import (
	"context"

	"github.com/coppice-mesh/coppice/balancer/supervise/process"
)

// Spec names a worker that is to be launched.
type Spec struct {
	// Replica is the slot that it fills, such as "r0".
	Replica string
	// Incarnation differs between two workers of the same slot.
	Incarnation string
	// Secret is what the worker joins with.
	Secret string
}

// Spawner launches workers. Its methods are called concurrently.
type Spawner interface {
	// Spawn launches a worker and blocks until it serves or has failed; when it fails no process is left. It
	// calls started once, as soon as there is a process and before the worker can join. It ends the worker when
	// ctx is done before the worker serves; afterwards ctx means nothing to the worker.
	Spawn(ctx context.Context, spec Spec, started func(process.Identity)) (Worker, error)
	// Adopt finds a worker that an earlier balancer launched. The error wraps process.ErrGone when it has
	// ended. It does not block.
	Adopt(id process.Identity, spec Spec) (Worker, error)
}

// Worker is a process that was launched. Its methods may be called concurrently and do not block.
type Worker interface {
	// Address is where it serves. Empty for one that was adopted: it says so when it joins.
	Address() string
	// Terminate asks the worker to end by itself.
	Terminate() error
	// Kill ends the worker, and never another process.
	Kill() error
	// Exited is closed when the process has ended and what it left behind is cleared away.
	Exited() <-chan struct{}
	// Err says how it ended, as far as that is known. It may be called after Exited is closed.
	Err() error
}
