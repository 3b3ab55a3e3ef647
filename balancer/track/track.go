// Package track follows how long requests take: at each replica and at each gateway, over a window that ends
// now.
//
// It is fed with what OpenTelemetry exports: cumulative exponential histograms, each the sum since its process
// began. The difference of two is what happened in between. A sender may begin anew, send twice, send out of
// order or send nonsense; none of it disturbs the others, and what is kept has a limit.
package track

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/coppice-mesh/coppice/telemetry"
	"github.com/coppice-mesh/coppice/telemetry/latency"
)

const (
	// Window is the time over which latencies are summed up.
	Window = 10 * time.Second
	// step is the resolution of the window. Exports come every 250 ms.
	step = 500 * time.Millisecond
	// steps cover the window, and the part of a step in which it begins.
	steps = int(Window/step) + 1
	// forget is the silence after which a source is dropped.
	forget = 30 * time.Second

	// Limits on what is kept and on what a message may bring.
	maxSources = 2048
	maxSeries  = 256 // of a source
	maxString  = 256 // bytes of a name or a value
	maxPoints  = 16384
	// maxCount is beyond what anybody counts, and small enough that sums do not overflow.
	maxCount = 1 << 50
)

// Kind is what a source is.
type Kind uint8

// The kinds of sources.
const (
	Replica Kind = iota + 1
	Gateway
)

// durations names the histogram that is followed of each kind.
var durations = map[Kind]string{Replica: telemetry.ReplicaDuration, Gateway: telemetry.GatewayDuration}

// Source is a process that exports.
type Source struct {
	Kind Kind
	// ID is the slot of a replica or the name of a gateway.
	ID string
	// Incarnation differs between two processes of the same ID.
	Incarnation string
}

// SourceOf reads who sends from a resource. ok is false for those that are no part of the mesh.
func SourceOf(r *resourcepb.Resource) (s Source, ok bool) {
	for _, kv := range r.GetAttributes() {
		v := kv.GetValue().GetStringValue()
		if len(v) > maxString {
			return Source{}, false
		}
		switch attribute.Key(kv.GetKey()) {
		case telemetry.AttrReplica:
			s.Kind, s.ID = Replica, v
		case telemetry.AttrGateway:
			s.Kind, s.ID = Gateway, v
		case telemetry.AttrIncarnation:
			s.Incarnation = v
		}
	}
	return s, s.ID != ""
}

// Stats sums up a window.
type Stats struct {
	// Count is the number of requests that ended in the window, and Rate how many that is a second.
	Count uint64
	Rate  float64
	// P50, P95 and P99 are quantiles of their latency in seconds. They mean nothing if Count is 0.
	P50, P95, P99 float64
	// Age is how long ago the newest export came. Negative: there has been none.
	Age time.Duration
}

// none is a source that has not been heard of.
var none = Stats{Age: -1}

// Tracker follows all sources. Its methods may be called concurrently.
type Tracker struct {
	now func() time.Time

	mu      sync.Mutex
	sources map[Source]*source
}

// source is what is known of one process.
type source struct {
	began  time.Time // the first export
	heard  time.Time // the newest export
	series map[string]*series
	ring   [steps]slice
}

// slice is what ended in one step of time.
type slice struct {
	step   int64 // which one
	merged latency.Snapshot
}

// series is the newest state of one histogram of a source.
type series struct {
	start, time uint64
	last        *latency.Snapshot
}

// New makes a tracker. now gives the time; it should be monotonic.
func New(now func() time.Time) *Tracker {
	return &Tracker{now: now, sources: make(map[Source]*source)}
}

// Receive takes an export. It returns how many of its data points were refused, and one reason.
func (t *Tracker) Receive(export []*metricspb.ResourceMetrics) (refused int64, why string) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	points := 0
	for _, rm := range export {
		id, ok := SourceOf(rm.GetResource())
		if !ok {
			continue
		}
		var src *source
		for _, sm := range rm.GetScopeMetrics() {
			for _, m := range sm.GetMetrics() {
				if m.GetName() != durations[id.Kind] {
					continue
				}
				h := m.GetExponentialHistogram()
				for _, p := range h.GetDataPoints() {
					var err error
					points++
					switch {
					case points > maxPoints:
						err = fmt.Errorf("over %d data points in a message", maxPoints)
					case h.GetAggregationTemporality() != metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE:
						err = fmt.Errorf("%s is not cumulative", m.GetName())
					default:
						if src == nil {
							src, err = t.source(id, now)
						}
						if err == nil {
							err = src.take(p, now)
						}
					}
					if err != nil {
						refused, why = refused+1, err.Error()
					}
				}
			}
		}
		// An export without requests is a sign of life all the same.
		if src == nil {
			src, _ = t.source(id, now)
		}
		if src != nil {
			src.heard = now
		}
	}
	return refused, why
}

// source finds or makes what is known of a process. t.mu is held.
func (t *Tracker) source(id Source, now time.Time) (*source, error) {
	if s := t.sources[id]; s != nil {
		return s, nil
	}
	if len(t.sources) >= maxSources {
		t.clear(now)
	}
	if len(t.sources) >= maxSources {
		return nil, fmt.Errorf("%d processes export already", maxSources)
	}
	s := &source{began: now, heard: now, series: make(map[string]*series)}
	t.sources[id] = s
	return s, nil
}

// clear drops those that were not heard of for long. t.mu is held.
func (t *Tracker) clear(now time.Time) {
	for id, s := range t.sources {
		if now.Sub(s.heard) > forget {
			delete(t.sources, id)
		}
	}
}

// take counts what a data point has that the one before did not have.
func (s *source) take(p *metricspb.ExponentialHistogramDataPoint, now time.Time) error {
	snap, err := latency.FromOTLP(p)
	if err != nil {
		return err
	}
	if snap.Count > maxCount {
		return fmt.Errorf("a count of %d is beyond belief", snap.Count)
	}
	start, at := p.GetStartTimeUnixNano(), p.GetTimeUnixNano()
	if at < start {
		return fmt.Errorf("a data point ends %v before it starts", time.Duration(start-at))
	}
	key, err := Key(p.GetAttributes())
	if err != nil {
		return err
	}
	sr := s.series[key]
	if sr == nil {
		if len(s.series) >= maxSeries {
			return fmt.Errorf("a process has over %d series", maxSeries)
		}
		sr = &series{}
		s.series[key] = sr
		// What is first seen long after it began, by a balancer that was restarted, has no place in time.
		if at-start < uint64(Window) {
			sr.last = &latency.Snapshot{}
		}
	}
	delta := &latency.Snapshot{}
	switch {
	case sr.last == nil: // only a base
	case start < sr.start, start == sr.start && at <= sr.time && sr.time > 0:
		return nil // it was overtaken, or came twice
	case start > sr.start && sr.time > 0:
		delta = snap.Clone() // it began anew
	default:
		var ok bool
		if delta, ok = snap.Sub(sr.last); !ok {
			delta = &latency.Snapshot{} // it began anew without saying so: only a base
		}
	}
	sr.start, sr.time, sr.last = start, at, snap
	if delta.Count == 0 {
		return nil
	}
	n := now.UnixNano() / int64(step)
	sl := &s.ring[int(n%int64(steps))]
	if sl.step != n {
		*sl = slice{step: n}
	}
	sl.merged.Merge(delta)
	return nil
}

// window adds what ended in the window that ends now.
func (s *source) window(now time.Time, into *latency.Snapshot) {
	last := now.UnixNano() / int64(step)
	for i := range s.ring {
		if sl := &s.ring[i]; sl.step > last-int64(steps) && sl.step <= last {
			into.Merge(&sl.merged)
		}
	}
}

// stats sums up a window of so many sources that began at this time.
func stats(merged *latency.Snapshot, age, known time.Duration) Stats {
	out := Stats{Count: merged.Count, Age: age}
	// A process that began just now has a rate, too, but none that a first request makes huge.
	out.Rate = float64(merged.Count) / min(max(known, time.Second), Window).Seconds()
	out.P50, _ = merged.Quantile(0.50)
	out.P95, _ = merged.Quantile(0.95)
	out.P99, _ = merged.Quantile(0.99)
	return out
}

func (t *Tracker) of(pick func(Source) bool) Stats {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	var merged latency.Snapshot
	var heard, began time.Time
	for id, s := range t.sources {
		if !pick(id) {
			continue
		}
		s.window(now, &merged)
		if s.heard.After(heard) {
			heard = s.heard
		}
		if began.IsZero() || s.began.Before(began) {
			began = s.began
		}
	}
	if heard.IsZero() {
		return none
	}
	return stats(&merged, now.Sub(heard), now.Sub(began))
}

// Replica sums up the window of one process of a replica.
func (t *Tracker) Replica(id, incarnation string) Stats {
	return t.of(func(s Source) bool { return s == Source{Replica, id, incarnation} })
}

// Gateway sums up the window of a gateway, whatever its incarnation.
func (t *Tracker) Gateway(id string) Stats {
	return t.of(func(s Source) bool { return s.Kind == Gateway && s.ID == id })
}

// Gateways sums up the window of all gateways together. Age is that of the newest export of any.
func (t *Tracker) Gateways() Stats {
	return t.of(func(s Source) bool { return s.Kind == Gateway })
}

// Forget drops all processes of which nothing was heard for long. It should be called now and then.
func (t *Tracker) Forget() {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear(now)
}

// maxAttributes bounds the attributes of a data point.
const maxAttributes = 16

// Key names a series within a metric of a source by its attributes, whatever their order. It fails when there
// are too many of them or when one is too long.
func Key(attributes []*commonpb.KeyValue) (string, error) {
	if len(attributes) > maxAttributes {
		return "", fmt.Errorf("a data point has %d attributes, at most %d are taken", len(attributes), maxAttributes)
	}
	parts := make([]string, 0, len(attributes))
	for _, kv := range attributes {
		v := Text(kv.GetValue())
		if len(kv.GetKey()) > maxString || len(v) > maxString {
			return "", fmt.Errorf("an attribute has over %d bytes", maxString)
		}
		parts = append(parts, strconv.Quote(kv.GetKey())+"="+strconv.Quote(v))
	}
	slices.Sort(parts)
	return strings.Join(parts, ","), nil
}

// Text writes the value of an attribute. Values that are no scalars have none.
func Text(v *commonpb.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *commonpb.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	case *commonpb.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	}
	return ""
}
