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
	otelmetric "go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"
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

// TestExtremes: durations of all sizes are counted once, and those outside of the buckets at their ends.
func TestExtremes(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1, 953, 954, time.Microsecond, 8 * time.Minute, 9 * time.Minute, math.MaxInt64 / 4} {
		h.Record(d)
	}
	s := h.Snapshot()
	if s.Count != 10 || s.Zero != 5 { // 953 ns do not exceed 2^-20 s
		t.Errorf("%+v", s)
	}
	if got := s.Offset + int32(len(s.Counts)); got != offset+numBuckets {
		t.Errorf("the last bucket is %d, want %d", got, offset+numBuckets)
	}
	if q, _ := s.Quantile(0); q != 0 {
		t.Errorf("the least is %v", q)
	}
	if q, _ := s.Quantile(1); math.Abs(q/512-1) > 0.023 {
		t.Errorf("the largest is %v s, want 512", q)
	}
	if c := s.Classic([]float64{1e-5, 10, 1000}); !slices.Equal(c, []uint64{7, 7, 10}) {
		t.Errorf("%v", c)
	}
}

// TestSameBuckets: a histogram agrees with OpenTelemetry's own at the same scale.
func TestSameBuckets(t *testing.T) {
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader), metric.WithView(metric.NewView(
		metric.Instrument{Name: "*"}, metric.Stream{Aggregation: metric.AggregationBase2ExponentialHistogram{MaxSize: 1000, MaxScale: Scale}})))
	theirs, err := provider.Meter("m").Float64Histogram("h")
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(5, 5))
	var ours Histogram
	for range 20_000 {
		d := time.Duration(math.Exp(random.Float64()*18)*1000) + 1
		ours.Record(d)
		theirs.Record(t.Context(), float64(d)*1e-9)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	want := rm.ScopeMetrics[0].Metrics[0].Data.(metricdata.ExponentialHistogram[float64]).DataPoints[0]
	got := ours.Snapshot()
	if got.Scale != want.Scale || got.Offset != want.PositiveBucket.Offset || !slices.Equal(got.Counts, want.PositiveBucket.Counts) || got.Count != want.Count {
		t.Errorf("%+v, want %+v", got, want)
	}
	if math.Abs(got.Sum/want.Sum-1) > 1e-9 {
		t.Errorf("the sum is %v, want %v", got.Sum, want.Sum)
	}
}

// TestClassic compares with the definition, bucket by bucket.
func TestClassic(t *testing.T) {
	random := rand.New(rand.NewPCG(6, 6))
	bounds := []float64{1e-5, 1e-4, 1e-3, 0.0025, 0.25, 0.5, 1, 2, 10, 1e6}
	for range 500 {
		s := draw(random, int32(random.IntN(12)-4))
		got := s.Classic(bounds)
		for k, b := range bounds {
			least, most := s.Zero, s.Zero // what is surely below, what may be
			for i, c := range s.Counts {
				if s.bound(s.Offset+int32(i)+1) <= b {
					least += c
				}
				if s.bound(s.Offset+int32(i)) < b {
					most += c
				}
			}
			if got[k] < least || got[k] > most || (k > 0 && got[k] < got[k-1]) {
				t.Fatalf("%+v: at most %v s are %v, want %d to %d", s, b, got, least, most)
			}
		}
	}
	half := &Snapshot{Scale: 0, Offset: 0, Counts: []uint64{10}, Count: 10} // ten in (1, 2]
	if got := half.Classic([]float64{0, 1, math.Sqrt2 + 1e-9, 2}); !slices.Equal(got, []uint64{0, 0, 5, 10}) {
		t.Errorf("%v", got)
	}
}

// TestMergeFar: histograms that have nothing in common take no more memory than others.
func TestMergeFar(t *testing.T) {
	point := func(scale, offset int32) *Snapshot {
		s, err := FromOTLP(&metricspb.ExponentialHistogramDataPoint{
			Scale: scale, Count: 1,
			Positive: &metricspb.ExponentialHistogramDataPoint_Buckets{Offset: offset, BucketCounts: []uint64{1}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for scale := int32(minScale); scale <= maxScale; scale++ {
		limit := max(int32(math.Ldexp(maxOctaves, int(scale))), 1)
		s := point(scale, -limit)
		s.Merge(point(scale, limit-1))
		s.Merge(point(maxScale, 0))
		if len(s.Counts) > maxBuckets || s.Count != 3 {
			t.Errorf("scale %d: %d buckets, count %d", scale, len(s.Counts), s.Count)
		}
	}
}

func FuzzFromOTLP(f *testing.F) {
	add := func(p *metricspb.ExponentialHistogramDataPoint) {
		b, err := proto.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(&metricspb.ExponentialHistogramDataPoint{})
	for scale := int32(minScale - 1); scale <= maxScale+1; scale++ {
		for _, o := range []int32{math.MinInt32, -1 << 26, -64, -1, 0, 63, 1<<26 - 1, math.MaxInt32} {
			add(&metricspb.ExponentialHistogramDataPoint{
				Scale: scale, Count: 3, ZeroCount: 1, Sum: ptr(3),
				Positive: &metricspb.ExponentialHistogramDataPoint_Buckets{Offset: o, BucketCounts: []uint64{2}},
			})
		}
	}
	add(&metricspb.ExponentialHistogramDataPoint{Count: math.MaxUint64, ZeroCount: math.MaxUint64, ZeroThreshold: math.Inf(1)})
	f.Add([]byte("\xff"))
	var h Histogram
	h.Record(time.Microsecond)
	h.Record(time.Minute)
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &metricspb.ExponentialHistogramDataPoint{}
		if proto.Unmarshal(b, p) != nil {
			return
		}
		s, err := FromOTLP(p)
		if err != nil {
			if !errors.Is(err, ErrPoint) {
				t.Fatal(err)
			}
			return
		}
		if q, ok := s.Quantile(0.99); ok != (s.Count > 0) || math.IsNaN(q) || q < 0 {
			t.Errorf("quantile %v, %v", q, ok)
		}
		if c := s.Classic([]float64{1e-5, 1, 10}); c[0] > c[1] || c[1] > c[2] || c[2] > s.Count {
			t.Errorf("%v of %d", c, s.Count)
		}
		m := s.Clone()
		m.Merge(h.Snapshot())
		if len(m.Counts) > maxBuckets || m.Count != s.Count+2 {
			t.Errorf("merged: %d buckets, %d counted", len(m.Counts), m.Count)
		}
		if d, ok := m.Sub(s); !ok || d.Count != 2 {
			t.Errorf("(a+b)-a: %+v, %v", d, ok)
		}
	})
}

// spread is durations as requests have them, not one and the same.
func spread() (d [1024]time.Duration) {
	random := rand.New(rand.NewPCG(4, 4))
	for i := range d {
		d[i] = time.Duration(math.Exp(random.NormFloat64()) * float64(300*time.Microsecond))
	}
	return d
}

func BenchmarkRecordSpread(b *testing.B) {
	var h Histogram
	d := spread()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		h.Record(d[i%len(d)])
		i++
	}
}

func BenchmarkRecordParallel(b *testing.B) {
	var h Histogram
	d := spread()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			h.Record(d[i%len(d)])
		}
	})
}

// BenchmarkSDK is the reference: the SDK's own histogram, with the attributes' set made ahead.
func BenchmarkSDK(b *testing.B) {
	provider := metric.NewMeterProvider(metric.WithReader(metric.NewManualReader()), metric.WithView(metric.NewView(
		metric.Instrument{Name: "*"}, metric.Stream{Aggregation: metric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: Scale}})))
	h, err := provider.Meter("m").Float64Histogram("h")
	if err != nil {
		b.Fatal(err)
	}
	d := spread()
	set := otelmetric.WithAttributeSet(attribute.NewSet(attribute.String("work", "light")))
	ctx := context.Background()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		h.Record(ctx, d[i%len(d)].Seconds(), set)
		i++
	}
}

func recorded() *Snapshot {
	var h Histogram
	for _, d := range spread() {
		h.Record(d)
	}
	return h.Snapshot()
}

func BenchmarkQuantile(b *testing.B) {
	s := recorded()
	for b.Loop() {
		s.Quantile(0.95)
	}
}

func BenchmarkClassic(b *testing.B) {
	s := recorded()
	bounds := []float64{1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}
	b.ReportAllocs()
	for b.Loop() {
		s.Classic(bounds)
	}
}

func BenchmarkMerge(b *testing.B) {
	s := recorded()
	into := recorded()
	b.ReportAllocs()
	for b.Loop() {
		into.Merge(s)
	}
}

func BenchmarkProduce(b *testing.B) {
	p := NewProducer("scope", "d", "", time.Now())
	for i := range 51 { // as a gateway has: codes and works, of which few ever occur
		h := p.Histogram(attribute.Int("n", i))
		if i < 4 {
			for _, d := range spread() {
				h.Record(d)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Produce(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
