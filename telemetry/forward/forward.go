// Package forward sends the traces that a balancer receives on to the user's endpoint, such as Jaeger's.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/telemetry/internal/environ"
	"github.com/coppice-mesh/coppice/telemetry/internal/seldom"
)

const (
	// What waits for the endpoint is bounded; the oldest is dropped.
	maxQueuedSpans = 16384
	maxQueuedBytes = 16 << 20
	// What waits goes out together, up to these. Endpoints take at least 4 MiB.
	maxSendSpans = 2048
	maxSendBytes = 2 << 20

	// Each message is tried again for so long.
	giveUpAfter = 30 * time.Second
	// sendTimeout bounds one try, whatever OTEL_EXPORTER_OTLP_TIMEOUT says; the clients' default is 10 s.
	sendTimeout = 30 * time.Second
	// The wait between two tries grows from the first to the second.
	minWait = 250 * time.Millisecond
	maxWait = 5 * time.Second

	// shutdownTimeout bounds what is sent at the end.
	shutdownTimeout = 2 * time.Second
	complainEvery   = 30 * time.Second
)

// Forwarder sends batches of spans from a queue. A nil one drops everything. Its methods may be called
// concurrently.
type Forwarder struct {
	client otlptrace.Client
	target *target
	logger *slog.Logger
	failed seldom.Gate
	giveUp time.Duration

	mu      sync.Mutex
	state   state
	queue   []batch
	queued  batch // the sum of the queue's
	wake    chan struct{}
	closing chan struct{}
	cancel  context.CancelFunc

	dropped, sent atomic.Uint64
	running       sync.WaitGroup
}

type state uint8

const (
	created state = iota
	started
	stopped
)

// batch is spans on their way.
type batch struct {
	spans        []*tracepb.ResourceSpans
	count, bytes int
}

func (b *batch) add(o batch) {
	b.count += o.count
	b.bytes += o.bytes
}

// New makes a Forwarder to endpoint, or, if that is empty, to the one that the OTEL_EXPORTER_OTLP_* variables in
// env name. Without either it returns nil: nothing is forwarded.
//
// "http://host:4317" and "host:4317" speak gRPC, "https://host:4317" with TLS. OTLP over HTTP is spoken to port
// 4318, to a URL with a path, to which /v1/traces is added, or if OTEL_EXPORTER_OTLP_PROTOCOL is http/protobuf
// or http/json. Headers, certificates, compression and the timeout come from the variables in any case. The
// error wraps ErrEndpoint.
func New(endpoint string, env map[string]string, logger *slog.Logger) (*Forwarder, error) {
	t, err := resolve(endpoint, env)
	if t == nil {
		return nil, err
	}
	f := &Forwarder{
		target: t, logger: logger, failed: seldom.Gate{Every: complainEvery}, giveUp: giveUpAfter,
		wake: make(chan struct{}, 1), closing: make(chan struct{}),
	}
	environ.With(t.env, func() {
		if t.http {
			// Over HTTP, only the client can tell which answers ask for another try, and when.
			f.client = otlptracehttp.NewClient(otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
				Enabled: true, InitialInterval: minWait, MaxInterval: maxWait, MaxElapsedTime: giveUpAfter,
			}))
			return
		}
		f.client = otlptracegrpc.NewClient(
			otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: false}),
			otlptracegrpc.WithDialOption(
				grpc.WithConnectParams(grpc.ConnectParams{
					Backoff:           backoff.Config{BaseDelay: minWait, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxWait},
					MinConnectTimeout: maxWait,
				}),
				// More pings than one in five minutes are more than servers take, unless they are told otherwise.
				grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: 20 * time.Second}),
			))
	})
	return f, nil
}

// Start begins to send. It does not wait for the endpoint.
func (f *Forwarder) Start(ctx context.Context) error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != created {
		return errors.New("forward: started twice")
	}
	var err error
	environ.With(f.target.env, func() { err = f.client.Start(ctx) })
	if err != nil {
		return fmt.Errorf("%w: %q: %w", ErrEndpoint, f.target.name, err)
	}
	ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	f.running.Go(func() { f.run(ctx) })
	f.state = started
	return nil
}

// Forward queues spans, which belong to the Forwarder from then on. It does not block: when the endpoint is
// slow, the oldest spans are dropped.
func (f *Forwarder) Forward(spans []*tracepb.ResourceSpans) {
	if f == nil || len(spans) == 0 {
		return
	}
	b := batch{spans: spans}
	for _, r := range spans {
		b.bytes += proto.Size(r)
		for _, s := range r.GetScopeSpans() {
			b.count += len(s.GetSpans())
		}
	}
	if b.count == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != started || b.count > maxQueuedSpans || b.bytes > maxQueuedBytes {
		f.drop(b)
		return
	}
	for f.queued.count+b.count > maxQueuedSpans || f.queued.bytes+b.bytes > maxQueuedBytes {
		f.drop(f.pop())
	}
	f.queue = append(f.queue, b)
	f.queued.add(b)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// pop takes the oldest from the queue, which has one. f.mu is held.
func (f *Forwarder) pop() batch {
	b := f.queue[0]
	f.queue[0] = batch{}
	if f.queue = f.queue[1:]; len(f.queue) == 0 {
		f.queue = nil
	}
	f.queued.add(batch{count: -b.count, bytes: -b.bytes})
	return b
}

// take gives what is to be sent next: the oldest in the queue, as much as a message may hold.
func (f *Forwarder) take() (b batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.queue) > 0 {
		next := f.queue[0]
		if b.count > 0 && (b.count+next.count > maxSendSpans || b.bytes+next.bytes > maxSendBytes) {
			break
		}
		f.pop()
		b.spans = append(b.spans, next.spans...)
		b.add(next)
	}
	return b
}

func (f *Forwarder) drop(b batch) { f.dropped.Add(uint64(b.count)) }

// Sent is the number of spans that the endpoint took.
func (f *Forwarder) Sent() uint64 {
	if f == nil {
		return 0
	}
	return f.sent.Load()
}

// Dropped is the number of spans that it did not take: since it was down or slow for too long, or refused them.
func (f *Forwarder) Dropped() uint64 {
	if f == nil {
		return 0
	}
	return f.dropped.Load()
}

// run sends until it is told to close and the queue is empty.
func (f *Forwarder) run(ctx context.Context) {
	for {
		if b := f.take(); b.count > 0 {
			f.deliver(ctx, b)
			continue
		}
		select {
		case <-f.wake:
		case <-f.closing:
			return
		}
	}
}

// deliver sends a message, again and again if need be.
func (f *Forwarder) deliver(ctx context.Context, b batch) {
	began := time.Now()
	for wait := minWait; ; wait = min(2*wait, maxWait) {
		try, cancel := context.WithTimeout(ctx, sendTimeout)
		err := f.client.UploadTraces(try, b.spans)
		cancel()
		if err == nil {
			f.sent.Add(uint64(b.count))
			return
		}
		f.complain(err)
		if taken(err) {
			f.sent.Add(uint64(b.count))
			return
		}
		if !transient(err) || time.Since(began)+wait > f.giveUp {
			f.drop(b)
			return
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-f.closing: // it is down, and there is no time left to wait for it
			again.Stop()
			f.drop(b)
			return
		}
	}
}

// transient says whether an export that failed may be tried again.
func transient(err error) bool {
	if u := (*url.Error)(nil); errors.As(err, &u) { // no answer over HTTP
		return true
	}
	// These are the codes of the OTLP specification, but for RESOURCE_EXHAUSTED: it is what a message that is too
	// large gets.
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return true
	}
	return false
}

// taken says whether an error is only the endpoint's remark on spans that it took, or on some that it did not:
// a "partial success". The clients give it no type that can be seen from here.
func taken(err error) bool { return strings.HasPrefix(err.Error(), "OTLP partial success") }

func (f *Forwarder) complain(err error) {
	if held, ok := f.failed.Pass(time.Now()); ok {
		f.logger.Warn("traces are not taken by the OTLP endpoint", "endpoint", f.target.name, "error", err,
			"dropped_spans", f.Dropped(), "held_back", held)
	}
}

// Shutdown sends what is queued and returns after at most two seconds. What could not be sent is dropped. It
// may be called more than once, and without Start.
func (f *Forwarder) Shutdown(ctx context.Context) {
	if f == nil {
		return
	}
	f.mu.Lock()
	was := f.state
	f.state = stopped
	f.mu.Unlock()
	if was != started {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	close(f.closing)
	defer context.AfterFunc(ctx, f.cancel)()
	f.running.Wait()
	f.cancel()
	_ = f.client.Stop(ctx) // it says no more than that it is late
}
