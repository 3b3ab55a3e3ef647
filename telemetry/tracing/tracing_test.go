package tracing

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const (
	sampledParent   = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	unsampledParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
)

var parents = []struct {
	in      string
	ok      bool
	sampled bool
}{
	{sampledParent, true, true},
	{unsampledParent, true, false},
	{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", true, true},
	{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", true, true},
	{"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true, true},
	{"fe-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-what-the-future-brings", true, false},
	{"", false, false},
	{"00", false, false},
	{sampledParent[:54], false, false},
	{sampledParent + "-", false, false},
	{sampledParent + "-00", false, false},
	{"fe-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00x", false, false},
	{"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false, false},
	{"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false, false},
	{"00-00000000000000000000000000000000-00f067aa0ba902b7-01", false, false},
	{"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false, false},
	{"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01", false, false},
	{"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false, false},
	{"00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01", false, false},
	{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01", false, false},
	{strings.Repeat("-", 55), false, false},
	{strings.Repeat("é", 28), false, false},
}

func TestParent(t *testing.T) {
	for _, c := range parents {
		sc, ok := Parent(c.in, "vendor=1")
		if ok != c.ok || sc.IsSampled() != c.sampled {
			t.Errorf("%q: %v, sampled %v, want %v, %v", c.in, ok, sc.IsSampled(), c.ok, c.sampled)
			continue
		}
		if !ok {
			continue
		}
		if sc.TraceID().String() != c.in[3:35] || sc.SpanID().String() != c.in[36:52] || !sc.IsRemote() || sc.TraceState().Get("vendor") != "1" {
			t.Errorf("%q is read as %v", c.in, sc)
		}
		if got := Format(sc); got[3:52] != c.in[3:52] || got[:3] != "00-" {
			t.Errorf("%q is written as %q", c.in, got)
		}
	}
}

func TestTracestate(t *testing.T) {
	for state, want := range map[string]string{
		"":                          "",
		"a=1,b=2":                   "a=1,b=2",
		"no state":                  "",
		"a=1,a=2":                   "",
		strings.Repeat("a=1,", 700): "",
	} {
		sc, ok := Parent(sampledParent, state)
		if !ok || sc.TraceState().String() != want {
			t.Errorf("%.20q: %v, %q, want %q", state, ok, sc.TraceState().String(), want)
		}
	}
}

// FuzzParent compares with OpenTelemetry's own propagator.
func FuzzParent(f *testing.F) {
	for _, c := range parents {
		f.Add(c.in, "a=1,b=2")
	}
	f.Add(sampledParent, ",,=")
	f.Fuzz(func(t *testing.T, traceparent, tracestate string) {
		if len(tracestate) > maxTracestate {
			return
		}
		got, ok := Parent(traceparent, tracestate)
		theirs := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(),
			propagation.MapCarrier{"traceparent": traceparent, "tracestate": tracestate}))
		switch {
		case theirs.IsValid() && !ok:
			if traceparent != traceparent[:55]+"-" { // they overlook this one
				t.Errorf("%q is refused", traceparent)
			}
		case !theirs.IsValid() && ok:
			if traceparent[:2] != "00" || traceparent[53:] < "04" { // flags of the future are not an error
				t.Errorf("%q is taken", traceparent)
			}
		case ok && !got.Equal(theirs):
			t.Errorf("%q, %q: %v, want %v", traceparent, tracestate, got, theirs)
		}
		if ok {
			again, ok := Parent(Format(got), tracestate)
			if !ok || !again.Equal(got) {
				t.Errorf("%q is written as %q", traceparent, Format(got))
			}
		}
	})
}

// clock is a time that tests set.
type clock struct{ unix atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(c.unix.Load(), 999_999_999) }

func never() float64 { return 0.999 }

func TestRuleFirstOfASecond(t *testing.T) {
	var c clock
	c.unix.Store(1_800_000_000)
	r := NewRule(10, 0.01, c.now, never)
	count := func(n int) (sampled int) {
		for range n {
			if r.Sample() {
				sampled++
			}
		}
		return sampled
	}
	if n := count(1000); n != 10 {
		t.Errorf("%d in the first second, want 10", n)
	}
	c.unix.Add(1)
	if n := count(3); n != 3 {
		t.Errorf("%d of 3 in the second one", n)
	}
	c.unix.Add(-1) // a straggler that read the clock before
	if n := count(1000); n != 7 {
		t.Errorf("%d more, want the 7 that the second one has left", n)
	}
	c.unix.Add(1)
	if n := count(1000); n != 0 {
		t.Errorf("%d after them, want none", n)
	}
	c.unix.Add(-3600) // set back
	if n := count(1000); n != 10 {
		t.Errorf("%d after the clock was set back, want 10", n)
	}
	c.unix.Store(-5) // before 1970
	count(1)
	c.unix.Store(1 << 60)
	count(1)
	c.unix.Store(1_800_000_000)
	if n := count(1000); n != 10 {
		t.Errorf("%d after strange times, want 10", n)
	}
}

func TestRuleShare(t *testing.T) {
	var c clock
	random := rand.New(rand.NewPCG(1, 2))
	r := NewRule(0, 0.01, c.now, random.Float64)
	n := 0
	for range 100_000 {
		if r.Sample() {
			n++
		}
	}
	if n < 900 || n > 1100 {
		t.Errorf("%d of 100000 at 1 %%", n)
	}
	for ratio, want := range map[float64]bool{0: false, 1: true} {
		if r := NewRule(-1, ratio, c.now, never); r.Sample() != want {
			t.Errorf("ratio %v: %v", ratio, !want)
		}
	}
	if r := NewRule(1<<62, 0, c.now, never); !r.Sample() {
		t.Error("a large number a second samples nothing")
	}
}

func TestRuleConcurrently(t *testing.T) {
	var c clock
	r := NewRule(1000, 0, c.now, never)
	var sampled atomic.Int64
	for second := range int64(5) {
		c.unix.Store(second + 1)
		sampled.Store(0)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 1000 {
					if r.Sample() {
						sampled.Add(1)
					}
				}
			})
		}
		all.Wait()
		if n := sampled.Load(); n != 1000 {
			t.Errorf("second %d: %d, want 1000", second, n)
		}
	}
}

// TestDecide: the client's flag is followed; without one, the rule is.
func TestDecide(t *testing.T) {
	var c clock
	c.unix.Store(1)
	r := NewRule(2, 0, c.now, never)
	for _, want := range []struct {
		traceparent string
		sampled     bool
	}{
		{unsampledParent, false},
		{sampledParent, true},
		{"", true},
		{"nonsense", true},
		{"", false}, // these were two
		{sampledParent, true},
		{unsampledParent, false},
	} {
		parent, sampled := r.Decide(want.traceparent, "a=1")
		if sampled != want.sampled || !parent.HasTraceID() {
			t.Errorf("%q: %v, parent %v", want.traceparent, sampled, parent)
		}
		if known := len(want.traceparent) == 55; known != parent.HasSpanID() || known && Format(parent) != want.traceparent {
			t.Errorf("%q: the parent is %v", want.traceparent, parent)
		}
		if sampled && parent.HasSpanID() && parent.TraceState().Get("a") != "1" {
			t.Error("the tracestate is lost")
		}
	}
	for _, p := range []string{"", unsampledParent} {
		if n := testing.AllocsPerRun(100, func() { r.Decide(p, "a=1,b=2") }); n != 0 {
			t.Errorf("%q: %v allocations", p, n)
		}
	}
}

// TestSpans: spans made afterwards are as if they had been made in time.
func TestSpans(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	defer func() { _ = provider.Shutdown(t.Context()) }()
	tracer := provider.Tracer("test")
	at := func(ms int) time.Time { return time.UnixMilli(1_800_000_000_000 + int64(ms)) }

	parent, _ := Parent(unsampledParent, "a=1") // a request that failed and was not to be recorded
	root := Span{Name: "Predict", Kind: trace.SpanKindServer, Start: at(0), End: at(30), Error: "the model is unknown"}
	ctx, span := Start(tracer, parent, root)
	other, _ := Parent(sampledParent, "")
	sc := Record(ctx, tracer, Span{
		Name: "queue", Kind: trace.SpanKindInternal, Start: at(10), End: at(20),
		Attributes: []attribute.KeyValue{attribute.Int("rows", 3)}, Links: []trace.Link{{SpanContext: other}},
	})
	End(span, root)

	spans := exporter.GetSpans()
	if len(spans) != 2 {
		t.Fatalf("%d spans", len(spans))
	}
	child, server := spans[0], spans[1]
	if !server.SpanContext.IsSampled() || server.Parent.SpanID() != parent.SpanID() || server.SpanContext.TraceID() != parent.TraceID() || server.SpanContext.TraceState().Get("a") != "1" {
		t.Errorf("the root is %v below %v", server.SpanContext, server.Parent)
	}
	if !server.StartTime.Equal(at(0)) || !server.EndTime.Equal(at(30)) || server.Status.Code != codes.Error || server.Status.Description != root.Error || server.SpanKind != trace.SpanKindServer {
		t.Errorf("%+v", server)
	}
	if !child.SpanContext.Equal(sc) || child.Parent.SpanID() != server.SpanContext.SpanID() || !child.StartTime.Equal(at(10)) || !child.EndTime.Equal(at(20)) ||
		child.Status.Code != codes.Unset || len(child.Attributes) != 1 || len(child.Links) != 1 || child.Links[0].SpanContext.TraceID() != other.TraceID() {
		t.Errorf("%+v", child)
	}

	// A trace that begins here has the id that was given out for it.
	exporter.Reset()
	begins, _ := NewRule(0, 0, time.Now, never).Decide("", "")
	_, span = Start(tracer, begins, root)
	End(span, root)
	if got := exporter.GetSpans()[0]; got.SpanContext.TraceID() != begins.TraceID() || got.Parent.IsValid() {
		t.Errorf("%v below %v, want trace %v", got.SpanContext, got.Parent, begins.TraceID())
	}
	_, span = Start(tracer, trace.SpanContext{}, root)
	if !span.SpanContext().IsValid() {
		t.Error("without a parent there is no trace")
	}
}

func BenchmarkDecide(b *testing.B) {
	r := NewRule(DefaultPerSecond, DefaultRatio, time.Now, rand.Float64)
	for name, p := range map[string][2]string{
		"none":      {"", ""},
		"unsampled": {unsampledParent, ""},
		"state":     {unsampledParent, "vendor=abc,other=def"},
		"sampled":   {sampledParent, ""},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Decide(p[0], p[1])
			}
		})
	}
}

// BenchmarkPropagator is the reference of BenchmarkDecide.
func BenchmarkPropagator(b *testing.B) {
	carrier := propagation.MapCarrier{"traceparent": unsampledParent}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		propagation.TraceContext{}.Extract(ctx, carrier)
	}
}

func BenchmarkFormat(b *testing.B) {
	sc, _ := Parent(sampledParent, "")
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendFormat(buf[:0], sc)
	}
}

// nowhere is a span processor that does nothing: what is measured is the making of spans.
type nowhere struct{}

func (nowhere) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (nowhere) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (nowhere) Shutdown(context.Context) error                  { return nil }
func (nowhere) ForceFlush(context.Context) error                { return nil }

func BenchmarkRecord(b *testing.B) {
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(nowhere{}), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	tracer := provider.Tracer("test")
	parent, _ := Parent(sampledParent, "")
	ctx := trace.ContextWithSpanContext(context.Background(), parent)
	now := time.Now()
	s := Span{
		Name: "evaluate", Kind: trace.SpanKindInternal, Start: now, End: now,
		Attributes: []attribute.KeyValue{attribute.Int("coppice.rows", 3), attribute.String("coppice.model", "demo")},
	}
	b.ReportAllocs()
	for b.Loop() {
		Record(ctx, tracer, s)
	}
}
