package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config is what a user decides about a worker.
type Config struct {
	// Threads is the number of batches that are evaluated at the same time. Default 1.
	Threads int
	// MaxBatchRows is the number of rows up to which requests are put into one batch. Default 1024.
	MaxBatchRows int
	// MaxQueued is the number of requests that may wait; more are refused with RESOURCE_EXHAUSTED.
	// Default 16384.
	MaxQueued int
	// MaxMessageBytes bounds the encoded request and the encoded answer. Default 64 MiB.
	MaxMessageBytes int
}

func (c Config) withDefaults() Config {
	if c.Threads <= 0 {
		c.Threads = 1
	}
	if c.MaxBatchRows <= 0 {
		c.MaxBatchRows = 1024
	}
	if c.MaxQueued <= 0 {
		c.MaxQueued = 16384
	}
	if c.MaxMessageBytes <= 0 {
		c.MaxMessageBytes = 64 << 20
	}
	return c
}

// Record is what a worker tells about a request that it has answered.
type Record struct {
	Model       *Model // nil when the request named a version that is not served
	Rows        int
	Work        coppicev1.Work
	Code        codes.Code
	Message     string
	Traceparent []byte // of the gateway's span; empty when the request is not sampled
	Tracestate  []byte
	RequestID   []byte

	Arrived   time.Time // its last chunk was read
	Batched   time.Time // an executor took it
	Evaluated time.Time // its batch was decoded and checked, and evaluation began
	Done      time.Time // its batch was evaluated

	BatchRequests int
	BatchRows     int
	BatchFirst    bool // the first request of its batch
}

// Observer is told of every answer, from the executor's goroutine: it must be quick.
type Observer interface{ Answered(*Record) }

// Settings is what code gives to a worker.
type Settings struct {
	Models   *Table
	Observer Observer // nil: nobody is told
	// Failpoint, when it is set, is called with the rows of every batch before it is evaluated. Tests of
	// the mesh use it to make a worker crash.
	Failpoint func(rows []float32)
}

// Server serves WorkerService.
type Server struct {
	cfg       Config
	set       Settings
	queue     *queue
	executors sync.WaitGroup

	readers sync.WaitGroup

	inFlight atomic.Int64
	answered atomic.Uint64
	refusing atomic.Bool

	mu       sync.Mutex
	streams  map[*stream]struct{}
	stopping bool
}

// New makes a Server. It does nothing before Start.
func New(cfg Config, set Settings) *Server {
	cfg = cfg.withDefaults()
	return &Server{cfg: cfg, set: set, queue: newQueue(cfg.MaxQueued), streams: map[*stream]struct{}{}}
}

// Start begins to evaluate. Register makes gRPC serve it.
func (s *Server) Start() {
	for range s.cfg.Threads {
		s.executors.Go(s.execute)
	}
}

// Refuse makes the worker answer new requests with UNAVAILABLE, unevaluated, so that gateways take them
// elsewhere. What was accepted is still answered.
func (s *Server) Refuse() { s.refusing.Store(true) }

// Stop refuses new requests, waits until all accepted ones are answered or ctx is done, and ends the
// streams behind their last answers. The gRPC server is to be stopped after it; Wait comes last.
func (s *Server) Stop(ctx context.Context) {
	s.Refuse()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.inFlight.Load() > 0 && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	s.stopping = true
	for c := range s.streams {
		c.out.Finish()
	}
	s.mu.Unlock()
	for ctx.Err() == nil {
		s.mu.Lock()
		n := len(s.streams)
		s.mu.Unlock()
		if n == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	s.queue.close()
}

// Wait returns when no goroutine of the worker runs any more: after Stop and the end of the gRPC server.
func (s *Server) Wait() {
	s.readers.Wait()
	s.executors.Wait()
}

// Load is the number of requests accepted and not yet answered, those of them that wait, and the number
// answered since the start.
func (s *Server) Load() (inFlight, queued int, answered uint64) {
	return int(s.inFlight.Load()), s.queue.len(), s.answered.Load()
}

// Register adds WorkerService to a gRPC server that was made with frame.Codec.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	desc := coppicev1.WorkerService_ServiceDesc
	desc.HandlerType = (*any)(nil)
	desc.Streams = []grpc.StreamDesc{{
		StreamName:    coppicev1.WorkerService_ServiceDesc.Streams[0].StreamName,
		Handler:       func(_ any, st grpc.ServerStream) error { return s.exchange(st) },
		ServerStreams: true,
		ClientStreams: true,
	}}
	r.RegisterService(&desc, s)
}

// stream is one gateway's Exchange.
type stream struct {
	out *frame.Writer

	mu   sync.Mutex
	jobs map[uint64]*job // accepted and not yet answered
}

// job is one request on its way through the worker.
type job struct {
	stream    *stream
	id        uint64
	model     *Model
	req       frame.Predict
	want      outputs
	requestID []byte
	deadline  time.Time
	cancelled atomic.Bool
	rec       Record

	first int // its first row in the batch
}

// exchange serves one gateway until it goes or the worker ends.
func (s *Server) exchange(st grpc.ServerStream) error {
	c := &stream{
		out:  frame.NewWriter(func(m *frame.Message) error { return st.SendMsg(m) }, true),
		jobs: map[uint64]*job{},
	}
	if !s.open(c) {
		return status.Error(codes.Unavailable, "the replica is stopping")
	}
	defer s.forget(c)
	ctx, cancel := context.WithCancel(st.Context())
	defer cancel()
	reading, writing := make(chan error, 1), make(chan error, 1)
	s.readers.Go(func() { reading <- s.read(st, c) })
	go func() { writing <- c.out.Run(ctx) }()
	select {
	case err := <-writing:
		// The last answer is out, or the stream is broken. Returning ends the reader.
		return err
	case err := <-reading:
		// Whoever asked is gone: what it asked for need not be computed.
		c.mu.Lock()
		for _, j := range c.jobs {
			j.cancelled.Store(true)
		}
		c.mu.Unlock()
		cancel()
		<-writing //nolint:errcheck // it was told to end
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
}

func (s *Server) open(c *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
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

func (s *Server) read(st grpc.ServerStream, c *stream) error {
	chunks := frame.NewAssembler(s.cfg.MaxMessageBytes, s.cfg.MaxQueued)
	var m frame.Message
	for {
		if err := st.RecvMsg(&m); err != nil {
			return err
		}
		now := time.Now()
		for rest := m.Bytes; ; {
			r, next, ok, err := frame.NextRequest(rest)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			rest = next
			if r.Cancel {
				chunks.Drop(r.ID)
				c.cancel(r.ID)
				continue
			}
			whole, done, err := chunks.Request(r)
			switch {
			case err != nil:
				s.refuse(c, &job{stream: c, id: r.ID, rec: Record{Arrived: now}}, codes.InvalidArgument, err.Error())
			case done:
				s.accept(c, &whole, now)
			}
		}
	}
}

func (c *stream) cancel(id uint64) {
	c.mu.Lock()
	if j := c.jobs[id]; j != nil {
		j.cancelled.Store(true)
	}
	c.mu.Unlock()
}

// accept checks what can be checked without the rows and queues the request.
func (s *Server) accept(c *stream, r *frame.Request, now time.Time) {
	j := &job{stream: c, id: r.ID, requestID: r.RequestID}
	j.rec = Record{Arrived: now, Traceparent: r.Traceparent, Tracestate: r.Tracestate, RequestID: r.RequestID}
	if r.Timeout > 0 {
		j.deadline = now.Add(r.Timeout)
	}
	if len(r.RequestID) > frame.MaxIDBytes || !utf8.Valid(r.RequestID) {
		j.requestID, j.rec.RequestID = nil, nil
		s.refuse(c, j, codes.InvalidArgument, fmt.Sprintf("the request id has %d bytes, at most %d of UTF-8 are taken", len(r.RequestID), frame.MaxIDBytes))
		return
	}
	if err := j.req.Read(r.Payload); err != nil {
		s.refuse(c, j, codes.InvalidArgument, err.Error())
		return
	}
	j.rec.Rows, j.rec.Work = j.req.Rows, j.req.Work
	if j.model = s.set.Models.Get(r.Version, j.req.Model); j.model == nil {
		s.refuse(c, j, codes.NotFound, fmt.Sprintf("this replica does not serve version %q of model %q", r.Version, j.req.Model))
		return
	}
	j.rec.Model = j.model
	if code, msg := j.check(s.cfg.MaxMessageBytes); code != codes.OK {
		s.refuse(c, j, code, msg)
		return
	}
	c.mu.Lock()
	_, twice := c.jobs[j.id]
	if !twice {
		c.jobs[j.id] = j
	}
	c.mu.Unlock()
	if twice {
		s.refuse(c, &job{stream: c, id: r.ID, rec: j.rec}, codes.InvalidArgument, fmt.Sprintf("id %d is in use on this stream", r.ID))
		return
	}
	// In this order: either Stop sees the request and waits for it, or the request sees that it is too late.
	s.inFlight.Add(1)
	if s.refusing.Load() {
		s.finish(j, codes.Unavailable, "the replica is stopping", nil)
		return
	}
	if !s.queue.put(j) {
		s.finish(j, codes.ResourceExhausted, fmt.Sprintf("the replica's queue is full: %d requests wait", s.cfg.MaxQueued), nil)
	}
}

// check decides on the outputs and refuses shapes that the model cannot take and answers that would be too
// large.
func (j *job) check(maxBytes int) (codes.Code, string) {
	f := j.model.Forest
	j.want = outputSet(j.req.Outputs[:j.req.NumOut])
	if j.model.labels == nil {
		if j.want&wantProbability != 0 && j.req.NumOut > 0 {
			return codes.InvalidArgument, fmt.Sprintf("model %q is a regressor: it has no OUTPUT_PROBABILITY", j.model.Name)
		}
		j.want &^= wantProbability
	}
	if t := j.req.Tensor; t != nil && t.Columns != f.NumFeatures() {
		return codes.InvalidArgument, fmt.Sprintf("tensor has %d columns, model %q has %d features", t.Columns, j.model.Name, f.NumFeatures())
	}
	perRow := 16 * f.NumTargets()
	if j.want&(wantProbability|wantMargin) != 0 {
		perRow += 8 * (f.NumScores() + f.NumMargins())
	}
	if j.want&wantLeaf != 0 {
		perRow += 8 * f.NumTrees()
	}
	if j.req.Rows > maxBytes/perRow {
		return codes.InvalidArgument, fmt.Sprintf("the answer for %d rows may have %d bytes each, more than %d in all: send at most %d rows at a time or ask for fewer outputs",
			j.req.Rows, perRow, maxBytes, maxBytes/perRow)
	}
	return codes.OK, ""
}

// refuse answers a request that was not accepted.
func (s *Server) refuse(c *stream, j *job, code codes.Code, msg string) {
	s.reply(c, j, code, msg, nil, s.inFlight.Load())
}

// finish answers an accepted request.
func (s *Server) finish(j *job, code codes.Code, msg string, payload []byte) {
	j.stream.mu.Lock()
	delete(j.stream.jobs, j.id)
	j.stream.mu.Unlock()
	s.reply(j.stream, j, code, msg, payload, s.inFlight.Load()-1)
	s.inFlight.Add(-1) // only now: Stop ends the streams when it sees that nothing is in flight
}

// reply sends an answer. others is the number of requests that are in flight besides.
func (s *Server) reply(c *stream, j *job, code codes.Code, msg string, payload []byte, others int64) {
	s.answered.Add(1)
	if j.rec.Done.IsZero() {
		j.rec.Done = time.Now()
	}
	r := frame.Reply{ID: j.id, Code: code, Message: msg, Payload: payload}
	r.Load = frame.Load{
		InFlight: uint32(max(others, 0)),
		Queued:   uint32(s.queue.len()),
		Service:  j.rec.service(),
	}
	// A stream that has ended needs no answer: its gateway replays the request elsewhere.
	_ = c.out.Reply(&r)
	if s.set.Observer != nil {
		j.rec.Code, j.rec.Message = code, msg
		s.set.Observer.Answered(&j.rec)
	}
}

// service is the time that the batch of the request was evaluated.
func (r *Record) service() time.Duration {
	if r.Evaluated.IsZero() {
		return 0
	}
	return r.Done.Sub(r.Evaluated)
}
