package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/coppice-mesh/coppice/gateway"
	"github.com/coppice-mesh/coppice/gateway/client"
	"github.com/coppice-mesh/coppice/gateway/internal/fakes"
	"github.com/coppice-mesh/coppice/gateway/server"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a gateway with a balancer and replicas.
type rig struct {
	*gateway.Gateway
	balancer *fakes.Balancer
	replicas []*fakes.Replica
	conn     *grpc.ClientConn
	predict  coppicev1.PredictServiceClient
	stop     func()
}

func newRig(t testing.TB, cfg gateway.Config, replicas ...*fakes.Replica) *rig {
	t.Helper()
	r := &rig{balancer: fakes.StartBalancer(t), replicas: replicas}
	cfg.GRPCAddr, cfg.HTTPAddr, cfg.Balancer = "127.0.0.1:0", "127.0.0.1:0", r.balancer.Addr()
	g, err := gateway.New(cfg, gateway.Settings{Logger: slog.New(slog.DiscardHandler), ID: gateway.NewID(), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Gateway = g
	r.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		g.Shutdown(ctx)
	})
	t.Cleanup(r.stop)
	if r.conn, err = grpc.NewClient(g.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.conn.Close() })
	r.predict = coppicev1.NewPredictServiceClient(r.conn)
	if len(replicas) > 0 {
		r.balancer.Publish(r.pool(1, replicas...))
		r.wantReady(t, true)
	}
	return r
}

// pool describes a pool that serves the model "m" of two features.
func (r *rig) pool(generation uint64, replicas ...*fakes.Replica) *coppicev1.WatchResponse {
	w := &coppicev1.WatchResponse{Generation: generation, Models: []*coppicev1.ServedModel{{
		Name: "m", Version: "0123456789abcdef", Sha256: "0123456789abcdef01", Features: 2, Outputs: 1, Trees: 1, Cost: 1, Task: "regress",
	}}}
	for i, f := range replicas {
		w.Endpoints = append(w.Endpoints, f.Endpoint(fmt.Sprintf("r%d", i)))
	}
	return w
}

func (r *rig) wantReady(t testing.TB, want bool) {
	t.Helper()
	fakes.Eventually(t, fmt.Sprintf("ready is %v", want), func() bool { ok, _ := r.Ready(); return ok == want })
}

func ctx(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

func request(values ...float64) *coppicev1.PredictRequest {
	return &coppicev1.PredictRequest{Model: "m", Instances: []*coppicev1.Instance{{Values: values}}}
}

// TestHealth: the health service and the HTTP pages say whether predictions can be answered.
func TestHealth(t *testing.T) {
	r := newRig(t, gateway.Config{})
	check := healthpb.NewHealthClient(r.conn)
	want := func(ready bool, why string) {
		t.Helper()
		for _, service := range []string{"", "coppice.v1.PredictService"} {
			state := healthpb.HealthCheckResponse_NOT_SERVING
			if ready {
				state = healthpb.HealthCheckResponse_SERVING
			}
			fakes.Eventually(t, fmt.Sprintf("%q is %v", service, state), func() bool {
				res, err := check.Check(ctx(t), &healthpb.HealthCheckRequest{Service: service})
				return err == nil && res.GetStatus() == state
			})
		}
		fakes.Eventually(t, "readyz says "+why, func() bool {
			res, err := http.Get("http://" + r.HTTPAddr() + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			return (res.StatusCode == http.StatusOK) == ready && strings.Contains(string(body), why)
		})
	}
	want(false, "the balancer has not said yet what is served")
	a := fakes.StartReplica(t, fakes.Sum)
	r.balancer.Publish(r.pool(1))
	fakes.Eventually(t, "the models are known", func() bool { _, why := r.Ready(); return why == "no replica is ready" })
	want(false, "no replica is ready")
	r.balancer.Publish(r.pool(2, a))
	want(true, "ready")
	a.Stop()
	want(false, "no replica is ready")
	b := fakes.StartReplica(t, fakes.Sum)
	r.balancer.Publish(r.pool(3, b))
	want(true, "ready")
	// A replica is replaced by another at once: each time, the service ends up at SERVING.
	for i := range 20 {
		c := fakes.StartReplica(t, fakes.Sum)
		r.balancer.Publish(r.pool(uint64(4+i), c))
		want(true, "ready")
		b.Stop()
		b = c
		want(true, "ready")
	}
	res, err := http.Get("http://" + r.HTTPAddr() + "/healthz")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("healthz: %v, %v", res, err)
	}
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
}

// TestReflection: grpcurl finds the service.
func TestReflection(t *testing.T) {
	r := newRig(t, gateway.Config{})
	st, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(q *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if err := st.Send(q); err != nil {
			t.Fatal(err)
		}
		res, err := st.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	list := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	names := map[string]bool{}
	for _, s := range list.GetListServicesResponse().GetService() {
		names[s.GetName()] = true
	}
	if !names["coppice.v1.PredictService"] || !names["grpc.health.v1.Health"] {
		t.Errorf("services are %v", names)
	}
	file := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "coppice.v1.PredictService.PredictStream"}})
	if n := len(file.GetFileDescriptorResponse().GetFileDescriptorProto()); n == 0 {
		t.Errorf("no description of PredictStream: %v", file)
	}
	_ = st.CloseSend()
	_, _ = st.Recv()
}

// TestPredictAllWays: one request by each protocol.
func TestPredictAllWays(t *testing.T) {
	r := newRig(t, gateway.Config{}, fakes.StartReplica(t, fakes.Sum))
	res, err := r.predict.Predict(ctx(t), request(1, 2))
	if err != nil || res.GetPredictions()[0].GetValue() != 3 {
		t.Errorf("unary: %v, %v", res, err)
	}
	c, err := client.Dial(r.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	st, err := c.Stream(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if res, err = st.Do(ctx(t), request(3, 4)); err != nil || res.GetPredictions()[0].GetValue() != 7 {
		t.Errorf("stream: %v, %v", res, err)
	}
	h, err := http.Post("http://"+r.HTTPAddr()+"/predict", "application/json", strings.NewReader(`{"features":[[5,6],[7,8]]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	var body struct{ Prediction []float64 }
	if err := json.NewDecoder(h.Body).Decode(&body); err != nil || h.StatusCode != http.StatusOK || len(body.Prediction) != 2 || body.Prediction[0] != 11 || body.Prediction[1] != 15 {
		t.Errorf("HTTP: %d, %v, %v", h.StatusCode, body, err)
	}
}

// TestBalancerGone: predictions go on, and what the balancer says after it is back is applied.
func TestBalancerGone(t *testing.T) {
	a, b := fakes.StartReplica(t, fakes.Sum), fakes.StartReplica(t, fakes.Sum)
	r := newRig(t, gateway.Config{}, a)
	r.balancer.Break(true)
	for range 200 {
		if _, err := r.predict.Predict(ctx(t), request(1, 2)); err != nil {
			t.Fatal(err)
		}
	}
	r.balancer.Publish(r.pool(2, b))
	r.balancer.Break(false)
	fakes.Eventually(t, "the other replica is asked", func() bool {
		_, err := r.predict.Predict(ctx(t), request(1, 2))
		return err == nil && b.Came() > 0
	})
}

// TestShutdownLosesNothing: of all that is asked while the gateway stops, by stream, unary and HTTP, everything has its
// answer or was refused as UNAVAILABLE: what was accepted is answered.
func TestShutdownLosesNothing(t *testing.T) {
	const workers = 8
	var accepted, answered atomic.Int64
	handle := func(j *fakes.Job) {
		accepted.Add(1)
		time.AfterFunc(5*time.Millisecond, func() { answered.Add(1); fakes.Sum(j) })
	}
	r := newRig(t, gateway.Config{}, fakes.StartReplica(t, handle), fakes.StartReplica(t, handle))
	var good, refused atomic.Int64
	var wg sync.WaitGroup
	count := func(how string, res *coppicev1.PredictResponse, err error, want float64) bool {
		switch {
		case err == nil && res.GetPredictions()[0].GetValue() == want:
			good.Add(1)
			return true
		case status.Code(err) == codes.Unavailable:
			refused.Add(1)
		default:
			t.Errorf("%s: %v, %v", how, res, err)
		}
		return false
	}
	for w := range workers {
		wg.Go(func() { // raw streams, so that lost answers are seen
			st, err := r.predict.PredictStream(ctx(t))
			if err != nil {
				t.Error(err)
				return
			}
			var open sync.Map
			var sent atomic.Int64
			wg.Go(func() {
				for id := uint64(1); ; id++ {
					open.Store(id, true)
					if st.Send(&coppicev1.PredictStreamRequest{Frames: []*coppicev1.PredictFrame{{Id: id, Request: request(float64(id), float64(w))}}}) != nil {
						return
					}
					sent.Add(1)
					time.Sleep(500 * time.Microsecond)
				}
			})
			for {
				m, err := st.Recv()
				if err != nil {
					if c := status.Code(err); c != codes.Unavailable {
						t.Errorf("the stream ended with %v", err)
					}
					return
				}
				for _, a := range m.GetReplies() {
					if _, was := open.LoadAndDelete(a.GetId()); !was {
						t.Errorf("a second answer to %d", a.GetId())
					}
					var err error
					if e := a.GetError(); e != nil {
						err = status.Error(codes.Code(e.GetCode()), e.GetMessage())
					}
					count("stream", a.GetResponse(), err, float64(a.GetId())+float64(w))
				}
			}
		})
		wg.Go(func() {
			for {
				res, err := r.predict.Predict(ctx(t), request(1, 2))
				if !count("unary", res, err, 3) {
					return
				}
			}
		})
		wg.Go(func() {
			for {
				h, err := http.Post("http://"+r.HTTPAddr()+"/predict", "", strings.NewReader(`{"features":[1,2]}`))
				if err != nil {
					return // the listener is closed, or the connection was idle
				}
				body, err := io.ReadAll(h.Body)
				h.Body.Close()
				if err != nil || (h.StatusCode != http.StatusOK && h.StatusCode != http.StatusServiceUnavailable) {
					t.Errorf("HTTP: %d %s, %v", h.StatusCode, body, err)
					return
				}
				if h.StatusCode == http.StatusOK {
					good.Add(1)
				}
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	begun := time.Now()
	r.stop()
	took := time.Since(begun)
	wg.Wait()
	http.DefaultClient.CloseIdleConnections()
	if accepted.Load() != answered.Load() || good.Load() != answered.Load() {
		t.Errorf("replicas took %d requests and answered %d; clients have %d answers", accepted.Load(), answered.Load(), good.Load())
	}
	if good.Load() < 100 {
		t.Errorf("only %d answers", good.Load())
	}
	if took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	t.Logf("%d answered, %d refused, stopped in %v", good.Load(), refused.Load(), took)
}

// TestShutdownWithWatchers: clients that watch or do nothing do not hold it up.
func TestShutdownWithWatchers(t *testing.T) {
	r := newRig(t, gateway.Config{}, fakes.StartReplica(t, fakes.Sum))
	watch, err := healthpb.NewHealthClient(r.conn).Watch(ctx(t), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for serving := false; !serving; {
		m, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		serving = m.GetStatus() == healthpb.HealthCheckResponse_SERVING
	}
	st, err := r.predict.PredictStream(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(&coppicev1.PredictStreamRequest{Frames: []*coppicev1.PredictFrame{{Request: request(1, 2)}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	r.stop()
	if d := time.Since(begun); d > time.Second {
		t.Errorf("it took %v", d)
	}
	last := healthpb.HealthCheckResponse_SERVING
	for {
		m, err := watch.Recv()
		if err != nil {
			break
		}
		last = m.GetStatus()
	}
	if last != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("the watcher was left with %v", last)
	}
	if _, err := st.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream: %v", err)
	}
}

// TestShutdownInTime: a replica that answers nothing does not hold it up for longer than it may take.
func TestShutdownInTime(t *testing.T) {
	r := newRig(t, gateway.Config{}, fakes.StartReplica(t, func(*fakes.Job) {}))
	got := make(chan error, 1)
	go func() {
		_, err := r.predict.Predict(ctx(t), request(1, 2))
		got <- err
	}()
	fakes.Eventually(t, "it is in flight", func() bool { return r.replicas[0].Came() == 1 })
	c, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	r.Shutdown(c)
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	if err := <-got; status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
}

func TestStartErrors(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	settings := gateway.Settings{Logger: slog.New(slog.DiscardHandler)}
	for _, cfg := range []gateway.Config{
		{GRPCAddr: lis.Addr().String(), HTTPAddr: "127.0.0.1:0"},
		{GRPCAddr: "127.0.0.1:0", HTTPAddr: lis.Addr().String()},
		{GRPCAddr: "nonsense", HTTPAddr: "127.0.0.1:0"},
		{GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Balancer: "\x00"},
	} {
		g, err := gateway.New(cfg, settings)
		if err != nil {
			t.Fatal(err)
		}
		err = g.Start(t.Context())
		if err == nil {
			t.Errorf("%+v: no error", cfg)
		}
		var op *net.OpError
		if cfg.Balancer == "" && cfg.GRPCAddr != "nonsense" && !errors.As(err, &op) {
			t.Errorf("%+v: %v", cfg, err)
		}
		g.Shutdown(t.Context()) // safe without a Start that worked
	}
	for _, cfg := range []gateway.Config{
		{Server: server.Config{DefaultTimeout: -1}},
		{Server: server.Config{MaxTimeout: -1}},
		{Server: server.Config{DefaultTimeout: 2, MaxTimeout: 1}},
		{Server: server.Config{MaxMessageBytes: -1}},
	} {
		if _, err := gateway.New(cfg, settings); err == nil {
			t.Errorf("%+v: no error", cfg.Server)
		}
	}
}
