package client_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/gateway"
	"github.com/coppice-mesh/coppice/gateway/client"
	"github.com/coppice-mesh/coppice/gateway/internal/fakes"
	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start makes a gateway that serves the model "m" of two features by one replica, and a client of it.
func start(t testing.TB, handle func(*fakes.Job)) (*client.Client, *gateway.Gateway) {
	t.Helper()
	balancer, replica := fakes.StartBalancer(t), fakes.StartReplica(t, handle)
	g, err := gateway.New(gateway.Config{GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Balancer: balancer.Addr()}, gateway.Settings{Logger: slog.New(slog.DiscardHandler), ID: "g"})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(g) })
	balancer.Publish(&coppicev1.WatchResponse{
		Generation: 1, Endpoints: []*coppicev1.Endpoint{replica.Endpoint("r0")},
		Models: []*coppicev1.ServedModel{{Name: "m", Version: "0123456789abcdef", Features: 2, Cost: 1}},
	})
	fakes.Eventually(t, "the gateway is ready", func() bool { ok, _ := g.Ready(); return ok })
	c, err := client.Dial(g.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, g
}

func stop(g *gateway.Gateway) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	g.Shutdown(ctx)
}

func ctx(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

func request(values ...float64) *coppicev1.PredictRequest {
	return &coppicev1.PredictRequest{Model: "m", Instances: []*coppicev1.Instance{{Values: values}}}
}

func open(t testing.TB, c *client.Client) *client.Stream {
	t.Helper()
	st, err := c.Stream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	return st
}

func TestPredict(t *testing.T) {
	c, _ := start(t, fakes.Sum)
	res, err := c.Predict(ctx(t), request(1, 2))
	if err != nil || res.GetPredictions()[0].GetValue() != 3 {
		t.Errorf("%v, %v", res, err)
	}
	if _, err := c.Predict(ctx(t), &coppicev1.PredictRequest{Model: "m"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no rows: %v", err)
	}
	models, err := c.Models(ctx(t))
	if err != nil || len(models) != 1 || models[0].GetName() != "m" || models[0].GetFeatures() != 2 {
		t.Errorf("%v, %v", models, err)
	}
}

// TestStream: many goroutines share a stream, and each gets its own answers.
func TestStream(t *testing.T) {
	c, _ := start(t, fakes.Sum)
	st := open(t, c)
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			for i := range 100 {
				res, err := st.Do(ctx(t), request(float64(g), float64(i)))
				if err != nil || res.GetPredictions()[0].GetValue() != float64(g+i) {
					t.Errorf("%d + %d: %v, %v", g, i, res, err)
					return
				}
			}
		})
	}
	wg.Wait()
	_, err := st.Do(ctx(t), &coppicev1.PredictRequest{Model: "other", Instances: request(1).GetInstances()})
	if s := status.Convert(err); s.Code() != codes.NotFound || !strings.Contains(s.Message(), `"other"`) {
		t.Errorf("an unknown model: %v", err)
	}
	if _, err := st.Do(ctx(t), &coppicev1.PredictRequest{Model: "\xff"}); err == nil {
		t.Error("a name that is not UTF-8 was sent")
	}
	large := &coppicev1.PredictRequest{Model: "m", Instances: make([]*coppicev1.Instance, 100_000)}
	for i := range large.Instances {
		large.Instances[i] = &coppicev1.Instance{Values: []float64{1, float64(i)}}
	}
	res, err := st.Do(ctx(t), large)
	if err != nil || len(res.GetPredictions()) != 100_000 || res.GetPredictions()[99_999].GetValue() != 100_000 {
		t.Errorf("a large one: %d, %v", len(res.GetPredictions()), err)
	}
}

// TestContexts: the deadline and the cancellation of a request are its context's, and reach the replica.
func TestContexts(t *testing.T) {
	jobs := make(chan *fakes.Job, 10)
	c, _ := start(t, func(j *fakes.Job) { jobs <- j })
	st := open(t, c)
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := st.Do(short, request(1, 2)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("out of time: %v", err)
	}
	if j := <-jobs; j.Timeout > 100*time.Millisecond {
		t.Errorf("the replica was given %v", j.Timeout)
	}
	if _, err := st.Do(short, request(1, 2)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("no time at all: %v", err)
	}
	gone, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := st.Do(gone, request(3, 4))
		ended <- err
	}()
	j := <-jobs
	cancel()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	select {
	case <-j.Cancelled:
	case <-time.After(20 * time.Second):
		t.Error("the replica was not told")
	}
	// What is answered after all goes nowhere.
	go func() { fakes.Sum(<-jobs) }()
	if res, err := st.Do(ctx(t), request(5, 6)); err != nil || res.GetPredictions()[0].GetValue() != 11 {
		t.Errorf("%v, %v", res, err)
	}
}

// TestClose: what has no answer ends, and so does what comes later.
func TestClose(t *testing.T) {
	jobs := make(chan *fakes.Job, 10)
	c, _ := start(t, func(j *fakes.Job) { jobs <- j })
	st := open(t, c)
	ended := make(chan error, 1)
	go func() {
		_, err := st.Do(ctx(t), request(1, 2))
		ended <- err
	}()
	<-jobs
	st.Close()
	if err := <-ended; !errors.Is(err, client.ErrClosed) {
		t.Errorf("in flight: %v", err)
	}
	if _, err := st.Do(ctx(t), request(1, 2)); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	st.Close()
}

// TestGatewayStops: what has no answer ends with UNAVAILABLE, so that the caller asks elsewhere.
func TestGatewayStops(t *testing.T) {
	c, g := start(t, func(*fakes.Job) {})
	st := open(t, c)
	ended := make(chan error, 1)
	go func() {
		_, err := st.Do(ctx(t), request(1, 2))
		ended <- err
	}()
	fakes.Eventually(t, "it is in flight", func() bool { n, _ := g.Pool().Load(); return n == 1 })
	stop(g)
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("in flight: %v", err)
	}
	fakes.Eventually(t, "the stream knows", func() bool {
		_, err := st.Do(ctx(t), request(1, 2))
		return status.Code(err) == codes.Unavailable
	})
	if _, err := c.Predict(ctx(t), request(1, 2)); status.Code(err) != codes.Unavailable {
		t.Errorf("unary: %v", err)
	}
}

// TestServerReadsNothing: what a Stream keeps for a gateway that reads nothing is bounded.
func TestServerReadsNothing(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec()), grpc.WaitForHandlers(true))
	desc := coppicev1.PredictService_ServiceDesc
	desc.HandlerType, desc.Methods = (*any)(nil), nil
	desc.Streams = []grpc.StreamDesc{{StreamName: "PredictStream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
		<-st.Context().Done()
		return nil
	}}}
	srv.RegisterService(&desc, nil)
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(lis) })
	t.Cleanup(func() {
		srv.Stop()
		serving.Wait()
	})
	c, err := client.Dial(lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	st := open(t, c)
	payload, err := proto.Marshal(&coppicev1.PredictRequest{Model: strings.Repeat("x", 1<<20)})
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		short, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		_, err := st.DoRaw(short, payload)
		cancel()
		if status.Code(err) == codes.ResourceExhausted {
			return
		}
	}
	t.Error("1 GB was taken for a gateway that reads nothing")
}

func TestDialError(t *testing.T) {
	if _, err := client.Dial("\x00"); err == nil {
		t.Error("no error")
	}
	c, err := client.Dial("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Predict(ctx(t), request(1, 2)); status.Code(err) != codes.Unavailable {
		t.Errorf("nobody there: %v", err)
	}
	st, err := c.Stream(ctx(t))
	if err == nil {
		_, err = st.Do(ctx(t), request(1, 2))
		st.Close()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("nobody there: %v", err)
	}
}
