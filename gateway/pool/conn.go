package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/coppice-mesh/coppice/balancer/pick"
	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

const (
	// reconnectEvery is the wait after a stream broke, while the replica is still in the pool.
	reconnectEvery = 50 * time.Millisecond
	// maxReplies bounds the replies that come in chunks at the same time.
	maxReplies = 1 << 16
)

// Errors of send.
var (
	errDown = errors.New("replica is not connected")
	errFull = errors.New("replica does not read what it was sent")
	errTurn = errors.New("replica has a request that a replica died with")
)

// conn is the stream to one replica process, opened again while the process is in the pool.
type conn struct {
	pool        *Pool
	replica     string // its slot
	incarnation string

	mu       sync.Mutex
	load     *pick.Load    // of this stream, or of the one before if that ended in order
	out      *frame.Writer // nil while the stream is down
	pending  map[uint64]*Call
	nextID   uint64
	guest    *Call // a call that a replica died with: one at a time, to tell which one it died of
	suspect  bool
	draining bool // no new calls
	retired  bool // gone from the pool: end when nothing is pending

	wake chan struct{} // the connection is retired and nothing is pending
}

// member describes the replica to a picker, if it can take calls.
func (c *conn) member() (pick.Replica, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return pick.Replica{Load: c.load, Suspect: c.suspect}, c.out != nil && !c.draining && !c.retired
}

// send puts a call in flight on this replica, which was picked by load. The caller holds the call's lock.
func (c *conn) send(call *Call, load *pick.Load, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.out == nil || c.draining || c.retired || c.load != load:
		return errDown
	case call.alone(now) && c.guest != nil:
		return errTurn
	case c.out.Waiting() > c.pool.maxUnsent:
		return errFull
	}
	c.nextID++
	id := c.nextID
	r := frame.Request{
		ID: id, Payload: call.Payload, Timeout: max(call.Deadline.Sub(now), time.Microsecond),
		Traceparent: call.Traceparent, Tracestate: call.Tracestate, Version: []byte(call.Version), RequestID: call.RequestID,
	}
	if err := c.out.Request(&r); err != nil {
		c.out = nil // the stream has broken, and its reader is about to see it, too
		return errDown
	}
	if call.alone(now) {
		c.guest, call.guest = call, true
	}
	c.pending[id] = call
	call.on, call.id = c, id
	return nil
}

// drop forgets a call that ended without the replica's answer and tells the replica.
func (c *conn) drop(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.pending[id]; !ok {
		return
	}
	delete(c.pending, id)
	if c.out != nil {
		c.out.Cancel(id)
		_ = c.out.Request(&frame.Request{ID: id, Cancel: true})
	}
	c.signalIfEmpty()
}

// take is the call that a reply is for. A failed one, which may have come before all of the request was sent,
// needs no more of it.
func (c *conn) take(id uint64, failed bool) *Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.pending[id]
	delete(c.pending, id)
	if failed && c.out != nil && c.out.Cancel(id) {
		_ = c.out.Request(&frame.Request{ID: id, Cancel: true}) // fails when the stream has broken
	}
	c.signalIfEmpty()
	return call
}

func (c *conn) signalIfEmpty() {
	if c.retired && len(c.pending) == 0 {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// retire lets the connection end once its calls have.
func (c *conn) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
	c.signalIfEmpty()
}

// run keeps the stream open until the connection is retired or ctx is done.
func (c *conn) run(ctx context.Context, address string) {
	cc, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec()), grpc.MaxCallRecvMsgSize(8<<20)),
		grpc.WithStaticStreamWindowSize(4<<20),
		grpc.WithStaticConnWindowSize(16<<20),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		c.pool.set.Logger.Error("replica has an address that cannot be used", "replica", c.replica, "address", address, "error", err)
		return
	}
	defer cc.Close()
	for {
		clean := c.stream(ctx, cc)
		orphans := c.down(clean)
		c.pool.changed()
		if len(orphans) > 0 {
			c.pool.set.Logger.Warn("replica's stream ended with requests in flight", "replica", c.replica, "in_flight", len(orphans), "in_order", clean)
		}
		for id, call := range orphans {
			c.pool.orphaned(c, id, call, clean)
		}
		c.mu.Lock()
		retired := c.retired
		c.mu.Unlock()
		if retired || ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			return
		case <-time.After(reconnectEvery):
		}
	}
}

// down takes what was in flight when the stream ended.
func (c *conn) down(clean bool) map[uint64]*Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = nil
	if !clean {
		// Calls that have tried the replica may try it again once it has a new stream: it lives, or the new
		// stream would not be there.
		c.load = &pick.Load{}
	}
	orphans := c.pending
	c.pending = map[uint64]*Call{}
	return orphans
}

// stream opens the stream and reads replies until it ends. It tells whether the replica ended it in order:
// what had no answer by then was not evaluated.
func (c *conn) stream(ctx context.Context, cc *grpc.ClientConn) (clean bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, coppicev1.WorkerService_Exchange_FullMethodName)
	if err != nil {
		return true
	}
	out := frame.NewWriter(func(m *frame.Message) error { return st.SendMsg(m) }, true)
	var writing sync.WaitGroup
	writing.Go(func() { _ = out.Run(ctx) })
	defer writing.Wait()
	defer cancel()
	c.mu.Lock()
	c.out = out
	c.mu.Unlock()
	c.pool.changed()
	stop := make(chan struct{})
	defer close(stop)
	writing.Go(func() {
		select {
		case <-c.wake: // retired, and nothing is pending
			cancel()
		case <-stop:
		}
	})
	chunks := frame.NewAssembler(c.pool.cfg.MaxMessageBytes, maxReplies)
	var m frame.Message
	for {
		if err := st.RecvMsg(&m); err != nil {
			return errors.Is(err, io.EOF) || ctx.Err() != nil
		}
		for rest := m.Bytes; ; {
			r, next, ok, err := frame.NextReply(rest)
			if err != nil {
				c.pool.set.Logger.Error("replica sent what is no reply", "replica", c.replica, "error", err)
				return false
			}
			if !ok {
				break
			}
			rest = next
			whole, done, err := chunks.Reply(r)
			switch {
			case errors.Is(err, frame.ErrTooLarge):
				// The others that are in flight have nothing to do with it.
				if call := c.take(r.ID, true); call != nil {
					c.pool.end(call, nil, fmt.Errorf("the answer is too large: %w", err))
				}
			case err != nil:
				c.pool.set.Logger.Error("replica sent a broken reply", "replica", c.replica, "error", err)
				return false
			case done:
				if call := c.take(whole.ID, whole.Code != codes.OK); call != nil { // else it has ended meanwhile
					c.pool.answered(c, call, &whole)
				}
			}
		}
	}
}
