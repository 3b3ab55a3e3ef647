// Package latency measures how long things take: a base-2 exponential histogram that the hot path writes to
// without a lock, and the reading, merging and subtracting of such histograms as OTLP carries them.
package latency

import (
	"math"
	"sync/atomic"
	"time"
)

// The histogram's buckets are those of OpenTelemetry's base-2 exponential histograms at this scale: bucket i
// holds (base^i, base^(i+1)] seconds with base = 2^(2^-Scale). At scale 4 a bucket is 4.4 % wide, so a quantile
// that is read from its middle is off by at most 2.2 %.
const (
	Scale      = 4
	perOctave  = 1 << Scale
	minOctave  = -20 // 2^-20 s is a little under a microsecond
	maxOctave  = 9   // 2^9 s are over eight minutes
	numBuckets = (maxOctave - minOctave) * perOctave
	offset     = minOctave * perOctave // the index of the first bucket, in OpenTelemetry's count
)

// zeroThreshold is the lower bound in seconds of the first bucket: what does not exceed it counts as zero.
const zeroThreshold = 1.0 / (1 << -minOctave)

// bounds are the upper bounds of the buckets of the octave from 1 to 2: what is above bounds[i] is in bucket i+1
// or later. Those of other octaves differ by a power of two, so the mantissa of a number tells its place.
var bounds = func() (b [perOctave]float64) {
	for i := range b {
		b[i] = math.Exp2(float64(i+1) / perOctave)
	}
	return b
}()

// Histogram counts durations. The zero value is empty and ready. Record may be called by many goroutines at
// once.
type Histogram struct {
	counts [numBuckets]atomic.Uint64
	zero   atomic.Uint64 // up to zeroThreshold
	sum    atomic.Int64  // nanoseconds
	_      [40]byte
}

// Record counts one duration. It takes about ten nanoseconds and does not allocate. What is over eight minutes
// counts as eight minutes, what is negative as zero.
func (h *Histogram) Record(d time.Duration) {
	if d <= 0 {
		h.zero.Add(1)
		return
	}
	h.sum.Add(int64(d))
	i := index(d)
	switch {
	case i < 0:
		h.zero.Add(1)
	case i >= numBuckets:
		h.counts[numBuckets-1].Add(1)
	default:
		h.counts[i].Add(1)
	}
}

// index is the bucket of a duration, perhaps outside of those that there are.
func index(d time.Duration) int {
	s := float64(d) * 1e-9
	u := math.Float64bits(s)
	octave := int(u>>52) - 1023
	mantissa := math.Float64frombits(u&(1<<52-1) | 1023<<52) // 1 to 2
	// The buckets of an octave are few: the place is guessed by a straight line and mended.
	i := int((mantissa - 1) * perOctave)
	for i > 0 && mantissa <= bounds[i-1] {
		i--
	}
	for mantissa > bounds[i] {
		i++
	}
	if mantissa == 1 { // a bucket ends with its upper bound
		octave, i = octave-1, perOctave-1
	}
	return (octave-minOctave)*perOctave + i
}

// Snapshot is what a histogram holds at one time. What is recorded meanwhile is in it or not.
func (h *Histogram) Snapshot() *Snapshot {
	first, last := numBuckets, 0
	for i := range h.counts {
		if h.counts[i].Load() > 0 {
			first, last = min(first, i), i+1
		}
	}
	s := &Snapshot{Scale: Scale, Zero: h.zero.Load()}
	s.Count = s.Zero
	s.Sum = float64(h.sum.Load()) * 1e-9
	if last == 0 {
		return s
	}
	s.Offset, s.Counts = int32(offset+first), make([]uint64, last-first)
	for i := range s.Counts {
		s.Counts[i] = h.counts[first+i].Load()
		s.Count += s.Counts[i]
	}
	return s
}
