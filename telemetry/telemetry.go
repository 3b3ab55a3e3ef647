// Package telemetry sets up OpenTelemetry for the members of a mesh: metrics and traces go by OTLP to the
// balancer, every 250 ms, and from there wherever the user wants them.
//
//   - latency  histograms for the hot path, and their arithmetic
//   - tracing  which requests are traced, and spans that are recorded after the fact
//   - forward  traces from the balancer to the user's endpoint
//   - logs     slog with trace ids
//
// This pipeline is part of how Coppice works: the balancer learns latency from it. It is therefore set in code
// alone. The user's OTEL_* variables say what becomes of the traces behind the balancer; TakeEnvironment takes
// them out of the way before anything else reads them.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/coppice-mesh/coppice/telemetry/internal/environ"
	"github.com/coppice-mesh/coppice/telemetry/internal/seldom"
)

const (
	// MetricInterval is the time between two exports.
	MetricInterval = 250 * time.Millisecond
	// exportTimeout bounds one export; an endpoint that hangs loses it.
	exportTimeout = time.Second
	// shutdownTimeout bounds the last exports.
	shutdownTimeout = 2 * time.Second
	// maxQueuedSpans bounds the spans that wait for export; more are dropped. batchSpans are exported at once.
	maxQueuedSpans = 4096
	batchSpans     = 512
	// maxSeries bounds the series of an instrument of the MeterProvider.
	maxSeries = 1024
	// complainEvery is the least time between two log lines about failed exports.
	complainEvery = 30 * time.Second
)

// ErrConfig is wrapped by the error about a Config that makes no sense.
var ErrConfig = errors.New("telemetry")

// Environment is the OTEL_* variables that a process was started with.
type Environment map[string]string

// TakeEnvironment removes all OTEL_* variables from the process's environment and returns them. It is the
// first thing that main does: neither this process's own pipeline nor its children are to see them.
func TakeEnvironment() Environment { return environ.Take() }

// Config says who exports where.
type Config struct {
	// Service is one of the Service constants.
	Service string
	// Instance is the replica's slot or the gateway's id. It is not empty.
	Instance string
	// Incarnation differs between two processes of the same Instance.
	Incarnation string
	// Version is the program's.
	Version string
	// Endpoint is the balancer's control address, "host:port".
	Endpoint string
}

// Validate says what is wrong with c. The error wraps ErrConfig.
func (c Config) Validate() error {
	switch c.Service {
	case ServiceGateway, ServiceReplica, ServiceBalancer:
	default:
		return fmt.Errorf("%w: service is %q, %s, %s or %s is needed", ErrConfig, c.Service, ServiceGateway, ServiceReplica, ServiceBalancer)
	}
	if c.Instance == "" {
		return fmt.Errorf("%w: the instance of %s has no name", ErrConfig, c.Service)
	}
	if _, port, err := net.SplitHostPort(c.Endpoint); err != nil || port == "" {
		return fmt.Errorf("%w: endpoint is %q, an address such as 127.0.0.1:7600 is needed", ErrConfig, c.Endpoint)
	}
	return nil
}

// resource is what all that is exported has in common.
func (c Config) resource() *resource.Resource {
	attrs := []attribute.KeyValue{
		AttrService.String(c.Service), AttrInstance.String(c.Instance),
		AttrIncarnation.String(c.Incarnation), AttrVersion.String(c.Version),
	}
	switch c.Service {
	case ServiceReplica:
		attrs = append(attrs, AttrReplica.String(c.Instance))
	case ServiceGateway:
		attrs = append(attrs, AttrGateway.String(c.Instance))
	}
	return resource.NewSchemaless(attrs...)
}

// Pipeline exports the metrics and traces of one member.
type Pipeline struct {
	cfg     Config
	logger  *slog.Logger
	failed  *seldom.Gate
	conn    *grpc.ClientConn
	metrics *sdkmetric.MeterProvider
	traces  *sdktrace.TracerProvider
	spans   *spanQueue
}

// New makes a Pipeline that exports what the producers and the providers' instruments give, from now until
// Shutdown. It connects in the background, and again when the connection is lost: an endpoint that is not
// there, or that hangs, changes nothing for the caller. OTEL_* variables and proxies are not looked at.
func New(ctx context.Context, cfg Config, logger *slog.Logger, producers ...sdkmetric.Producer) (*Pipeline, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Pipeline{cfg: cfg, logger: logger, failed: newGate()}
	var err error
	environ.With(nil, func() { err = p.build(ctx, producers) })
	if err == nil {
		err = p.instrument()
	}
	if err != nil {
		p.Shutdown(ctx)
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	return p, nil
}

// dial makes the connection that metrics and traces share.
func dial(endpoint string) (*grpc.ClientConn, error) {
	return grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		// By default, gRPC waits for up to two minutes between attempts. A balancer that was restarted is to learn
		// latencies at once.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		// A machine that vanished is noticed, though not by TCP.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	)
}

func (p *Pipeline) build(ctx context.Context, producers []sdkmetric.Producer) (err error) {
	if p.conn, err = dial(p.cfg.Endpoint); err != nil {
		return fmt.Errorf("%w: endpoint %q: %w", ErrConfig, p.cfg.Endpoint, err)
	}
	metrics, err := otlpmetricgrpc.New(ctx,
		otlpmetricgrpc.WithGRPCConn(p.conn), otlpmetricgrpc.WithHeaders(nil), otlpmetricgrpc.WithTimeout(exportTimeout),
		otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{Enabled: false}), // the next export says it all again
		otlpmetricgrpc.WithTemporalitySelector(func(sdkmetric.InstrumentKind) metricdata.Temporality { return metricdata.CumulativeTemporality }),
		otlpmetricgrpc.WithAggregationSelector(aggregation),
	)
	if err != nil {
		return err
	}
	spans, err := otlptrace.New(ctx, otlptracegrpc.NewClient(
		otlptracegrpc.WithGRPCConn(p.conn), otlptracegrpc.WithHeaders(nil), otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: false}),
	))
	if err != nil {
		return errors.Join(err, metrics.Shutdown(ctx))
	}
	res := p.cfg.resource()
	reader := []sdkmetric.PeriodicReaderOption{sdkmetric.WithInterval(MetricInterval), sdkmetric.WithTimeout(exportTimeout)}
	for _, producer := range producers {
		reader = append(reader, sdkmetric.WithProducer(producer))
	}
	p.metrics = sdkmetric.NewMeterProvider(
		sdkmetric.WithResource(res),
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(quiet{metrics, p.complain}, reader...)),
		sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter),
		sdkmetric.WithCardinalityLimit(maxSeries),
	)
	p.spans = newSpanQueue(spans, maxQueuedSpans, MetricInterval, exportTimeout, p.complain) //nolint:contextcheck // it exports until Shutdown
	p.traces = sdktrace.NewTracerProvider(
		sdktrace.WithResource(res),
		// What is traced is decided before a span is made: package tracing.
		sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{
			AttributeValueLengthLimit: 1024, AttributeCountLimit: 64, EventCountLimit: 16, LinkCountLimit: 16,
			AttributePerEventCountLimit: 16, AttributePerLinkCountLimit: 16,
		}),
		sdktrace.WithSpanProcessor(p.spans),
	)
	return nil
}

// aggregation makes exponential histograms, as those of package latency are, of the histograms that
// instruments record.
func aggregation(kind sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	if kind == sdkmetric.InstrumentKindHistogram {
		return sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 4, NoMinMax: true}
	}
	return sdkmetric.DefaultAggregationSelector(kind)
}

// instrument exports what the pipeline knows of itself.
func (p *Pipeline) instrument() error {
	_, err := p.metrics.Meter("coppice/telemetry").Int64ObservableCounter(SpansDropped,
		metric.WithDescription("Spans that did not reach the balancer"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(p.spans.Dropped())
			return nil
		}))
	return err
}

// quiet is a metric exporter whose failures are reported where they belong, and not to OpenTelemetry's global
// handler, which writes each to stderr unless it is told otherwise.
type quiet struct {
	sdkmetric.Exporter
	report func(error)
}

func (q quiet) Export(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	// An export that a shutdown interrupts is not lost: the last one says it all again.
	if err := q.Exporter.Export(ctx, rm); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		q.report(err)
	}
	return nil
}

// TracerProvider makes tracers whose spans are exported.
func (p *Pipeline) TracerProvider() trace.TracerProvider { return p.traces }

// MeterProvider makes instruments that are exported.
func (p *Pipeline) MeterProvider() metric.MeterProvider { return p.metrics }

// DroppedSpans is the number of spans that ended and did not reach the endpoint.
func (p *Pipeline) DroppedSpans() int64 { return p.spans.Dropped() }

// Shutdown exports what is left, and returns after at most two seconds. It may be called more than once.
func (p *Pipeline) Shutdown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	var both sync.WaitGroup
	if p.traces != nil {
		both.Go(func() { p.complain(p.traces.Shutdown(ctx)) })
	}
	if p.metrics != nil {
		both.Go(func() {
			if err := p.metrics.Shutdown(ctx); !errors.Is(err, sdkmetric.ErrReaderShutdown) {
				p.complain(err)
			}
		})
	}
	both.Wait()
	if p.conn != nil {
		_ = p.conn.Close() // it is closed already if this is the second call
	}
}

// complain logs that an export failed, not too often.
func (p *Pipeline) complain(err error) {
	if err == nil {
		return
	}
	if held, ok := p.failed.Pass(time.Now()); ok {
		p.logger.Warn("telemetry is not exported", "endpoint", p.cfg.Endpoint, "error", err, "held_back", held)
	}
}

// HandleErrors sends what OpenTelemetry's libraries complain of to a logger, not too often. It is for main: it
// sets the whole process's handlers.
func HandleErrors(logger *slog.Logger) {
	gate := newGate()
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		if held, ok := gate.Pass(time.Now()); ok {
			logger.Warn("OpenTelemetry failed", "error", err, "held_back", held)
		}
	}))
	otel.SetLogger(logr.FromSlogHandler(limited{logger.Handler(), newGate()}))
}

// limited is a handler that seldom says anything. What is for debugging it says always.
type limited struct {
	slog.Handler
	gate *seldom.Gate
}

func (l limited) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return l.Handler.Handle(ctx, r)
	}
	held, ok := l.gate.Pass(r.Time)
	if !ok {
		return nil
	}
	r.AddAttrs(slog.Int64("held_back", held))
	return l.Handler.Handle(ctx, r)
}

func (l limited) WithAttrs(a []slog.Attr) slog.Handler {
	return limited{l.Handler.WithAttrs(a), l.gate}
}

func (l limited) WithGroup(name string) slog.Handler {
	return limited{l.Handler.WithGroup(name), l.gate}
}

func newGate() *seldom.Gate { return &seldom.Gate{Every: complainEvery} }
