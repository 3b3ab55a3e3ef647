package track

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/telemetry"
	"github.com/coppice-mesh/coppice/telemetry/latency"
)

func attr(k, v string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: k, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}}
}

// process is a sender: a gateway or a replica that counts.
type process struct {
	resource *resourcepb.Resource
	metric   string
	start    time.Time
	hist     latency.Histogram
	labels   []*commonpb.KeyValue
}

func newReplica(id, incarnation string, start time.Time) *process {
	return &process{
		resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{
			attr("service.name", "x"), attr(string(telemetry.AttrReplica), id), attr(string(telemetry.AttrIncarnation), incarnation),
		}},
		metric: telemetry.ReplicaDuration, start: start,
	}
}

func newGateway(id string, start time.Time) *process {
	return &process{
		resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{attr(string(telemetry.AttrGateway), id)}},
		metric:   telemetry.GatewayDuration, start: start,
	}
}

func (p *process) record(n int, d time.Duration) {
	for range n {
		p.hist.Record(d)
	}
}

func (p *process) point(at time.Time) *metricspb.ExponentialHistogramDataPoint {
	s := p.hist.Snapshot()
	return &metricspb.ExponentialHistogramDataPoint{
		StartTimeUnixNano: uint64(p.start.UnixNano()), TimeUnixNano: uint64(at.UnixNano()), Attributes: p.labels,
		Scale: s.Scale, Count: s.Count, ZeroCount: s.Zero, Sum: &s.Sum,
		Positive: &metricspb.ExponentialHistogramDataPoint_Buckets{Offset: s.Offset, BucketCounts: s.Counts},
	}
}

func (p *process) export(points ...*metricspb.ExponentialHistogramDataPoint) []*metricspb.ResourceMetrics {
	return []*metricspb.ResourceMetrics{{
		Resource: p.resource,
		ScopeMetrics: []*metricspb.ScopeMetrics{{Metrics: []*metricspb.Metric{{
			Name: p.metric, Unit: "s", Data: &metricspb.Metric_ExponentialHistogram{ExponentialHistogram: &metricspb.ExponentialHistogram{
				AggregationTemporality: metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE, DataPoints: points,
			}},
		}}}},
	}}
}

// clock is the tracker's time.
type clock struct{ now time.Time }

func (c *clock) pass(d time.Duration) time.Time {
	c.now = c.now.Add(d)
	return c.now
}

var epoch = time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)

func newTracker() (*Tracker, *clock) {
	c := &clock{epoch}
	return New(func() time.Time { return c.now }), c
}

func receive(t *testing.T, tr *Tracker, export []*metricspb.ResourceMetrics) {
	t.Helper()
	if n, why := tr.Receive(export); n != 0 {
		t.Errorf("%d points were refused: %s", n, why)
	}
}

func near(got, want float64) bool { return math.Abs(got-want) <= 0.03*want }

func TestWindow(t *testing.T) {
	tr, c := newTracker()
	if s := tr.Replica("r0", "a"); s != none {
		t.Errorf("an unknown replica has %+v", s)
	}
	p := newReplica("r0", "a", epoch)
	// Ten requests a quarter of a second for a minute, then twice as slow and half as many.
	for range 240 {
		p.record(10, 2*time.Millisecond)
		receive(t, tr, p.export(p.point(c.pass(250*time.Millisecond))))
	}
	s := tr.Replica("r0", "a")
	if !near(s.Rate, 40) || s.Count < 390 || s.Count > 430 || !near(s.P50, 0.002) || !near(s.P95, 0.002) || s.Age != 0 {
		t.Errorf("at a steady rate %+v", s)
	}
	for range 20 {
		p.record(5, 4*time.Millisecond)
		receive(t, tr, p.export(p.point(c.pass(250*time.Millisecond))))
	}
	// Now half of the window has the one and half the other.
	if s := tr.Replica("r0", "a"); !near(s.P50, 0.002) || !near(s.P95, 0.004) || !near(s.P99, 0.004) || s.Rate > 33 || s.Rate < 28 {
		t.Errorf("after 5 s of change %+v", s)
	}
	for range 22 {
		p.record(5, 4*time.Millisecond)
		receive(t, tr, p.export(p.point(c.pass(250*time.Millisecond))))
	}
	if s := tr.Replica("r0", "a"); !near(s.P50, 0.004) {
		t.Errorf("after the window %+v", s)
	}
	// Nothing more comes.
	c.pass(5 * time.Second)
	if s := tr.Replica("r0", "a"); s.Age != 5*time.Second || s.Count > 120 || s.Count == 0 {
		t.Errorf("after silence %+v", s)
	}
	c.pass(6 * time.Second)
	if s := tr.Replica("r0", "a"); s.Age != 11*time.Second || s.Count != 0 || s.Rate != 0 {
		t.Errorf("after long silence %+v", s)
	}
	c.pass(forget)
	tr.Forget()
	if s := tr.Replica("r0", "a"); s != none {
		t.Errorf("after it was forgotten %+v", s)
	}
}

// TestOnce: whatever comes twice, late or out of order, each request counts once.
func TestOnce(t *testing.T) {
	tr, c := newTracker()
	p := newReplica("r0", "a", epoch)
	p.record(10, time.Millisecond)
	first := p.point(c.pass(250 * time.Millisecond))
	p.record(10, time.Millisecond)
	second := p.point(c.pass(250 * time.Millisecond))
	p.record(10, time.Millisecond)
	third := p.point(c.pass(250 * time.Millisecond))
	for i, pt := range []*metricspb.ExponentialHistogramDataPoint{second, first, second, third, third, first} {
		receive(t, tr, p.export(pt))
		want := uint64(30)
		if i < 3 {
			want = 20
		}
		if s := tr.Replica("r0", "a"); s.Count != want {
			t.Errorf("step %d: count %d, want %d", i, s.Count, want)
		}
	}
}

// TestSeries: the series of a process are told apart by their attributes, in any order, and count together.
func TestSeries(t *testing.T) {
	tr, c := newTracker()
	a, b := newReplica("r0", "a", epoch), newReplica("r0", "a", epoch)
	a.labels = []*commonpb.KeyValue{attr("m", "1"), attr("v", "2")}
	b.labels = []*commonpb.KeyValue{attr("m", "1"), attr("v", "3")}
	a.record(5, time.Millisecond)
	b.record(7, time.Second)
	at := c.pass(time.Second)
	receive(t, tr, a.export(a.point(at), b.point(at)))
	a.record(5, time.Millisecond)
	a.labels[0], a.labels[1] = a.labels[1], a.labels[0]
	at = c.pass(time.Second)
	receive(t, tr, a.export(b.point(at), a.point(at)))
	if s := tr.Replica("r0", "a"); s.Count != 17 || !near(s.P50, 0.001) || !near(s.P95, 1) {
		t.Errorf("%+v", s)
	}
}

// TestRestart: a process that began anew, in the same slot or under the same name.
func TestRestart(t *testing.T) {
	tr, c := newTracker()
	p := newReplica("r0", "a", epoch)
	p.record(100, time.Millisecond)
	receive(t, tr, p.export(p.point(c.pass(time.Second))))

	q := newReplica("r0", "b", c.now)
	q.record(7, 5*time.Millisecond)
	receive(t, tr, q.export(q.point(c.pass(time.Second))))
	if s := tr.Replica("r0", "b"); s.Count != 7 || !near(s.P50, 0.005) {
		t.Errorf("the next worker of the slot has %+v", s)
	}
	if s := tr.Replica("r0", "a"); s.Count != 100 {
		t.Errorf("the one before has %+v", s)
	}

	g := newGateway("g", epoch)
	g.record(50, time.Millisecond)
	receive(t, tr, g.export(g.point(c.pass(time.Second))))
	h := newGateway("g", c.now)
	h.record(60, time.Millisecond)
	receive(t, tr, h.export(h.point(c.pass(time.Second))))
	// What the one before sent last comes late.
	g.record(1, time.Millisecond)
	receive(t, tr, g.export(g.point(c.now)))
	if s := tr.Gateway("g"); s.Count != 110 {
		t.Errorf("a gateway that began anew has %+v", s)
	}

	// It began anew and does not say so: its counts went back.
	i := newGateway("g", h.start)
	i.record(3, time.Millisecond)
	receive(t, tr, i.export(i.point(c.pass(time.Second))))
	i.record(4, time.Millisecond)
	receive(t, tr, i.export(i.point(c.pass(time.Second))))
	if s := tr.Gateway("g"); s.Count != 114 {
		t.Errorf("after it began anew without saying so %+v", s)
	}
}

// TestFirstSeenLate: a balancer that begins now does not take the past for the present.
func TestFirstSeenLate(t *testing.T) {
	tr, c := newTracker()
	p := newReplica("r0", "a", epoch.Add(-time.Hour))
	p.record(1000000, 5*time.Second)
	receive(t, tr, p.export(p.point(c.pass(time.Second))))
	p.record(3, time.Millisecond)
	receive(t, tr, p.export(p.point(c.pass(time.Second))))
	if s := tr.Replica("r0", "a"); s.Count != 3 || !near(s.P99, 0.001) {
		t.Errorf("%+v", s)
	}
	// The clock of the sender does not matter.
	q := newReplica("r1", "a", epoch.Add(1000*time.Hour))
	q.record(3, time.Millisecond)
	receive(t, tr, q.export(q.point(q.start.Add(time.Second))))
	if s := tr.Replica("r1", "a"); s.Count != 3 {
		t.Errorf("%+v", s)
	}
}

func TestGateways(t *testing.T) {
	tr, c := newTracker()
	a, b, r := newGateway("a", epoch), newGateway("b", epoch), newReplica("r0", "i", epoch)
	a.record(90, 10*time.Millisecond)
	receive(t, tr, a.export(a.point(c.pass(time.Second))))
	b.record(10, 200*time.Millisecond)
	receive(t, tr, b.export(b.point(c.pass(time.Second))))
	r.record(500, time.Minute)
	receive(t, tr, r.export(r.point(c.now)))
	c.pass(time.Second)
	if s := tr.Gateways(); s.Count != 100 || !near(s.P50, 0.01) || !near(s.P95, 0.2) || s.Age != time.Second {
		t.Errorf("%+v", s)
	}
	// A sign of life without requests keeps the age young.
	receive(t, tr, []*metricspb.ResourceMetrics{{Resource: a.resource}})
	if s := tr.Gateways(); s.Age != 0 || s.Count != 100 {
		t.Errorf("%+v", s)
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("x", maxString+1)
	tests := []struct {
		name   string
		change func(*metricspb.ResourceMetrics, *metricspb.ExponentialHistogramDataPoint)
		want   string
	}{
		{"count", func(_ *metricspb.ResourceMetrics, p *metricspb.ExponentialHistogramDataPoint) { p.Count = 4 }, "the buckets hold 3"},
		{"beyond belief", func(_ *metricspb.ResourceMetrics, p *metricspb.ExponentialHistogramDataPoint) {
			p.ZeroCount, p.Count = 1<<62, 1<<62+3
		}, "beyond belief"},
		{"backwards", func(_ *metricspb.ResourceMetrics, p *metricspb.ExponentialHistogramDataPoint) { p.TimeUnixNano = 1 }, "before it starts"},
		{"attributes", func(_ *metricspb.ResourceMetrics, p *metricspb.ExponentialHistogramDataPoint) {
			for i := range maxAttributes + 1 {
				p.Attributes = append(p.Attributes, attr(fmt.Sprint(i), ""))
			}
		}, "17 attributes"},
		{"long", func(_ *metricspb.ResourceMetrics, p *metricspb.ExponentialHistogramDataPoint) {
			p.Attributes = append(p.Attributes, attr("a", long))
		}, "over 256 bytes"},
		{"delta", func(rm *metricspb.ResourceMetrics, _ *metricspb.ExponentialHistogramDataPoint) {
			rm.GetScopeMetrics()[0].GetMetrics()[0].GetExponentialHistogram().AggregationTemporality = metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA
		}, "not cumulative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr, c := newTracker()
			p := newReplica("r0", "a", epoch)
			p.record(3, time.Millisecond)
			export := p.export(p.point(c.pass(time.Second)), p.point(c.now.Add(1)))
			tt.change(export[0], export[0].GetScopeMetrics()[0].GetMetrics()[0].GetExponentialHistogram().GetDataPoints()[0])
			n, why := tr.Receive(export)
			if n == 0 || !strings.Contains(why, tt.want) {
				t.Errorf("%d refused: %q, want %q", n, why, tt.want)
			}
			// Its neighbour is taken all the same.
			if s := tr.Replica("r0", "a"); tt.name != "delta" && s.Count != 3 {
				t.Errorf("%+v", s)
			}
		})
	}
	tr, _ := newTracker()
	stranger := newReplica("r0", "a", epoch)
	for _, r := range []*resourcepb.Resource{nil, {}, {Attributes: []*commonpb.KeyValue{attr(string(telemetry.AttrReplica), long)}}} {
		stranger.resource = r
		stranger.record(1, time.Second)
		tr.Receive(stranger.export(stranger.point(epoch.Add(time.Second))))
	}
	if len(tr.sources) != 0 {
		t.Errorf("strangers are followed: %v", tr.sources)
	}
}

// TestLimits: a sender cannot make the tracker keep more than its limits.
func TestLimits(t *testing.T) {
	tr, c := newTracker()
	p := newReplica("r0", "a", epoch)
	p.record(1, time.Millisecond)
	at := c.pass(time.Second)
	var points []*metricspb.ExponentialHistogramDataPoint
	for i := range maxSeries + 5 {
		pt := p.point(at)
		pt.Attributes = []*commonpb.KeyValue{attr("a", fmt.Sprint(i))}
		points = append(points, pt)
	}
	if n, why := tr.Receive(p.export(points...)); n != 5 || !strings.Contains(why, "series") {
		t.Errorf("%d refused: %s", n, why)
	}
	var exports []*metricspb.ResourceMetrics
	for i := range maxSources + 3 {
		q := newReplica(fmt.Sprint("x", i), "a", epoch)
		q.record(1, time.Millisecond)
		exports = append(exports, q.export(q.point(at))...)
	}
	if n, why := tr.Receive(exports); n != 4 || !strings.Contains(why, "processes") {
		t.Errorf("%d refused: %s", n, why)
	}
	// The silent ones make room.
	c.pass(forget + time.Second)
	var fresh []*metricspb.ResourceMetrics
	for i := range 10 {
		q := newReplica(fmt.Sprint("y", i), "a", epoch)
		q.record(1, time.Millisecond)
		fresh = append(fresh, q.export(q.point(at))...)
	}
	if n, why := tr.Receive(fresh); n != 0 || len(tr.sources) != 10 {
		t.Errorf("%d refused: %s; %d are followed", n, why, len(tr.sources))
	}
	many := make([]*metricspb.ExponentialHistogramDataPoint, maxPoints+2)
	for i := range many {
		many[i] = points[0]
	}
	if n, _ := tr.Receive(p.export(many...)); n != 2 {
		t.Errorf("%d refused of a huge message", n)
	}
}

// FuzzReceive: no message does any harm, and what is known stays within reason.
func FuzzReceive(f *testing.F) {
	p := newReplica("r0", "a", epoch)
	p.record(3, time.Millisecond)
	for _, rm := range [][]*metricspb.ResourceMetrics{p.export(p.point(epoch.Add(time.Second))), {{}}} {
		b, err := proto.Marshal(rm[0])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		tr, c := newTracker()
		for _, data := range [][]byte{a, b} {
			var rm metricspb.ResourceMetrics
			if proto.Unmarshal(data, &rm) != nil {
				return
			}
			tr.Receive([]*metricspb.ResourceMetrics{&rm})
			c.pass(time.Second)
			for id := range tr.sources {
				s := tr.Replica(id.ID, id.Incarnation)
				if id.Kind == Gateway {
					s = tr.Gateway(id.ID)
				}
				if s.P50 > s.P95 || s.P95 > s.P99 || s.Rate < 0 || math.IsNaN(s.Rate+s.P99) {
					t.Errorf("%+v", s)
				}
			}
		}
	})
}
