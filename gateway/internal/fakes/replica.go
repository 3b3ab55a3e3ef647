// Package fakes has what the gateway's tests put around a gateway: replicas and a balancer, on sockets of their
// own, that do what a test says.
package fakes

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// maxPayload is what a Replica takes.
const maxPayload = 128 << 20

// Job is a request that came.
type Job struct {
	frame.Request
	// Cancelled is closed when the gateway cancels the request.
	Cancelled chan struct{}

	stream *stream
}

// Answer sends an encoded PredictResponse.
func (j *Job) Answer(payload []byte) { j.Send(frame.Reply{Payload: payload}) }

// Refuse sends an error.
func (j *Job) Refuse(code codes.Code, message string) {
	j.Send(frame.Reply{Code: code, Message: message})
}

// Send sends a reply with the job's id.
func (j *Job) Send(r frame.Reply) {
	r.ID = j.ID
	j.stream.mu.Lock()
	delete(j.stream.jobs, j.ID)
	j.stream.mu.Unlock()
	_ = j.stream.out.Reply(&r) // the stream may be broken
}

// Replica is a replica on a socket.
type Replica struct {
	handle func(*Job)
	lis    *listener
	srv    *grpc.Server
	ended  sync.WaitGroup

	mu      sync.Mutex
	streams map[*stream]struct{}
	came    int
}

type stream struct {
	out  *frame.Writer
	mu   sync.Mutex
	jobs map[uint64]*Job
}

// StartReplica makes a Replica that calls handle for each request, from the goroutine that reads the stream. It ends with
// the test.
func StartReplica(t testing.TB, handle func(*Job)) *Replica {
	t.Helper()
	r := &Replica{handle: handle, lis: listen(t), streams: map[*stream]struct{}{}}
	r.srv = grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec()), grpc.WaitForHandlers(true))
	desc := coppicev1.WorkerService_ServiceDesc
	desc.HandlerType = (*any)(nil)
	desc.Streams = []grpc.StreamDesc{{
		StreamName:    coppicev1.WorkerService_ServiceDesc.Streams[0].StreamName,
		Handler:       func(_ any, st grpc.ServerStream) error { return r.exchange(st) },
		ServerStreams: true,
		ClientStreams: true,
	}}
	r.srv.RegisterService(&desc, r)
	r.ended.Go(func() { _ = r.srv.Serve(r.lis) })
	t.Cleanup(r.Stop)
	return r
}

// Endpoint describes the replica as a balancer does.
func (r *Replica) Endpoint(slot string) *coppicev1.Endpoint {
	return &coppicev1.Endpoint{Replica: slot, Incarnation: r.lis.Addr().String(), Address: r.lis.Addr().String(), State: coppicev1.ReplicaState_REPLICA_STATE_READY}
}

// Came is the number of requests that came.
func (r *Replica) Came() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.came
}

// Break cuts all connections, as a death of the process does. New ones are taken.
func (r *Replica) Break() { r.lis.cut() }

// End ends all streams in order, without answering what is not answered.
func (r *Replica) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.streams {
		s.out.Finish()
	}
}

// Stop ends the replica for good, as a death of the process does.
func (r *Replica) Stop() {
	r.srv.Stop()
	r.ended.Wait()
}

func (r *Replica) exchange(st grpc.ServerStream) error {
	s := &stream{out: frame.NewWriter(func(m *frame.Message) error { return st.SendMsg(m) }, true), jobs: map[uint64]*Job{}}
	r.mu.Lock()
	r.streams[s] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.streams, s)
		r.mu.Unlock()
	}()
	ctx, cancel := context.WithCancel(st.Context())
	defer cancel()
	r.ended.Go(func() {
		defer cancel()
		r.read(st, s)
	})
	return s.out.Run(ctx)
}

func (r *Replica) read(st grpc.ServerStream, s *stream) {
	chunks := frame.NewAssembler(maxPayload, 1<<16)
	var m frame.Message
	for st.RecvMsg(&m) == nil {
		for rest := m.Bytes; ; {
			q, next, ok, err := frame.NextRequest(rest)
			if err != nil {
				return
			}
			if !ok {
				break
			}
			rest = next
			if q.Cancel {
				chunks.Drop(q.ID)
				s.mu.Lock()
				if j := s.jobs[q.ID]; j != nil {
					delete(s.jobs, q.ID)
					close(j.Cancelled)
				}
				s.mu.Unlock()
				continue
			}
			whole, done, err := chunks.Request(q)
			j := &Job{Request: whole, Cancelled: make(chan struct{}), stream: s}
			if err != nil {
				j.Refuse(codes.InvalidArgument, err.Error())
				continue
			}
			if !done {
				continue
			}
			s.mu.Lock()
			s.jobs[j.ID] = j
			s.mu.Unlock()
			r.mu.Lock()
			r.came++
			r.mu.Unlock()
			r.handle(j)
		}
	}
}

// Sum answers a PredictRequest whose rows are instances as a regressor that adds a row's values.
func Sum(j *Job) {
	var req coppicev1.PredictRequest
	if err := proto.Unmarshal(j.Payload, &req); err != nil {
		j.Refuse(codes.InvalidArgument, err.Error())
		return
	}
	res := &coppicev1.PredictResponse{Model: req.GetModel(), Version: string(j.Version), RequestId: string(j.RequestID)}
	for _, row := range req.GetInstances() {
		sum := 0.0
		for _, v := range row.GetValues() {
			sum += v
		}
		res.Predictions = append(res.Predictions, &coppicev1.Prediction{Value: &sum})
	}
	b, err := proto.Marshal(res)
	if err != nil {
		j.Refuse(codes.Internal, err.Error())
		return
	}
	j.Answer(b)
}

// Eventually fails the test if ok does not become true in time.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal(fmt.Sprintf("not so in 20 s: %s", what))
		}
		time.Sleep(time.Millisecond)
	}
}

func listen(t testing.TB) *listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &listener{Listener: lis, conns: map[net.Conn]struct{}{}}
}

// listener knows its connections.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &conn{Conn: c, lis: l}
	l.mu.Lock()
	l.conns[tracked] = struct{}{}
	l.mu.Unlock()
	return tracked, nil
}

func (l *listener) cut() {
	l.mu.Lock()
	conns := make([]net.Conn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // it may be closed already
	}
}

type conn struct {
	net.Conn
	lis *listener
}

func (c *conn) Close() error {
	c.lis.mu.Lock()
	delete(c.lis.conns, c)
	c.lis.mu.Unlock()
	return c.Conn.Close()
}
