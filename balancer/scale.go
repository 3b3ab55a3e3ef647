package balancer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	"github.com/coppice-mesh/coppice/balancer/server"
	"github.com/coppice-mesh/coppice/balancer/supervise"
	"github.com/coppice-mesh/coppice/balancer/track"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// decideEvery is the rhythm of decisions.
const decideEvery = 500 * time.Millisecond

// scaler brings signals to the policy and its decisions to the supervisor.
type scaler struct {
	scaler     autoscale.Scaler
	supervisor *supervise.Supervisor
	tracker    *track.Tracker
	now        func() time.Time
	logger     *slog.Logger

	mu       sync.Mutex
	state    autoscale.State
	decision autoscale.Decision
	signals  autoscale.Signals
	ups      uint64
	downs    uint64
}

// run decides until ctx is done.
func (s *scaler) run(ctx context.Context) {
	tick := time.NewTicker(decideEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.mu.Lock()
			s.decide()
			s.mu.Unlock()
			s.tracker.Forget()
		}
	}
}

// decide makes a decision and has it done. s.mu is held.
func (s *scaler) decide() {
	latency := s.tracker.Gateways()
	sig := autoscale.Signals{Latency: autoscale.Latency{
		Window: track.Window, Count: latency.Count, P95: time.Duration(latency.P95 * float64(time.Second)), Age: latency.Age,
	}}
	for _, m := range s.supervisor.Members() {
		if !m.Spawned || m.State == supervise.Draining {
			continue
		}
		sig.Replicas++
		if m.State == supervise.Ready {
			sig.Ready++
		}
	}
	before := s.state.Desired
	d, next := s.scaler.Decide(s.now(), sig, s.state)
	s.state, s.decision, s.signals = next, d, sig
	if d.Desired == before {
		return
	}
	if before > 0 {
		if d.Desired > before {
			s.ups++
		} else {
			s.downs++
		}
	}
	s.logger.Info("pool size", "replicas", d.Desired, "was", before, "why", d.Reason)
	s.supervisor.SetScale(next)
}

// begin makes the first decision, from the state that an earlier balancer left.
func (s *scaler) begin(state autoscale.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	s.decide()
	s.supervisor.SetScale(s.state)
}

// auto says whether the policy has anything to decide.
func (s *scaler) auto() bool { return s.scaler.Bounds.Max > s.scaler.Bounds.Min }

// Status describes the decision in force.
func (s *scaler) Status() *coppicev1.ScaleStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.scaler.Bounds
	return &coppicev1.ScaleStatus{
		Desired: int64(s.decision.Desired), Min: int64(b.Min), Max: int64(b.Max), Pinned: s.state.Pinned > 0,
		Reason: s.decision.Reason, Auto: s.auto() && s.state.Pinned == 0,
	}
}

// Pin sets the size: within the user's bounds where there are any, and within what the machine can run.
func (s *scaler) Pin(replicas int64) error {
	b := s.scaler.Bounds
	lo, hi := int64(1), int64(b.Machine)
	if s.auto() {
		lo, hi = int64(b.Min), int64(b.Max)
	}
	switch {
	case replicas > int64(b.Machine) && (replicas <= hi || !s.auto()):
		return fmt.Errorf("%w: %d replicas were asked for, this machine runs at most %d workers", server.ErrMachineFull, replicas, b.Machine)
	case replicas < lo || replicas > hi:
		return fmt.Errorf("%w: %d replicas were asked for, expected %d to %d", server.ErrBounds, replicas, lo, hi)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Pinned = int(replicas)
	s.decide()
	s.supervisor.SetScale(s.state)
	return nil
}

// Auto gives the size back to the policy, or to the number that the configuration fixes.
func (s *scaler) Auto() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Pinned = 0
	s.decide()
	s.supervisor.SetScale(s.state)
}
