package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	colmetricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/coppice-mesh/coppice/balancer/expose"
	"github.com/coppice-mesh/coppice/balancer/roster"
	"github.com/coppice-mesh/coppice/balancer/supervise"
	"github.com/coppice-mesh/coppice/balancer/supervise/journal"
	"github.com/coppice-mesh/coppice/balancer/supervise/process"
	"github.com/coppice-mesh/coppice/balancer/track"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nothing is a spawner without processes, a journal without a disk and a scaler without a pool.
type nothing struct{}

func (nothing) Spawn(context.Context, supervise.Spec, func(process.Identity)) (supervise.Worker, error) {
	return nil, errors.New("no processes here")
}

func (nothing) Adopt(process.Identity, supervise.Spec) (supervise.Worker, error) {
	return nil, process.ErrGone
}
func (nothing) Save(journal.Record) error      { return nil }
func (nothing) Status() *coppicev1.ScaleStatus { return &coppicev1.ScaleStatus{Desired: 7} }
func (nothing) Auto()                          {}

func (nothing) Pin(n int64) error {
	switch {
	case n > 9:
		return fmt.Errorf("%w: %d", ErrMachineFull, n)
	case n < 1:
		return fmt.Errorf("%w: %d", ErrBounds, n)
	}
	return nil
}

type fixture struct {
	*Server
	t      *testing.T
	client coppicev1.BalancerServiceClient
	conn   *grpc.ClientConn
	model  []byte
	spans  chan *coltracepb.ExportTraceServiceRequest
}

const token = "join token"

func start(t *testing.T) *fixture {
	t.Helper()
	file := filepath.Join(t.TempDir(), "model")
	model := bytes.Repeat([]byte("0123456789abcdef"), chunkBytes/16*2+5)
	if err := os.WriteFile(file, model, 0o600); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	r := roster.New(0)
	models := []*coppicev1.ServedModel{{Sha256: "hash"}, {Sha256: "lost"}}
	sup := supervise.New(supervise.Config{}, supervise.Settings{
		Spawner: nothing{}, Journal: nothing{}, Roster: r, JoinToken: token, Models: models[:1], Logger: logger,
		Jitter: func() float64 { return 0 },
	})
	sup.Start()
	f := &fixture{t: t, model: model, spans: make(chan *coltracepb.ExportTraceServiceRequest, 1)}
	f.Server = New(Settings{
		Supervisor: sup, Roster: r, Scaler: nothing{}, Tracker: track.New(time.Now),
		Page:   expose.New(time.Now, func(track.Source) bool { return true }),
		Models: []Model{{models[0], file}, {models[1], file + "-lost"}},
		Traces: func(req *coltracepb.ExportTraceServiceRequest) { f.spans <- req }, Version: "v", Logger: logger,
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- f.Serve(l) }()
	f.conn, err = grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	f.client = coppicev1.NewBalancerServiceClient(f.conn)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := sup.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		f.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
		f.conn.Close()
	})
	return f
}

func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestFetchModel(t *testing.T) {
	f := start(t)
	fetch := func(token, hash string) ([]byte, error) {
		stream, err := f.client.FetchModel(timeout(t), &coppicev1.FetchModelRequest{Token: token, Sha256: hash})
		if err != nil {
			return nil, err
		}
		var got []byte
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return got, nil
			}
			if err != nil {
				return nil, err
			}
			got = append(got, resp.GetData()...)
		}
	}
	if got, err := fetch(token, "hash"); err != nil || !bytes.Equal(got, f.model) {
		t.Errorf("%d bytes, want %d: %v", len(got), len(f.model), err)
	}
	for _, tt := range []struct {
		token, hash string
		want        codes.Code
	}{
		{"", "hash", codes.Unauthenticated},
		{"other", "hash", codes.Unauthenticated},
		{token, "other", codes.NotFound},
		{token, "lost", codes.Internal},
	} {
		if _, err := fetch(tt.token, tt.hash); status.Code(err) != tt.want {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestWatch(t *testing.T) {
	f := start(t)
	open := func(id string) coppicev1.BalancerService_WatchClient {
		t.Helper()
		stream, err := f.client.Watch(timeout(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&coppicev1.WatchRequest{Hello: &coppicev1.GatewayHello{Gateway: id}}); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	for _, id := range []string{"", strings.Repeat("x", maxName+1)} {
		if _, err := open(id).Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a name of %d bytes: %v", len(id), err)
		}
	}
	first := open("g")
	if v, err := first.Recv(); err != nil || v.GetModels()[0].GetSha256() != "hash" {
		t.Fatalf("%v, %v", v, err)
	}
	second := open("g")
	if _, err := first.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the watch before ends with %v", err)
	}
	if _, err := second.Recv(); err != nil {
		t.Fatal(err)
	}
	// The gateway that hangs up ends without an error.
	if err := second.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after hanging up: %v", err)
	}
}

// TestSlowGateway: one that does not read holds nobody up and gets the newest view in the end.
func TestSlowGateway(t *testing.T) {
	f := start(t)
	stream, err := f.client.Watch(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&coppicev1.WatchRequest{Hello: &coppicev1.GatewayHello{Gateway: "slow"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	// Far more than the connection holds. The supervisor publishes its own view in between, which is empty.
	const views = 400
	big := strings.Repeat("x", 16<<10)
	var last uint64
	for i := range views {
		last = f.Roster.Publish(&coppicev1.WatchResponse{Endpoints: []*coppicev1.Endpoint{{Replica: fmt.Sprint(i), Address: big}}})
	}
	got := 0
	for {
		v, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got++
		if v.GetGeneration() >= last {
			break
		}
	}
	if got >= views {
		t.Errorf("it got all of %d views", got)
	}
}

func TestJoin(t *testing.T) {
	f := start(t)
	join := func(req *coppicev1.JoinRequest) coppicev1.BalancerService_JoinClient {
		t.Helper()
		stream, err := f.client.Join(timeout(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	if _, err := join(&coppicev1.JoinRequest{}).Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a hello: %v", err)
	}
	if _, err := join(&coppicev1.JoinRequest{Hello: &coppicev1.ReplicaHello{Token: "x", Address: "h:1"}}).Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("with a wrong token: %v", err)
	}
	s := join(&coppicev1.JoinRequest{
		Hello:     &coppicev1.ReplicaHello{Token: token, Address: "h:1", Pid: 5, Incarnation: "mine"},
		Heartbeat: &coppicev1.Heartbeat{Models: []string{"hash"}, InFlight: 2},
	})
	resp, err := s.Recv()
	if err != nil || resp.GetWelcome().GetReplica() != "r0" || resp.GetWelcome().GetIncarnation() != "mine" {
		t.Fatalf("%v, %v", resp, err)
	}
	replicas := func() []*coppicev1.ReplicaStatus {
		t.Helper()
		st, err := f.client.Status(timeout(t), &coppicev1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return st.GetReplicas()
	}
	until(t, "it is ready", func() bool {
		r := replicas()
		return len(r) == 1 && r[0].GetState() == coppicev1.ReplicaState_REPLICA_STATE_READY && r[0].GetInFlight() == 2 && r[0].GetPid() == 5
	})
	if err := s.Send(&coppicev1.JoinRequest{Leaving: true}); err != nil {
		t.Fatal(err)
	}
	if resp, err = s.Recv(); err != nil || resp.GetDrain() == nil {
		t.Errorf("%v, %v", resp, err)
	}
	for range 2 {
		if err := s.Send(&coppicev1.JoinRequest{Heartbeat: &coppicev1.Heartbeat{Models: []string{"hash"}}}); err != nil {
			t.Fatal(err)
		}
	}
	if resp, err = s.Recv(); err != nil || !resp.GetStop() {
		t.Errorf("%v, %v", resp, err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	until(t, "it is gone", func() bool { return len(replicas()) == 0 })
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to pass that %s", what)
		}
	}
}

func TestScale(t *testing.T) {
	f := start(t)
	pin := func(n int64) error {
		_, err := f.client.Scale(timeout(t), &coppicev1.ScaleRequest{Target: &coppicev1.ScaleRequest_Replicas{Replicas: n}})
		return err
	}
	for n, want := range map[int64]codes.Code{1: codes.OK, 0: codes.InvalidArgument, 10: codes.ResourceExhausted} {
		if err := pin(n); status.Code(err) != want {
			t.Errorf("%d: %v", n, err)
		}
	}
}

func TestOTLP(t *testing.T) {
	f := start(t)
	str := func(k, v string) *commonpb.KeyValue {
		return &commonpb.KeyValue{Key: k, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}}
	}
	metrics := colmetricspb.NewMetricsServiceClient(f.conn)
	export := func(count uint64) *colmetricspb.ExportMetricsPartialSuccess {
		t.Helper()
		resp, err := metrics.Export(timeout(t), &colmetricspb.ExportMetricsServiceRequest{ResourceMetrics: []*metricspb.ResourceMetrics{{
			Resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{str(string(telemetry.AttrGateway), "g")}},
			ScopeMetrics: []*metricspb.ScopeMetrics{{Metrics: []*metricspb.Metric{{
				Name: telemetry.GatewayDuration, Unit: "s", Data: &metricspb.Metric_ExponentialHistogram{ExponentialHistogram: &metricspb.ExponentialHistogram{
					AggregationTemporality: metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE,
					DataPoints: []*metricspb.ExponentialHistogramDataPoint{{
						TimeUnixNano: 1e9, Count: count, Positive: &metricspb.ExponentialHistogramDataPoint_Buckets{BucketCounts: []uint64{3}},
					}},
				}},
			}}}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetPartialSuccess()
	}
	if p := export(3); p != nil {
		t.Errorf("refused: %v", p)
	}
	if s := f.Tracker.Gateway("g"); s.Count != 3 {
		t.Errorf("stats %+v", s)
	}
	if p := export(4); p.GetRejectedDataPoints() != 1 || p.GetErrorMessage() == "" {
		t.Errorf("a broken point: %v", p)
	}
	_, err := metrics.Export(timeout(t), &colmetricspb.ExportMetricsServiceRequest{ResourceMetrics: []*metricspb.ResourceMetrics{{
		SchemaUrl: strings.Repeat("x", MaxMessageBytes+1),
	}}})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a huge message: %v", err)
	}
	_, err = coltracepb.NewTraceServiceClient(f.conn).Export(timeout(t), &coltracepb.ExportTraceServiceRequest{
		ResourceSpans: []*tracepb.ResourceSpans{{SchemaUrl: "here"}},
	})
	if req := <-f.spans; err != nil || req.GetResourceSpans()[0].GetSchemaUrl() != "here" {
		t.Errorf("%v, %v", req, err)
	}
}

// TestShutdown: open streams do not hold it up, and their peers are told to look for another balancer.
func TestShutdown(t *testing.T) {
	f := start(t)
	health, err := healthpb.NewHealthClient(f.conn).Watch(timeout(t), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := health.Recv(); err != nil {
		t.Fatal(err)
	}
	watch, err := f.client.Watch(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Send(&coppicev1.WatchRequest{Hello: &coppicev1.GatewayHello{Gateway: "g"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	f.Server.Shutdown(ctx)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestStatuses(t *testing.T) {
	for _, s := range statuses {
		if got := status.Code(toStatus(fmt.Errorf("while testing: %w", s.err))); got != s.code {
			t.Errorf("%v is %v, want %v", s.err, got, s.code)
		}
	}
	if toStatus(nil) != nil || status.Code(toStatus(errors.New("x"))) != codes.Internal || status.Code(toStatus(status.Error(codes.DataLoss, ""))) != codes.DataLoss {
		t.Error("other errors have other codes")
	}
}
