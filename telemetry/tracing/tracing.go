// Package tracing decides which requests are traced and records their spans.
//
// Nothing is recorded while a request runs. Whoever handles it keeps the times that it needs anyway, and when
// the request is over and is to be traced, its spans are made of them. A request that is not traced costs a
// look at its traceparent.
package tracing

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

const (
	// DefaultPerSecond is the number of new traces that are always recorded in a second.
	DefaultPerSecond = 10
	// DefaultRatio is the share of those beyond it.
	DefaultRatio = 0.01
)

// Parent reads a W3C traceparent and tracestate. ok is false for anything that is not valid; the request then
// begins a trace of its own.
func Parent(traceparent, tracestate string) (sc trace.SpanContext, ok bool) {
	// "version-format = trace-id "-" parent-id "-" trace-flags", with version "00" of 55 characters; later
	// versions may be longer but begin the same way. - W3C Trace Context, 3.2.2
	const length = 55
	if len(traceparent) < length || traceparent[2] != '-' || traceparent[35] != '-' || traceparent[52] != '-' {
		return sc, false
	}
	var version, flags [1]byte
	var id trace.TraceID
	var span trace.SpanID
	if !unhex(version[:], traceparent[:2]) || !unhex(id[:], traceparent[3:35]) || !unhex(span[:], traceparent[36:52]) || !unhex(flags[:], traceparent[53:55]) {
		return sc, false
	}
	if version[0] == 0xff || (version[0] == 0 && len(traceparent) != length) || (len(traceparent) > length && traceparent[length] != '-') {
		return sc, false
	}
	if !id.IsValid() || !span.IsValid() {
		return sc, false
	}
	cfg := trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: trace.TraceFlags(flags[0]) & trace.FlagsSampled, Remote: true}
	if tracestate != "" {
		if state, err := trace.ParseTraceState(tracestate); err == nil {
			cfg.TraceState = state
		}
	}
	return trace.NewSpanContext(cfg), true
}

// unhex reads lower-case hexadecimal digits.
func unhex(dst []byte, s string) bool {
	digit := func(c byte) (byte, bool) {
		switch {
		case c >= '0' && c <= '9':
			return c - '0', true
		case c >= 'a' && c <= 'f':
			return c - 'a' + 10, true
		}
		return 0, false
	}
	for i := range dst {
		high, ok1 := digit(s[2*i])
		low, ok2 := digit(s[2*i+1])
		if !ok1 || !ok2 {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

// Format writes a span context as traceparent.
func Format(sc trace.SpanContext) string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 55)
	hex := func(bytes ...byte) {
		for _, v := range bytes {
			b = append(b, digits[v>>4], digits[v&15])
		}
	}
	id, span := sc.TraceID(), sc.SpanID()
	hex(0)
	b = append(b, '-')
	hex(id[:]...)
	b = append(b, '-')
	hex(span[:]...)
	b = append(b, '-')
	hex(byte(sc.TraceFlags()))
	return string(b)
}

// Rule decides on requests that begin a trace: the first of every second, and a share of the others.
type Rule struct {
	perSecond int64
	ratio     float64
	now       func() time.Time
	random    func() float64

	// second is the newest one and how many traces were recorded in it, perSecond at most: the time in
	// seconds << countBits | count.
	second atomic.Int64
}

// countBits is room for as many traces of a second as anyone records.
const countBits = 20

// NewRule makes a Rule. random gives uniform values in [0, 1); now and random may be called concurrently.
func NewRule(perSecond int, ratio float64, now func() time.Time, random func() float64) *Rule {
	return &Rule{perSecond: min(int64(perSecond), 1<<countBits-1), ratio: ratio, now: now, random: random}
}

// Sample decides on one new trace.
func (r *Rule) Sample() bool {
	if r.random() < r.ratio {
		return true
	}
	if r.perSecond <= 0 {
		return false
	}
	second := r.now().Unix()
	for {
		was := r.second.Load()
		next := second<<countBits | 1
		if was>>countBits == second {
			if was&(1<<countBits-1) >= r.perSecond {
				return false
			}
			next = was + 1
		}
		if r.second.CompareAndSwap(was, next) {
			return true
		}
	}
}

// Span is what is recorded of something that is over.
type Span struct {
	Name       string
	Kind       trace.SpanKind
	Start, End time.Time
	Attributes []attribute.KeyValue
	// Error is set for what failed, as a text for people.
	Error string
}

// Start begins a span whose children are made before it ends. parent may be invalid: the span then begins a
// trace.
func Start(tracer trace.Tracer, parent trace.SpanContext, s Span) (context.Context, trace.Span) {
	ctx := context.Background()
	if parent.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, parent)
	}
	return tracer.Start(ctx, s.Name, trace.WithTimestamp(s.Start), trace.WithSpanKind(s.Kind), trace.WithAttributes(s.Attributes...))
}

// Record makes a whole span under the one in ctx.
func Record(ctx context.Context, tracer trace.Tracer, s Span) {
	_, span := tracer.Start(ctx, s.Name, trace.WithTimestamp(s.Start), trace.WithSpanKind(s.Kind), trace.WithAttributes(s.Attributes...))
	End(span, s)
}

// End ends a span at s.End, failed if s.Error is set.
func End(span trace.Span, s Span) {
	if s.Error != "" {
		span.SetStatus(codes.Error, s.Error)
	}
	span.End(trace.WithTimestamp(s.End))
}
