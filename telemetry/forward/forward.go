// Package forward sends the traces that a balancer receives on to the user's endpoint, such as Jaeger's.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

const (
	// maxQueued bounds the batches that wait for the endpoint; the oldest are dropped.
	maxQueued = 256
	// sendTimeout bounds one batch on its way.
	sendTimeout = 5 * time.Second
	// shutdownTimeout bounds what is sent at the end.
	shutdownTimeout = 2 * time.Second
	complainEvery   = 30 * time.Second
)

// ErrEndpoint is wrapped by the error about an endpoint that makes no sense.
var ErrEndpoint = errors.New("OTLP endpoint")

// Forwarder sends batches of spans from a queue. Its zero value, and a nil one, drop everything.
type Forwarder struct {
	client otlptrace.Client
	logger *slog.Logger

	mu      sync.Mutex
	queue   [][]*tracepb.ResourceSpans
	sending bool
	wake    chan struct{}

	dropped atomic.Uint64
	sent    atomic.Uint64
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// New makes a Forwarder to endpoint, or to the one that the OTEL_EXPORTER_OTLP_* variables in env name. Without
// either it returns nil: nothing is forwarded. "http://host:4317", "host:4317" and "https://host:4317" speak
// gRPC; a port 4318 or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, HTTP. Headers, certificates and compression
// come from the variables. It does not connect before Start.
func New(endpoint string, env map[string]string, logger *slog.Logger) (*Forwarder, error) {
	get := func(name string) string {
		if v := env["OTEL_EXPORTER_OTLP_TRACES_"+name]; v != "" {
			return v
		}
		return env["OTEL_EXPORTER_OTLP_"+name]
	}
	given := endpoint != ""
	if !given {
		endpoint = get("ENDPOINT")
	}
	if endpoint == "" || strings.EqualFold(env["OTEL_SDK_DISABLED"], "true") || env["OTEL_TRACES_EXPORTER"] == "none" {
		if !given {
			return nil, nil
		}
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("%w: %q, such as http://127.0.0.1:4317 is needed", ErrEndpoint, endpoint)
	}
	overHTTP := u.Port() == "4318"
	switch p := get("PROTOCOL"); p {
	case "":
	case "grpc":
		overHTTP = false
	case "http/protobuf":
		overHTTP = true
	default:
		return nil, fmt.Errorf("%w: protocol %q, grpc or http/protobuf is needed", ErrEndpoint, p)
	}
	f := &Forwarder{logger: logger, wake: make(chan struct{}, 1)}
	// The exporters' clients read the variables themselves, when they are made.
	restore := setenv(env)
	defer restore()
	switch {
	case overHTTP && given:
		opts := []otlptracehttp.Option{otlptracehttp.WithEndpoint(u.Host), otlptracehttp.WithTimeout(sendTimeout)}
		if u.Path != "" && u.Path != "/" {
			opts = append(opts, otlptracehttp.WithURLPath(u.Path))
		}
		if u.Scheme == "http" {
			opts = append(opts, otlptracehttp.WithInsecure())
		}
		f.client = otlptracehttp.NewClient(opts...)
	case overHTTP:
		f.client = otlptracehttp.NewClient(otlptracehttp.WithTimeout(sendTimeout))
	default:
		opts := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(u.Host), otlptracegrpc.WithTimeout(sendTimeout)}
		if u.Scheme == "http" {
			opts = append(opts, otlptracegrpc.WithInsecure())
		}
		f.client = otlptracegrpc.NewClient(opts...)
	}
	return f, nil
}

// setenv puts variables into the process's environment and returns how to take them out again.
func setenv(env map[string]string) func() {
	for k, v := range env {
		os.Setenv(k, v)
	}
	return func() {
		for k := range env {
			os.Unsetenv(k)
		}
	}
}

// Start begins to send. It does not wait for the endpoint.
func (f *Forwarder) Start(ctx context.Context) error {
	if f == nil {
		return nil
	}
	if err := f.client.Start(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrEndpoint, err)
	}
	ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	f.running.Go(func() { f.run(ctx) })
	return nil
}

// Forward queues spans. It does not block: when the endpoint is slow, the oldest are dropped.
func (f *Forwarder) Forward(spans []*tracepb.ResourceSpans) {
	if f == nil || f.cancel == nil || len(spans) == 0 {
		return
	}
	f.mu.Lock()
	if len(f.queue) == maxQueued {
		f.dropped.Add(count(f.queue[0]))
		f.queue = f.queue[1:]
	}
	f.queue = append(f.queue, spans)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Sent and Dropped are the numbers of spans that the endpoint took, and that it did not.
func (f *Forwarder) Sent() uint64 {
	if f == nil {
		return 0
	}
	return f.sent.Load()
}

// Dropped is described at Sent.
func (f *Forwarder) Dropped() uint64 {
	if f == nil {
		return 0
	}
	return f.dropped.Load()
}

func count(spans []*tracepb.ResourceSpans) (n uint64) {
	for _, r := range spans {
		for _, s := range r.GetScopeSpans() {
			n += uint64(len(s.GetSpans()))
		}
	}
	return n
}

func (f *Forwarder) take() []*tracepb.ResourceSpans {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sending = len(f.queue) > 0; !f.sending {
		f.queue = nil
		return nil
	}
	spans := f.queue[0]
	f.queue[0] = nil
	f.queue = f.queue[1:]
	return spans
}

func (f *Forwarder) run(ctx context.Context) {
	var complained time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		for spans := f.take(); spans != nil && ctx.Err() == nil; spans = f.take() {
			send, cancel := context.WithTimeout(ctx, sendTimeout)
			err := f.client.UploadTraces(send, spans) // it tries again by itself, within the timeout
			cancel()
			if err == nil {
				f.sent.Add(count(spans))
				continue
			}
			f.dropped.Add(count(spans))
			if time.Since(complained) > complainEvery {
				complained = time.Now()
				f.logger.Warn("traces are not taken by the OTLP endpoint and are dropped", "error", err)
			}
		}
	}
}

// Shutdown sends what is queued, for at most two seconds, and ends.
func (f *Forwarder) Shutdown(ctx context.Context) {
	if f == nil || f.cancel == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		f.mu.Lock()
		idle := len(f.queue) == 0 && !f.sending
		f.mu.Unlock()
		if idle {
			break
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	f.cancel()
	f.running.Wait()
	_ = f.client.Stop(ctx)
}
