// Package pool is the core of the gateway: it takes a request, encoded, and sees that it gets exactly one
// answer or one error. It admits, picks a replica, sends, and when the replica dies sends it again elsewhere.
// It knows nothing of the protocols that requests come by.
//
//   - call.go  a request and how it ended
//   - conn.go  the stream to a replica
//   - pool.go  the replicas, and the way of a call
package pool

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/coppice-mesh/coppice/balancer/admit"
	"github.com/coppice-mesh/coppice/balancer/pick"
	"github.com/coppice-mesh/coppice/balancer/pick/policies"
	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// sweepEvery is how often deadlines are looked at: a call ends at most this late.
const sweepEvery = 10 * time.Millisecond

// maxTurn is how long a request that a replica died with waits for a replica without another such request. Then it
// goes all the same: it is more likely to be late than to be what the replica died of.
const maxTurn = time.Second

// Config is what a user decides about the pool.
type Config struct {
	// Admit bounds what is accepted and not yet answered.
	Admit admit.Config
	// MaxMessageBytes bounds an answer. Default 64 MiB.
	MaxMessageBytes int
	// MaxWait is how long a request waits for a replica when none is ready. Default 5 s.
	MaxWait time.Duration
}

// Settings is what code gives to the pool.
type Settings struct {
	Logger *slog.Logger
	Policy pick.Policy // nil: the default
}

// Pool is the replicas as the gateway sees them.
type Pool struct {
	cfg  Config
	set  Settings
	gate *admit.Gate
	view atomic.Pointer[view]

	mu      sync.Mutex
	conns   map[string]*conn   // in the pool, by slot and incarnation
	open    map[*conn]struct{} // these, and those that still have calls
	stopped bool

	waitMu  sync.Mutex
	waiting map[*Call]waiting
	closed  bool // nothing waits any more

	turns     atomic.Uint64 // how often a replica became free for a call that a replica died with
	maxUnsent int           // bytes that a replica has not read

	replays atomic.Uint64
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// waiting says how a call waits.
type waiting struct {
	since time.Time
	turn  time.Time // when it no longer waits for its turn; zero: no replica died with it
}

// view is what picking reads: immutable.
type view struct {
	picker   pick.Picker
	conns    []*conn // as the picker numbers them
	replicas []pick.Replica
}

// New makes a Pool without replicas. It does nothing before Start.
func New(cfg Config, set Settings) *Pool {
	if cfg.MaxMessageBytes <= 0 {
		cfg.MaxMessageBytes = 64 << 20
	}
	if cfg.MaxWait <= 0 {
		cfg.MaxWait = 5 * time.Second
	}
	if set.Policy == nil {
		set.Policy = policies.Default()
	}
	p := &Pool{cfg: cfg, set: set, gate: admit.New(cfg.Admit), conns: map[string]*conn{}, open: map[*conn]struct{}{}, waiting: map[*Call]waiting{}}
	p.maxUnsent = max(2*cfg.MaxMessageBytes, 64<<20)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.view.Store(&view{picker: set.Policy.Build(nil, rand.Uint64)})
	return p
}

// Start begins to watch deadlines.
func (p *Pool) Start() {
	p.running.Go(p.sweep)
}

// Shutdown waits until every call has ended, or ctx is done, and closes all connections. What is still open
// then ends with ErrStopped.
func (p *Pool) Shutdown(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for p.gate.Requests() > 0 && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.cancel()
	p.running.Wait()
	p.waitMu.Lock()
	p.closed = true
	left := slices.Collect(maps.Keys(p.waiting))
	p.waitMu.Unlock()
	for _, call := range left {
		p.end(call, nil, ErrStopped)
	}
}

// Update takes the pool as the balancer describes it. When it returns, nothing new is sent to a replica that
// is draining or gone: the generation is in force.
func (p *Pool) Update(endpoints []*coppicev1.Endpoint) {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return
	}
	seen := map[string]bool{}
	for _, e := range endpoints {
		key := e.GetReplica() + "/" + e.GetIncarnation()
		switch e.GetState() {
		case coppicev1.ReplicaState_REPLICA_STATE_READY, coppicev1.ReplicaState_REPLICA_STATE_SUSPECT, coppicev1.ReplicaState_REPLICA_STATE_DRAINING:
		default:
			continue
		}
		seen[key] = true
		c := p.conns[key]
		if c == nil {
			if e.GetState() == coppicev1.ReplicaState_REPLICA_STATE_DRAINING {
				continue
			}
			c = &conn{
				pool: p, replica: e.GetReplica(), incarnation: e.GetIncarnation(), load: &pick.Load{},
				pending: map[uint64]*Call{}, wake: make(chan struct{}, 1),
			}
			p.conns[key] = c
			address := e.GetAddress()
			p.open[c] = struct{}{}
			p.running.Go(func() {
				c.run(p.ctx, address)
				p.mu.Lock()
				delete(p.open, c)
				p.mu.Unlock()
			})
		}
		c.mu.Lock()
		c.suspect = e.GetState() == coppicev1.ReplicaState_REPLICA_STATE_SUSPECT
		c.draining = e.GetState() == coppicev1.ReplicaState_REPLICA_STATE_DRAINING
		c.mu.Unlock()
	}
	for key, c := range p.conns {
		if !seen[key] {
			c.retire()
			delete(p.conns, key)
		}
	}
	p.mu.Unlock()
	p.changed()
}

// changed makes a new view of the replicas that can take calls, and gives those that wait another try.
func (p *Pool) changed() {
	p.mu.Lock()
	v := &view{}
	for _, c := range p.conns {
		if r, up := c.member(); up {
			v.conns, v.replicas = append(v.conns, c), append(v.replicas, r)
		}
	}
	v.picker = p.set.Policy.Build(v.replicas, rand.Uint64)
	p.view.Store(v)
	p.mu.Unlock()
	if len(v.conns) == 0 {
		return
	}
	p.waitMu.Lock()
	again := slices.Collect(maps.Keys(p.waiting))
	p.waitMu.Unlock()
	for _, call := range again {
		p.place(call)
	}
}

// Ready is the number of replicas that can take calls.
func (p *Pool) Ready() int { return len(p.view.Load().conns) }

// Load is the number of calls that are not answered, and those of them that wait for a replica.
func (p *Pool) Load() (inFlight, waiting int) {
	p.waitMu.Lock()
	defer p.waitMu.Unlock()
	return int(p.gate.Requests()), len(p.waiting)
}

// Replays is the number of times that a call was sent again since its replica died.
func (p *Pool) Replays() uint64 { return p.replays.Load() }

// Do starts a call. It does not block; the call ends with Done.
func (p *Pool) Do(call *Call) {
	call.Arrived = time.Now()
	if err := p.gate.Admit(int64(len(call.Payload)), call.Deadline.Sub(call.Arrived)); err != nil {
		call.Fail(err)
		return
	}
	call.Admitted = call.Arrived
	p.place(call)
}

// Cancel ends a call whose caller went. A call that has ended stays as it is.
func (p *Pool) Cancel(call *Call) { p.end(call, nil, ErrCancelled) }

// place sends a call to a replica, or lets it wait for one. It tells whether the call needs no more placing.
func (p *Pool) place(call *Call) bool {
	var full []*pick.Load
	for {
		turns, v := p.turns.Load(), p.view.Load()
		call.mu.Lock()
		if call.over || call.on != nil {
			call.mu.Unlock()
			return true
		}
		if call.n == maxAttempts {
			call.mu.Unlock()
			p.end(call, nil, fmt.Errorf("%w: %d refused the request", ErrNoReplica, call.n))
			return true
		}
		tried, now := call.tried[:call.n], time.Now()
		if len(full) > 0 {
			tried = slices.Concat(tried, full)
		}
		if call.alone(now) {
			tried = append(slices.Clip(tried), v.withGuests()...)
		}
		i, err := v.picker.Pick(pick.Info{Cost: call.Cost, Tried: tried})
		if err != nil {
			call.mu.Unlock()
			if len(full) > 0 {
				p.end(call, nil, fmt.Errorf("%w: the replicas do not read what they are sent", admit.ErrFull))
				return true
			}
			if !p.wait(call) {
				p.end(call, nil, ErrStopped)
				return true
			}
			if p.view.Load() == v && p.turns.Load() == turns {
				return false
			}
			continue // something changed before the call was among those that wait
		}
		c, load := v.conns[i], v.replicas[i].Load
		if err := c.send(call, load, now); err != nil {
			load.Release(max(call.Cost, 1))
			call.mu.Unlock()
			switch {
			case errors.Is(err, errFull):
				full = append(full, load)
			case errors.Is(err, errDown) && p.view.Load() == v:
				p.changed() // the view is behind
			}
			continue
		}
		call.tried[call.n] = load
		call.attempts[call.n] = Attempt{Replica: c.replica, Sent: now}
		call.n++
		p.unwait(call)
		call.mu.Unlock()
		return true
	}
}

// withGuests are the replicas that have a call which a replica died with. Another such call must not go there now:
// if they died, too, one could not tell of which.
func (v *view) withGuests() (loads []*pick.Load) {
	for i, c := range v.conns {
		c.mu.Lock()
		taken := c.guest != nil
		c.mu.Unlock()
		if taken {
			loads = append(loads, v.replicas[i].Load)
		}
	}
	return loads
}

// wait puts a call among those that are placed when the pool changes. It fails when the pool was shut down.
func (p *Pool) wait(call *Call) bool {
	call.mu.Lock()
	defer call.mu.Unlock()
	if call.over || call.on != nil || call.waiting {
		return true
	}
	p.waitMu.Lock()
	defer p.waitMu.Unlock()
	if p.closed {
		return false
	}
	call.waiting = true
	p.waiting[call] = waiting{time.Now(), call.turn}
	return true
}

// unwait takes a call from those that wait. The caller holds its lock.
func (p *Pool) unwait(call *Call) {
	if call.waiting {
		call.waiting = false
		p.waitMu.Lock()
		delete(p.waiting, call)
		p.waitMu.Unlock()
	}
}

// end ends the attempt that is under way. The caller holds the call's lock, and calls next without it if
// end says so.
func (c *conn) end(call *Call, why string) (next bool) {
	a := &call.attempts[call.n-1]
	a.Ended, a.Why = time.Now(), why
	call.tried[call.n-1].Release(max(call.Cost, 1))
	call.on = nil
	if !call.guest {
		return false
	}
	call.guest = false
	c.mu.Lock()
	c.guest = nil
	c.mu.Unlock()
	return true
}

// next gives the turn to a call that a replica died with.
func (p *Pool) next() {
	p.turns.Add(1)
	const some = 8 // one that has tried the replica that is free does not hold up the others
	var calls []*Call
	p.waitMu.Lock()
	for call, w := range p.waiting {
		if !w.turn.IsZero() {
			if calls = append(calls, call); len(calls) == some {
				break
			}
		}
	}
	p.waitMu.Unlock()
	for _, call := range calls {
		if p.place(call) {
			return
		}
	}
}

// answered takes a replica's reply.
func (p *Pool) answered(c *conn, call *Call, r *frame.Reply) {
	if r.Code == codes.Unavailable {
		// The replica is stopping and has not looked at the request.
		call.mu.Lock()
		mine, next := !call.over && call.on == c && call.id == r.ID, false
		if mine {
			next = c.end(call, "refused")
		}
		call.mu.Unlock()
		if mine {
			p.place(call)
		}
		if next {
			p.next()
		}
		return
	}
	if r.Code != codes.OK {
		p.end(call, nil, &RemoteError{r.Code, r.Message})
		return
	}
	if r.Payload == nil {
		p.end(call, nil, fmt.Errorf("%w: %s sent nothing", ErrAnswer, c.replica))
		return
	}
	p.end(call, r.Payload, nil)
}

// orphaned takes a call back from a stream that ended.
func (p *Pool) orphaned(c *conn, id uint64, call *Call, clean bool) {
	call.mu.Lock()
	if call.over || call.on != c || call.id != id {
		call.mu.Unlock()
		return
	}
	why := "refused"
	if !clean {
		why = "died"
		call.deaths++
		now := time.Now()
		call.turn = now.Add(min(maxTurn, call.Deadline.Sub(now)/4))
	}
	next := c.end(call, why)
	deaths := call.deaths
	call.mu.Unlock()
	if next {
		defer p.next()
	}
	if deaths >= 2 {
		sum := sha256.Sum256(call.Payload)
		p.end(call, nil, fmt.Errorf("%w; it is not tried again; SHA-256 of the request: %x", ErrPoison, sum))
		return
	}
	if !clean {
		p.replays.Add(1)
	}
	p.place(call)
}

// end ends a call, once.
func (p *Pool) end(call *Call, reply []byte, err error) {
	call.mu.Lock()
	if call.over {
		call.mu.Unlock()
		return
	}
	call.over = true
	c, id, next := call.on, call.id, false
	if c != nil {
		next = c.end(call, "")
	}
	p.unwait(call)
	call.Reply, call.Err, call.Ended = reply, err, time.Now()
	call.mu.Unlock()
	if c != nil && reply == nil {
		c.drop(id)
	}
	p.gate.Release(int64(len(call.Payload)))
	call.Done(call)
	if next {
		p.next()
	}
}

// sweep ends calls whose time is up.
func (p *Pool) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var late []*Call
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
		if p.gate.Requests() == 0 {
			continue
		}
		now := time.Now()
		late = late[:0]
		p.mu.Lock()
		conns := make([]*conn, 0, len(p.open))
		for c := range p.open {
			conns = append(conns, c)
		}
		p.mu.Unlock()
		for _, c := range conns {
			c.mu.Lock()
			for _, call := range c.pending {
				if now.After(call.Deadline) {
					late = append(late, call)
				}
			}
			c.mu.Unlock()
		}
		for _, call := range late {
			p.end(call, nil, ErrDeadline)
		}
		late = late[:0]
		var homeless, turns []*Call
		p.waitMu.Lock()
		for call, w := range p.waiting {
			switch {
			case now.After(call.Deadline):
				late = append(late, call)
			case !w.turn.IsZero() && now.After(w.turn):
				p.waiting[call] = waiting{since: w.since} // from now on it waits for a replica, as others do
				turns = append(turns, call)
			case now.Sub(w.since) > p.cfg.MaxWait:
				homeless = append(homeless, call)
			}
		}
		p.waitMu.Unlock()
		for _, call := range late {
			p.end(call, nil, ErrDeadline)
		}
		for _, call := range turns {
			p.place(call)
		}
		for _, call := range homeless {
			p.end(call, nil, fmt.Errorf("%w, and none became so within %v", ErrNoReplica, p.cfg.MaxWait))
		}
		clear(late)
	}
}
