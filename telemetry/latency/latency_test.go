package latency

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
)

// TestBuckets: each duration is in the bucket whose bounds hold it, as OpenTelemetry defines them.
func TestBuckets(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	s := &Snapshot{Scale: Scale}
	check := func(d time.Duration) {
		t.Helper()
		i := index(d)
		if i < 0 || i >= numBuckets {
			return
		}
		sec := float64(d) * 1e-9
		low, high := s.bound(int32(offset+i)), s.bound(int32(offset+i+1))
		if !(low < sec && sec <= high) {
			t.Fatalf("%v is in (%v, %v]", d, low, high)
		}
	}
	for range 100_000 {
		check(time.Duration(math.Exp(random.Float64()*math.Log(float64(1000*time.Second)))) + 1)
	}
	for e := range 40 {
		check(time.Duration(1) << e)
	}
	check(time.Second)
	check(time.Second + 1)
	check(time.Second / 2)
}

func TestQuantile(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	var h Histogram
	var all []float64
	for range 50_000 {
		d := time.Duration(math.Exp(random.NormFloat64()*2) * float64(time.Millisecond))
		h.Record(d)
		all = append(all, d.Seconds())
	}
	slices.Sort(all)
	s := h.Snapshot()
	for _, q := range []float64{0.01, 0.5, 0.95, 0.99, 0.999} {
		want := all[int(math.Ceil(q*float64(len(all))))-1]
		got, ok := s.Quantile(q)
		if !ok || math.Abs(got/want-1) > 0.023 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	bounds := []float64{1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10}
	for i, got := range s.Classic(bounds) {
		want, _ := slices.BinarySearch(all, bounds[i])
		if math.Abs(float64(got)-float64(want)) > 0.02*float64(len(all)) {
			t.Errorf("%d are at most %v s, want %d", got, bounds[i], want)
		}
	}
	if _, ok := (&Snapshot{}).Quantile(0.5); ok {
		t.Error("an empty histogram has a median")
	}
}

func draw(random *rand.Rand, scale int32) *Snapshot {
	s := &Snapshot{Scale: scale, Offset: int32(random.IntN(200) - 100), Zero: uint64(random.IntN(3))}
	s.Count = s.Zero
	for range 1 + random.IntN(50) {
		c := uint64(random.IntN(5))
		s.Counts = append(s.Counts, c)
		s.Count += c
	}
	s.Sum = float64(s.Count)
	return s
}

// same compares histograms whatever their scale and offset.
func same(a, b *Snapshot) bool {
	a, b = a.Clone(), b.Clone()
	scale := min(a.Scale, b.Scale)
	a.coarsen(scale)
	b.coarsen(scale)
	at := func(s *Snapshot, i int32) uint64 {
		if i < s.Offset || i >= s.Offset+int32(len(s.Counts)) {
			return 0
		}
		return s.Counts[i-s.Offset]
	}
	for i := int32(-1000); i < 1000; i++ {
		if at(a, i) != at(b, i) {
			return false
		}
	}
	return a.Count == b.Count && a.Zero == b.Zero
}

// TestMerge: merging is commutative and associative, and subtracting undoes it.
func TestMerge(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	for range 2000 {
		a, b, c := draw(random, int32(random.IntN(4))), draw(random, int32(random.IntN(4))), draw(random, int32(random.IntN(4)))
		ab := a.Clone()
		ab.Merge(b)
		ba := b.Clone()
		ba.Merge(a)
		if !same(ab, ba) {
			t.Fatalf("%+v and %+v merge to %+v and %+v", a, b, ab, ba)
		}
		abc := ab.Clone()
		abc.Merge(c)
		bc := b.Clone()
		bc.Merge(c)
		a2 := a.Clone()
		a2.Merge(bc)
		if !same(abc, a2) {
			t.Fatal("merging is not associative")
		}
		if d, ok := ab.Sub(a); !ok || !same(d, b) {
			t.Fatalf("(a+b)-a is %+v (%v), want %+v", d, ok, b)
		}
	}
	if _, ok := draw(random, 1).Sub(&Snapshot{Count: 1 << 40}); ok {
		t.Error("a smaller histogram continues a larger one")
	}
}

func TestFromOTLP(t *testing.T) {
	good := func() *metricspb.ExponentialHistogramDataPoint {
		return &metricspb.ExponentialHistogramDataPoint{
			Scale: 3, Count: 6, ZeroCount: 1, Sum: ptr(1.5),
			Positive: &metricspb.ExponentialHistogramDataPoint_Buckets{Offset: -4, BucketCounts: []uint64{1, 4}},
		}
	}
	s, err := FromOTLP(good())
	if err != nil || s.Count != 6 || s.Offset != -4 || s.Sum != 1.5 {
		t.Fatalf("%+v, %v", s, err)
	}
	for name, change := range map[string]func(*metricspb.ExponentialHistogramDataPoint){
		"scale":    func(p *metricspb.ExponentialHistogramDataPoint) { p.Scale = 1 << 20 },
		"offset":   func(p *metricspb.ExponentialHistogramDataPoint) { p.Positive.Offset = math.MinInt32 },
		"buckets":  func(p *metricspb.ExponentialHistogramDataPoint) { p.Positive.BucketCounts = make([]uint64, 1<<16) },
		"count":    func(p *metricspb.ExponentialHistogramDataPoint) { p.Count = 7 },
		"overflow": func(p *metricspb.ExponentialHistogramDataPoint) { p.Positive.BucketCounts[0] = math.MaxUint64 },
		"sum":      func(p *metricspb.ExponentialHistogramDataPoint) { p.Sum = ptr(math.NaN()) },
		"negative": func(p *metricspb.ExponentialHistogramDataPoint) {
			p.Negative = &metricspb.ExponentialHistogramDataPoint_Buckets{BucketCounts: []uint64{1}}
		},
	} {
		p := good()
		change(p)
		if _, err := FromOTLP(p); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func ptr(v float64) *float64 { return &v }

// TestProducer reads the histogram through the SDK.
func TestProducer(t *testing.T) {
	p := NewProducer("scope", "d", "", time.Now())
	p.Histogram(attribute.String("a", "1")).Record(time.Millisecond)
	p.Histogram(attribute.String("a", "1")).Record(time.Millisecond)
	p.Histogram(attribute.String("a", "2"))
	reader := metric.NewManualReader(metric.WithProducer(p))
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &rm); err != nil {
		t.Fatal(err)
	}
	h, ok := rm.ScopeMetrics[0].Metrics[0].Data.(metricdata.ExponentialHistogram[float64])
	if !ok || len(h.DataPoints) != 1 || h.DataPoints[0].Count != 2 || h.DataPoints[0].Sum != 0.002 {
		t.Errorf("%+v", rm)
	}
}

func BenchmarkRecord(b *testing.B) {
	var h Histogram
	b.ReportAllocs()
	for b.Loop() {
		h.Record(345678 * time.Nanosecond)
	}
}
