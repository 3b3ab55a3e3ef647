package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coppice-mesh/coppice/gateway/pool"
	"github.com/coppice-mesh/coppice/proto/frame"
)

const (
	// maxUnsent is the number of bytes of answers up to which a stream is read: a client that does not take its
	// answers cannot ask for more.
	maxUnsent = 8 << 20
	// keepMessage is the size up to which a message is kept for as long as one of its requests is under way.
	// Of larger ones the small requests are copied, so that none holds on to what came with it.
	keepMessage = 64 << 10
)

// stream is one PredictStream.
type stream struct {
	server *Server
	out    *frame.Writer

	mu       sync.Mutex
	calls    map[uint64]*asked // by the client's id
	moved    sync.Cond         // a call ended, answers were sent, or the stream ended
	ending   bool              // behind the answers to what was asked
	stopping bool              // as the gateway does
	ended    bool
}

// asked is a request of a stream.
type asked struct {
	Request
	begun bool // it can be cancelled
}

// predictStream answers a stream until the client has closed its side and has all answers, or goes, or the
// gateway stops.
func (s *Server) predictStream(st grpc.ServerStream) error {
	c := &stream{server: s, calls: map[uint64]*asked{}}
	c.moved.L = &c.mu
	c.out = frame.NewWriter(func(m *frame.Message) error { return st.SendMsg(m) }, false)
	c.out.OnSent = func(int) { c.wake() }
	if !s.open(c) {
		return status.Error(Code(pool.ErrStopped), Message(pool.ErrStopped))
	}
	defer s.forget(c)
	ctx, cancel := context.WithCancel(st.Context())
	defer cancel()
	// The two may be in the middle of a message when the handler returns, which ends them.
	reading, writing := make(chan error, 1), make(chan error, 1)
	s.running.Go(func() { reading <- c.read(st) })
	s.running.Go(func() { writing <- c.out.Run(ctx) })
	defer c.cancelAll()
	for {
		select {
		case err := <-reading:
			if !errors.Is(err, io.EOF) {
				return err
			}
			c.finish(false)
			reading = nil
		case err := <-writing:
			c.mu.Lock()
			defer c.mu.Unlock()
			if err == nil && c.stopping {
				err = status.Error(Code(pool.ErrStopped), Message(pool.ErrStopped))
			}
			return err
		}
	}
}

func (s *Server) open(c *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusing.Load() {
		return false
	}
	s.streams[c] = struct{}{}
	return true
}

func (s *Server) forget(c *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, c)
}

// read takes frames until the client closes its side.
func (c *stream) read(st grpc.ServerStream) error {
	var m frame.Message
	for {
		if err := st.RecvMsg(&m); err != nil {
			return err
		}
		large := len(m.Bytes) > keepMessage
		for rest := m.Bytes; ; {
			r, next, ok, err := frame.NextRequest(rest)
			if err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			if !ok {
				break
			}
			rest = next
			if r.Cancel {
				c.mu.Lock()
				call := c.calls[r.ID]
				c.mu.Unlock()
				if call != nil {
					c.server.set.Pool.Cancel(&call.Call)
				}
				continue
			}
			if !c.window() {
				return status.Error(codes.Canceled, "the stream ended")
			}
			if large && len(r.Payload) < len(m.Bytes)/2 {
				r.Payload = slices.Clone(r.Payload)
			}
			c.begin(&r)
		}
	}
}

// window waits until another request may be taken.
func (c *stream) window() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended && (len(c.calls) >= c.server.cfg.StreamWindow || c.out.Waiting() > maxUnsent) {
		c.moved.Wait()
	}
	return !c.ended
}

func (c *stream) begin(f *frame.Request) {
	r := &asked{}
	r.Protocol = coppicev1.PredictService_PredictStream_FullMethodName
	r.Payload = f.Payload
	r.Trace.Parent, r.Trace.State = string(f.Traceparent), string(f.Tracestate)
	id := f.ID
	c.mu.Lock()
	_, twice := c.calls[id]
	if twice || c.ended {
		c.mu.Unlock()
		_ = c.out.Reply(&frame.Reply{ // fails when the client is gone
			ID: id, Code: codes.InvalidArgument, Message: fmt.Sprintf("id %d is in use on this stream: its request is not answered yet", id),
		})
		return
	}
	c.calls[id] = r
	c.mu.Unlock()
	r.OnDone = func(r *Request) {
		reply := frame.Reply{ID: id, Payload: r.Reply}
		if r.Err != nil {
			reply.Payload, reply.Code, reply.Message = nil, Code(r.Err), Message(r.Err)
		}
		c.answer(&reply)
	}
	c.server.Begin(&r.Request, f.Timeout)
	c.mu.Lock()
	r.begun = true
	ended := c.ended
	c.mu.Unlock()
	if ended {
		c.server.set.Pool.Cancel(&r.Call)
	}
}

// answer ends the call with the reply's id. The id is free for another from then on, behind the reply.
func (c *stream) answer(r *frame.Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.out.Reply(r) // fails when the client is gone
	delete(c.calls, r.ID)
	if c.ending && len(c.calls) == 0 {
		c.out.Finish()
	}
	c.moved.Signal()
}

// finish lets the stream end behind the last answer. What is asked from now on is not answered.
func (c *stream) finish(stopping bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = c.stopping || (stopping && !c.ending)
	c.ending = true
	if len(c.calls) == 0 {
		c.out.Finish()
	}
}

func (c *stream) wake() {
	c.mu.Lock()
	c.moved.Signal()
	c.mu.Unlock()
}

// cancelAll ends the calls of a stream that has ended.
func (c *stream) cancelAll() {
	c.mu.Lock()
	c.ended = true
	c.moved.Broadcast()
	calls := make([]*pool.Call, 0, len(c.calls))
	for _, r := range c.calls {
		if r.begun { // else whoever begins it cancels it
			calls = append(calls, &r.Call)
		}
	}
	c.mu.Unlock()
	for _, call := range calls {
		c.server.set.Pool.Cancel(call)
	}
}
