// Package autoscale decides how many replicas a pool should have. It does nothing else: no clock, no process, no
// network. The balancer calls Decide with what it has measured and does what comes out; a simulation can do
// the same.
//
// A law of scaling is a Policy, in a package of its own; bounds, pinning and the words for people are here,
// the same for every law. All sizes count the replicas that the balancer spawns: those that joined by
// themselves come on top, they are not its to start or to stop.
package autoscale

import (
	"fmt"
	"time"
)

// Signals is what is known about the pool at the time of a decision.
type Signals struct {
	// Latency is how long requests took at the gateways, all gateways together.
	Latency Latency
	// Replicas is the number of spawned replicas that are not on their way out, ready or not.
	Replicas int
	// Ready is how many of them get requests.
	Ready int
}

// Latency sums up the requests of a window that ends now.
type Latency struct {
	// Window is the length of the window.
	Window time.Duration
	// Count is how many requests ended in it.
	Count uint64
	// P95 is the time that 95 % of them took at most. It means nothing if Count is 0.
	P95 time.Duration
	// Age is how old the newest report is. Negative: there has been none.
	Age time.Duration
}

// Bounds limit every decision.
type Bounds struct {
	// Min and Max are what the user allows: 1 <= Min <= Max.
	Min, Max int
	// Machine is what this machine can run, at least 1.
	Machine int
}

// ceiling is the most that may be decided.
func (b Bounds) ceiling() int { return min(b.Max, b.Machine) }

// clamp brings n within the bounds.
func (b Bounds) clamp(n int) int { return max(min(n, b.ceiling()), min(b.Min, b.Machine)) }

// State is what a decision leaves to the next one. A balancer that restarts keeps it.
type State struct {
	// Desired is the size that was decided last. 0: none yet.
	Desired int `json:"desired"`
	// Pinned is the size that an operator asked for. 0: the policy decides.
	Pinned int `json:"pinned,omitempty"`
	// Changed is when Desired changed last.
	Changed time.Time `json:"changed"`
}

// Decision is a size and why.
type Decision struct {
	Desired int
	// Reason is for people, such as "p95 142 ms above 100 ms: 1 -> 2".
	Reason string
}

// Policy is a law of scaling. It is a pure function.
type Policy interface {
	// Name is how a user selects the policy.
	Name() string
	// Want says how many replicas the law asks for, bounds aside, and why, without naming the sizes. state has
	// the size in force, at least 1, and when it came to be.
	Want(now time.Time, signals Signals, state State) (int, string)
}

// Scaler is a policy within bounds.
type Scaler struct {
	Policy Policy
	Bounds Bounds
}

// Decide gives the size that the pool should have and the state for the next decision.
func (s Scaler) Decide(now time.Time, signals Signals, state State) (Decision, State) {
	next := state
	if next.Desired <= 0 {
		next.Desired = s.Bounds.clamp(s.Bounds.Min)
		next.Changed = now
	}
	before := next.Desired
	var want int
	var reason string
	switch {
	case state.Pinned > 0:
		want, reason = state.Pinned, fmt.Sprintf("pinned to %d", state.Pinned)
		// A pin outlives a change of the bounds; what a machine can run it does not outlive.
		next.Desired = min(want, s.Bounds.Machine)
	case s.Bounds.Min == s.Bounds.Max:
		want, reason = s.Bounds.Min, fmt.Sprintf("fixed at %d", s.Bounds.Min)
		next.Desired = s.Bounds.clamp(want)
	default:
		want, reason = s.Policy.Want(now, signals, next)
		next.Desired = s.Bounds.clamp(want)
	}
	switch {
	case next.Desired != before:
		reason = fmt.Sprintf("%s: %d -> %d", reason, before, next.Desired)
		next.Changed = now
	case want > next.Desired && s.Bounds.Machine <= next.Desired:
		reason = fmt.Sprintf("%s: machine full at %d", reason, next.Desired)
	case want > next.Desired:
		reason = fmt.Sprintf("%s: at the maximum of %d", reason, next.Desired)
	case want < next.Desired:
		reason = fmt.Sprintf("%s: at the minimum of %d", reason, next.Desired)
	}
	return Decision{Desired: next.Desired, Reason: reason}, next
}
