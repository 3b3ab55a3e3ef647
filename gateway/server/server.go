// Package server turns what clients send into calls of the pool: it reads the envelope of a request, resolves
// its model and its deadline, and passes the encoded request on as it came. Predict and PredictStream are
// here; other protocols make a PredictRequest and use Server.Begin as these do.
package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/coppice-mesh/coppice/gateway/pool"
	"github.com/coppice-mesh/coppice/gateway/route"
	"github.com/coppice-mesh/coppice/proto/frame"
)

// ErrRefused is wrapped by errors about a request that this server is set not to take.
var ErrRefused = errors.New("refused")

// Config is what a user decides about requests.
type Config struct {
	// DefaultTimeout is the deadline of a request that brings none. Default 10 s.
	DefaultTimeout time.Duration
	// MaxTimeout is the longest deadline; a later one is taken as this. Default 60 s.
	MaxTimeout time.Duration
	// MaxMessageBytes bounds a request. Default 64 MiB.
	MaxMessageBytes int
	// StreamWindow is the number of requests of one PredictStream that may be under way; beyond it the stream
	// is not read. Default 1024.
	StreamWindow int
}

// WithDefaults fills in the defaults.
func (c Config) WithDefaults() Config {
	if c.DefaultTimeout <= 0 {
		c.DefaultTimeout = 10 * time.Second
	}
	if c.MaxTimeout <= 0 {
		c.MaxTimeout = max(60*time.Second, c.DefaultTimeout)
	}
	if c.MaxMessageBytes <= 0 {
		c.MaxMessageBytes = 64 << 20
	}
	if c.StreamWindow <= 0 {
		c.StreamWindow = 1024
	}
	return c
}

// Served is what the server reads of the pool's description: immutable.
type Served struct {
	Models    *route.Table
	AllowWork bool
}

// Request is a request at the gateway, from its arrival to its answer.
type Request struct {
	pool.Call
	Envelope frame.Predict
	Model    *coppicev1.ServedModel // nil: it was refused before that
	Protocol string                 // the RPC or HTTP route that it came by
	Trace    Trace
	// OnDone is called once with the answer; it must not block.
	OnDone func(*Request)
}

// Trace is the request's place in a trace.
type Trace struct {
	// Parent is what the client sent: W3C traceparent and tracestate.
	Parent, State string
	// ID is the id of the trace, hex, once the request has begun.
	ID string
	// Observed is what the Observer keeps of it.
	Observed any
}

// Observer is told of every request when it begins and when it has ended. It must be quick.
type Observer interface {
	// Begun may set Call.Traceparent and Tracestate, and Trace.
	Begun(*Request)
	Ended(*Request)
}

// Settings is what code gives to a server.
type Settings struct {
	Pool      *pool.Pool
	Observer  Observer // nil for none
	RequestID func() string
}

// Server answers requests.
type Server struct {
	cfg      Config
	set      Settings
	served   atomic.Pointer[Served]
	arrivals atomic.Uint64
	refusing atomic.Bool

	mu      sync.Mutex
	streams map[*stream]struct{}
	running sync.WaitGroup // what reads and writes the streams
}

// New makes a Server that serves no model yet.
func New(cfg Config, set Settings) *Server {
	s := &Server{cfg: cfg.WithDefaults(), set: set, streams: map[*stream]struct{}{}}
	s.served.Store(&Served{Models: route.New(nil)})
	return s
}

// Serve sets what is served.
func (s *Server) Serve(v *Served) { s.served.Store(v) }

// Served is what is served.
func (s *Server) Served() *Served { return s.served.Load() }

// Refuse makes the server answer new requests with UNAVAILABLE, since the gateway is stopping, and end each
// stream, with the same status, once all that was asked on it is answered.
func (s *Server) Refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing.Store(true)
	for c := range s.streams {
		c.finish(true)
	}
}

// Wait returns when no goroutine of the server runs any more: after Refuse and the end of the gRPC server.
func (s *Server) Wait() { s.running.Wait() }

// Arrivals is the number of requests since the start.
func (s *Server) Arrivals() uint64 { return s.arrivals.Load() }

// Config is the configuration with its defaults.
func (s *Server) Config() Config { return s.cfg }

// Begin starts a request, whose Payload is an encoded PredictRequest that must not change. timeout is what the
// client will wait, 0 if it did not say. OnDone is called exactly once, perhaps before Begin returns.
func (s *Server) Begin(r *Request, timeout time.Duration) {
	now := s.arrive(r)
	if err := s.prepare(r, now, timeout); err != nil {
		s.begun(r)
		r.Fail(err)
		return
	}
	s.begun(r)
	s.set.Pool.Do(&r.Call)
}

// Reject ends a request that could not be made into a PredictRequest. It is counted and traced as others are.
func (s *Server) Reject(r *Request, err error) {
	s.arrive(r)
	s.identify(r)
	s.begun(r)
	r.Fail(err)
}

func (s *Server) arrive(r *Request) time.Time {
	s.arrivals.Add(1)
	r.Done = func(*pool.Call) { s.ended(r) }
	r.Arrived = time.Now()
	return r.Arrived
}

// identify gives the request an id if its client gave none that can be taken.
func (s *Server) identify(r *Request) {
	if r.RequestID = r.Envelope.RequestID; len(r.RequestID) == 0 {
		r.RequestID = []byte(s.set.RequestID())
	}
}

func (s *Server) begun(r *Request) {
	if s.set.Observer != nil {
		s.set.Observer.Begun(r)
	}
}

func (s *Server) ended(r *Request) {
	if s.set.Observer != nil {
		s.set.Observer.Ended(r)
	}
	r.OnDone(r)
}

// maxCost keeps sums of costs in range.
const maxCost = 1 << 48

func (s *Server) prepare(r *Request, now time.Time, timeout time.Duration) error {
	if len(r.Payload) > s.cfg.MaxMessageBytes {
		s.identify(r)
		return fmt.Errorf("%w: the request has %d bytes, at most %d are taken (--max-message-bytes)", frame.ErrTooLarge, len(r.Payload), s.cfg.MaxMessageBytes)
	}
	if timeout <= 0 {
		timeout = s.cfg.DefaultTimeout
	}
	r.Deadline = now.Add(min(timeout, s.cfg.MaxTimeout))
	err := r.Envelope.Read(r.Payload)
	s.identify(r)
	if err != nil {
		return err
	}
	if s.refusing.Load() {
		return pool.ErrStopped
	}
	served := s.served.Load()
	if r.Model, err = served.Models.Resolve(r.Envelope.Model, r.Envelope.Version); err != nil {
		return err
	}
	if r.Envelope.Work != coppicev1.Work_WORK_UNSPECIFIED && r.Envelope.Work != coppicev1.Work_WORK_LIGHT && !served.AllowWork {
		return fmt.Errorf("%w: work is %v, and this server does not take more than WORK_LIGHT; --allow-work lets it", ErrRefused, r.Envelope.Work)
	}
	if t := r.Envelope.Tensor; t != nil && int64(t.Columns) != r.Model.GetFeatures() {
		return fmt.Errorf("%w: the tensor has %d columns, model %q has %d features", frame.ErrRequest, t.Columns, r.Model.GetName(), r.Model.GetFeatures())
	}
	r.Version = r.Model.GetVersion()
	r.Cost = min(int64(r.Envelope.Rows), maxCost/max(r.Model.GetCost(), 1)/64) * r.Model.GetCost() * int64(frame.WorkFactor(r.Envelope.Work))
	return nil
}

// Register adds PredictService to a gRPC server that was made with frame.Codec.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	desc := coppicev1.PredictService_ServiceDesc
	desc.HandlerType = (*any)(nil)
	desc.Methods = []grpc.MethodDesc{
		{MethodName: "Predict", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var m frame.Message
			if err := dec(&m); err != nil {
				return nil, err
			}
			return s.predict(ctx, m.Bytes)
		}},
		{MethodName: "ListModels", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := dec(&coppicev1.ListModelsRequest{}); err != nil {
				return nil, err
			}
			return s.listModels(), nil
		}},
	}
	desc.Streams = []grpc.StreamDesc{{
		StreamName:    "PredictStream",
		Handler:       func(_ any, st grpc.ServerStream) error { return s.predictStream(st) },
		ServerStreams: true,
		ClientStreams: true,
	}}
	r.RegisterService(&desc, s)
}

func (s *Server) listModels() *coppicev1.ListModelsResponse {
	res := &coppicev1.ListModelsResponse{}
	for _, m := range s.served.Load().Models.Models() {
		res.Models = append(res.Models, &coppicev1.ModelInfo{
			Name: m.GetName(), Version: m.GetVersion(), Features: m.GetFeatures(), Outputs: m.GetOutputs(), Trees: m.GetTrees(), Task: m.GetTask(),
		})
	}
	return res
}

// Do runs a request to its end. When ctx is done before that, it is cancelled.
func (s *Server) Do(ctx context.Context, r *Request) {
	done := make(chan struct{})
	r.OnDone = func(*Request) { close(done) }
	var timeout time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline), 1)
	}
	s.Begin(r, timeout)
	select {
	case <-done:
	case <-ctx.Done():
		s.set.Pool.Cancel(&r.Call)
		<-done
		if errors.Is(r.Err, pool.ErrCancelled) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			r.Err = pool.ErrDeadline
		}
	}
}

func (s *Server) predict(ctx context.Context, payload []byte) (*frame.Message, error) {
	r := &Request{Protocol: coppicev1.PredictService_Predict_FullMethodName}
	r.Payload = payload
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		r.Trace.Parent, r.Trace.State = first(md, "traceparent"), first(md, "tracestate")
	}
	s.Do(ctx, r)
	_ = grpc.SetHeader(ctx, r.headers()) // fails only when headers were sent
	if r.Err != nil {
		return nil, status.Error(Code(r.Err), Message(r.Err))
	}
	return &frame.Message{Bytes: r.Reply}, nil
}

// headers tell a client how to find its request in logs and traces.
func (r *Request) headers() metadata.MD {
	md := metadata.MD{}
	// "ASCII-Value should not have leading or trailing whitespace", and is printable - gRPC over HTTP/2.
	if id := string(r.RequestID); id == strings.TrimSpace(id) && !strings.ContainsFunc(id, func(c rune) bool { return c < ' ' || c > '~' }) {
		md["coppice-request-id"] = []string{id}
	}
	if r.Trace.ID != "" {
		md["coppice-trace-id"] = []string{r.Trace.ID}
	}
	return md
}

func first(md metadata.MD, key string) string {
	if v := md[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}
