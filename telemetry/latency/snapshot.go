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

// FromOTLP reads a data point. It refuses more buckets or stranger scales than a histogram of latencies has,
// and negative values.
func FromOTLP(p *metricspb.ExponentialHistogramDataPoint) (*Snapshot, error) {
	counts := p.GetPositive().GetBucketCounts()
	if len(counts) > maxBuckets {
		return nil, fmt.Errorf("%w: %d buckets, at most %d are taken", ErrPoint, len(counts), maxBuckets)
	}
	if p.GetScale() > maxScale || p.GetScale() < minScale {
		return nil, fmt.Errorf("%w: scale %d, %d to %d are taken", ErrPoint, p.GetScale(), minScale, maxScale)
	}
	if o := p.GetPositive().GetOffset(); o > 1<<26 || o < -1<<26 {
		return nil, fmt.Errorf("%w: offset %d is out of range", ErrPoint, o)
	}
	for _, c := range p.GetNegative().GetBucketCounts() {
		if c != 0 {
			return nil, fmt.Errorf("%w: negative durations", ErrPoint)
		}
	}
	s := &Snapshot{Scale: p.GetScale(), Offset: p.GetPositive().GetOffset(), Counts: slices.Clone(counts), Zero: p.GetZeroCount(), Sum: p.GetSum()}
	if math.IsNaN(s.Sum) || math.IsInf(s.Sum, 0) || s.Sum < 0 {
		return nil, fmt.Errorf("%w: sum %v", ErrPoint, s.Sum)
	}
	s.Count = s.Zero
	for _, c := range s.Counts {
		if s.Count+c < s.Count {
			return nil, fmt.Errorf("%w: the counts overflow", ErrPoint)
		}
		s.Count += c
	}
	if s.Count != p.GetCount() {
		return nil, fmt.Errorf("%w: count is %d, the buckets hold %d", ErrPoint, p.GetCount(), s.Count)
	}
	return s, nil
}

// Clone is a copy that shares nothing.
func (s *Snapshot) Clone() *Snapshot {
	c := *s
	c.Counts = slices.Clone(s.Counts)
	return &c
}

// Merge adds another histogram. The result has the coarser scale of the two.
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
	for end-first > maxBuckets && s.Scale > minScale {
		t = t.Clone()
		s.coarsen(s.Scale - 1)
		t.coarsen(s.Scale)
		first = min(s.Offset, t.Offset)
		end = max(s.Offset+int32(len(s.Counts)), t.Offset+int32(len(t.Counts)))
	}
	counts := make([]uint64, end-first)
	copy(counts[s.Offset-first:], s.Counts)
	for i, c := range t.Counts {
		counts[t.Offset-first+int32(i)] += c
	}
	s.Offset, s.Counts = first, counts
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

// Classic counts, for each of the ascending bounds in seconds, what does not exceed it. A bucket that a bound
// cuts is divided as if its logarithms were spread evenly.
func (s *Snapshot) Classic(bounds []float64) []uint64 {
	out := make([]uint64, len(bounds))
	for k, b := range bounds {
		n := float64(s.Zero)
		for i, c := range s.Counts {
			at := s.Offset + int32(i)
			low, high := s.bound(at), s.bound(at+1)
			switch {
			case high <= b:
				n += float64(c)
			case low < b:
				n += float64(c) * math.Log2(b/low) / math.Log2(high/low)
			}
			if low >= b {
				break
			}
		}
		out[k] = uint64(n)
		if k > 0 {
			out[k] = max(out[k], out[k-1])
		}
	}
	return out
}
