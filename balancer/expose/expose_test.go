package expose

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/balancer/track"
	"github.com/coppice-mesh/coppice/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func attr(k, v string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: k, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}}
}

func from(kind, id, incarnation string, metrics ...*metricspb.Metric) []*metricspb.ResourceMetrics {
	return []*metricspb.ResourceMetrics{{
		Resource:     &resourcepb.Resource{Attributes: []*commonpb.KeyValue{attr(kind, id), attr(string(telemetry.AttrIncarnation), incarnation)}},
		ScopeMetrics: []*metricspb.ScopeMetrics{{Metrics: metrics}},
	}}
}

const (
	replica = string(telemetry.AttrReplica)
	gateway = string(telemetry.AttrGateway)
)

func number(v int64, attributes ...*commonpb.KeyValue) *metricspb.NumberDataPoint {
	return &metricspb.NumberDataPoint{Value: &metricspb.NumberDataPoint_AsInt{AsInt: v}, Attributes: attributes}
}

func count(name string, points ...*metricspb.NumberDataPoint) *metricspb.Metric {
	return &metricspb.Metric{Name: name, Description: "It counts.", Data: &metricspb.Metric_Sum{Sum: &metricspb.Sum{
		IsMonotonic: true, AggregationTemporality: metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE, DataPoints: points,
	}}}
}

func level(name string, points ...*metricspb.NumberDataPoint) *metricspb.Metric {
	return &metricspb.Metric{Name: name, Data: &metricspb.Metric_Gauge{Gauge: &metricspb.Gauge{DataPoints: points}}}
}

func duration(name string, counts ...uint64) *metricspb.Metric {
	p := &metricspb.ExponentialHistogramDataPoint{
		Scale: 0, Sum: proto.Float64(1.5),
		Positive: &metricspb.ExponentialHistogramDataPoint_Buckets{Offset: -10, BucketCounts: counts}, // from 1/1024 s on
	}
	for _, c := range counts {
		p.Count += c
	}
	return &metricspb.Metric{Name: name, Unit: "s", Data: &metricspb.Metric_ExponentialHistogram{ExponentialHistogram: &metricspb.ExponentialHistogram{
		AggregationTemporality: metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE,
		DataPoints:             []*metricspb.ExponentialHistogramDataPoint{p},
	}}}
}

type world struct {
	now  time.Time
	gone map[track.Source]bool
	*Page
}

func newWorld(own ...prometheus.Collector) *world {
	w := &world{now: time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC), gone: make(map[track.Source]bool)}
	w.Page = New(func() time.Time { return w.now }, func(s track.Source) bool { return !w.gone[s] }, own...)
	return w
}

// lines are those of the page that are about the mesh.
func (w *world) lines(t *testing.T) []string {
	t.Helper()
	rec := httptest.NewRecorder()
	w.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	b, err := io.ReadAll(rec.Body)
	if err != nil || rec.Code != 200 {
		t.Fatalf("status %d, %v: %s", rec.Code, err, b)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "coppice") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func (w *world) has(t *testing.T, wants ...string) {
	t.Helper()
	lines := w.lines(t)
	for _, want := range wants {
		found := false
		for _, l := range lines {
			found = found || l == want
		}
		if !found {
			t.Errorf("the page lacks %s; it has\n%s", want, strings.Join(lines, "\n"))
		}
	}
}

func TestPage(t *testing.T) {
	own := prometheus.NewGauge(prometheus.GaugeOpts{Name: "coppice_balancer_x", Help: "x"})
	w := newWorld(own)
	for _, e := range [][]*metricspb.ResourceMetrics{
		from(replica, "r0", "a", duration(telemetry.ReplicaDuration, 4, 0, 6), count(telemetry.ReplicaRows, number(7, attr("coppice.model", "demo"), attr("a-b", `"q"`)))),
		from(replica, "r1", "b", count(telemetry.ReplicaRows, number(9, attr("coppice.model", "demo")))),
		from(gateway, "g", "c", level(telemetry.GatewayInFlight, number(3))),
	} {
		if n, why := w.Receive(e); n != 0 {
			t.Errorf("%d refused: %s", n, why)
		}
	}
	w.has(t,
		`# TYPE coppice_replica_request_duration_seconds histogram`,
		`coppice_replica_request_duration_seconds_bucket{replica="r0",le="0.0005"} 0`,
		`coppice_replica_request_duration_seconds_bucket{replica="r0",le="0.0025"} 4`,
		`coppice_replica_request_duration_seconds_bucket{replica="r0",le="0.01"} 10`,
		`coppice_replica_request_duration_seconds_bucket{replica="r0",le="+Inf"} 10`,
		`coppice_replica_request_duration_seconds_sum{replica="r0"} 1.5`,
		`# HELP coppice_replica_rows_total It counts.`,
		`# TYPE coppice_replica_rows_total counter`,
		`coppice_replica_rows_total{a_b="\"q\"",model="demo",replica="r0"} 7`,
		`coppice_replica_rows_total{model="demo",replica="r1"} 9`,
		`coppice_gateway_in_flight{gateway="g"} 3`,
		`coppice_balancer_x 0`,
	)
	if lines := w.lines(t); !strings.Contains(strings.Join(lines, "\n"), `le="1e-05"} 0`) {
		t.Errorf("there is no bucket of 10 µs:\n%s", strings.Join(lines, "\n"))
	}
	// The newest value counts.
	w.Receive(from(replica, "r1", "b", count(telemetry.ReplicaRows, number(12, attr("coppice.model", "demo")))))
	w.has(t, `coppice_replica_rows_total{model="demo",replica="r1"} 12`)

	// Silent or no members: not shown.
	w.gone[track.Source{Kind: track.Replica, ID: "r0", Incarnation: "a"}] = true
	if all := strings.Join(w.lines(t), "\n"); strings.Contains(all, `"r0"`) || !strings.Contains(all, `"r1"`) {
		t.Errorf("r0 is gone, and r1 is not:\n%s", all)
	}
	w.now = w.now.Add(stale + time.Second)
	if all := strings.Join(w.lines(t), "\n"); strings.Contains(all, "replica=") || strings.Contains(all, "gateway=") {
		t.Errorf("all are silent:\n%s", all)
	}
}

// TestNextOfSlot: the next worker of a slot takes the place of the one before, and a stranger does not.
func TestNextOfSlot(t *testing.T) {
	w := newWorld()
	w.Receive(from(replica, "r0", "a", count("coppice.x", number(5))))
	if n, _ := w.Receive(from(replica, "r0", "b", count("coppice.x", number(1)))); n != 1 {
		t.Error("two processes have one slot")
	}
	w.has(t, `coppice_x_total{replica="r0"} 5`)
	w.gone[track.Source{Kind: track.Replica, ID: "r0", Incarnation: "a"}] = true
	w.Receive(from(replica, "r0", "b", count("coppice.x", number(1))))
	w.has(t, `coppice_x_total{replica="r0"} 1`)
}

func TestRefused(t *testing.T) {
	w := newWorld()
	w.Receive(from(replica, "r0", "a", count("coppice.x", number(5))))
	delta := count("coppice.y", number(5))
	delta.GetSum().AggregationTemporality = metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA
	broken := duration("coppice.d", 1)
	broken.GetExponentialHistogram().GetDataPoints()[0].Count = 9
	long := count(strings.Repeat("n", maxName+1), number(1))
	tests := []struct {
		metric *metricspb.Metric
		want   string
	}{
		{level("coppice.x", number(1)), "another kind"},
		{level("coppice.x.total", number(1)), "called as another"},
		{level("coppice.balancer.replicas", number(1)), "no name"},
		{level("go.goroutines", number(1)), "no name"},
		{level("", number(1)), "no name"},
		{delta, "not taken"},
		{&metricspb.Metric{Name: "h", Data: &metricspb.Metric_Histogram{Histogram: &metricspb.Histogram{DataPoints: make([]*metricspb.HistogramDataPoint, 1)}}}, "not taken"},
		{&metricspb.Metric{Name: "s", Data: &metricspb.Metric_Summary{Summary: &metricspb.Summary{DataPoints: make([]*metricspb.SummaryDataPoint, 1)}}}, "not taken"},
		{broken, "count is 9"},
		{long, "too long"},
	}
	for _, tt := range tests {
		if n, why := w.Receive(from(replica, "r0", "a", tt.metric)); n != 1 || !strings.Contains(why, tt.want) {
			t.Errorf("%.40s: %d refused: %q, want %q", tt.metric.GetName(), n, why, tt.want)
		}
	}
	w.has(t, `coppice_x_total{replica="r0"} 5`)
}

func TestLimits(t *testing.T) {
	w := newWorld()
	var points []*metricspb.NumberDataPoint
	for i := range maxSeries + 4 {
		points = append(points, number(1, attr("a", fmt.Sprint(i))))
	}
	if n, why := w.Receive(from(replica, "r0", "a", count("coppice.x", points...))); n != 4 || !strings.Contains(why, "series") {
		t.Errorf("%d refused: %s", n, why)
	}
	var many []*metricspb.Metric
	for i := range maxNames + 2 {
		many = append(many, level(fmt.Sprint("coppice.m", i), number(1)))
	}
	if n, why := w.Receive(from(replica, "r1", "a", many...)); n != 3 || !strings.Contains(why, "metrics") {
		t.Errorf("%d refused: %s", n, why)
	}
	var processes []*metricspb.ResourceMetrics
	for i := range maxSources + 1 {
		processes = append(processes, from(replica, fmt.Sprint("x", i), "a", level("coppice.m0", number(1)))...)
	}
	if n, why := w.Receive(processes); n != 3 || !strings.Contains(why, "processes") {
		t.Errorf("%d refused: %s", n, why)
	}
}

func TestPageName(t *testing.T) {
	tests := []struct {
		name, unit string
		kind       kind
		want       string
	}{
		{"coppice.a.b", "s", histogram, "coppice_a_b_seconds"},
		{"coppice.a_seconds", "s", gauge, "coppice_a_seconds"},
		{"coppice.bytes", "By", counter, "coppice_bytes_total"},
		{"a.total", "1", counter, "a_total"},
		{"9x-ä", "{requests}", gauge, "_9x__"},
	}
	for _, tt := range tests {
		if got := pageName(tt.name, tt.unit, tt.kind); got != tt.want {
			t.Errorf("%s in %s is %s, want %s", tt.name, tt.unit, got, tt.want)
		}
	}
}

// FuzzReceive: whatever comes, the page can be read.
func FuzzReceive(f *testing.F) {
	for _, m := range []*metricspb.Metric{
		duration("coppice.d", 1, 2), count("coppice.c", number(1, attr("le", "x"), attr("replica", "y"), attr("coppice.replica", "z"))),
		level("0\xff", number(1, attr("", ""), attr("__x", "\xff"), attr("ä", "ä"))),
	} {
		b, err := proto.MarshalOptions{}.Marshal(from(replica, "r0", "a", m)[0])
		if err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var rm metricspb.ResourceMetrics
		if proto.Unmarshal(b, &rm) != nil {
			return
		}
		w := newWorld()
		w.Receive([]*metricspb.ResourceMetrics{&rm, from(gateway, "g", "a", level("coppice.sure", number(1)))[0]})
		w.has(t, `coppice_sure{gateway="g"} 1`)
	})
}
