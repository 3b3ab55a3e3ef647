// Package expose is the metrics page of the mesh: what gateways and replicas export by OpenTelemetry, and what
// the balancer knows itself, in the form that any Prometheus reads.
//
// Only the balancer has a page. Its series carry the label "replica", a slot of the pool that is used again
// when a worker is replaced, or "gateway": so their number stays what the pool's size makes it. The
// exponential histograms that come in are shown with fixed buckets.
package expose

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/coppice-mesh/coppice/balancer/track"
	"github.com/coppice-mesh/coppice/telemetry/latency"
)

// Buckets are the upper bounds in seconds of the buckets of all latencies: 10 µs to 10 s.
var Buckets = []float64{
	10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10,
}

const (
	// stale is the silence after which the series of a process are not shown any more.
	stale = 10 * time.Second

	// Limits on what is kept and on what a message may bring.
	maxSources = 2048
	maxNames   = 256
	maxSeries  = 512 // of a source
	maxPoints  = 16384
	maxName    = 128 // bytes of a metric's name
)

// Page shows the newest values. Its methods may be called concurrently.
type Page struct {
	now      func() time.Time
	member   func(track.Source) bool
	registry *prometheus.Registry

	mu      sync.Mutex
	names   map[string]*name // by the name in OpenTelemetry
	taken   map[string]bool  // the names on the page
	sources map[key]*source
}

// key is a source whatever its incarnation: the next process of a slot takes the place of the one before.
type key struct {
	kind track.Kind
	id   string
}

// name is a metric.
type name struct {
	page string // its name on the page
	kind kind
	help string
}

type kind uint8

const (
	histogram kind = iota + 1
	counter
	gauge
)

type source struct {
	incarnation string
	heard       time.Time
	series      map[string]*series // by name and attributes
}

type series struct {
	name   *name
	labels []label
	value  float64
	hist   *latency.Snapshot
}

// label is one of a series's.
type label struct{ name, value string }

// New makes a page. member says whether a process still belongs to the mesh: the series of one that does not
// are not shown. own are the balancer's own metrics, whose names begin with "coppice_balancer_".
func New(now func() time.Time, member func(track.Source) bool, own ...prometheus.Collector) *Page {
	p := &Page{
		now: now, member: member, registry: prometheus.NewRegistry(),
		names: make(map[string]*name), taken: make(map[string]bool), sources: make(map[key]*source),
	}
	p.registry.MustRegister(p, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.registry.MustRegister(own...)
	return p
}

// Handler serves the page.
func (p *Page) Handler(logger *slog.Logger) http.Handler {
	return promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
	})
}

// Receive takes an export. It returns how many of its data points were refused, and one reason.
func (p *Page) Receive(export []*metricspb.ResourceMetrics) (refused int64, why string) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	points := 0
	for _, rm := range export {
		id, ok := track.SourceOf(rm.GetResource())
		if !ok {
			continue
		}
		src, err := p.source(id, now)
		for _, sm := range rm.GetScopeMetrics() {
			for _, m := range sm.GetMetrics() {
				for _, pt := range read(m) {
					points++
					e := err
					if e == nil && points > maxPoints {
						e = fmt.Errorf("over %d data points in a message", maxPoints)
					}
					if e == nil {
						e = p.take(src, id, m, pt)
					}
					if e != nil {
						refused, why = refused+1, e.Error()
					}
				}
			}
		}
	}
	return refused, why
}

// source finds or makes the place of a process. p.mu is held.
func (p *Page) source(id track.Source, now time.Time) (*source, error) {
	k := key{id.Kind, id.ID}
	s := p.sources[k]
	if s == nil {
		if len(p.sources) >= maxSources {
			p.clear(now)
		}
		if len(p.sources) >= maxSources {
			return nil, fmt.Errorf("%d processes export already", maxSources)
		}
		s = &source{incarnation: id.Incarnation, series: make(map[string]*series)}
		p.sources[k] = s
	}
	if s.incarnation != id.Incarnation {
		if p.member(track.Source{Kind: id.Kind, ID: id.ID, Incarnation: s.incarnation}) && now.Sub(s.heard) < stale {
			return nil, fmt.Errorf("%q is another process", id.ID)
		}
		*s = source{incarnation: id.Incarnation, series: make(map[string]*series)}
	}
	s.heard = now
	return s, nil
}

// clear drops those that are not shown any more. p.mu is held.
func (p *Page) clear(now time.Time) {
	for k, s := range p.sources {
		if now.Sub(s.heard) > stale || !p.member(track.Source{Kind: k.kind, ID: k.id, Incarnation: s.incarnation}) {
			delete(p.sources, k)
		}
	}
}

// point is a data point of any kind.
type point struct {
	kind       kind // 0: none that is taken
	attributes []*commonpb.KeyValue
	value      float64
	hist       *metricspb.ExponentialHistogramDataPoint
}

// read gives the data points of a metric.
func read(m *metricspb.Metric) []point {
	var points []point
	numbers := func(k kind, list []*metricspb.NumberDataPoint) {
		for _, p := range list {
			v := p.GetAsDouble()
			if i, ok := p.GetValue().(*metricspb.NumberDataPoint_AsInt); ok {
				v = float64(i.AsInt)
			}
			points = append(points, point{kind: k, attributes: p.GetAttributes(), value: v})
		}
	}
	const cumulative = metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	switch data := m.GetData().(type) {
	case *metricspb.Metric_Gauge:
		numbers(gauge, data.Gauge.GetDataPoints())
	case *metricspb.Metric_Sum:
		switch {
		case data.Sum.GetAggregationTemporality() != cumulative:
			numbers(0, data.Sum.GetDataPoints())
		case data.Sum.GetIsMonotonic():
			numbers(counter, data.Sum.GetDataPoints())
		default:
			numbers(gauge, data.Sum.GetDataPoints())
		}
	case *metricspb.Metric_ExponentialHistogram:
		k := histogram
		if data.ExponentialHistogram.GetAggregationTemporality() != cumulative {
			k = 0
		}
		for _, p := range data.ExponentialHistogram.GetDataPoints() {
			points = append(points, point{kind: k, attributes: p.GetAttributes(), hist: p})
		}
	case *metricspb.Metric_Histogram:
		points = make([]point, len(data.Histogram.GetDataPoints()))
	case *metricspb.Metric_Summary:
		points = make([]point, len(data.Summary.GetDataPoints()))
	}
	return points
}

// take keeps a data point as the newest of its series. p.mu is held.
func (p *Page) take(src *source, id track.Source, m *metricspb.Metric, pt point) error {
	if pt.kind == 0 {
		return fmt.Errorf("%.64q is of a kind that is not taken: expected gauges, cumulative sums and cumulative exponential histograms", m.GetName())
	}
	n, err := p.name(m, pt.kind)
	if err != nil {
		return err
	}
	k, err := track.Key(pt.attributes)
	if err != nil {
		return err
	}
	k = n.page + "{" + k
	sr := src.series[k]
	if sr == nil {
		if len(src.series) >= maxSeries {
			return fmt.Errorf("%q has over %d series", id.ID, maxSeries)
		}
		sr = &series{name: n, labels: labels(id, pt.attributes)}
		src.series[k] = sr
	}
	if pt.kind != histogram {
		sr.value = pt.value
		return nil
	}
	h, err := latency.FromOTLP(pt.hist)
	if err != nil {
		return err
	}
	sr.hist = h
	return nil
}

// name finds or makes a metric. p.mu is held.
func (p *Page) name(m *metricspb.Metric, k kind) (*name, error) {
	if n := p.names[m.GetName()]; n != nil {
		if n.kind != k {
			return nil, fmt.Errorf("%q was of another kind before", m.GetName())
		}
		return n, nil
	}
	if len(m.GetName()) > maxName || len(m.GetUnit()) > maxName || len(m.GetDescription()) > 1024 {
		return nil, fmt.Errorf("the name, unit or description of %.64q is too long", m.GetName())
	}
	page := pageName(m.GetName(), m.GetUnit(), k)
	switch {
	case page == "" || strings.HasPrefix(page, "coppice_balancer_") || strings.HasPrefix(page, "go_") || strings.HasPrefix(page, "process_"):
		return nil, fmt.Errorf("%q is no name for a metric of the mesh", m.GetName())
	case p.taken[page]:
		return nil, fmt.Errorf("%q is called as another on the page", m.GetName())
	case len(p.names) >= maxNames:
		return nil, fmt.Errorf("there are over %d metrics", maxNames)
	}
	n := &name{page: page, kind: k, help: m.GetDescription()}
	p.names[m.GetName()], p.taken[page] = n, true
	return n, nil
}

// pageName gives a metric's name as OpenTelemetry's rules for Prometheus have it: words joined by underscores,
// then the unit, then "total" for a counter.
func pageName(otel, unit string, k kind) string {
	page := word(otel)
	if suffix := map[string]string{"s": "seconds", "ms": "milliseconds", "By": "bytes"}[unit]; suffix != "" && !strings.HasSuffix(page, "_"+suffix) {
		page += "_" + suffix
	}
	if k == counter && !strings.HasSuffix(page, "_total") {
		page += "_total"
	}
	if page != "" && page[0] >= '0' && page[0] <= '9' {
		page = "_" + page
	}
	return page
}

// word replaces what Prometheus does not have in names.
func word(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9') {
			return r
		}
		return '_'
	}, s)
}

// labels are those of a data point, with that of its source, each name once. Names lose the mesh's prefix:
// coppice.model is "model".
func labels(id track.Source, attributes []*commonpb.KeyValue) []label {
	named := make(map[string]string)
	for _, kv := range attributes {
		l := word(strings.TrimPrefix(kv.GetKey(), "coppice."))
		if l == "" || (l[0] >= '0' && l[0] <= '9') || strings.HasPrefix(l, "__") || l == "le" {
			l = "attribute_" + l
		}
		named[l] = strings.ToValidUTF8(track.Text(kv.GetValue()), "\uFFFD")
	}
	named[map[track.Kind]string{track.Replica: "replica", track.Gateway: "gateway"}[id.Kind]] = strings.ToValidUTF8(id.ID, "\uFFFD")
	var list []label
	for _, l := range slices.Sorted(maps.Keys(named)) {
		list = append(list, label{l, named[l]})
	}
	return list
}

// Describe says nothing: what there is to show is known when it is shown.
func (p *Page) Describe(chan<- *prometheus.Desc) {}

// Collect gives the newest values of those that belong to the mesh.
func (p *Page) Collect(out chan<- prometheus.Metric) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear(now)
	seen := make(map[string]bool)
	for _, src := range p.sources {
		for _, sr := range src.series {
			var names, values []string
			for _, l := range sr.labels {
				names, values = append(names, l.name), append(values, l.value)
			}
			// Two attributes may have become one label; the page must not have a series twice.
			id := fmt.Sprintf("%s %q", sr.name.page, sr.labels)
			if seen[id] {
				continue
			}
			seen[id] = true
			desc := prometheus.NewDesc(sr.name.page, sr.name.help, names, nil)
			var m prometheus.Metric
			var err error
			switch {
			case sr.name.kind == counter:
				m, err = prometheus.NewConstMetric(desc, prometheus.CounterValue, sr.value, values...)
			case sr.name.kind == gauge:
				m, err = prometheus.NewConstMetric(desc, prometheus.GaugeValue, sr.value, values...)
			case sr.hist != nil:
				m, err = prometheus.NewConstHistogram(desc, sr.hist.Count, sr.hist.Sum, classic(sr.hist), values...)
			default:
				continue
			}
			if err == nil {
				out <- m
			}
		}
	}
}

// classic gives a histogram with the page's buckets.
func classic(h *latency.Snapshot) map[float64]uint64 {
	buckets := make(map[float64]uint64, len(Buckets))
	for i, n := range h.Classic(Buckets) {
		buckets[Buckets[i]] = n
	}
	return buckets
}
