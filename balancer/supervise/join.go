package supervise

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/coppice-mesh/coppice/balancer/supervise/process"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// maxName bounds the strings of a hello in bytes.
const maxName = 1024

// Session is one control stream of a replica. Its methods may be called concurrently.
type Session struct {
	s *Supervisor
	m *member

	mu      sync.Mutex
	wake    chan struct{}
	welcome *coppicev1.Welcome
	drain   *coppicev1.Drain
	stop    bool
	err     error
}

// same compares secrets in a time that says nothing about them. An empty one is nobody's.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1 && a != ""
}

func checkHello(h *coppicev1.ReplicaHello) error {
	if h == nil {
		return fmt.Errorf("%w: the first message of a replica has no hello", ErrHello)
	}
	for _, f := range []struct{ name, value string }{
		{"token", h.GetToken()},
		{"replica", h.GetReplica()},
		{"incarnation", h.GetIncarnation()},
		{"address", h.GetAddress()},
		{"host", h.GetHost()},
		{"version", h.GetVersion()},
	} {
		if len(f.value) > maxName {
			return fmt.Errorf("%w: %s has %d bytes, at most %d are allowed", ErrHello, f.name, len(f.value), maxName)
		}
	}
	path, unix := strings.CutPrefix(h.GetAddress(), "unix:")
	if host, port, ok := cutLast(h.GetAddress(), ":"); (unix && path == "") || (!unix && (!ok || host == "" || port == "")) {
		return fmt.Errorf("%w: address %q, expected \"unix:/path\" or \"host:port\"", ErrHello, h.GetAddress())
	}
	return nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Join makes a replica a member, or finds it again. The session replaces one that the replica had before.
// Errors wrap ErrHello, ErrToken, ErrTooMany or ErrClosed.
func (s *Supervisor) Join(hello *coppicev1.ReplicaHello) (*Session, error) {
	if err := checkHello(hello); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var m *member
	var err error
	if hello.GetSpawned() {
		m, err = s.joinSpawned(hello)
	} else {
		m, err = s.joinByHand(hello)
	}
	if err != nil {
		return nil, err
	}
	now := time.Now()
	m.heard = now
	m.adopting = false
	m.joined = true
	m.address, m.host, m.version, m.pid = hello.GetAddress(), hello.GetHost(), hello.GetVersion(), hello.GetPid()
	if m.session != nil {
		m.session.end(ErrReplaced)
	}
	session := &Session{s: s, m: m, wake: make(chan struct{}, 1)}
	session.wake <- struct{}{}
	session.welcome = &coppicev1.Welcome{
		Replica: m.id, Incarnation: m.incarnation, Models: s.Models, Lease: durationpb.New(s.c.Lease), AllowWork: s.AllowWork,
	}
	m.session = session
	if d := m.drain; d != nil {
		// It may have missed what its drain has told it.
		if d.told {
			session.drain = &coppicev1.Drain{Timeout: durationpb.New(max(d.deadline.Sub(now), 0))}
		}
		session.stop = d.stopped
	}
	m.note()
	s.changed()
	s.Logger.Info("replica joined", "replica", m.id, "pid", m.pid, "host", m.host, "address", m.address, "spawned", m.spawned)
	return session, nil
}

// joinSpawned finds the member that a worker says it is. s.mu is held.
func (s *Supervisor) joinSpawned(hello *coppicev1.ReplicaHello) (*member, error) {
	m := s.members[hello.GetReplica()]
	// The comparison comes first, so that it is made for every name.
	secret := ""
	if m != nil {
		secret = m.secret
	}
	if !same(hello.GetToken(), secret) || m == nil || !m.spawned || m.incarnation != hello.GetIncarnation() {
		return nil, fmt.Errorf("%w: no worker %q of incarnation %q was launched with this secret", ErrToken, hello.GetReplica(), hello.GetIncarnation())
	}
	if m.process.PID == 0 && m.cancel == nil {
		// The earlier balancer was killed before it knew the process.
		if id, err := process.Of(int(hello.GetPid())); err == nil {
			if w, err := s.Spawner.Adopt(id, s.spec(m)); err == nil {
				m.process = id
				s.keep(m, w)
			}
		}
	}
	return m, nil
}

// joinByHand makes a member of a replica that was not spawned. s.mu is held.
func (s *Supervisor) joinByHand(hello *coppicev1.ReplicaHello) (*member, error) {
	if !same(hello.GetToken(), s.JoinToken) {
		return nil, ErrToken
	}
	if s.stopping {
		return nil, ErrClosed
	}
	incarnation := hello.GetIncarnation()
	if incarnation == "" {
		incarnation = fmt.Sprintf("%s-%d-%s", hello.GetHost(), hello.GetPid(), hello.GetAddress())
	}
	joined := 0
	for _, m := range s.members {
		if m.spawned {
			continue
		}
		joined++
		if m.incarnation == incarnation {
			return m, nil // its stream broke and it is back
		}
	}
	if joined >= s.c.MaxJoined {
		return nil, fmt.Errorf("%w: %d", ErrTooMany, s.c.MaxJoined)
	}
	for n := 0; ; n++ {
		// Slots in which a worker is to come back are not free.
		if id := "r" + strconv.Itoa(n); s.members[id] == nil && !s.waiting(id) {
			m := newMember(id, incarnation, time.Now())
			s.members[id] = m
			return m, nil
		}
	}
}

// waiting says whether the pool will launch a worker in this free slot. s.mu is held.
func (s *Supervisor) waiting(id string) bool {
	live := 0
	for _, m := range s.members {
		if m.spawned && m.state != Draining {
			live++
		}
	}
	for n := 0; live < s.desired; n++ {
		free := "r" + strconv.Itoa(n)
		if s.members[free] != nil {
			continue
		}
		if free == id {
			return true
		}
		live++
	}
	return false
}

func (s *Supervisor) spec(m *member) Spec {
	return Spec{Replica: m.id, Incarnation: m.incarnation, Secret: m.secret}
}

// Replica is the slot that the replica has.
func (c *Session) Replica() string { return c.m.id }

// Next blocks until there is something to tell the replica. It ends with the context's error, with
// ErrReplaced, or with ErrClosed when the replica is no member any more.
func (c *Session) Next(ctx context.Context) (*coppicev1.JoinResponse, error) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		c.mu.Lock()
		resp := &coppicev1.JoinResponse{Welcome: c.welcome, Drain: c.drain, Stop: c.stop}
		err := c.err
		c.welcome, c.drain, c.stop = nil, nil, false
		c.mu.Unlock()
		if resp.Welcome != nil || resp.Drain != nil || resp.Stop {
			if err != nil {
				c.end(err) // for the next call
			}
			return resp, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// tell has the replica told.
func (c *Session) tell(f func()) {
	c.mu.Lock()
	f()
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Session) end(err error) {
	c.tell(func() {
		if c.err == nil {
			c.err = err
		}
	})
}

// Heartbeat takes a sign of life. The supervisor keeps the message.
func (c *Session) Heartbeat(beat *coppicev1.Heartbeat) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	m := c.m
	if m.session != c {
		return
	}
	m.heard = time.Now()
	m.beat = beat
	e := loaded
	for _, hash := range s.models {
		if !slices.Contains(beat.GetModels(), hash) {
			e = partial
		}
	}
	s.happen(m, e)
	if d := m.drain; d != nil && d.told {
		if beat.GetInFlight() == 0 && beat.GetQueued() == 0 {
			d.quiet++
		} else {
			d.quiet = 0
		}
	}
	m.note()
}

// Leave says that the replica wants to go: its own operator told it to.
func (c *Session) Leave() {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.m.session == c && c.m.state != Exited {
		s.beginDrain(c.m, s.c.DrainTimeout, "it asked to leave")
	}
}

// Close says that the stream is over.
func (c *Session) Close() {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	m := c.m
	if m.session != c {
		return
	}
	m.session = nil
	if !m.spawned && m.drain != nil && m.drain.stopped {
		s.remove(m) // it went, as it was told to
		return
	}
	s.happen(m, late)
	m.note()
}
