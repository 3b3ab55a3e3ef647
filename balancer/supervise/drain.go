package supervise

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// quietBeats is how many heartbeats in a row must say that nothing is in flight before a replica is stopped.
// One is not enough: the last request of a gateway may still be in a socket when the first is written.
const quietBeats = 2

// killGrace is how long a process that was killed may take to be gone.
const killGrace = 2 * time.Second

// drain is the way out of a replica. Its fields are guarded by the supervisor's mutex.
type drain struct {
	deadline  time.Time
	told      bool // Drain was sent
	quiet     int  // heartbeats with nothing in flight since, in a row
	stopped   bool // Stop was sent
	abandoned uint64
}

// Drain takes a replica out: gateways stop using it, its requests end, it stops. Drain blocks until the replica
// is gone and returns how many of its requests had not ended when the time was up. timeout 0 is the pool's
// default. A second drain of the same replica waits for the first. Errors: ErrNotFound; the context's, after
// which the drain goes on.
func (s *Supervisor) Drain(ctx context.Context, replica string, timeout time.Duration) (abandoned uint64, err error) {
	if timeout <= 0 {
		timeout = s.c.DrainTimeout
	}
	s.mu.Lock()
	m := s.members[replica]
	if m == nil {
		s.mu.Unlock()
		return 0, fmt.Errorf("%w: %q", ErrNotFound, replica)
	}
	d := s.beginDrain(m, timeout, "an operator asked for it") //nolint:contextcheck // it goes on when ctx is done
	s.mu.Unlock()
	select {
	case <-m.gone.Done():
	case <-ctx.Done():
		return 0, fmt.Errorf("replica %s is still draining: %w", replica, context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return d.abandoned, nil
}

// beginDrain starts the way out of a member, once. s.mu is held.
func (s *Supervisor) beginDrain(m *member, timeout time.Duration, why string) *drain {
	if m.drain != nil {
		return m.drain
	}
	d := &drain{deadline: time.Now().Add(timeout)}
	m.drain = d
	s.Logger.Info("draining replica", "replica", m.id, "pid", m.pid, "why", why, "timeout", timeout)
	s.happen(m, leave)
	generation := s.publish()
	s.work.Go(func() { s.drainOut(m, d, generation) })
	return d
}

// drainOut does the steps of a drain. Each ends early when the member is gone.
func (s *Supervisor) drainOut(m *member, d *drain, generation uint64) {
	deadline := time.NewTimer(time.Until(d.deadline))
	defer deadline.Stop()

	if !s.neverUsed(m) {
		ctx, cancel := context.WithTimeout(m.gone, s.c.AckTimeout)
		err := s.Roster.WaitAcknowledged(ctx, generation)
		cancel()
		if err != nil && m.gone.Err() == nil {
			// That gateway will find the replica refusing, and send its requests elsewhere.
			s.Logger.Warn("draining although a gateway may still use the replica", "replica", m.id, "error", err)
		}
		s.mu.Lock()
		d.told = true
		if m.session != nil {
			left := durationpb.New(max(time.Until(d.deadline), 0))
			m.session.tell(func() { m.session.drain = &coppicev1.Drain{Timeout: left} })
		} else if m.worker != nil {
			// It cannot be told, only asked: it may come back and be told then.
			if err := m.worker.Terminate(); err != nil {
				s.Logger.Warn("worker could not be asked to end", "replica", m.id, "error", err)
			}
		}
		s.mu.Unlock()
		if !s.waitQuiet(m, d, deadline.C) {
			return
		}
	}

	s.mu.Lock()
	d.stopped = true
	if m.session != nil {
		m.session.tell(func() { m.session.stop = true })
	} else {
		s.end(m)
	}
	s.mu.Unlock()
	select {
	case <-m.gone.Done():
		return
	case <-time.After(s.c.StopTimeout):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Logger.Warn("replica did not stop", "replica", m.id, "within", s.c.StopTimeout)
	s.end(m)
}

// end is for a member that cannot be told to stop. s.mu is held.
func (s *Supervisor) end(m *member) {
	if m.spawned {
		s.kill(m, "it has to go and cannot be told to")
	} else {
		s.remove(m)
	}
}

// neverUsed says whether no gateway can have sent anything to the member.
func (s *Supervisor) neverUsed(m *member) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return m.spawned && !m.joined && !m.inherited
}

// waitQuiet blocks until the member has nothing in flight or the time is up. It returns false when the member
// is gone.
func (s *Supervisor) waitQuiet(m *member, d *drain, deadline <-chan time.Time) bool {
	for {
		select {
		case <-m.gone.Done():
			return false
		case <-deadline:
			s.mu.Lock()
			d.abandoned = m.beat.GetInFlight()
			s.mu.Unlock()
			return true
		case <-m.beats:
		}
		s.mu.Lock()
		quiet := d.quiet >= quietBeats
		s.mu.Unlock()
		if quiet {
			return true
		}
	}
}

// Shutdown drains and stops every spawned worker, all at once, and returns when none is left. When ctx is done
// before, it kills those that remain. Replicas that joined by themselves go on: they will look for the next
// balancer. It may be called more than once, and without Start.
func (s *Supervisor) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.started {
		s.mu.Unlock()
		return nil
	}
	s.stopping = true
	// Nobody is waited for any more: those that were are ended like all others.
	s.adoptUntil, s.held = time.Time{}, false
	var spawned []*member
	for _, m := range s.sorted() {
		m.adopting = false
		if m.spawned {
			spawned = append(spawned, m)
			s.beginDrain(m, s.c.DrainTimeout, "the pool is closed") //nolint:contextcheck // what follows ends it
		}
	}
	s.mu.Unlock()

	var err error
	if !wait(ctx, spawned) {
		s.mu.Lock()
		for _, m := range spawned {
			if m.state != Exited {
				s.kill(m, "no time is left to drain it")
			}
		}
		s.mu.Unlock()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), killGrace)
		defer cancel()
		err = fmt.Errorf("workers were killed: %w", context.Cause(ctx))
		if !wait(grace, spawned) {
			// What waits for them cannot be waited for.
			s.stop()
			s.loops.Wait()
			return errors.Join(err, errors.New("workers did not end although they were killed"))
		}
	}

	s.mu.Lock()
	for _, m := range s.sorted() {
		s.remove(m)
	}
	// The next balancer begins anew: a size that was decided for a pool that is closed means nothing.
	s.scale = autoscale.State{}
	s.mu.Unlock()
	s.stop()
	s.loops.Wait()
	s.work.Wait()
	s.save()
	return err
}

// wait blocks until all members are gone, or returns false when ctx is done.
func wait(ctx context.Context, members []*member) bool {
	for _, m := range members {
		select {
		case <-m.gone.Done():
		case <-ctx.Done():
			return false
		}
	}
	return true
}
