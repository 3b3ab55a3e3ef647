// Package observe makes metrics and traces of the requests of a gateway.
package observe

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"github.com/coppice-mesh/coppice/gateway/pool"
	"github.com/coppice-mesh/coppice/gateway/server"
	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/telemetry"
	"github.com/coppice-mesh/coppice/telemetry/latency"
	"github.com/coppice-mesh/coppice/telemetry/tracing"
)

const (
	numCodes = int(codes.Unauthenticated) + 1
	numWorks = int(coppicev1.Work_WORK_HEAVY) + 1
	// logsPerSecond bounds the log lines about failed requests.
	logsPerSecond = 10
)

// Observer is a server.Observer.
type Observer struct {
	latencies [numCodes][numWorks]*latency.Histogram
	tracer    trace.Tracer
	rule      *tracing.Rule
	logger    *slog.Logger

	logged   atomic.Int64 // second<<16 | lines
	inFlight atomic.Int64
}

// NewProducer makes the producer that the gateway's pipeline exports.
func NewProducer(start time.Time) *latency.Producer {
	return latency.NewProducer("coppice/gateway", telemetry.GatewayDuration, "From a request's arrival at the gateway to its answer", start)
}

// New makes an Observer whose latencies go into p. A nil tracer traces nothing.
func New(p *latency.Producer, tracer trace.Tracer, rule *tracing.Rule, logger *slog.Logger) *Observer {
	o := &Observer{tracer: tracer, rule: rule, logger: logger}
	for c := range o.latencies {
		for w := range o.latencies[c] {
			o.latencies[c][w] = p.Histogram(
				telemetry.AttrRPCCode.String(server.CodeName(codes.Code(c))), telemetry.AttrWork.String(frame.WorkName(coppicev1.Work(w))))
		}
	}
	return o
}

// Instrument adds the counters that a pool keeps.
func (o *Observer) Instrument(m metric.Meter, p *pool.Pool) error {
	replays, err := m.Int64ObservableCounter(telemetry.GatewayReplays, metric.WithDescription("Requests sent again since their replica died"))
	if err != nil {
		return err
	}
	inFlight, err := m.Int64ObservableGauge(telemetry.GatewayInFlight, metric.WithDescription("Requests accepted and not yet answered"))
	if err != nil {
		return err
	}
	_, err = m.RegisterCallback(func(_ context.Context, obs metric.Observer) error {
		obs.ObserveInt64(replays, int64(p.Replays()))
		obs.ObserveInt64(inFlight, o.inFlight.Load())
		return nil
	}, replays, inFlight)
	return err
}

// traced is what the observer keeps of a request that is traced.
type traced struct {
	ctx  context.Context
	span trace.Span
}

// Begun decides whether the request is traced.
func (o *Observer) Begun(r *server.Request) {
	o.inFlight.Add(1)
	if o.tracer == nil {
		return
	}
	parent, sampled := o.rule.Decide(r.Trace.Parent, r.Trace.State)
	if !sampled {
		return
	}
	ctx, span := tracing.Start(o.tracer, parent, o.serverSpan(r))
	sc := span.SpanContext()
	r.Trace.ID = sc.TraceID().String()
	r.Trace.Observed = &traced{ctx, span}
	r.Traceparent = []byte(tracing.Format(sc))
	if state := sc.TraceState(); state.Len() > 0 {
		r.Tracestate = []byte(state.String())
	}
}

// method is what the request came by, such as "coppice.v1.PredictService/Predict" or "POST /predict".
func method(r *server.Request) string { return strings.TrimPrefix(r.Protocol, "/") }

func (o *Observer) serverSpan(r *server.Request) tracing.Span {
	return tracing.Span{Name: method(r), Kind: trace.SpanKindServer, Start: r.Arrived}
}

// Ended counts the request and records its spans, which a failed one always has.
func (o *Observer) Ended(r *server.Request) {
	o.inFlight.Add(-1)
	code := server.Code(r.Err)
	o.latencies[min(int(code), numCodes-1)][min(max(int(r.Envelope.Work), 0), numWorks-1)].Record(r.Ended.Sub(r.Arrived))
	t, _ := r.Trace.Observed.(*traced)
	if t == nil && r.Err != nil && o.tracer != nil {
		parent, _ := tracing.Parent(r.Trace.Parent, r.Trace.State)
		t = &traced{}
		t.ctx, t.span = tracing.Start(o.tracer, parent, o.serverSpan(r))
		r.Trace.ID = t.span.SpanContext().TraceID().String()
	}
	if t != nil {
		o.record(r, t, code)
	}
	if r.Err != nil {
		o.log(r, t, code)
	}
}

// record makes the spans of a request that has ended.
func (o *Observer) record(r *server.Request, t *traced, code codes.Code) {
	attempts := r.Attempts()
	admitted := r.Ended
	if !r.Admitted.IsZero() {
		admitted = r.Admitted
	}
	tracing.Record(t.ctx, o.tracer, tracing.Span{Name: "admission", Kind: trace.SpanKindInternal, Start: r.Arrived, End: admitted})
	from := admitted
	for i, a := range attempts {
		tracing.Record(t.ctx, o.tracer, tracing.Span{Name: "pick", Kind: trace.SpanKindInternal, Start: from, End: a.Sent})
		s := tracing.Span{
			Name: "attempt", Kind: trace.SpanKindClient, Start: a.Sent, End: a.Ended,
			Attributes: []attribute.KeyValue{telemetry.AttrReplica.String(a.Replica), telemetry.AttrAttempt.Int(i + 1)},
		}
		if i > 0 {
			s.Name = "replay"
		}
		if a.Why != "" {
			s.Error = "the replica " + a.Why
			if a.Why == "refused" {
				s.Error = "the replica refused the request: it is stopping"
			}
		}
		tracing.Record(t.ctx, o.tracer, s)
		from = a.Ended
	}
	t.span.SetAttributes(
		telemetry.AttrRPCMethod.String(method(r)),
		telemetry.AttrRPCCode.String(server.CodeName(code)),
		telemetry.AttrModel.String(string(r.Envelope.Model)),
		telemetry.AttrModelVersion.String(r.Version),
		telemetry.AttrRows.Int(r.Envelope.Rows),
		telemetry.AttrWork.String(frame.WorkName(r.Envelope.Work)),
		telemetry.AttrRequestID.String(string(r.RequestID)),
	)
	if strings.HasPrefix(r.Protocol, "/") {
		t.span.SetAttributes(telemetry.AttrRPCSystem.String("grpc"))
	}
	if m := r.Model; m != nil {
		t.span.SetAttributes(telemetry.AttrModel.String(m.GetName()))
	}
	if n := len(attempts); n > 0 {
		t.span.SetAttributes(telemetry.AttrReplica.String(attempts[n-1].Replica))
	}
	end := tracing.Span{End: r.Ended}
	if r.Err != nil {
		end.Error = server.Message(r.Err)
	}
	tracing.End(t.span, end)
}

// log says that a request failed, if not too many did in this second.
func (o *Observer) log(r *server.Request, t *traced, code codes.Code) {
	level := slog.LevelWarn
	if code == codes.InvalidArgument || code == codes.NotFound || code == codes.Canceled {
		level = slog.LevelDebug // the client's doing
	}
	ctx := context.Background()
	if t != nil {
		ctx = t.ctx
	}
	if !o.logger.Enabled(ctx, level) {
		return
	}
	second := r.Ended.Unix()
	for {
		was := o.logged.Load()
		now := was + 1
		if was>>16 != second {
			now = second<<16 | 1
		}
		if now&0xffff > logsPerSecond {
			return
		}
		if o.logged.CompareAndSwap(was, now) {
			break
		}
	}
	o.logger.Log(ctx, level, "request failed", "code", server.CodeName(code), "error", server.Message(r.Err),
		"request_id", string(r.RequestID), "model", string(r.Envelope.Model), "attempts", len(r.Attempts()))
}
