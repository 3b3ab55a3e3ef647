package observe

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica/worker"
	"github.com/coppice-mesh/coppice/telemetry"
)

const (
	sampled    = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	notSampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

var (
	epoch = time.Unix(1_700_000_000, 0)
	churn = &worker.Model{Name: "churn", Version: "v1"}
)

// at is a time of a request, in milliseconds after it arrived.
func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

// answered is the record of a request that went well: 1 ms in the queue, 2 ms until evaluation, 4 ms of that.
func answered(change func(*worker.Record)) *worker.Record {
	r := &worker.Record{
		Model: churn, Rows: 3, Work: coppicev1.Work_WORK_HEAVY, Traceparent: []byte(sampled), Tracestate: []byte("v=1"), RequestID: []byte("q7"),
		Arrived: at(0), Batched: at(1), Evaluated: at(3), Done: at(7), BatchRequests: 2, BatchRows: 5, BatchFirst: true,
	}
	if change != nil {
		change(r)
	}
	return r
}

func newObserver(t *testing.T) (*Observer, *tracetest.SpanRecorder, *sdkmetric.ManualReader) {
	t.Helper()
	producer := NewProducer(epoch)
	o := New(producer)
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(producer))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	if err := o.Instrument(meters.Meter("test"), func() int64 { return 9 }); err != nil {
		t.Fatal(err)
	}
	spans := tracetest.NewSpanRecorder()
	traces := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	o.Trace(traces.Tracer("test"))
	t.Cleanup(func() {
		_ = traces.Shutdown(context.Background())
		_ = meters.Shutdown(context.Background())
	})
	return o, spans, reader
}

// span is what these tests look at of one.
type span struct {
	Name       string
	Kind       trace.SpanKind
	Start, End int // milliseconds after the arrival
	Attributes map[string]any
	Error      string
}

func spansOf(recorder *tracetest.SpanRecorder) map[string]span {
	out := map[string]span{}
	for _, s := range recorder.Ended() {
		v := span{
			Name: s.Name(), Kind: s.SpanKind(),
			Start: int(s.StartTime().Sub(epoch).Milliseconds()), End: int(s.EndTime().Sub(epoch).Milliseconds()),
			Attributes: map[string]any{},
		}
		for _, a := range s.Attributes() {
			v.Attributes[string(a.Key)] = a.Value.AsInterface()
		}
		if s.Status().Code == otelcodes.Error {
			v.Error = s.Status().Description
		}
		out[v.Name] = v
	}
	return out
}

const exchange = "coppice.v1.WorkerService/Exchange"

func TestSpans(t *testing.T) {
	whole := map[string]any{
		"coppice.rows": int64(3), "coppice.request.id": "q7", "coppice.work": "heavy", "coppice.model": "churn", "coppice.model.version": "v1",
	}
	without := func(m map[string]any, keys ...string) map[string]any {
		out := map[string]any{}
		for k, v := range m {
			out[k] = v
		}
		for _, k := range keys {
			delete(out, k)
		}
		return out
	}
	for _, tt := range []struct {
		name   string
		change func(*worker.Record)
		want   map[string]span
	}{
		{"answered", nil, map[string]span{
			exchange:   {exchange, trace.SpanKindServer, 0, 7, whole, ""},
			"queue":    {"queue", trace.SpanKindInternal, 0, 1, map[string]any{}, ""},
			"batch":    {"batch", trace.SpanKindInternal, 1, 3, map[string]any{"coppice.batch.requests": int64(2), "coppice.batch.rows": int64(5)}, ""},
			"evaluate": {"evaluate", trace.SpanKindInternal, 3, 7, map[string]any{"coppice.batch.rows": int64(5)}, ""},
		}},
		{"refused while the batch was formed", func(r *worker.Record) {
			r.Code, r.Message = codes.InvalidArgument, "row 0, feature 1: NaN"
			r.Evaluated, r.BatchFirst, r.BatchRows, r.BatchRequests = time.Time{}, false, 0, 0
		}, map[string]span{
			exchange: {exchange, trace.SpanKindServer, 0, 7, whole, "row 0, feature 1: NaN"},
			"queue":  {"queue", trace.SpanKindInternal, 0, 1, map[string]any{}, ""},
			"batch":  {"batch", trace.SpanKindInternal, 1, 7, map[string]any{"coppice.batch.requests": int64(0), "coppice.batch.rows": int64(0)}, ""},
		}},
		{"refused at once, no such model", func(r *worker.Record) {
			*r = worker.Record{Code: codes.NotFound, Message: "no such model", Arrived: at(0), Done: at(7), Traceparent: r.Traceparent, RequestID: r.RequestID, Rows: 3, Work: r.Work}
		}, map[string]span{
			exchange: {exchange, trace.SpanKindServer, 0, 7, without(whole, "coppice.model", "coppice.model.version"), "no such model"},
		}},
		{"strings that are not UTF-8", func(r *worker.Record) {
			*r = worker.Record{Code: codes.NotFound, Message: "no \xff", Arrived: at(0), Done: at(7), Traceparent: r.Traceparent, RequestID: []byte("q\xfe"), Rows: 3, Work: r.Work}
		}, map[string]span{
			exchange: {exchange, trace.SpanKindServer, 0, 7, map[string]any{
				"coppice.rows": int64(3), "coppice.request.id": "q\uFFFD", "coppice.work": "heavy",
			}, "no \uFFFD"},
		}},
		{"not sampled", func(r *worker.Record) { r.Traceparent = []byte(notSampled) }, map[string]span{}},
		{"no traceparent", func(r *worker.Record) { r.Traceparent = nil }, map[string]span{}},
		{"bad traceparent", func(r *worker.Record) { r.Traceparent = []byte("00-xyz") }, map[string]span{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, spans, _ := newObserver(t)
			o.Answered(answered(tt.change))
			if d := cmp.Diff(tt.want, spansOf(spans)); d != "" {
				t.Errorf("spans (-want +got):\n%s", d)
			}
		})
	}
}

// TestTree sees that the spans are of the gateway's trace, and under its span.
func TestTree(t *testing.T) {
	o, spans, _ := newObserver(t)
	o.Answered(answered(nil))
	var server sdktrace.ReadOnlySpan
	for _, s := range spans.Ended() {
		if got := s.SpanContext().TraceID().String(); got != sampled[3:35] {
			t.Errorf("%s is of trace %s", s.Name(), got)
		}
		if s.Name() == exchange {
			server = s
		}
	}
	if got := server.Parent(); got.SpanID().String() != sampled[36:52] || !got.IsRemote() || got.TraceState().String() != "v=1" {
		t.Errorf("its parent is %+v", got)
	}
	for _, s := range spans.Ended() {
		if s != server && s.Parent().SpanID() != server.SpanContext().SpanID() {
			t.Errorf("%s is not under it", s.Name())
		}
	}
}

// TestNoTracer sees that requests which come before the tracer are counted, and not traced.
func TestNoTracer(t *testing.T) {
	p := NewProducer(epoch)
	o := New(p)
	o.Answered(answered(nil))
	metrics, err := p.Produce(t.Context())
	if err != nil || len(metrics) != 1 {
		t.Errorf("got %v, %v", metrics, err)
	}
}

func TestMetrics(t *testing.T) {
	o, _, reader := newObserver(t)
	for _, change := range []func(*worker.Record){
		nil,
		func(r *worker.Record) { r.BatchFirst, r.Rows = false, 2 },
		// Evaluated, and then nobody waited for it any more: the work was done.
		func(r *worker.Record) { r.Code, r.Rows = codes.Canceled, 10 },
		// Refused before.
		func(r *worker.Record) { r.Code, r.Evaluated, r.BatchFirst = codes.InvalidArgument, time.Time{}, false },
		func(r *worker.Record) {
			*r = worker.Record{Code: codes.NotFound, Arrived: at(0), Done: at(1), Rows: 1000}
		},
	} {
		o.Answered(answered(change))
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	numbers := map[string]int64{}
	counts := map[bool]uint64{}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				numbers[m.Name] = data.DataPoints[0].Value
			case metricdata.Gauge[int64]:
				numbers[m.Name] = data.DataPoints[0].Value
			case metricdata.ExponentialHistogram[float64]:
				if m.Name != telemetry.ReplicaDuration || m.Unit != "s" || data.Temporality != metricdata.CumulativeTemporality {
					t.Errorf("histogram is %s in %q, %v", m.Name, m.Unit, data.Temporality)
				}
				for _, p := range data.DataPoints {
					ok, _ := p.Attributes.Value(attribute.Key("ok"))
					counts[ok.AsBool()] = p.Count
					if !p.StartTime.Equal(epoch) {
						t.Errorf("it starts at %v", p.StartTime)
					}
					if ok.AsBool() && (p.Sum < 0.01399 || p.Sum > 0.01401) {
						t.Errorf("2 requests of 7 ms took %v s", p.Sum)
					}
				}
			}
		}
	}
	want := map[string]int64{telemetry.ReplicaRows: 15, telemetry.ReplicaBatches: 2, telemetry.ReplicaInFlight: 9}
	if d := cmp.Diff(want, numbers); d != "" {
		t.Errorf("numbers (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[bool]uint64{true: 2, false: 3}, counts); d != "" {
		t.Errorf("requests by ok (-want +got):\n%s", d)
	}
}

// BenchmarkAnswered shows what a request that is not traced costs.
func BenchmarkAnswered(b *testing.B) {
	o := New(NewProducer(epoch))
	tracer := sdktrace.NewTracerProvider().Tracer("bench")
	o.Trace(tracer)
	for _, bench := range []struct{ name, parent string }{{"not traced", ""}, {"not sampled", notSampled}, {"traced", sampled}} {
		b.Run(bench.name, func(b *testing.B) {
			r := answered(func(r *worker.Record) { r.Traceparent = []byte(bench.parent) })
			b.ReportAllocs()
			for b.Loop() {
				o.Answered(r)
			}
		})
	}
}
