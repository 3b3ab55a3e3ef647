package latency

import (
	"errors"
	"fmt"
	"math"
	"slices"

	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
)

// Limits on a histogram that a peer sends.
const (
	maxBuckets = 4096
	maxScale   = 20
	minScale   = -10
	// maxOctaves bounds the durations: 2^-64 s to 2^64 s.
	maxOctaves = 64
	// maxCount leaves room for sums of many histograms.
	maxCount = 1 << 53
)

// ErrPoint is wrapped by the error about a histogram that a peer should not have sent.
var ErrPoint = errors.New("latency: histogram point")

// Snapshot is an exponential histogram of seconds: bucket i of Counts holds what is in (base^(Offset+i),
// base^(Offset+i+1)], base = 2^(2^-Scale). It is a value to be merged and subtracted, not shared.
type Snapshot struct {
	Scale  int32
	Offset int32
	Counts []uint64
	Zero   uint64 // too small for any bucket
	Count  uint64 // of all
	Sum    float64
}

// FromOTLP reads a data point. It refuses more buckets, stranger scales or larger numbers than a histogram of
// latencies has, and negative durations. So whatever it returns can be merged with little memory. The error
// wraps ErrPoint.
func FromOTLP(p *metricspb.ExponentialHistogramDataPoint) (*Snapshot, error) {
	counts := p.GetPositive().GetBucketCounts()
	if len(counts) > maxBuckets {
		return nil, fmt.Errorf("%w: %d buckets, at most %d are taken", ErrPoint, len(counts), maxBuckets)
	}
	if p.GetScale() > maxScale || p.GetScale() < minScale {
		return nil, fmt.Errorf("%w: scale %d, %d to %d are taken", ErrPoint, p.GetScale(), minScale, maxScale)
	}
	// An index lies within the octaves, and within one bucket of zero if a bucket is wider than all of them.
	limit := max(int64(math.Ldexp(maxOctaves, int(p.GetScale()))), 1)
	if o := int64(p.GetPositive().GetOffset()); o < -limit || o+int64(len(counts)) > limit {
		return nil, fmt.Errorf("%w: buckets %d to %d at scale %d, %d to %d are taken", ErrPoint, o, o+int64(len(counts)), p.GetScale(), -limit, limit)
	}
	if z := p.GetZeroThreshold(); !(z >= 0 && z <= 1) {
		return nil, fmt.Errorf("%w: the zero threshold is %v, 0 to 1 s are taken", ErrPoint, z)
	}
	for _, c := range p.GetNegative().GetBucketCounts() {
		if c != 0 {
			return nil, fmt.Errorf("%w: negative durations", ErrPoint)
		}
	}
	s := &Snapshot{Scale: p.GetScale(), Offset: p.GetPositive().GetOffset(), Counts: slices.Clone(counts), Zero: p.GetZeroCount(), Sum: p.GetSum()}
	s.Count = s.Zero
	for i := 0; i < len(s.Counts) && s.Count <= maxCount; i++ {
		s.Count += min(s.Counts[i], maxCount+1)
	}
	if s.Count > maxCount {
		return nil, fmt.Errorf("%w: a count of %d is beyond belief, at most %d is taken", ErrPoint, p.GetCount(), uint64(maxCount))
	}
	if s.Count != p.GetCount() {
		return nil, fmt.Errorf("%w: count is %d, the buckets hold %d", ErrPoint, p.GetCount(), s.Count)
	}
	if most := math.Ldexp(float64(s.Count), maxOctaves); !(s.Sum >= 0 && s.Sum <= most) {
		return nil, fmt.Errorf("%w: the sum is %v, 0 to %v s are possible", ErrPoint, s.Sum, most)
	}
	return s, nil
}

// Clone is a copy that shares nothing.
func (s *Snapshot) Clone() *Snapshot {
	c := *s
	c.Counts = slices.Clone(s.Counts)
	return &c
}

// Merge adds another histogram. The result has the coarser scale of the two, or a still coarser one if there
// would be too many buckets.
func (s *Snapshot) Merge(o *Snapshot) {
	if o.Count == 0 {
		return
	}
	t := o
	if o.Scale > s.Scale && s.Count > 0 {
		t = o.Clone()
		t.coarsen(s.Scale)
	}
	switch {
	case s.Count == 0:
		*s = *o.Clone()
		return
	case s.Scale > t.Scale:
		s.coarsen(t.Scale)
	}
	s.Zero += t.Zero
	s.Count += t.Count
	s.Sum += t.Sum
	if len(t.Counts) == 0 {
		return
	}
	if len(s.Counts) == 0 {
		s.Offset, s.Counts = t.Offset, slices.Clone(t.Counts)
		return
	}
	first := min(s.Offset, t.Offset)
	end := max(s.Offset+int32(len(s.Counts)), t.Offset+int32(len(t.Counts)))
	for end-first > maxBuckets {
		t = t.Clone()
		s.coarsen(s.Scale - 1)
		t.coarsen(s.Scale)
		first = min(s.Offset, t.Offset)
		end = max(s.Offset+int32(len(s.Counts)), t.Offset+int32(len(t.Counts)))
	}
	if int(end-first) > len(s.Counts) {
		counts := make([]uint64, end-first)
		copy(counts[s.Offset-first:], s.Counts)
		s.Offset, s.Counts = first, counts
	}
	for i, c := range t.Counts {
		s.Counts[t.Offset-first+int32(i)] += c
	}
}

// coarsen lowers the scale: 2^n neighbouring buckets become one.
func (s *Snapshot) coarsen(scale int32) {
	shift := uint(s.Scale - scale)
	s.Scale = scale
	if len(s.Counts) == 0 || shift == 0 {
		return
	}
	shift = min(shift, 31)
	first := s.Offset >> shift
	counts := make([]uint64, ((s.Offset+int32(len(s.Counts))-1)>>shift)-first+1)
	for i, c := range s.Counts {
		counts[((s.Offset+int32(i))>>shift)-first] += c
	}
	s.Offset, s.Counts = first, counts
}

// Sub is what was counted between an earlier state of the same histogram and this one. ok is false when the
// earlier one cannot be that: the histogram began anew.
func (s *Snapshot) Sub(earlier *Snapshot) (delta *Snapshot, ok bool) {
	if earlier == nil || earlier.Count == 0 {
		return s.Clone(), true
	}
	if earlier.Count > s.Count || earlier.Zero > s.Zero {
		return nil, false
	}
	d, e := s.Clone(), earlier
	if e.Scale != d.Scale {
		e = e.Clone()
		scale := min(e.Scale, d.Scale)
		e.coarsen(scale)
		d.coarsen(scale)
	}
	for i, c := range e.Counts {
		at := int(e.Offset) + i - int(d.Offset)
		if c == 0 {
			continue
		}
		if at < 0 || at >= len(d.Counts) || d.Counts[at] < c {
			return nil, false
		}
		d.Counts[at] -= c
	}
	d.Zero -= e.Zero
	d.Count -= e.Count
	d.Sum = max(d.Sum-e.Sum, 0)
	return d, true
}

// bound is the lower bound in seconds of the bucket with this index.
func (s *Snapshot) bound(index int32) float64 {
	return math.Exp2(math.Ldexp(float64(index), -int(s.Scale)))
}

// Quantile is the duration in seconds that a fraction q of all does not exceed, read from the middle of its
// bucket; ok is false when there are none.
func (s *Snapshot) Quantile(q float64) (seconds float64, ok bool) {
	if s.Count == 0 {
		return 0, false
	}
	rank := uint64(math.Ceil(min(max(q, 0), 1) * float64(s.Count)))
	rank = max(rank, 1)
	seen := s.Zero
	if seen >= rank {
		return 0, true
	}
	for i, c := range s.Counts {
		if seen += c; seen >= rank {
			at := s.Offset + int32(i)
			return math.Sqrt(s.bound(at) * s.bound(at+1)), true
		}
	}
	return s.bound(s.Offset + int32(len(s.Counts))), true
}

// Classic counts, for each of the ascending bounds in seconds, what does not exceed it, as the "le" buckets of
// Prometheus do. A bucket that a bound cuts is divided as if the logarithms in it were spread evenly, and
// rounded down.
func (s *Snapshot) Classic(bounds []float64) []uint64 {
	out := make([]uint64, len(bounds))
	below, i := s.Zero, 0 // all that is in buckets before i
	for k, b := range bounds {
		at := math.Ldexp(math.Log2(b), int(s.Scale)) - float64(s.Offset) // in buckets from the first one
		for i < len(s.Counts) && float64(i+1) <= at {
			below += s.Counts[i]
			i++
		}
		out[k] = below
		if i < len(s.Counts) && at > float64(i) {
			out[k] += uint64(float64(s.Counts[i]) * (at - float64(i)))
		}
	}
	return out
}
