package supervise

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	"github.com/coppice-mesh/coppice/balancer/roster"
	"github.com/coppice-mesh/coppice/balancer/supervise/journal"
	"github.com/coppice-mesh/coppice/balancer/supervise/process"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// Defaults of Config.
const (
	DefaultLease        = 5 * time.Second
	DefaultSuspectAfter = 500 * time.Millisecond
	DefaultStartTimeout = 10 * time.Second
	DefaultDrainTimeout = 30 * time.Second
	DefaultAckTimeout   = 2 * time.Second
	DefaultStopTimeout  = 5 * time.Second
	DefaultStableAfter  = 10 * time.Second
	DefaultBackoffMin   = 100 * time.Millisecond
	DefaultBackoffMax   = 5 * time.Second
	DefaultMaxJoined    = 256
)

// Config holds the times of a pool. A zero field has its default.
type Config struct {
	// Lease is how long a replica may be silent before it is given up, and how long it may be without its
	// balancer. Default: DefaultLease.
	Lease time.Duration
	// SuspectAfter is the silence after which a replica is suspect; several heartbeats long, and below Lease.
	// Default: DefaultSuspectAfter.
	SuspectAfter time.Duration
	// StartTimeout bounds the launch of a process up to its handshake. Loading models comes after it and is
	// not bounded. Default: DefaultStartTimeout.
	StartTimeout time.Duration
	// DrainTimeout is how long the requests of a replica may take that has to go, if nobody says otherwise.
	// Default: DefaultDrainTimeout.
	DrainTimeout time.Duration
	// AckTimeout bounds the wait for gateways to act on a drain. Default: DefaultAckTimeout.
	AckTimeout time.Duration
	// StopTimeout is how long a drained worker may take to end before it is killed. Default: DefaultStopTimeout.
	StopTimeout time.Duration
	// StableAfter is how long a worker has to be ready for earlier failures of its slot to be forgotten.
	// Default: DefaultStableAfter.
	StableAfter time.Duration
	// BackoffMin and BackoffMax bound the time between two launches of a slot that keeps failing: the first
	// failure is followed by a launch at once, the second by one BackoffMin after the launch before, and so on
	// in doubling steps. Defaults: DefaultBackoffMin, DefaultBackoffMax.
	BackoffMin, BackoffMax time.Duration
	// MaxJoined bounds the replicas that joined by themselves. Default: DefaultMaxJoined.
	MaxJoined int
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Lease, DefaultLease)
	def(&c.SuspectAfter, min(DefaultSuspectAfter, c.Lease/2))
	def(&c.StartTimeout, DefaultStartTimeout)
	def(&c.DrainTimeout, DefaultDrainTimeout)
	def(&c.AckTimeout, DefaultAckTimeout)
	def(&c.StopTimeout, DefaultStopTimeout)
	def(&c.StableAfter, DefaultStableAfter)
	def(&c.BackoffMin, DefaultBackoffMin)
	def(&c.BackoffMax, max(DefaultBackoffMax, c.BackoffMin))
	if c.MaxJoined == 0 {
		c.MaxJoined = DefaultMaxJoined
	}
	return c
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"lease", c.Lease},
		{"suspect-after", c.SuspectAfter},
		{"start-timeout", c.StartTimeout},
		{"drain-timeout", c.DrainTimeout},
		{"ack-timeout", c.AckTimeout},
		{"stop-timeout", c.StopTimeout},
		{"stable-after", c.StableAfter},
		{"backoff-min", c.BackoffMin},
		{"backoff-max", c.BackoffMax},
	} {
		if d.value < 0 {
			return fmt.Errorf("supervise: %s is %v, expected a positive duration (or 0 for the default)", d.name, d.value)
		}
	}
	full := c.withDefaults()
	if full.SuspectAfter >= full.Lease {
		return fmt.Errorf("supervise: suspect-after is %v, expected less than the lease of %v", full.SuspectAfter, full.Lease)
	}
	if full.BackoffMin > full.BackoffMax {
		return fmt.Errorf("supervise: backoff-min is %v, expected at most backoff-max of %v", full.BackoffMin, full.BackoffMax)
	}
	if c.MaxJoined < 0 {
		return fmt.Errorf("supervise: at most %d joined replicas, expected a positive number (or 0 for %d)", c.MaxJoined, DefaultMaxJoined)
	}
	return nil
}

// Journal keeps what the next balancer must know.
type Journal interface {
	// Save blocks until the record is safe from a crash of this process.
	Save(journal.Record) error
}

// Settings is what a Supervisor works with. All fields are needed.
type Settings struct {
	Spawner Spawner
	Journal Journal
	// Record is what the journal had at the start.
	Record journal.Record
	// Roster gets the view of the pool. Its first generation must be above Record.Generation.
	Roster *roster.Roster
	// JoinToken is what replicas join with that were not spawned.
	JoinToken string
	// Models are those that a replica must have loaded to be ready.
	Models []*coppicev1.ServedModel
	// AllowWork is told to gateways and replicas.
	AllowWork bool
	Logger    *slog.Logger
	// Jitter gives uniformly distributed values in [0, 1).
	Jitter func() float64
}

// Errors, to be matched with errors.Is.
var (
	// ErrToken says that a replica is none of this pool's.
	ErrToken = errors.New("the join token is not this pool's")
	// ErrHello says that the first message of a replica is not usable.
	ErrHello = errors.New("bad hello")
	// ErrTooMany says that the pool takes no more replicas.
	ErrTooMany = errors.New("too many replicas have joined")
	// ErrNotFound says that no replica has that name.
	ErrNotFound = errors.New("no such replica")
	// ErrClosed says that the pool is being closed.
	ErrClosed = errors.New("the balancer is shutting down")
	// ErrReplaced ends the session of a replica that has joined again.
	ErrReplaced = errors.New("the replica joined again")
)

const (
	// tickEvery is the rhythm of the loop.
	tickEvery = 50 * time.Millisecond
	// generations are reserved in the journal in steps, so that not every view needs a write.
	generationStep = 1000
)

// Supervisor keeps a pool. Make one with New.
type Supervisor struct {
	c Config
	Settings
	models []string // hashes

	mu           sync.Mutex
	started      bool
	stopping     bool
	desired      int
	scale        autoscale.State
	members      map[string]*member // by slot
	slots        map[string]*slot
	ticked       time.Time
	adoptUntil   time.Time // zero when nobody is waited for
	held         bool      // no view is published
	reserved     uint64    // generations below this may be published
	restartCount uint64

	saving sync.Mutex // one save at a time, taken before mu
	saved  journal.Record
	dirty  chan struct{}
	wake   chan struct{}
	stop   context.CancelFunc
	loops  sync.WaitGroup // end with stop
	work   sync.WaitGroup // launches, watches, drains: end by themselves when all workers have
}

// slot is what is remembered of a place in the pool between two replicas.
type slot struct {
	launched  time.Time // the last launch
	failures  int       // in a row
	notBefore time.Time // of the next launch
	restarts  uint64
}

// member is one replica of the pool.
type member struct {
	id          string // the slot
	incarnation string
	secret      string
	spawned     bool
	state       State

	inherited bool // left by an earlier balancer
	adopting  bool // inherited, and not seen since
	resume    bool // inherited while it was draining
	process   process.Identity
	pid       int64
	host      string
	address   string
	version   string

	worker  Worker             // nil while it is launched, and for one that joined by itself
	cancel  context.CancelFunc // ends the launch
	session *Session           // nil while it has no control stream
	joined  bool               // it has had one
	since   time.Time          // launched or first joined
	ready   time.Time          // for the first time; zero when it never was
	heard   time.Time          // the last sign of life
	beat    *coppicev1.Heartbeat
	killed  bool
	drain   *drain
	restart uint64

	beats chan struct{} // holds a token when something changed for a drain that waits
	// gone is done when the member is Exited; release does it.
	gone    context.Context
	release context.CancelFunc
}

// New makes a supervisor. The configuration must be valid.
func New(c Config, s Settings) *Supervisor {
	sup := &Supervisor{
		c:        c.withDefaults(),
		Settings: s,
		scale:    s.Record.Scale,
		desired:  s.Record.Scale.Desired,
		members:  make(map[string]*member),
		slots:    make(map[string]*slot),
		reserved: s.Record.Generation,
		dirty:    make(chan struct{}, 1),
		wake:     make(chan struct{}, 1),
	}
	for _, m := range s.Models {
		sup.models = append(sup.models, m.GetSha256())
	}
	return sup
}

// Start finds the members that an earlier balancer left and begins to keep the pool. It does not wait for
// replicas. SetScale says how many there should be; until its first call it is as many as before.
func (s *Supervisor) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	now := time.Now()
	s.mu.Lock()
	s.started = true
	s.ticked = now
	s.reserved += generationStep
	s.adopt(now)
	s.mu.Unlock()
	// Before the first view: the next balancer must begin above it.
	s.save()
	s.loops.Go(func() { s.loop(ctx) })
	s.loops.Go(func() { s.saver(ctx) })
}

// SetScale sets how many spawned replicas the pool should have, and keeps why for the next balancer.
func (s *Supervisor) SetScale(state autoscale.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scale == state {
		return
	}
	s.scale = state
	s.desired = state.Desired
	s.changed()
}

// Scale is what SetScale set last, or an earlier balancer.
func (s *Supervisor) Scale() autoscale.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.scale
}

// Member describes a replica to others.
type Member struct {
	Replica     string
	Incarnation string
	State       State
	Spawned     bool
	PID         int64
	Host        string
	Address     string
	Version     string
	// Restarts counts how often the replica's slot lost its worker.
	Restarts uint64
	// Heartbeat is the newest one, nil if there was none, and HeartbeatAge how old it is.
	Heartbeat    *coppicev1.Heartbeat
	HeartbeatAge time.Duration
}

// Members lists the replicas of the pool, by slot.
func (s *Supervisor) Members() []Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	list := make([]Member, 0, len(s.members))
	for _, m := range s.sorted() {
		list = append(list, Member{
			Replica: m.id, Incarnation: m.incarnation, State: m.state, Spawned: m.spawned, PID: m.pid, Host: m.host,
			Address: m.address, Version: m.version, Restarts: m.restart, Heartbeat: m.beat, HeartbeatAge: now.Sub(m.heard),
		})
	}
	return list
}

// Restarts counts the workers that were lost since the start.
func (s *Supervisor) Restarts() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restartCount
}

// Owns says whether this secret or token belongs to the pool or to one of its workers.
func (s *Supervisor) Owns(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok := same(token, s.JoinToken)
	for _, m := range s.members {
		if m.spawned && same(token, m.secret) {
			ok = true
		}
	}
	return ok
}

// sorted lists the members by slot. s.mu is held.
func (s *Supervisor) sorted() []*member {
	list := make([]*member, 0, len(s.members))
	for _, m := range s.members {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *member) int {
		return cmp.Or(cmp.Compare(number(a.id), number(b.id)), strings.Compare(a.id, b.id))
	})
	return list
}

// number is the number of a slot; -1 for a name that is not of the form r0, r1, ...
func number(id string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(id, "r"))
	if err != nil {
		return -1
	}
	return n
}

// changed has the loop look at once, and the state written. s.mu is held.
func (s *Supervisor) changed() {
	for _, c := range []chan struct{}{s.wake, s.dirty} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (s *Supervisor) loop(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		s.mu.Lock()
		s.look(time.Now()) //nolint:contextcheck // the drains that it begins outlive the loop
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
		}
	}
}

// look does what there is to do at this time. s.mu is held.
func (s *Supervisor) look(now time.Time) {
	// If this process did not run for a while, heartbeats wait in its sockets. That is no fault of those that
	// sent them.
	if missed := now.Sub(s.ticked) - tickEvery; missed > 2*tickEvery {
		for _, m := range s.members {
			m.heard = m.heard.Add(missed)
		}
		if !s.adoptUntil.IsZero() {
			s.adoptUntil = s.adoptUntil.Add(missed)
		}
	}
	s.ticked = now
	s.adoption(now)
	for _, m := range s.sorted() {
		s.check(m, now)
	}
	s.reconcile(now)
	s.publish()
}

// check acts on a member's silence. s.mu is held.
func (s *Supervisor) check(m *member, now time.Time) {
	if m.adopting || (m.spawned && m.worker == nil && !m.joined) {
		return // adoption, or the launch, has a limit of its own
	}
	silent := now.Sub(m.heard)
	if m.joined && silent > s.c.SuspectAfter {
		s.happen(m, late)
	}
	if silent <= s.c.Lease || m.killed {
		return
	}
	if m.spawned {
		s.kill(m, fmt.Sprintf("silent for %v", silent.Round(time.Millisecond)))
	} else {
		s.Logger.Warn("replica forgotten", "replica", m.id, "silent", silent)
		s.remove(m)
	}
}

// kill ends a spawned worker. Its exit does the rest. s.mu is held.
func (s *Supervisor) kill(m *member, why string) {
	if m.killed {
		return
	}
	m.killed = true
	s.Logger.Warn("killing worker", "replica", m.id, "pid", m.pid, "why", why)
	switch {
	case m.worker != nil:
		if err := m.worker.Kill(); err != nil {
			s.Logger.Error("worker could not be killed", "replica", m.id, "pid", m.pid, "error", err)
		}
	case m.cancel != nil:
		m.cancel()
	default:
		// Its process is unknown, so it cannot be killed: it will find its secret refused.
		s.remove(m)
	}
}

// happen applies an event. s.mu is held.
func (s *Supervisor) happen(m *member, e event) {
	before := m.state
	m.state = before.after(e)
	if m.state == before {
		return
	}
	now := time.Now()
	switch m.state {
	case Ready:
		if m.ready.IsZero() {
			m.ready = now
		}
		s.Logger.Info("replica ready", "replica", m.id, "pid", m.pid, "was", before.String(), "age", now.Sub(m.since).Round(time.Microsecond))
	case Suspect:
		s.Logger.Warn("replica suspect", "replica", m.id, "pid", m.pid, "silent", now.Sub(m.heard).Round(time.Millisecond))
	default:
		s.Logger.Info("replica "+m.state.String(), "replica", m.id, "pid", m.pid, "was", before.String())
	}
	m.note()
	s.changed()
}

func newMember(id, incarnation string, now time.Time) *member {
	m := &member{id: id, incarnation: incarnation, state: Starting, since: now, heard: now, beats: make(chan struct{}, 1)}
	m.gone, m.release = context.WithCancel(context.Background())
	return m
}

// note tells a drain that something changed.
func (m *member) note() {
	select {
	case m.beats <- struct{}{}:
	default:
	}
}

// remove takes a member out of the pool. s.mu is held.
func (s *Supervisor) remove(m *member) {
	if m.state == Exited {
		return
	}
	s.happen(m, gone)
	if s.members[m.id] == m {
		delete(s.members, m.id)
	}
	if m.session != nil {
		m.session.end(ErrClosed)
		m.session = nil
	}
	m.release()
	// Gateways should know before anybody does anything else.
	s.publish()
}

// reconcile launches and drains until the pool has the size that is wanted. s.mu is held.
func (s *Supervisor) reconcile(now time.Time) {
	if s.stopping || s.desired <= 0 {
		return
	}
	var live []*member
	for _, m := range s.sorted() {
		if m.spawned && m.state != Draining {
			live = append(live, m)
		}
	}
	for n := 0; len(live) < s.desired; n++ {
		id := "r" + strconv.Itoa(n)
		if s.members[id] != nil {
			continue
		}
		// A slot that waits for its next launch counts: another in its place would fail as well.
		live = append(live, nil)
		if h := s.slots[id]; h == nil || !now.Before(h.notBefore) {
			s.launch(id, now)
		}
	}
	if s.adoptUntil.IsZero() {
		for i := len(live) - 1; i >= s.desired; i-- {
			s.beginDrain(live[i], s.c.DrainTimeout, "the pool shrinks")
		}
	}
}

// launch begins to launch a worker. s.mu is held.
func (s *Supervisor) launch(id string, now time.Time) {
	h := s.slots[id]
	if h == nil {
		h = &slot{}
		s.slots[id] = h
	}
	h.launched = now
	ctx, cancel := context.WithTimeout(context.Background(), s.c.StartTimeout)
	m := newMember(id, token(8), now)
	m.secret, m.spawned, m.cancel, m.restart = token(32), true, cancel, h.restarts
	s.members[id] = m
	s.work.Go(func() {
		defer cancel()
		// Written ahead: a balancer that is killed now leaves a worker that the next one knows. If it cannot be
		// written the worker is launched all the same; it would not outlive its lease.
		s.save()
		w, err := s.Spawner.Spawn(ctx, Spec{Replica: id, Incarnation: m.incarnation, Secret: m.secret}, func(p process.Identity) {
			s.mu.Lock()
			m.process, m.pid = p, int64(p.PID)
			s.mu.Unlock()
			s.save()
		})
		s.mu.Lock()
		if err == nil {
			m.worker = w
			m.heard = time.Now()
			if m.address == "" {
				m.address = w.Address()
			}
			if m.killed {
				_ = w.Kill() // it was to be killed while it came up
			}
			s.changed()
		}
		s.mu.Unlock()
		if err == nil {
			<-w.Exited()
			err = w.Err()
		}
		s.exited(m, err)
	})
}

// exited is called when a spawned worker has ended.
func (s *Supervisor) exited(m *member, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.state == Exited {
		return
	}
	now := time.Now()
	h := s.slots[m.id]
	if h == nil {
		h = &slot{launched: m.since}
		s.slots[m.id] = h
	}
	if m.state == Draining {
		h.failures, h.notBefore = 0, time.Time{}
	} else {
		s.restartCount++
		h.restarts = m.restart + 1
		if !m.ready.IsZero() && now.Sub(m.ready) >= s.c.StableAfter {
			h.failures = 0
		}
		h.failures++
		h.notBefore = h.launched.Add(s.backoff(h.failures))
		s.Logger.Warn("worker ended", "replica", m.id, "pid", m.pid, "error", err, "failures", h.failures,
			"next_launch_in", max(h.notBefore.Sub(now), 0).Round(time.Millisecond))
	}
	s.remove(m)
}

// backoff is the least time between the last launch and the next after so many failures in a row.
func (s *Supervisor) backoff(failures int) time.Duration {
	if failures < 2 {
		return 0
	}
	d := s.c.BackoffMax
	if shift := failures - 2; shift < 32 {
		d = min(d, s.c.BackoffMin<<shift)
	}
	// Between 80 % and 120 %: workers that died together need not come back together.
	return time.Duration(float64(d) * (0.8 + 0.4*s.Jitter()))
}

// publish gives gateways the view of now. It does nothing while an earlier balancer's members are waited for:
// gateways hold a better view. s.mu is held.
func (s *Supervisor) publish() uint64 {
	if s.held {
		return s.Roster.Generation()
	}
	view := &coppicev1.WatchResponse{Models: s.Models, AllowWork: s.AllowWork}
	for _, m := range s.sorted() {
		if m.address != "" {
			view.Endpoints = append(view.Endpoints, &coppicev1.Endpoint{
				Replica: m.id, Incarnation: m.incarnation, Address: m.address, State: m.state.Proto(),
			})
		}
	}
	generation := s.Roster.Publish(view)
	if generation+generationStep/2 > s.reserved {
		s.reserved = generation + generationStep
		s.changed()
	}
	return generation
}

// saver writes what changed.
func (s *Supervisor) saver(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.dirty:
			s.save()
		}
	}
}

// save writes the state of now and returns when it is written.
func (s *Supervisor) save() {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	r := s.record()
	s.mu.Unlock()
	if reflect.DeepEqual(r, s.saved) {
		return // most changes are of states, which are not kept
	}
	if err := s.Journal.Save(r); err != nil {
		s.Logger.Error("state was not written", "error", err)
		return
	}
	s.saved = r
}

// record is what is kept. s.mu is held.
func (s *Supervisor) record() journal.Record {
	r := journal.Record{Generation: max(s.reserved, s.Record.Generation), Scale: s.scale}
	for _, m := range s.sorted() {
		r.Members = append(r.Members, journal.Member{
			Replica: m.id, Incarnation: m.incarnation, Secret: m.secret, Spawned: m.spawned, Process: m.process,
			Address: m.address, Host: m.host, PID: m.pid, Draining: m.state == Draining, Restarts: m.restart,
		})
	}
	return r
}

// token makes a random name of so many bytes.
func token(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails, by its contract
	return hex.EncodeToString(b)
}
