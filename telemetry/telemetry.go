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
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	// MetricInterval is the time between two exports.
	MetricInterval = 250 * time.Millisecond
	// exportTimeout bounds one export; an endpoint that hangs loses it.
	exportTimeout = time.Second
	// shutdownTimeout bounds the last export.
	shutdownTimeout = 2 * time.Second
	// maxQueuedSpans bounds the spans that wait for export; more are dropped.
	maxQueuedSpans = 4096
	// complainEvery is the least time between two log lines about failed exports.
	complainEvery = 30 * time.Second
)

// Environment is the OTEL_* variables that a process was started with.
type Environment map[string]string

// TakeEnvironment removes all OTEL_* variables from the process's environment and returns them. It is the
// first thing that main does: neither this process's own pipeline nor its children are to see them.
func TakeEnvironment() Environment {
	taken := Environment{}
	for _, kv := range os.Environ() {
		if name, value, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, "OTEL_") {
			taken[name] = value
			os.Unsetenv(name)
		}
	}
	return taken
}

// Config says who exports where.
type Config struct {
	// Service is one of the Service constants.
	Service string
	// Instance is the replica's slot or the gateway's id.
	Instance    string
	Incarnation string
	Version     string
	// Endpoint is the balancer's control address, "host:port".
	Endpoint string
}

// Pipeline exports the metrics and traces of one member.
type Pipeline struct {
	cfg     Config
	logger  *slog.Logger
	metrics *sdkmetric.MeterProvider
	traces  *sdktrace.TracerProvider
}

// New makes a Pipeline that exports what the producers and the providers' instruments give. It connects in the
// background: an endpoint that is not there, or that hangs, changes nothing for the caller.
func New(ctx context.Context, cfg Config, logger *slog.Logger, producers ...sdkmetric.Producer) (*Pipeline, error) {
	res := resource.NewSchemaless(
		AttrService.String(cfg.Service), AttrInstance.String(cfg.Instance),
		AttrIncarnation.String(cfg.Incarnation), AttrVersion.String(cfg.Version),
		identity(cfg.Service).String(cfg.Instance),
	)
	metrics, err := otlpmetricgrpc.New(ctx,
		otlpmetricgrpc.WithEndpoint(cfg.Endpoint), otlpmetricgrpc.WithInsecure(),
		otlpmetricgrpc.WithTimeout(exportTimeout), otlpmetricgrpc.WithHeaders(nil),
		otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{Enabled: false}), // the next export says it all again
		otlpmetricgrpc.WithTemporalitySelector(func(sdkmetric.InstrumentKind) metricdata.Temporality { return metricdata.CumulativeTemporality }),
		otlpmetricgrpc.WithAggregationSelector(sdkmetric.DefaultAggregationSelector),
	)
	if err != nil {
		return nil, fmt.Errorf("metrics exporter: %w", err)
	}
	spans, err := otlptrace.New(ctx, otlptracegrpc.NewClient(
		otlptracegrpc.WithEndpoint(cfg.Endpoint), otlptracegrpc.WithInsecure(),
		otlptracegrpc.WithTimeout(exportTimeout), otlptracegrpc.WithHeaders(nil),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: false}),
	))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("trace exporter: %w", err), metrics.Shutdown(ctx))
	}
	reader := []sdkmetric.PeriodicReaderOption{sdkmetric.WithInterval(MetricInterval), sdkmetric.WithTimeout(exportTimeout)}
	for _, p := range producers {
		reader = append(reader, sdkmetric.WithProducer(p))
	}
	p := &Pipeline{cfg: cfg, logger: logger}
	p.metrics = sdkmetric.NewMeterProvider(
		sdkmetric.WithResource(res),
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(metrics, reader...)),
	)
	p.traces = sdktrace.NewTracerProvider(
		sdktrace.WithResource(res),
		// What is traced is decided before a span is made: package tracing.
		sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{
			AttributeValueLengthLimit: 1024, AttributeCountLimit: 64, EventCountLimit: 16, LinkCountLimit: 16,
			AttributePerEventCountLimit: 16, AttributePerLinkCountLimit: 16,
		}),
		sdktrace.WithBatcher(spans,
			sdktrace.WithMaxQueueSize(maxQueuedSpans), sdktrace.WithMaxExportBatchSize(512),
			sdktrace.WithBatchTimeout(MetricInterval), sdktrace.WithExportTimeout(exportTimeout)),
	)
	return p, nil
}

// identity is the attribute that says which member it is.
func identity(service string) attribute.Key {
	if service == ServiceReplica {
		return AttrReplica
	}
	return AttrGateway
}

// TracerProvider makes tracers whose spans are exported.
func (p *Pipeline) TracerProvider() trace.TracerProvider { return p.traces }

// MeterProvider makes instruments that are exported.
func (p *Pipeline) MeterProvider() metric.MeterProvider { return p.metrics }

// Shutdown exports what is left, for at most two seconds.
func (p *Pipeline) Shutdown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	var both sync.WaitGroup
	both.Go(func() { p.complain(p.traces.Shutdown(ctx)) })
	both.Go(func() { p.complain(p.metrics.Shutdown(ctx)) })
	both.Wait()
}

func (p *Pipeline) complain(err error) {
	if err != nil {
		p.logger.Debug("telemetry could not be exported to the end", "endpoint", p.cfg.Endpoint, "error", err)
	}
}

// HandleErrors sends what OpenTelemetry's libraries complain of, such as failed exports, to a logger, not too
// often. It is for main: the handler is the whole process's.
func HandleErrors(logger *slog.Logger) {
	var last atomic.Int64
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		now := time.Now().UnixNano()
		if was := last.Load(); now-was > int64(complainEvery) && last.CompareAndSwap(was, now) {
			logger.Warn("telemetry is not exported", "error", err)
		}
	}))
}
