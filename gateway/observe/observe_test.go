package observe_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/gateway/internal/fakes"
	"github.com/coppice-mesh/coppice/gateway/observe"
	"github.com/coppice-mesh/coppice/gateway/pool"
	"github.com/coppice-mesh/coppice/gateway/route"
	"github.com/coppice-mesh/coppice/gateway/server"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/telemetry"
	"github.com/coppice-mesh/coppice/telemetry/latency"
	"github.com/coppice-mesh/coppice/telemetry/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
)

// rig is a server whose requests are observed.
type rig struct {
	server   *server.Server
	pool     *pool.Pool
	observer *observe.Observer
	producer *latency.Producer
	spans    *tracetest.InMemoryExporter
	logs     *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newRig makes a rig that traces so many new traces a second, and none beyond it.
func newRig(t testing.TB, perSecond int, replicas ...*fakes.Replica) *rig {
	t.Helper()
	r := &rig{spans: tracetest.NewInMemoryExporter(), logs: &lockedBuffer{}, producer: observe.NewProducer(time.Now())}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.spans), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	now := time.Now()
	rule := tracing.NewRule(perSecond, 0, func() time.Time { return now }, func() float64 { return 0.5 })
	logger := slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.observer = observe.New(r.producer, provider.Tracer("test"), rule, logger)
	r.pool = pool.New(pool.Config{MaxWait: 50 * time.Millisecond}, pool.Settings{Logger: slog.New(slog.DiscardHandler)})
	r.pool.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r.pool.Shutdown(ctx)
		if err := provider.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	r.server = server.New(server.Config{}, server.Settings{Pool: r.pool, Observer: r.observer, RequestID: func() string { return "made" }})
	r.server.Serve(&server.Served{AllowWork: true, Models: route.New([]*coppicev1.ServedModel{{Name: "m", Version: "0123456789abcdef", Features: 2, Cost: 1}})})
	var list []*coppicev1.Endpoint
	for i, f := range replicas {
		list = append(list, f.Endpoint(fmt.Sprintf("r%d", i)))
	}
	r.pool.Update(list)
	fakes.Eventually(t, "all replicas are ready", func() bool { return r.pool.Ready() == len(replicas) })
	return r
}

func payload(t testing.TB, model string, work coppicev1.Work) []byte {
	t.Helper()
	b, err := proto.Marshal(&coppicev1.PredictRequest{Model: model, Work: work, Instances: []*coppicev1.Instance{{Values: []float64{1, 2}}, {Values: []float64{3, 4}}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// do runs a request to its end.
func (r *rig) do(t testing.TB, model, parent, state string) *server.Request {
	t.Helper()
	q := &server.Request{Protocol: coppicev1.PredictService_Predict_FullMethodName}
	q.Payload = payload(t, model, 0)
	q.Trace.Parent, q.Trace.State = parent, state
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r.server.Do(ctx, q)
	return q
}

// byName finds spans.
func byName(spans tracetest.SpanStubs) map[string]tracetest.SpanStub {
	all := map[string]tracetest.SpanStub{}
	for _, s := range spans {
		all[s.Name] = s
	}
	return all
}

func attr(s tracetest.SpanStub, key attribute.Key) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

const serverSpan = "coppice.v1.PredictService/Predict"

// TestSampled: a request that is traced leaves a span for itself and one for each of its steps, within it, and the
// replica is told of the trace.
func TestSampled(t *testing.T) {
	jobs := make(chan *fakes.Job, 1)
	r := newRig(t, 10, fakes.StartReplica(t, func(j *fakes.Job) { jobs <- j; fakes.Sum(j) }))
	q := r.do(t, "m", "", "")
	if q.Err != nil {
		t.Fatal(q.Err)
	}
	spans := byName(r.spans.GetSpans())
	root := spans[serverSpan]
	if len(spans) != 4 || root.SpanKind != trace.SpanKindServer || root.Parent.IsValid() || root.Status.Code != otelcodes.Unset {
		t.Fatalf("spans %v", r.spans.GetSpans().Snapshots())
	}
	for _, name := range []string{"admission", "pick", "attempt"} {
		s, ok := spans[name]
		if !ok || s.Parent.SpanID() != root.SpanContext.SpanID() || s.SpanContext.TraceID() != root.SpanContext.TraceID() {
			t.Errorf("%s: parent %v", name, s.Parent)
		}
		if s.StartTime.Before(root.StartTime) || s.EndTime.After(root.EndTime) || s.EndTime.Before(s.StartTime) {
			t.Errorf("%s is from %v to %v, the request from %v to %v", name, s.StartTime, s.EndTime, root.StartTime, root.EndTime)
		}
	}
	for key, want := range map[attribute.Key]string{
		telemetry.AttrModel: "m", telemetry.AttrModelVersion: "0123456789abcdef", telemetry.AttrRows: "2", telemetry.AttrWork: "light",
		telemetry.AttrReplica: "r0", telemetry.AttrRPCCode: "OK", telemetry.AttrRequestID: "made", telemetry.AttrRPCSystem: "grpc",
		telemetry.AttrRPCMethod: serverSpan,
	} {
		if got := attr(root, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if a := spans["attempt"]; a.SpanKind != trace.SpanKindClient || attr(a, telemetry.AttrReplica) != "r0" || attr(a, telemetry.AttrAttempt) != "1" {
		t.Errorf("attempt: %v", a)
	}
	want := "00-" + root.SpanContext.TraceID().String() + "-" + root.SpanContext.SpanID().String() + "-"
	if j := <-jobs; !strings.HasPrefix(string(j.Traceparent), want) || !strings.HasSuffix(string(j.Traceparent), "1") || q.Trace.ID != root.SpanContext.TraceID().String() {
		t.Errorf("the replica was told %q, the client %q; want %s", j.Traceparent, q.Trace.ID, want)
	}
}

// TestClientsTrace: a valid traceparent is continued; its sampled flag decides.
func TestClientsTrace(t *testing.T) {
	jobs := make(chan *fakes.Job, 1)
	r := newRig(t, 0, fakes.StartReplica(t, func(j *fakes.Job) { jobs <- j; fakes.Sum(j) }))
	q := r.do(t, "m", "00-"+traceID+"-"+spanID+"-01", "vendor=x")
	spans := byName(r.spans.GetSpans())
	root := spans[serverSpan]
	if len(spans) != 4 || root.Parent.TraceID().String() != traceID || root.Parent.SpanID().String() != spanID || !root.Parent.IsRemote() {
		t.Errorf("spans %v, parent %v", len(spans), root.Parent)
	}
	if j := <-jobs; !strings.HasPrefix(string(j.Traceparent), "00-"+traceID) || string(j.Tracestate) != "vendor=x" || q.Trace.ID != traceID {
		t.Errorf("the replica was told %q %q, the client %q", j.Traceparent, j.Tracestate, q.Trace.ID)
	}
	r.spans.Reset()
	for _, parent := range []string{"00-" + traceID + "-" + spanID + "-00", "", "nonsense", "00-" + strings.Repeat("0", 32) + "-" + spanID + "-01"} {
		if q := r.do(t, "m", parent, ""); q.Err != nil {
			t.Error(q.Err)
		}
		if j := <-jobs; len(j.Traceparent) != 0 {
			t.Errorf("%q: the replica was told %q", parent, j.Traceparent)
		}
	}
	if n := len(r.spans.GetSpans()); n != 0 {
		t.Errorf("%d spans of requests that are not sampled", n)
	}
}

// TestFailed: a request that fails leaves its gateway's spans whether it was sampled or not, in the client's trace if
// there is one, and a line in the log that tells the trace.
func TestFailed(t *testing.T) {
	refuse := fakes.StartReplica(t, func(j *fakes.Job) { j.Refuse(codes.Internal, "it broke") })
	for name, tt := range map[string]struct {
		model, parent string
		code, says    string
		steps         int
	}{
		"at the replica":        {"m", "", "INTERNAL", "it broke", 4},
		"in the client's trace": {"m", "00-" + traceID + "-" + spanID + "-00", "INTERNAL", "it broke", 4},
		"before admission":      {"nothing", "", "NOT_FOUND", `model "nothing" is not served`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 0, refuse)
			q := r.do(t, tt.model, tt.parent, "")
			if q.Err == nil {
				t.Fatal("no error")
			}
			spans := byName(r.spans.GetSpans())
			root := spans[serverSpan]
			if len(spans) != tt.steps || root.Status.Code != otelcodes.Error || !strings.Contains(root.Status.Description, tt.says) || attr(root, telemetry.AttrRPCCode) != tt.code {
				t.Errorf("%d spans, %v %v", len(spans), root.Status, root.Attributes)
			}
			if id := root.SpanContext.TraceID().String(); q.Trace.ID != id || (tt.parent != "" && id != traceID) {
				t.Errorf("the client was told of trace %q, it is %s", q.Trace.ID, id)
			}
			if got := r.logs.String(); !strings.Contains(got, tt.code) || !strings.Contains(got, "made") || strings.Count(got, "\n") != 1 {
				t.Errorf("log: %s", got)
			}
		})
	}
}

// TestReplay: each replica that was tried has a span, and one that died says so.
func TestReplay(t *testing.T) {
	var died, lives *fakes.Replica
	came := make(chan struct{})
	died = fakes.StartReplica(t, func(*fakes.Job) { close(came) })
	r := newRig(t, 10, died)
	done := make(chan *server.Request, 1)
	go func() { done <- r.do(t, "m", "", "") }()
	<-came
	lives = fakes.StartReplica(t, fakes.Sum)
	r.pool.Update([]*coppicev1.Endpoint{died.Endpoint("r0"), lives.Endpoint("r1")})
	fakes.Eventually(t, "both are ready", func() bool { return r.pool.Ready() == 2 })
	died.Stop()
	if q := <-done; q.Err != nil {
		t.Fatal(q.Err)
	}
	spans := byName(r.spans.GetSpans())
	first, second := spans["attempt"], spans["replay"]
	if first.Status.Code != otelcodes.Error || attr(first, telemetry.AttrReplica) != "r0" || attr(second, telemetry.AttrReplica) != "r1" || attr(second, telemetry.AttrAttempt) != "2" || second.Status.Code == otelcodes.Error {
		t.Errorf("attempt %v %v, replay %v", first.Status, first.Attributes, second.Attributes)
	}
	if attr(spans[serverSpan], telemetry.AttrReplica) != "r1" || spans[serverSpan].Status.Code == otelcodes.Error {
		t.Errorf("the request: %v", spans[serverSpan].Attributes)
	}

	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	if err := r.observer.Instrument(meters.Meter("test"), r.pool); err != nil {
		t.Fatal(err)
	}
	var got metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &got); err != nil {
		t.Fatal(err)
	}
	values := map[string]int64{}
	for _, m := range got.ScopeMetrics[0].Metrics {
		switch d := m.Data.(type) {
		case metricdata.Sum[int64]:
			values[m.Name] = d.DataPoints[0].Value
		case metricdata.Gauge[int64]:
			values[m.Name] = d.DataPoints[0].Value
		}
	}
	if values[telemetry.GatewayReplays] != 1 || values[telemetry.GatewayInFlight] != 0 {
		t.Errorf("metrics %v", values)
	}
}

// TestLatencies: each request is counted once, by its code and its work.
func TestLatencies(t *testing.T) {
	r := newRig(t, 0, fakes.StartReplica(t, fakes.Sum))
	for range 3 {
		r.do(t, "m", "", "")
	}
	r.do(t, "nothing", "", "")
	for _, w := range []coppicev1.Work{coppicev1.Work_WORK_HEAVY, 99} {
		q := &server.Request{}
		q.Payload = payload(t, "m", w)
		r.server.Do(context.Background(), q)
	}
	q := &server.Request{OnDone: func(*server.Request) {}}
	r.server.Reject(q, errors.New("of no kind that is known"))
	scopes, err := r.producer.Produce(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, p := range scopes[0].Metrics[0].Data.(metricdata.ExponentialHistogram[float64]).DataPoints {
		if p.Count == 0 {
			continue
		}
		code, _ := p.Attributes.Value(telemetry.AttrRPCCode)
		work, _ := p.Attributes.Value(telemetry.AttrWork)
		got[code.AsString()+" "+work.AsString()] = got[code.AsString()+" "+work.AsString()] + p.Count
	}
	want := map[string]uint64{"OK light": 3, "NOT_FOUND light": 1, "OK heavy": 1, "INVALID_ARGUMENT light": 1, "INTERNAL light": 1}
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%s: %d, want %d", k, got[k], n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("counted %v", got)
	}
}

// TestLogIsBounded: a storm of failures does not become a storm of lines.
func TestLogIsBounded(t *testing.T) {
	r := newRig(t, 0)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 250 {
				r.do(t, "nothing", "", "")
			}
		})
	}
	begun := time.Now()
	wg.Wait()
	seconds := int(time.Since(begun)/time.Second) + 2
	if n := strings.Count(r.logs.String(), "\n"); n == 0 || n > 10*seconds {
		t.Errorf("%d lines in %d s", n, seconds)
	}
}

// TestWithoutTracer: metrics alone.
func TestWithoutTracer(t *testing.T) {
	o := observe.New(observe.NewProducer(time.Now()), nil, nil, slog.New(slog.DiscardHandler))
	q := &server.Request{}
	q.Err, q.Ended = errors.New("x"), time.Now()
	o.Begun(q)
	o.Ended(q)
	if q.Trace.ID != "" {
		t.Errorf("trace %q", q.Trace.ID)
	}
}

// unsampled observes a request that is not traced and went well.
func unsampled(o *observe.Observer, q *server.Request) {
	q.Arrived = time.Now()
	o.Begun(q)
	q.Ended = time.Now()
	o.Ended(q)
}

// TestUnsampledDoesNotAllocate: what is not traced costs no memory, whether its client has a trace or not.
func TestUnsampledDoesNotAllocate(t *testing.T) {
	r := newRig(t, 0)
	for _, parent := range []string{"", "00-" + traceID + "-" + spanID + "-00"} {
		q := &server.Request{}
		q.Trace.Parent, q.Trace.State = parent, "vendor=x"
		if n := testing.AllocsPerRun(100, func() { unsampled(r.observer, q) }); n != 0 {
			t.Errorf("%q: %v allocations", parent, n)
		}
	}
}

// BenchmarkObserve compares a request that is not traced with one that is.
func BenchmarkObserve(b *testing.B) {
	o := observe.New(observe.NewProducer(time.Now()), sdktrace.NewTracerProvider().Tracer("test"), tracing.NewRule(0, 0, time.Now, func() float64 { return 0.5 }), slog.New(slog.DiscardHandler))
	for name, parent := range map[string]string{"unsampled": "", "sampled": "00-" + traceID + "-" + spanID + "-01"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				q := &server.Request{}
				q.Trace.Parent = parent
				unsampled(o, q)
			}
		})
	}
}
