// Package client calls a Coppice gateway.
//
// Predict asks one thing at a time. A Stream carries the requests of many goroutines over one stream, several
// to a message, and is several times as fast under load.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

const (
	// maxMessage bounds an answer.
	maxMessage = 1 << 30
	// maxUnsent is the number of bytes of a Stream's requests that may wait for a gateway that does not read them.
	maxUnsent = 64 << 20
)

// ErrClosed is returned for requests to a stream that was closed.
var ErrClosed = errors.New("client: stream is closed")

// Client is a connection to a gateway, for use by many goroutines.
type Client struct {
	conn *grpc.ClientConn
	rpc  coppicev1.PredictServiceClient
}

// Dial makes a Client for an address, "host:port". It connects at the first request. Options are added to
// those that the client sets.
func Dial(target string, opts ...grpc.DialOption) (*Client, error) {
	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec()), grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithStaticStreamWindowSize(4 << 20),
		grpc.WithStaticConnWindowSize(16 << 20),
	}, opts...)...)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, rpc: coppicev1.NewPredictServiceClient(conn)}, nil
}

// Close ends the connection and everything on it.
func (c *Client) Close() error { return c.conn.Close() }

// Predict asks for predictions. Its error is a gRPC status.
func (c *Client) Predict(ctx context.Context, req *coppicev1.PredictRequest) (*coppicev1.PredictResponse, error) {
	return c.rpc.Predict(ctx, req)
}

// Models lists what is served.
func (c *Client) Models(ctx context.Context) ([]*coppicev1.ModelInfo, error) {
	res, err := c.rpc.ListModels(ctx, &coppicev1.ListModelsRequest{})
	return res.GetModels(), err
}

// Stream is a PredictStream for use by many goroutines.
type Stream struct {
	cancel context.CancelFunc
	st     grpc.ClientStream
	out    *frame.Writer
	ended  sync.WaitGroup

	mu      sync.Mutex
	pending map[uint64]chan reply
	nextID  uint64
	err     error // why the stream ended
}

type reply struct {
	payload []byte
	err     error
}

// Stream opens a PredictStream. It ends with Close, when ctx is done, or when the connection breaks.
func (c *Client) Stream(ctx context.Context) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	st, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, coppicev1.PredictService_PredictStream_FullMethodName)
	if err != nil {
		cancel()
		return nil, err
	}
	s := &Stream{cancel: cancel, st: st, pending: map[uint64]chan reply{}}
	s.out = frame.NewWriter(func(m *frame.Message) error { return st.SendMsg(m) }, false)
	s.ended.Go(func() { _ = s.out.Run(ctx) })
	s.ended.Go(func() {
		s.fail(s.read())
		cancel()
	})
	return s, nil
}

// Close ends the stream. Requests that have no answer get ErrClosed.
func (s *Stream) Close() {
	s.fail(ErrClosed)
	s.cancel()
	s.ended.Wait()
}

// Do asks for predictions. Its deadline and cancellation are ctx's. Its error is a gRPC status, or ErrClosed:
// RESOURCE_EXHAUSTED also if the gateway does not read what it is sent.
func (s *Stream) Do(ctx context.Context, req *coppicev1.PredictRequest) (*coppicev1.PredictResponse, error) {
	payload, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	b, err := s.DoRaw(ctx, payload)
	if err != nil {
		return nil, err
	}
	var res coppicev1.PredictResponse
	if err := proto.Unmarshal(b, &res); err != nil {
		return nil, fmt.Errorf("client: answer: %w", err)
	}
	return &res, nil
}

// DoRaw is Do for an encoded PredictRequest, and gives an encoded PredictResponse.
func (s *Stream) DoRaw(ctx context.Context, payload []byte) ([]byte, error) {
	r := frame.Request{Payload: payload}
	if deadline, ok := ctx.Deadline(); ok {
		if r.Timeout = time.Until(deadline); r.Timeout <= 0 {
			return nil, status.FromContextError(context.DeadlineExceeded).Err()
		}
	}
	if n := s.out.Waiting(); n > maxUnsent {
		return nil, status.Errorf(codes.ResourceExhausted, "%d bytes of requests wait for the gateway to read them", n)
	}
	ch := make(chan reply, 1)
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return nil, s.err
	}
	s.nextID++
	r.ID = s.nextID
	s.pending[r.ID] = ch
	s.mu.Unlock()
	if err := s.out.Request(&r); err != nil {
		s.mu.Lock()
		delete(s.pending, r.ID)
		err := s.err
		s.mu.Unlock()
		if err == nil {
			err = status.Error(codes.Unavailable, "the stream ended")
		}
		return nil, err
	}
	select {
	case a := <-ch:
		return a.payload, a.err
	case <-ctx.Done():
		s.mu.Lock()
		_, waits := s.pending[r.ID]
		delete(s.pending, r.ID)
		s.mu.Unlock()
		if !waits { // it was answered at the same time
			a := <-ch
			return a.payload, a.err
		}
		_ = s.out.Request(&frame.Request{ID: r.ID, Cancel: true}) // fails when the stream has ended
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// read hands out answers until the stream ends, and returns why.
func (s *Stream) read() error {
	var m frame.Message
	for {
		if err := s.st.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return status.Error(codes.Unavailable, "the gateway ended the stream")
			}
			return err
		}
		for rest := m.Bytes; ; {
			r, next, ok, err := frame.NextReply(rest)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			rest = next
			s.mu.Lock()
			ch := s.pending[r.ID]
			delete(s.pending, r.ID)
			s.mu.Unlock()
			if ch == nil {
				continue
			}
			if r.Code != codes.OK {
				ch <- reply{err: status.Error(r.Code, r.Message)}
			} else {
				ch <- reply{payload: r.Payload}
			}
		}
	}
}

// fail ends all requests that have no answer.
func (s *Stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	for id, ch := range s.pending {
		delete(s.pending, id)
		ch <- reply{err: s.err}
	}
}
