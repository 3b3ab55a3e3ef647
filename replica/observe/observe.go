// Package observe makes metrics and traces of the requests of a replica.
package observe

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica/worker"
	"github.com/coppice-mesh/coppice/telemetry"
	"github.com/coppice-mesh/coppice/telemetry/latency"
	"github.com/coppice-mesh/coppice/telemetry/tracing"
)

// Observer is a worker.Observer.
type Observer struct {
	ok, failed *latency.Histogram
	tracer     atomic.Pointer[trace.Tracer]

	rows, batches atomic.Int64
}

// NewProducer makes the producer that the replica's pipeline exports.
func NewProducer(start time.Time) *latency.Producer {
	return latency.NewProducer("coppice/replica", telemetry.ReplicaDuration, "From a request's arrival at the replica to its answer", start)
}

// New makes an Observer whose latencies go into p. It traces nothing before Trace.
func New(p *latency.Producer) *Observer {
	return &Observer{
		ok:     p.Histogram(attribute.Bool("ok", true)),
		failed: p.Histogram(attribute.Bool("ok", false)),
	}
}

// Trace sets where spans go.
func (o *Observer) Trace(t trace.Tracer) { o.tracer.Store(&t) }

// Instrument adds the counters. load is the number of requests accepted and not yet answered.
func (o *Observer) Instrument(m metric.Meter, load func() int64) error {
	rows, err := m.Int64ObservableCounter(telemetry.ReplicaRows, metric.WithDescription("Rows evaluated"))
	if err != nil {
		return err
	}
	batches, err := m.Int64ObservableCounter(telemetry.ReplicaBatches, metric.WithDescription("Batches evaluated"))
	if err != nil {
		return err
	}
	inFlight, err := m.Int64ObservableGauge(telemetry.ReplicaInFlight, metric.WithDescription("Requests accepted and not yet answered"))
	if err != nil {
		return err
	}
	_, err = m.RegisterCallback(func(_ context.Context, obs metric.Observer) error {
		obs.ObserveInt64(rows, o.rows.Load())
		obs.ObserveInt64(batches, o.batches.Load())
		obs.ObserveInt64(inFlight, load())
		return nil
	}, rows, batches, inFlight)
	return err
}

// Answered counts a request and records the spans of one that is traced.
func (o *Observer) Answered(r *worker.Record) {
	end := r.Done
	if r.Code == codes.OK {
		o.ok.Record(end.Sub(r.Arrived))
	} else {
		o.failed.Record(end.Sub(r.Arrived))
	}
	if !r.Evaluated.IsZero() { // whatever became of the answer
		o.rows.Add(int64(r.Rows))
		if r.BatchFirst {
			o.batches.Add(1)
		}
	}
	if len(r.Traceparent) == 0 {
		return
	}
	tracer := o.tracer.Load()
	if tracer == nil {
		return
	}
	parent, ok := tracing.Parent(string(r.Traceparent), string(r.Tracestate))
	if !ok || !parent.IsSampled() {
		return
	}
	o.record(*tracer, parent, r)
}

func (o *Observer) record(tracer trace.Tracer, parent trace.SpanContext, r *worker.Record) {
	s := tracing.Span{
		Name: strings.TrimPrefix(coppicev1.WorkerService_Exchange_FullMethodName, "/"), Kind: trace.SpanKindServer, Start: r.Arrived, End: r.Done,
		Attributes: []attribute.KeyValue{
			telemetry.AttrRows.Int(r.Rows), telemetry.AttrRequestID.String(text(string(r.RequestID))), telemetry.AttrWork.String(frame.WorkName(r.Work)),
		},
	}
	if r.Code != codes.OK {
		s.Error = text(r.Message)
	}
	if r.Model != nil {
		s.Attributes = append(s.Attributes, telemetry.AttrModel.String(r.Model.Name), telemetry.AttrModelVersion.String(r.Model.Version))
	}
	ctx, span := tracing.Start(tracer, parent, s)
	if !r.Batched.IsZero() {
		tracing.Record(ctx, tracer, tracing.Span{Name: "queue", Kind: trace.SpanKindInternal, Start: r.Arrived, End: r.Batched})
		batched := r.Evaluated
		if batched.IsZero() {
			batched = r.Done // it was refused while the batch was formed
		}
		tracing.Record(ctx, tracer, tracing.Span{
			Name: "batch", Kind: trace.SpanKindInternal, Start: r.Batched, End: batched,
			Attributes: []attribute.KeyValue{telemetry.AttrBatchSize.Int(r.BatchRequests), telemetry.AttrBatchRows.Int(r.BatchRows)},
		})
	}
	if !r.Evaluated.IsZero() {
		tracing.Record(ctx, tracer, tracing.Span{
			Name: "evaluate", Kind: trace.SpanKindInternal, Start: r.Evaluated, End: r.Done,
			Attributes: []attribute.KeyValue{telemetry.AttrBatchRows.Int(r.BatchRows)},
		})
	}
	tracing.End(span, s)
}

// text is s as OTLP can carry it. One string that is not UTF-8 would cost the whole export its spans.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
