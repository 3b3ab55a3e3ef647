// Package otlptest is an OTLP endpoint for tests: a real server that can be good, slow, silent or gone.
package otlptest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // it takes what is compressed
	"google.golang.org/grpc/metadata"
)

// Receiver is an endpoint that keeps what it is sent.
type Receiver struct {
	collectortrace.UnimplementedTraceServiceServer
	addr string

	mu      sync.Mutex
	server  *grpc.Server
	served  sync.WaitGroup
	answer  func(context.Context) (*collectortrace.ExportTraceServiceResponse, error)
	traces  []*tracepb.ResourceSpans
	metrics []*metricspb.ResourceMetrics
	headers metadata.MD
	calls   int
}

// Listen starts a receiver on a free port of the loopback. It ends with the test.
func Listen(t testing.TB, opts ...grpc.ServerOption) *Receiver {
	t.Helper()
	r := &Receiver{}
	r.addr = r.listen(t, "127.0.0.1:0", opts)
	t.Cleanup(r.Stop)
	return r
}

// Restart serves again on the same port, after Stop.
func (r *Receiver) Restart(t testing.TB, opts ...grpc.ServerOption) {
	t.Helper()
	r.listen(t, r.addr, opts)
}

func (r *Receiver) listen(t testing.TB, addr string, opts []grpc.ServerOption) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(opts...)
	collectortrace.RegisterTraceServiceServer(server, r)
	collectormetrics.RegisterMetricsServiceServer(server, metricsService{r: r})
	r.mu.Lock()
	r.server = server
	r.mu.Unlock()
	r.served.Go(func() { _ = server.Serve(l) })
	return l.Addr().String()
}

// Addr is "host:port".
func (r *Receiver) Addr() string { return r.addr }

// Stop closes the port and all connections.
func (r *Receiver) Stop() {
	r.mu.Lock()
	server := r.server
	r.mu.Unlock()
	server.Stop()
	r.served.Wait()
}

// Answer makes the receiver call f before it answers. If f fails, nothing is kept. ctx is the call's.
func (r *Receiver) Answer(f func(ctx context.Context) (*collectortrace.ExportTraceServiceResponse, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// Hang makes the receiver not answer until the caller gives up.
func (r *Receiver) Hang() {
	r.Answer(func(ctx context.Context) (*collectortrace.ExportTraceServiceResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
}

func (r *Receiver) called(ctx context.Context) (*collectortrace.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	r.calls++
	r.headers, _ = metadata.FromIncomingContext(ctx)
	f := r.answer
	r.mu.Unlock()
	if f == nil {
		return &collectortrace.ExportTraceServiceResponse{}, nil
	}
	return f(ctx)
}

// Export implements the trace service.
func (r *Receiver) Export(ctx context.Context, req *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	resp, err := r.called(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.traces = append(r.traces, req.GetResourceSpans()...)
	return resp, nil
}

type metricsService struct {
	collectormetrics.UnimplementedMetricsServiceServer
	r *Receiver
}

func (m metricsService) Export(ctx context.Context, req *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	if _, err := m.r.called(ctx); err != nil {
		return nil, err
	}
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	m.r.metrics = append(m.r.metrics, req.GetResourceMetrics()...)
	return &collectormetrics.ExportMetricsServiceResponse{}, nil
}

// Calls is the number of calls, also of those that were not answered.
func (r *Receiver) Calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

// Headers are those of the newest call.
func (r *Receiver) Headers() metadata.MD {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.headers
}

// Metrics are those of all exports so far.
func (r *Receiver) Metrics() []*metricspb.ResourceMetrics {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*metricspb.ResourceMetrics(nil), r.metrics...)
}

// Metric is the newest of this name, or nil, and the resource of its sender.
func (r *Receiver) Metric(name string) (found *metricspb.Metric, from *metricspb.ResourceMetrics) {
	for _, rm := range r.Metrics() {
		for _, sm := range rm.GetScopeMetrics() {
			for _, m := range sm.GetMetrics() {
				if m.GetName() == name {
					found, from = m, rm
				}
			}
		}
	}
	return found, from
}

// Traces are the spans so far, with their resources.
func (r *Receiver) Traces() []*tracepb.ResourceSpans {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*tracepb.ResourceSpans(nil), r.traces...)
}

// Spans are the spans so far.
func (r *Receiver) Spans() (spans []*tracepb.Span) {
	for _, rs := range r.Traces() {
		for _, ss := range rs.GetScopeSpans() {
			spans = append(spans, ss.GetSpans()...)
		}
	}
	return spans
}

// Until waits for something to become true, for up to ten seconds.
func Until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Refusing is an address where nobody listens.
func Refusing(t testing.TB) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Silent is an address where connections are accepted and nothing is ever answered, nor read.
func Silent(t testing.TB) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		var conns []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			conns = append(conns, c)
		}
		for _, c := range conns {
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait()
	})
	return l.Addr().String()
}
