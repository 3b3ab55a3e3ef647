package supervise

import (
	"errors"
	"time"

	"github.com/coppice-mesh/coppice/balancer/supervise/journal"
	"github.com/coppice-mesh/coppice/balancer/supervise/process"
)

// adopt makes members of those that an earlier balancer left and that may live. Until they have joined again,
// or have had a lease's time to, nothing is launched in their places and no view is published: gateways hold
// the one of before, which is better than one without them. s.mu is held.
func (s *Supervisor) adopt(now time.Time) {
	for _, r := range s.Record.Members {
		m := newMember(r.Replica, r.Incarnation, now)
		m.inherited, m.adopting, m.resume = true, true, r.Draining
		m.secret, m.spawned, m.restart = r.Secret, r.Spawned, r.Restarts
		m.process, m.pid, m.host, m.address = r.Process, r.PID, r.Host, r.Address
		if m.spawned && m.process.PID != 0 {
			w, err := s.Spawner.Adopt(m.process, s.spec(m))
			if errors.Is(err, process.ErrGone) {
				s.Logger.Info("a worker of before has ended", "replica", m.id, "pid", m.pid)
				s.lost(r)
				continue
			}
			if err != nil {
				// It may live: that it joins is all that is needed.
				s.Logger.Warn("a worker of before cannot be watched", "replica", m.id, "pid", m.pid, "error", err)
			} else {
				s.keep(m, w)
			}
		}
		s.members[m.id] = m
		s.adoptUntil = now.Add(s.c.Lease)
		s.held = true
	}
	if len(s.members) > 0 {
		s.Logger.Info("waiting for the replicas of before", "replicas", len(s.members), "at_most", s.c.Lease)
	}
}

// lost counts a worker that ended while no balancer watched. s.mu is held.
func (s *Supervisor) lost(r journal.Member) {
	s.restartCount++
	s.slots[r.Replica] = &slot{restarts: r.Restarts + 1}
}

// keep watches an adopted worker. s.mu is held.
func (s *Supervisor) keep(m *member, w Worker) {
	m.worker = w
	s.work.Go(func() {
		<-w.Exited()
		s.exited(m, w.Err())
	})
}

// adoption ends the wait for the members of before when it is over. s.mu is held.
func (s *Supervisor) adoption(now time.Time) {
	if s.adoptUntil.IsZero() {
		return
	}
	over := now.After(s.adoptUntil)
	waiting := 0
	s.held = false
	for _, m := range s.sorted() {
		if !m.adopting {
			continue
		}
		if !over {
			waiting++
			// One that was only being launched is in no gateway's view.
			s.held = s.held || m.address != ""
			continue
		}
		m.adopting = false
		m.heard = now
		if m.spawned {
			s.kill(m, "it did not join again")
		} else {
			s.Logger.Warn("replica forgotten: it did not join again", "replica", m.id)
			s.remove(m)
		}
	}
	if waiting > 0 {
		return
	}
	s.adoptUntil = time.Time{}
	s.Logger.Info("pool is complete", "replicas", len(s.members))
	for _, m := range s.sorted() {
		if m.resume {
			s.beginDrain(m, s.c.DrainTimeout, "the balancer before had begun to")
		}
	}
}
