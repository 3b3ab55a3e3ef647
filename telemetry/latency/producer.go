package latency

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Producer gives histograms to OpenTelemetry's SDK, as a reader's external producer: cumulative base-2
// exponential histograms in seconds.
type Producer struct {
	name, description string
	scope             instrumentation.Scope
	start             time.Time

	mu     sync.Mutex
	series []series
	index  map[attribute.Distinct]*Histogram
}

type series struct {
	attributes attribute.Set
	histogram  *Histogram
}

// NewProducer makes a Producer of one instrument, which began at start.
func NewProducer(scope, name, description string, start time.Time) *Producer {
	return &Producer{
		name: name, description: description, scope: instrumentation.Scope{Name: scope}, start: start,
		index: map[attribute.Distinct]*Histogram{},
	}
}

// Histogram is the series with these attributes, made at its first use. Callers keep it: the lookup takes a
// lock.
func (p *Producer) Histogram(attributes ...attribute.KeyValue) *Histogram {
	set := attribute.NewSet(attributes...)
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.index[set.Equivalent()]; h != nil {
		return h
	}
	h := &Histogram{}
	p.index[set.Equivalent()] = h
	p.series = append(p.series, series{set, h})
	return h
}

// Produce implements the SDK's metric.Producer. Series without a value are left out.
func (p *Producer) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	p.mu.Lock()
	all := p.series
	p.mu.Unlock()
	now := time.Now()
	var points []metricdata.ExponentialHistogramDataPoint[float64]
	for _, s := range all {
		h := s.histogram.Snapshot()
		if h.Count == 0 {
			continue
		}
		points = append(points, metricdata.ExponentialHistogramDataPoint[float64]{
			Attributes: s.attributes, StartTime: p.start, Time: now, Count: h.Count, Sum: h.Sum, Scale: h.Scale, ZeroCount: h.Zero,
			ZeroThreshold:  zeroThreshold,
			PositiveBucket: metricdata.ExponentialBucket{Offset: h.Offset, Counts: h.Counts},
		})
	}
	if len(points) == 0 {
		return nil, nil
	}
	return []metricdata.ScopeMetrics{{Scope: p.scope, Metrics: []metricdata.Metrics{{
		Name: p.name, Description: p.description, Unit: "s",
		Data: metricdata.ExponentialHistogram[float64]{Temporality: metricdata.CumulativeTemporality, DataPoints: points},
	}}}}, nil
}
