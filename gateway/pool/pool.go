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
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	waiting map[*Call]time.Time // since when

	replays atomic.Uint64
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// view is what picking reads: immutable.
type view struct {
	picker pick.Picker
	conns  []*conn // as the picker numbers them
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
	p := &Pool{cfg: cfg, set: set, gate: admit.New(cfg.Admit), conns: map[string]*conn{}, open: map[*conn]struct{}{}, waiting: map[*Call]time.Time{}}
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
	left := p.waiting
	p.waiting = map[*Call]time.Time{}
	p.waitMu.Unlock()
	for call := range left {
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
	var replicas []pick.Replica
	for _, c := range p.conns {
		if c.up() {
			c.mu.Lock()
			suspect := c.suspect
			c.mu.Unlock()
			v.conns = append(v.conns, c)
			replicas = append(replicas, pick.Replica{Load: c.load, Suspect: suspect})
		}
	}
	v.picker = p.set.Policy.Build(replicas, rand.Uint64)
	p.view.Store(v)
	p.mu.Unlock()
	if len(v.conns) == 0 {
		return
	}
	p.waitMu.Lock()
	again := make([]*Call, 0, len(p.waiting))
	for call := range p.waiting {
		again = append(again, call)
	}
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

// place sends a call to a replica, or lets it wait for one.
func (p *Pool) place(call *Call) {
	for {
		v := p.view.Load()
		call.mu.Lock()
		if call.over || call.on != nil {
			call.mu.Unlock()
			return
		}
		if call.n == maxAttempts {
			call.mu.Unlock()
			p.end(call, nil, fmt.Errorf("%w: %d refused the request", ErrNoReplica, call.n))
			return
		}
		i, err := v.picker.Pick(pick.Info{Cost: call.Cost, Tried: call.tried[:call.n]})
		if err != nil {
			call.mu.Unlock()
			p.wait(call)
			if p.view.Load() == v {
				return
			}
			continue // the pool changed before the call was among those that wait
		}
		c := v.conns[i]
		now := time.Now()
		if err := c.send(call, now); err != nil {
			c.load.Release(max(call.Cost, 1))
			call.mu.Unlock()
			if p.view.Load() == v {
				p.changed() // the view is behind
			}
			continue
		}
		call.tried[call.n] = c.load
		call.attempts[call.n] = Attempt{Replica: c.replica, Sent: now}
		call.n++
		if call.waiting {
			call.waiting = false
			p.waitMu.Lock()
			delete(p.waiting, call)
			p.waitMu.Unlock()
		}
		call.mu.Unlock()
		return
	}
}

// wait puts a call among those that are placed when the pool changes.
func (p *Pool) wait(call *Call) {
	call.mu.Lock()
	defer call.mu.Unlock()
	if call.over || call.on != nil || call.waiting {
		return
	}
	call.waiting = true
	p.waitMu.Lock()
	p.waiting[call] = time.Now()
	p.waitMu.Unlock()
}

// leave ends the attempt that is under way. The caller holds the call's lock.
func (c *conn) leave(call *Call, why string) {
	call.on = nil
	call.attempts[call.n-1].Ended = time.Now()
	call.attempts[call.n-1].Why = why
	c.load.Release(max(call.Cost, 1))
}

// answered takes a replica's reply.
func (p *Pool) answered(c *conn, call *Call, r *frame.Reply) {
	if r.Code == codes.Unavailable {
		// The replica is stopping and has not looked at the request.
		call.mu.Lock()
		mine := !call.over && call.on == c && call.id == r.ID
		if mine {
			c.leave(call, "refused")
		}
		call.mu.Unlock()
		if mine {
			p.place(call)
		}
		return
	}
	if r.Code != codes.OK {
		p.end(call, nil, &RemoteError{r.Code, r.Message})
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
	}
	c.leave(call, why)
	deaths := call.deaths
	call.mu.Unlock()
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
	c, id := call.on, call.id
	if c != nil {
		c.leave(call, "")
	}
	if call.waiting {
		call.waiting = false
		p.waitMu.Lock()
		delete(p.waiting, call)
		p.waitMu.Unlock()
	}
	call.Reply, call.Err, call.Ended = reply, err, time.Now()
	call.mu.Unlock()
	if c != nil && reply == nil {
		c.drop(id)
	}
	p.gate.Release(int64(len(call.Payload)))
	call.Done(call)
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
		var homeless []*Call
		p.waitMu.Lock()
		for call, since := range p.waiting {
			switch {
			case now.Sub(since) > p.cfg.MaxWait:
				homeless = append(homeless, call)
			case now.After(call.Deadline):
				late = append(late, call)
			}
		}
		p.waitMu.Unlock()
		for _, call := range late {
			p.end(call, nil, ErrDeadline)
		}
		for _, call := range homeless {
			p.end(call, nil, fmt.Errorf("%w, and none became so within %v", ErrNoReplica, p.cfg.MaxWait))
		}
		clear(late)
	}
}
