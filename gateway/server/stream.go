package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coppice-mesh/coppice/gateway/pool"
	"github.com/coppice-mesh/coppice/proto/frame"
)

// maxUnsent is the number of bytes of answers up to which a stream is read: a client that does not take its
// answers cannot ask for more.
const maxUnsent = 8 << 20

// stream is one PredictStream.
type stream struct {
	server *Server
	out    *frame.Writer

	mu     sync.Mutex
	calls  map[uint64]*Request // by the client's id
	unsent int                 // bytes of answers that are not sent
	moved  sync.Cond           // a call ended, or answers were sent
	ended  bool
}

// predictStream answers a stream until the client has closed its side and has all answers, or goes.
func (s *Server) predictStream(st grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(st.Context())
	defer cancel()
	c := &stream{server: s, calls: map[uint64]*Request{}}
	c.moved.L = &c.mu
	c.out = frame.NewWriter(func(m *frame.Message) error { return st.SendMsg(m) }, false)
	c.out.OnSent = c.sent
	writing := make(chan error, 1)
	go func() {
		writing <- c.out.Run(ctx)
		cancel()
		c.close()
	}()
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	err := c.read(st)
	if errors.Is(err, io.EOF) {
		// All that was asked is answered first.
		c.mu.Lock()
		for len(c.calls) > 0 && !c.ended {
			c.moved.Wait()
		}
		c.mu.Unlock()
		c.out.Finish()
		err = <-writing
		if err != nil {
			c.cancelAll()
		}
		return err
	}
	c.cancelAll()
	cancel()
	<-writing //nolint:errcheck // it was told to end
	return err
}

// read takes frames until the client closes its side.
func (c *stream) read(st grpc.ServerStream) error {
	var m frame.Message
	for {
		if err := st.RecvMsg(&m); err != nil {
			return err
		}
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
			c.begin(&r)
		}
	}
}

// window waits until another request may be taken.
func (c *stream) window() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended && (len(c.calls) >= c.server.cfg.StreamWindow || c.unsent > maxUnsent) {
		c.moved.Wait()
	}
	return !c.ended
}

func (c *stream) begin(f *frame.Request) {
	r := &Request{Protocol: coppicev1.PredictService_PredictStream_FullMethodName}
	r.Payload = f.Payload
	r.Trace.Parent, r.Trace.State = string(f.Traceparent), string(f.Tracestate)
	id := f.ID
	c.mu.Lock()
	_, twice := c.calls[id]
	if !twice {
		c.calls[id] = r
	}
	c.mu.Unlock()
	if twice {
		c.reply(&frame.Reply{ID: id, Code: codes.InvalidArgument, Message: fmt.Sprintf("id %d is in use on this stream: its request is not answered yet", id)})
		return
	}
	r.OnDone = func(r *Request) {
		reply := frame.Reply{ID: id, Payload: r.Reply}
		if r.Err != nil {
			reply.Payload, reply.Code, reply.Message = nil, Code(r.Err), Message(r.Err)
		}
		c.mu.Lock()
		delete(c.calls, id)
		c.mu.Unlock()
		c.reply(&reply)
	}
	c.server.Begin(r, f.Timeout)
}

func (c *stream) reply(r *frame.Reply) {
	_ = c.out.Reply(r) // fails when the client is gone
	c.mu.Lock()
	c.unsent += len(r.Payload)
	c.moved.Signal()
	c.mu.Unlock()
}

// sent notes that a message went out.
func (c *stream) sent(waiting int) {
	c.mu.Lock()
	c.unsent = waiting
	c.moved.Signal()
	c.mu.Unlock()
}

// close wakes whoever waits: the stream has ended.
func (c *stream) close() {
	c.mu.Lock()
	c.ended = true
	c.moved.Broadcast()
	c.mu.Unlock()
}

// cancelAll ends the calls of a client that is gone.
func (c *stream) cancelAll() {
	c.mu.Lock()
	calls := make([]*pool.Call, 0, len(c.calls))
	for _, r := range c.calls {
		calls = append(calls, &r.Call)
	}
	c.mu.Unlock()
	for _, call := range calls {
		c.server.set.Pool.Cancel(call)
	}
}
