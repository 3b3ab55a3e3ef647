package telemetry

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// spanQueue is a span processor that never blocks who ends a span, counts every span that it drops, and is
// done with its shutdown when the context is. The SDK's own batch processor tells nobody what it drops, and
// goes on exporting behind a shutdown that has timed out.
type spanQueue struct {
	exporter sdktrace.SpanExporter
	every    time.Duration // between two exports
	timeout  time.Duration // of one
	report   func(error)

	queue   chan sdktrace.ReadOnlySpan
	enough  chan struct{} // a batch is full
	flushes chan chan error
	dropped atomic.Int64

	ctx      context.Context // of all exports
	cancel   context.CancelFunc
	shutdown sync.Once
	closing  chan struct{}
	done     chan struct{}
	err      error // of the exporter's shutdown
}

func newSpanQueue(exporter sdktrace.SpanExporter, size int, every, timeout time.Duration, report func(error)) *spanQueue {
	q := &spanQueue{
		exporter: exporter, every: every, timeout: timeout, report: report,
		queue: make(chan sdktrace.ReadOnlySpan, size), enough: make(chan struct{}, 1), flushes: make(chan chan error),
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(q.done)
		q.run()
	}()
	return q
}

// OnStart implements sdktrace.SpanProcessor.
func (q *spanQueue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd queues a span, or drops it if there is no room.
func (q *spanQueue) OnEnd(s sdktrace.ReadOnlySpan) {
	select {
	case <-q.closing:
		q.dropped.Add(1)
		return
	default:
	}
	select {
	case q.queue <- s:
		if len(q.queue) >= batchSpans {
			select {
			case q.enough <- struct{}{}:
			default:
			}
		}
	default:
		q.dropped.Add(1)
	}
}

// Dropped is the number of spans that did not reach the endpoint.
func (q *spanQueue) Dropped() int64 { return q.dropped.Load() }

func (q *spanQueue) run() {
	tick := time.NewTicker(q.every)
	defer tick.Stop()
	batch := make([]sdktrace.ReadOnlySpan, 0, batchSpans)
	for {
		select {
		case <-tick.C:
			_, _ = q.export(batch)
		case <-q.enough:
			_, _ = q.export(batch)
		case flushed := <-q.flushes:
			flushed <- q.drain(batch)
		case <-q.closing:
			_ = q.drain(batch)
			for {
				select {
				case <-q.queue:
					q.dropped.Add(1)
				default:
					return
				}
			}
		}
	}
}

// drain exports until the queue is empty, or until the endpoint fails once.
func (q *spanQueue) drain(batch []sdktrace.ReadOnlySpan) error {
	for range cap(q.queue)/batchSpans + 1 {
		if n, err := q.export(batch); err != nil || n == 0 {
			return err
		}
	}
	return nil
}

// export sends one batch of what is queued. It uses batch's memory.
func (q *spanQueue) export(batch []sdktrace.ReadOnlySpan) (int, error) {
	batch = batch[:0]
	for more := true; more && len(batch) < batchSpans; {
		select {
		case s := <-q.queue:
			batch = append(batch, s)
		default:
			more = false
		}
	}
	if len(batch) == 0 {
		return 0, nil
	}
	defer clear(batch)
	ctx, cancel := context.WithTimeout(q.ctx, q.timeout)
	defer cancel()
	err := q.exporter.ExportSpans(ctx, batch)
	if err != nil {
		q.dropped.Add(int64(len(batch)))
		q.report(err)
	}
	return len(batch), err
}

// ForceFlush exports what is queued.
func (q *spanQueue) ForceFlush(ctx context.Context) error {
	flushed := make(chan error, 1)
	select {
	case q.flushes <- flushed:
	case <-q.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-flushed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown exports what is queued, and drops what cannot be before ctx is done.
func (q *spanQueue) Shutdown(ctx context.Context) error {
	q.shutdown.Do(func() {
		close(q.closing)
		stop := context.AfterFunc(ctx, q.cancel)
		<-q.done
		stop()
		q.cancel()
		q.err = q.exporter.Shutdown(ctx)
	})
	return q.err
}
