// Package pick chooses the replica that answers a request. It is what gateways and, later, simulations run:
// it knows nothing of connections or clocks.
//
// A gateway builds a Picker whenever its view of the pool changes and keeps it until the next change. The
// replicas of a Picker never change; what is outstanding at each of them is in a Load, which outlives the
// Picker and is shared by all that name the same process. Picking takes no lock and allocates nothing.
package pick

import (
	"errors"
	"sync/atomic"
)

// Errors of Pick.
var (
	// ErrNoReplica says that the pool has no replica for this request: none is ready or suspect, or the
	// request has tried them all. Waiting helps only if the pool changes.
	ErrNoReplica = errors.New("pick: no replica is ready")
	// ErrBusy says that every replica that could take this request has as many as it may. Waiting for an
	// answer helps.
	ErrBusy = errors.New("pick: every replica is busy")
)

// Load is what this process has outstanding at one replica. The zero value is an idle replica. All methods
// may be called concurrently.
type Load struct {
	cost     atomic.Int64
	inFlight atomic.Int64
	_        [48]byte // a cache line of its own: all requests write to it
}

// Cost is the cost of the requests that are outstanding.
func (l *Load) Cost() int64 { return l.cost.Load() }

// InFlight is the number of requests that are outstanding.
func (l *Load) InFlight() int64 { return l.inFlight.Load() }

// Acquire counts a request of this cost in, unless limit requests are outstanding. A limit of 0 is none.
func (l *Load) Acquire(cost, limit int64) bool {
	for {
		n := l.inFlight.Load()
		if limit > 0 && n >= limit {
			return false
		}
		if l.inFlight.CompareAndSwap(n, n+1) {
			l.cost.Add(cost)
			return true
		}
	}
}

// Release counts a request out that Acquire, or a Pick, counted in. The cost must be the same.
func (l *Load) Release(cost int64) {
	l.cost.Add(-cost)
	l.inFlight.Add(-1)
}

// Replica is one member of the pool as a picker sees it.
type Replica struct {
	// Load is the identity of the replica, too: a process that came back in the same slot has another.
	Load *Load
	// Suspect replicas get a request only if no other can take it.
	Suspect bool
	// Limit is the number of requests that may be outstanding at the replica. 0: no limit.
	Limit int64
	// Rate is how fast the replica works relative to the others. 0: unknown, which counts as 1.
	Rate float64
}

// Info is what a picker needs to know of a request.
type Info struct {
	// Cost is the work that the request is, in rows times the model's cost of a row. At least 1 is counted.
	Cost int64
	// Tried are the replicas that this request must not go to again. There are few: attempts are bounded.
	Tried []*Load
}

// Excludes says whether the request has tried this replica.
func (i Info) Excludes(l *Load) bool {
	for _, t := range i.Tried {
		if t == l {
			return true
		}
	}
	return false
}

// Picker chooses among fixed replicas. It may be called concurrently, does not block and keeps nothing of
// Info.
type Picker interface {
	// Pick chooses a replica and counts the request in at its Load. It returns the replica's place in the
	// list that the picker was built from; the caller calls Release with max(Info.Cost, 1) when the request
	// is over, however it ends. Errors are ErrNoReplica and ErrBusy.
	Pick(Info) (int, error)
}

// Policy is a way of choosing. Each lives in a package of its own and is named in the list of package
// policies.
type Policy interface {
	// Name is how a user selects the policy.
	Name() string
	// Build makes a picker of these replicas: those that may get requests. The slice must not be changed
	// afterwards. random gives uniformly distributed values and may be called concurrently.
	Build(replicas []Replica, random func() uint64) Picker
}
