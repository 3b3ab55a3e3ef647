package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/coppice-mesh/coppice/balancer/admit"
	"github.com/coppice-mesh/coppice/gateway/internal/fakes"
	"github.com/coppice-mesh/coppice/gateway/pool"
	"github.com/coppice-mesh/coppice/gateway/route"
	"github.com/coppice-mesh/coppice/gateway/server"
	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a server on a socket, with one replica.
type rig struct {
	server  *server.Server
	pool    *pool.Pool
	replica *fakes.Replica
	grpc    *grpc.Server
	conn    *grpc.ClientConn
	client  coppicev1.PredictServiceClient
	seen    *observer
}

// observer counts what begins and ends.
type observer struct {
	mu           sync.Mutex
	begun, ended int
	codes        []codes.Code
}

func (o *observer) Begun(*server.Request) {
	o.mu.Lock()
	o.begun++
	o.mu.Unlock()
}

func (o *observer) Ended(r *server.Request) {
	o.mu.Lock()
	o.ended++
	o.codes = append(o.codes, server.Code(r.Err))
	o.mu.Unlock()
}

func newRig(t testing.TB, cfg server.Config, handle func(*fakes.Job)) *rig {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	r := &rig{replica: fakes.StartReplica(t, handle), seen: &observer{}}
	r.pool = pool.New(pool.Config{Admit: admit.Config{Requests: 4096}, MaxWait: 200 * time.Millisecond}, pool.Settings{Logger: logger})
	r.pool.Start()
	ids := 0
	var mu sync.Mutex
	r.server = server.New(cfg, server.Settings{Pool: r.pool, Observer: r.seen, RequestID: func() string {
		mu.Lock()
		defer mu.Unlock()
		ids++
		return fmt.Sprintf("made-%d", ids)
	}})
	r.server.Serve(&server.Served{Models: route.New([]*coppicev1.ServedModel{
		{Name: "two", Version: "0123456789abcdef", Sha256: "0123456789abcdef0123", Features: 2, Outputs: 1, Trees: 3, Cost: 30, Task: "regress"},
		{Name: "one", Version: "fedcba9876543210", Sha256: "fedcba98765432100123", Features: 1, Outputs: 1, Trees: 3, Cost: 30, Task: "regress"},
	})})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.grpc = grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec()), grpc.MaxRecvMsgSize(64<<20), grpc.WaitForHandlers(true))
	r.server.Register(r.grpc)
	var serving sync.WaitGroup
	serving.Go(func() { _ = r.grpc.Serve(lis) })
	if r.conn, err = grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	r.client = coppicev1.NewPredictServiceClient(r.conn)
	r.pool.Update([]*coppicev1.Endpoint{r.replica.Endpoint("r0")})
	fakes.Eventually(t, "the replica is ready", func() bool { return r.pool.Ready() == 1 })
	t.Cleanup(func() {
		r.conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r.server.Refuse()
		r.pool.Shutdown(ctx)
		r.grpc.Stop()
		r.server.Wait()
		serving.Wait()
		if r.seen.begun != r.seen.ended {
			t.Errorf("%d requests began, %d ended", r.seen.begun, r.seen.ended)
		}
	})
	return r
}

func ctx(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

// request is a good one, of one row.
func request(values ...float64) *coppicev1.PredictRequest {
	return &coppicev1.PredictRequest{Model: "two", Instances: []*coppicev1.Instance{{Values: values}}}
}

func never(*fakes.Job) {}

func TestPredict(t *testing.T) {
	r := newRig(t, server.Config{}, fakes.Sum)
	var header metadata.MD
	req := request(1, 2)
	req.RequestId = "mine"
	res, err := r.client.Predict(ctx(t), req, grpc.Header(&header))
	if err != nil {
		t.Fatal(err)
	}
	three := 3.0
	want := &coppicev1.PredictResponse{Model: "two", Version: "0123456789abcdef", RequestId: "mine", Predictions: []*coppicev1.Prediction{{Value: &three}}}
	if d := cmp.Diff(want, res, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if got := header.Get("coppice-request-id"); len(got) != 1 || got[0] != "mine" {
		t.Errorf("coppice-request-id is %q", got)
	}
	if res, err = r.client.Predict(ctx(t), request(1, 2), grpc.Header(&header)); err != nil || res.GetRequestId() != "made-1" {
		t.Errorf("id %q, %v", res.GetRequestId(), err)
	}
	if got := header.Get("coppice-request-id"); len(got) != 1 || got[0] != "made-1" {
		t.Errorf("coppice-request-id is %q", got)
	}
	// An id that is no header's value comes back in the answer alone.
	for _, id := range []string{"größe", "a\nb", " a"} {
		req.RequestId = id
		if res, err = r.client.Predict(ctx(t), req, grpc.Header(&header)); err != nil || res.GetRequestId() != id || len(header.Get("coppice-request-id")) != 0 {
			t.Errorf("id %q became %q, header %q, %v", id, res.GetRequestId(), header.Get("coppice-request-id"), err)
		}
	}
}

func tensor(rows, columns int64, bytes int) *coppicev1.Tensor {
	return &coppicev1.Tensor{DataType: coppicev1.DataType_DATA_TYPE_FP32, Shape: []int64{rows, columns}, Data: make([]byte, bytes)}
}

// badRequests are refused without asking a replica.
var badRequests = []struct {
	name string
	req  *coppicev1.PredictRequest
	code codes.Code
	want string
}{
	{"unknown model", &coppicev1.PredictRequest{Model: "three", Instances: request(1).GetInstances()}, codes.NotFound, `model "three" is not served; served are: "one", "two"`},
	{"no model", &coppicev1.PredictRequest{Instances: request(1).GetInstances()}, codes.InvalidArgument, "no model is named and 2 are served"},
	{"unknown version", &coppicev1.PredictRequest{Model: "two", Version: "fedcba98", Instances: request(1).GetInstances()}, codes.NotFound, `version "fedcba98"`},
	{"short version", &coppicev1.PredictRequest{Model: "two", Version: "0123", Instances: request(1).GetInstances()}, codes.NotFound, `version "0123"`},
	{"no rows", &coppicev1.PredictRequest{Model: "two"}, codes.InvalidArgument, "no instances and no tensor"},
	{"both", &coppicev1.PredictRequest{Model: "two", Instances: request(1).GetInstances(), Tensor: tensor(1, 2, 8)}, codes.InvalidArgument, "both instances and a tensor"},
	{"columns", &coppicev1.PredictRequest{Model: "two", Tensor: tensor(1, 3, 12)}, codes.InvalidArgument, `the tensor has 3 columns, model "two" has 2 features`},
	{"shape", &coppicev1.PredictRequest{Model: "two", Tensor: tensor(1<<40, 20, 80)}, codes.InvalidArgument, "does not match its 80 bytes"},
	{"work", &coppicev1.PredictRequest{Model: "two", Work: coppicev1.Work_WORK_HEAVY, Instances: request(1).GetInstances()}, codes.InvalidArgument, "--allow-work"},
	{"work 9", &coppicev1.PredictRequest{Model: "two", Work: 9, Instances: request(1).GetInstances()}, codes.InvalidArgument, "work is 9"},
	{"output 9", &coppicev1.PredictRequest{Model: "two", Outputs: []coppicev1.Output{9}, Instances: request(1).GetInstances()}, codes.InvalidArgument, "output 9"},
	{"long id", &coppicev1.PredictRequest{Model: "two", RequestId: strings.Repeat("x", 129), Instances: request(1).GetInstances()}, codes.InvalidArgument, "request_id has 129 bytes"},
	{"too large", &coppicev1.PredictRequest{Model: "two", Tensor: tensor(12501, 2, 100008)}, codes.InvalidArgument, "at most 100000 are taken (--max-message-bytes)"},
}

func TestBadRequests(t *testing.T) {
	r := newRig(t, server.Config{MaxMessageBytes: 100_000}, fakes.Sum)
	st := openStream(t, r)
	for i, tt := range badRequests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.client.Predict(ctx(t), tt.req)
			if s := status.Convert(err); s.Code() != tt.code || !strings.Contains(s.Message(), tt.want) {
				t.Errorf("Predict: %v, want %v %q", err, tt.code, tt.want)
			}
			st.send(t, &coppicev1.PredictFrame{Id: uint64(i), Request: tt.req})
			a := st.answer(t)
			if a.GetId() != uint64(i) || a.GetResponse() != nil || codes.Code(a.GetError().GetCode()) != tt.code || !strings.Contains(a.GetError().GetMessage(), tt.want) {
				t.Errorf("PredictStream: %v, want %v %q", a, tt.code, tt.want)
			}
		})
	}
	if n := r.replica.Came(); n != 0 {
		t.Errorf("the replica was asked %d times", n)
	}
	if _, err := r.client.Predict(ctx(t), request(1, 2)); err != nil {
		t.Errorf("after all these: %v", err)
	}
}

func TestAllowWork(t *testing.T) {
	r := newRig(t, server.Config{}, fakes.Sum)
	r.server.Serve(&server.Served{Models: r.server.Served().Models, AllowWork: true})
	req := request(1, 2)
	req.Work = coppicev1.Work_WORK_HEAVY
	if _, err := r.client.Predict(ctx(t), req); err != nil {
		t.Error(err)
	}
}

func TestListModels(t *testing.T) {
	r := newRig(t, server.Config{}, fakes.Sum)
	res, err := r.client.ListModels(ctx(t), &coppicev1.ListModelsRequest{})
	if err != nil || len(res.GetModels()) != 2 || res.GetModels()[0].GetName() != "one" || res.GetModels()[1].GetFeatures() != 2 {
		t.Errorf("%v, %v", res, err)
	}
}

// TestCodes: every error has its code and HTTP status, wrapped or not.
func TestCodes(t *testing.T) {
	tests := []struct {
		err  error
		code codes.Code
		http int
	}{
		{nil, codes.OK, http.StatusOK},
		{frame.ErrMalformed, codes.InvalidArgument, http.StatusBadRequest},
		{frame.ErrRequest, codes.InvalidArgument, http.StatusBadRequest},
		{frame.ErrTooLarge, codes.InvalidArgument, http.StatusBadRequest},
		{server.ErrRefused, codes.InvalidArgument, http.StatusBadRequest},
		{route.ErrAmbiguous, codes.InvalidArgument, http.StatusBadRequest},
		{route.ErrUnknown, codes.NotFound, http.StatusNotFound},
		{admit.ErrFull, codes.ResourceExhausted, http.StatusTooManyRequests},
		{admit.ErrDeadline, codes.DeadlineExceeded, http.StatusGatewayTimeout},
		{pool.ErrDeadline, codes.DeadlineExceeded, http.StatusGatewayTimeout},
		{context.DeadlineExceeded, codes.DeadlineExceeded, http.StatusGatewayTimeout},
		{pool.ErrCancelled, codes.Canceled, 499},
		{context.Canceled, codes.Canceled, 499},
		{pool.ErrNoReplica, codes.Unavailable, http.StatusServiceUnavailable},
		{pool.ErrStopped, codes.Unavailable, http.StatusServiceUnavailable},
		{pool.ErrPoison, codes.Internal, http.StatusInternalServerError},
		{pool.ErrAnswer, codes.Internal, http.StatusInternalServerError},
		{errors.New("anything"), codes.Internal, http.StatusInternalServerError},
		{&pool.RemoteError{Code: codes.Unimplemented, Message: "m"}, codes.Unimplemented, http.StatusNotImplemented},
		{&pool.RemoteError{Code: codes.DataLoss, Message: "m"}, codes.DataLoss, http.StatusInternalServerError},
	}
	for _, tt := range tests {
		if code := server.Code(tt.err); code != tt.code || server.HTTPStatus(code) != tt.http {
			t.Errorf("%v: %v, %d; want %v, %d", tt.err, code, server.HTTPStatus(code), tt.code, tt.http)
		}
		if tt.err != nil {
			if code := server.Code(fmt.Errorf("in a way: %w", tt.err)); code != tt.code {
				t.Errorf("%v, wrapped: %v", tt.err, code)
			}
		}
	}
	for c, want := range map[codes.Code]string{codes.OK: "OK", codes.Canceled: "CANCELLED", codes.Unauthenticated: "UNAUTHENTICATED", 17: "UNKNOWN"} {
		if got := server.CodeName(c); got != want {
			t.Errorf("%d is called %s", c, got)
		}
	}
	if m := server.Message(fmt.Errorf("%w", &pool.RemoteError{Code: codes.DataLoss, Message: "m\xff"})); m != "m\uFFFD" {
		t.Errorf("message %q", m)
	}
}

// TestDeadlines: a request always has one, at most the server's, and the replica knows it.
func TestDeadlines(t *testing.T) {
	jobs := make(chan *fakes.Job, 10)
	r := newRig(t, server.Config{DefaultTimeout: 3 * time.Second, MaxTimeout: 5 * time.Second}, func(j *fakes.Job) { jobs <- j; fakes.Sum(j) })
	st := openStream(t, r)
	for _, tt := range []struct{ sent, min, max time.Duration }{
		{0, 2 * time.Second, 3 * time.Second},
		{time.Second, 0, time.Second},
		{4 * time.Second, 3 * time.Second, 4 * time.Second},
		{time.Hour, 4 * time.Second, 5 * time.Second},
	} {
		c := context.Background()
		if tt.sent > 0 {
			var cancel context.CancelFunc
			c, cancel = context.WithTimeout(c, tt.sent)
			defer cancel()
		}
		if _, err := r.client.Predict(c, request(1, 2)); err != nil {
			t.Error(err)
		}
		if j := <-jobs; j.Timeout <= tt.min || j.Timeout > tt.max {
			t.Errorf("Predict with %v: the replica has %v", tt.sent, j.Timeout)
		}
		st.send(t, &coppicev1.PredictFrame{Request: request(1, 2), TimeoutUs: uint64(tt.sent / time.Microsecond)})
		st.answer(t)
		if j := <-jobs; j.Timeout <= tt.min || j.Timeout > tt.max {
			t.Errorf("PredictStream with %v: the replica has %v", tt.sent, j.Timeout)
		}
	}
}

// TestUnanswered: deadlines and cancellation end what a replica does not answer.
func TestUnanswered(t *testing.T) {
	var job atomic.Pointer[fakes.Job]
	r := newRig(t, server.Config{DefaultTimeout: 200 * time.Millisecond, MaxTimeout: 5 * time.Second}, func(j *fakes.Job) { job.Store(j) })
	// The client would wait longer than the server does.
	if _, err := r.client.Predict(context.Background(), request(1, 2)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("unanswered: %v", err)
	}
	c, cancel := context.WithCancel(context.Background())
	job.Store(nil)
	go func() {
		for job.Load() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := r.client.Predict(c, request(1, 2)); status.Code(err) != codes.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	select {
	case <-job.Load().Cancelled:
	case <-time.After(20 * time.Second):
		t.Error("the replica was not told of the cancellation")
	}
	c, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.client.Predict(c, request(1, 2)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("out of time: %v", err)
	}
	fakes.Eventually(t, "nothing is in flight", func() bool { n, _ := r.pool.Load(); return n == 0 })
	r.seen.mu.Lock()
	defer r.seen.mu.Unlock()
	for _, code := range r.seen.codes {
		if code != codes.Canceled && code != codes.DeadlineExceeded {
			t.Errorf("a request ended as %v", code)
		}
	}
}

func TestUnavailable(t *testing.T) {
	r := newRig(t, server.Config{}, fakes.Sum)
	r.pool.Update(nil)
	fakes.Eventually(t, "no replica is ready", func() bool { return r.pool.Ready() == 0 })
	_, err := r.client.Predict(ctx(t), request(1, 2))
	if s := status.Convert(err); s.Code() != codes.Unavailable || !strings.Contains(s.Message(), "no replica is ready") {
		t.Errorf("%v", err)
	}
	r.server.Refuse()
	_, err = r.client.Predict(ctx(t), request(1, 2))
	if s := status.Convert(err); s.Code() != codes.Unavailable || !strings.Contains(s.Message(), "stopping") {
		t.Errorf("%v", err)
	}
}

func TestMalformedUnary(t *testing.T) {
	r := newRig(t, server.Config{}, fakes.Sum)
	var res frame.Message
	err := r.conn.Invoke(ctx(t), coppicev1.PredictService_Predict_FullMethodName, &frame.Message{Bytes: []byte{0x0a, 9}}, &res, grpc.ForceCodecV2(frame.Codec()))
	if s := status.Convert(err); s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), "malformed") {
		t.Errorf("%v", err)
	}
}

// TestReject: a request that never became one is observed, and has an id.
func TestReject(t *testing.T) {
	r := newRig(t, server.Config{}, fakes.Sum)
	done := false
	req := &server.Request{Protocol: "POST /predict", OnDone: func(*server.Request) { done = true }}
	r.server.Reject(req, frame.ErrRequest)
	if !done || !errors.Is(req.Err, frame.ErrRequest) || string(req.RequestID) != "made-1" || req.Ended.Before(req.Arrived) || r.server.Arrivals() != 1 {
		t.Errorf("done %v, %v, id %q, %d arrivals", done, req.Err, req.RequestID, r.server.Arrivals())
	}
	if r.seen.begun != 1 || r.seen.ended != 1 {
		t.Errorf("%d began, %d ended", r.seen.begun, r.seen.ended)
	}
}

// predictStream is a client's PredictStream.
type predictStream struct {
	grpc.BidiStreamingClient[coppicev1.PredictStreamRequest, coppicev1.PredictStreamResponse]
	cancel context.CancelFunc
	got    []*coppicev1.PredictReply
}

func openStream(t testing.TB, r *rig) *predictStream {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	st, err := r.client.PredictStream(c, grpc.MaxCallRecvMsgSize(64<<20))
	if err != nil {
		t.Fatal(err)
	}
	return &predictStream{BidiStreamingClient: st, cancel: cancel}
}

func (s *predictStream) send(t testing.TB, frames ...*coppicev1.PredictFrame) {
	t.Helper()
	if err := s.Send(&coppicev1.PredictStreamRequest{Frames: frames}); err != nil {
		t.Fatal(err)
	}
}

// answer is the next reply.
func (s *predictStream) answer(t testing.TB) *coppicev1.PredictReply {
	t.Helper()
	for len(s.got) == 0 {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		s.got = m.GetReplies()
	}
	a := s.got[0]
	s.got = s.got[1:]
	return a
}

// rest are the replies until the stream ends, by id, and how it ends.
func (s *predictStream) rest() (map[uint64][]*coppicev1.PredictReply, error) {
	all := map[uint64][]*coppicev1.PredictReply{}
	for {
		for _, a := range s.got {
			all[a.GetId()] = append(all[a.GetId()], a)
		}
		m, err := s.Recv()
		if err != nil {
			return all, err
		}
		s.got = m.GetReplies()
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
