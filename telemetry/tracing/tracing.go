// Package tracing decides which requests are traced and records their spans.
//
// Nothing is recorded while a request runs. Whoever handles it keeps the times that it needs anyway, and when
// the request is over and is to be traced, its spans are made of them. A request that is not traced costs a
// look at its traceparent.
package tracing

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
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
	// maxTracestate bounds what is kept of a client's; "vendors SHOULD propagate at least 512 characters".
	// - W3C Trace Context, 3.3.1.5
	maxTracestate = 2048
)

// Parent reads a W3C traceparent and tracestate. ok is false for anything that is not valid; the request then
// begins a trace of its own. A tracestate that is not valid is left out.
func Parent(traceparent, tracestate string) (parent trace.SpanContext, ok bool) {
	parent, ok = parse(traceparent)
	if ok {
		parent = withState(parent, tracestate)
	}
	return parent, ok
}

// parse reads a traceparent. It does not allocate.
func parse(traceparent string) (parent trace.SpanContext, ok bool) {
	// "version-format = trace-id "-" parent-id "-" trace-flags", with version "00" of 55 characters; later
	// versions may be longer but begin the same way. - W3C Trace Context, 3.2.2
	const length = 55
	if len(traceparent) < length || traceparent[2] != '-' || traceparent[35] != '-' || traceparent[52] != '-' {
		return parent, false
	}
	var version, flags [1]byte
	var id trace.TraceID
	var span trace.SpanID
	if !unhex(version[:], traceparent[:2]) || !unhex(id[:], traceparent[3:35]) || !unhex(span[:], traceparent[36:52]) || !unhex(flags[:], traceparent[53:55]) {
		return parent, false
	}
	if version[0] == 0xff || (version[0] == 0 && len(traceparent) != length) || (len(traceparent) > length && traceparent[length] != '-') {
		return parent, false
	}
	if !id.IsValid() || !span.IsValid() {
		return parent, false
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: id, SpanID: span, TraceFlags: trace.TraceFlags(flags[0]) & knownFlags, Remote: true,
	}), true
}

// knownFlags are those that are passed on.
const knownFlags = trace.FlagsSampled | trace.FlagsRandom

func withState(parent trace.SpanContext, tracestate string) trace.SpanContext {
	if tracestate == "" || len(tracestate) > maxTracestate {
		return parent
	}
	// "failure to parse tracestate MUST NOT affect the parsing of traceparent" - W3C Trace Context, 3.3
	state, err := trace.ParseTraceState(tracestate)
	if err != nil {
		return parent
	}
	return parent.WithTraceState(state)
}

// unhex reads lower-case hexadecimal digits.
func unhex(dst []byte, s string) bool {
	var bad byte
	for i := range dst {
		high, low := digits[s[2*i]], digits[s[2*i+1]]
		dst[i] = high<<4 | low
		bad |= high | low
	}
	return bad <= 0xf
}

// digits has the value of each lower-case hexadecimal digit, and 0xff for what is none.
var digits = func() (d [256]byte) {
	for c := range d {
		d[c] = 0xff
	}
	for v, c := range hex {
		d[c] = byte(v)
	}
	return d
}()

const hex = "0123456789abcdef"

// Format writes a span context as traceparent.
func Format(sc trace.SpanContext) string {
	var b [55]byte
	return string(AppendFormat(b[:0], sc))
}

// AppendFormat appends a span context as traceparent.
func AppendFormat(b []byte, sc trace.SpanContext) []byte {
	id, span := sc.TraceID(), sc.SpanID()
	b = append(b, "00-"...)
	for _, v := range id {
		b = append(b, hex[v>>4], hex[v&15])
	}
	b = append(b, '-')
	for _, v := range span {
		b = append(b, hex[v>>4], hex[v&15])
	}
	flags := byte(sc.TraceFlags() & knownFlags)
	return append(b, '-', hex[flags>>4], hex[flags&15])
}

// Rule decides on requests that begin a trace: the first of every second, and a share of the others. It takes no
// lock.
type Rule struct {
	perSecond int64
	ratio     float64
	now       func() time.Time
	random    func() float64

	// taken is the newest second, of Unix's count, and above it how many began in it: one word, so that both
	// change together.
	taken atomic.Uint64
}

// secondBits is enough for all seconds to come: until the year 36812.
const secondBits = 40

// NewRule makes a Rule. ratio is from 0 to 1, perSecond from 0 to a million, and what is beyond is taken as the
// nearest of these. random gives uniform values in [0, 1); now and random may be called concurrently.
func NewRule(perSecond int, ratio float64, now func() time.Time, random func() float64) *Rule {
	return &Rule{perSecond: min(max(int64(perSecond), 0), 1e6), ratio: ratio, now: now, random: random}
}

// Sample decides on one new trace.
func (r *Rule) Sample() bool {
	return r.first() || r.random() < r.ratio
}

// first takes one of those that are free in this second.
func (r *Rule) first() bool {
	if r.perSecond == 0 {
		return false
	}
	second := uint64(max(r.now().Unix(), 0)) & (1<<secondBits - 1)
	for {
		was := r.taken.Load()
		n := was >> secondBits
		switch newest := was & (1<<secondBits - 1); {
		case second > newest, second+1 < newest: // or the clock was set back
			n = 0
		case second < newest: // somebody was faster, just now
			second = newest
		}
		if int64(n) >= r.perSecond {
			return false
		}
		if r.taken.CompareAndSwap(was, second|(n+1)<<secondBits) {
			return true
		}
	}
}

// Decide reads what a client sent and says whether the request is recorded: as the client's sampled flag has
// it, or as Sample has it if the client sent nothing valid. It does not allocate for requests that are not
// recorded, whose parent comes without its tracestate.
//
// parent always has a trace id, for logs and answers. It has no span id if the request begins a trace.
func (r *Rule) Decide(traceparent, tracestate string) (parent trace.SpanContext, sampled bool) {
	parent, ok := parse(traceparent)
	if !ok {
		return trace.SpanContext{}.WithTraceID(NewTraceID()), r.Sample()
	}
	if parent.IsSampled() {
		return withState(parent, tracestate), true
	}
	return parent, false
}

// NewTraceID makes a random id.
func NewTraceID() (id trace.TraceID) {
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id
}

// Span is what is recorded of something that is over.
type Span struct {
	Name       string
	Kind       trace.SpanKind
	Start, End time.Time
	Attributes []attribute.KeyValue
	// Links are of spans in other traces that this one has to do with.
	Links []trace.Link
	// Error is set for what failed, as a text for people.
	Error string
}

func (s *Span) options() []trace.SpanStartOption {
	o := append(make([]trace.SpanStartOption, 0, 4), trace.WithTimestamp(s.Start), trace.WithSpanKind(s.Kind), trace.WithAttributes(s.Attributes...))
	if len(s.Links) > 0 {
		o = append(o, trace.WithLinks(s.Links...))
	}
	return o
}

// Start begins a span whose children are made before it ends. The span is recorded even if its parent is not,
// so that a request that failed leaves a trace. The span begins a trace if parent has no span id, with parent's
// trace id if it has one.
func Start(tracer trace.Tracer, parent trace.SpanContext, s Span) (context.Context, trace.Span) {
	ctx := context.Background()
	if parent.HasTraceID() {
		ctx = trace.ContextWithSpanContext(ctx, parent)
	}
	return tracer.Start(ctx, s.Name, s.options()...)
}

// Record makes a whole span under the one in ctx, and says how others may refer to it.
func Record(ctx context.Context, tracer trace.Tracer, s Span) trace.SpanContext {
	_, span := tracer.Start(ctx, s.Name, s.options()...)
	End(span, s)
	return span.SpanContext()
}

// End ends a span at s.End, failed if s.Error is set.
func End(span trace.Span, s Span) {
	if s.Error != "" {
		span.SetStatus(codes.Error, s.Error)
	}
	span.End(trace.WithTimestamp(s.End))
}
