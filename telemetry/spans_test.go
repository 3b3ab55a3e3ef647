package telemetry

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// fakeExporter counts spans, and fails or blocks on demand.
type fakeExporter struct {
	spans, batches, largest atomic.Int64
	fail                    atomic.Bool
	block                   chan struct{} // nil: does not block
	stopped                 atomic.Int64
}

var errFake = errors.New("fake")

func (f *fakeExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if f.block != nil {
		select {
		case <-f.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.fail.Load() {
		return errFake
	}
	f.spans.Add(int64(len(spans)))
	f.batches.Add(1)
	f.largest.Store(max(f.largest.Load(), int64(len(spans))))
	return nil
}

func (f *fakeExporter) Shutdown(context.Context) error {
	f.stopped.Add(1)
	return nil
}

func ended() sdktrace.ReadOnlySpan { return tracetest.SpanStub{Name: "s"}.Snapshot() }

func TestSpanQueueExportsAll(t *testing.T) {
	f := &fakeExporter{}
	q := newSpanQueue(f, 1<<16, time.Hour, time.Second, func(err error) { t.Error(err) })
	s := ended()
	for range 10 * batchSpans {
		q.OnEnd(s)
	}
	if err := q.ForceFlush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if n := f.spans.Load(); n != 10*batchSpans {
		t.Errorf("%d spans after ForceFlush, want %d", n, 10*batchSpans)
	}
	for range 10*batchSpans + 1 {
		q.OnEnd(s)
	}
	for range 2 {
		if err := q.Shutdown(testContext(t)); err != nil {
			t.Error(err)
		}
	}
	if n := f.spans.Load(); n != 20*batchSpans+1 {
		t.Errorf("%d spans after Shutdown, want %d", n, 20*batchSpans+1)
	}
	if f.largest.Load() > batchSpans || f.stopped.Load() != 1 {
		t.Errorf("the largest batch had %d spans, and Shutdown was called %d times", f.largest.Load(), f.stopped.Load())
	}
	q.OnEnd(s)
	if n := q.Dropped(); n != 1 {
		t.Errorf("%d dropped, want the one after Shutdown", n)
	}
	if err := q.ForceFlush(testContext(t)); err != nil {
		t.Errorf("ForceFlush after Shutdown: %v", err)
	}
}

// TestSpanQueueBatches: a full batch does not wait for the time.
func TestSpanQueueBatches(t *testing.T) {
	f := &fakeExporter{}
	q := newSpanQueue(f, 1<<16, time.Hour, time.Second, func(err error) { t.Error(err) })
	defer func() { _ = q.Shutdown(testContext(t)) }()
	s := ended()
	for range batchSpans {
		q.OnEnd(s)
	}
	for end := time.Now().Add(10 * time.Second); f.batches.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a full batch was not exported")
		}
	}
}

func TestSpanQueueDrops(t *testing.T) {
	f := &fakeExporter{block: make(chan struct{})}
	var reported atomic.Int64
	q := newSpanQueue(f, 100, time.Millisecond, time.Hour, func(error) { reported.Add(1) })
	s := ended()
	for range 1000 {
		q.OnEnd(s) // one batch is stuck, 100 are queued
	}
	if n := q.Dropped(); n < 1000-200 {
		t.Errorf("%d of 1000 dropped while the exporter is stuck", n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := q.ForceFlush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ForceFlush: %v", err)
	}
	start := time.Now()
	_ = q.Shutdown(ctx)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Shutdown took %v", took)
	}
	if n := q.Dropped(); n != 1000 || reported.Load() == 0 {
		t.Errorf("%d of 1000 dropped at the end, %d errors reported", n, reported.Load())
	}
}

func TestSpanQueueFails(t *testing.T) {
	f := &fakeExporter{}
	f.fail.Store(true)
	var reported atomic.Int64
	q := newSpanQueue(f, 1<<16, time.Hour, time.Second, func(err error) {
		if !errors.Is(err, errFake) {
			t.Error(err)
		}
		reported.Add(1)
	})
	s := ended()
	q.OnEnd(s)
	if err := q.ForceFlush(testContext(t)); !errors.Is(err, errFake) {
		t.Errorf("ForceFlush: %v", err)
	}
	for range 3*batchSpans - 1 {
		q.OnEnd(s)
	}
	_ = q.Shutdown(testContext(t))
	if q.Dropped() != 3*batchSpans || reported.Load() == 0 {
		t.Errorf("%d dropped, want %d; %d reported", q.Dropped(), 3*batchSpans, reported.Load())
	}
}

// TestSpanQueueConcurrently: no span is lost without being counted, whatever ends at the same time.
func TestSpanQueueConcurrently(t *testing.T) {
	f := &fakeExporter{}
	q := newSpanQueue(f, 512, time.Millisecond, time.Second, func(err error) { t.Error(err) })
	s := ended()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20_000 {
				q.OnEnd(s)
			}
		})
	}
	all.Wait()
	_ = q.Shutdown(testContext(t))
	if got := f.spans.Load() + q.Dropped(); got != 80_000 {
		t.Errorf("%d exported + %d dropped = %d, want 80000", f.spans.Load(), q.Dropped(), got)
	}
}

// BenchmarkEnd is what a span costs who makes it, with its way into the queue.
func BenchmarkEnd(b *testing.B) {
	q := newSpanQueue(&fakeExporter{}, maxQueuedSpans, time.Millisecond, time.Second, func(error) {})
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(q), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	tracer := provider.Tracer("test")
	b.ReportAllocs()
	for b.Loop() {
		_, span := tracer.Start(context.Background(), "s")
		span.End()
	}
}

// BenchmarkQueue is the queue's part of it.
func BenchmarkQueue(b *testing.B) {
	q := newSpanQueue(&fakeExporter{}, maxQueuedSpans, time.Millisecond, time.Second, func(error) {})
	defer func() { _ = q.Shutdown(context.Background()) }()
	s := ended()
	b.ReportAllocs()
	for b.Loop() {
		q.OnEnd(s)
	}
}
