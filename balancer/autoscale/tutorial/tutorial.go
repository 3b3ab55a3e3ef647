// Package tutorial is the plainest law of scaling: one replica more when requests take long, one less when they
// take little, nothing in between.
package tutorial

import (
	"fmt"
	"time"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
)

// Name selects this policy.
const Name = "tutorial"

// Defaults of Config.
const (
	DefaultUp         = 100 * time.Millisecond
	DefaultDown       = 50 * time.Millisecond
	DefaultMinSamples = 20
	DefaultInterval   = 10 * time.Second
	DefaultMaxAge     = 3 * time.Second
)

// Config holds the law's numbers. A zero field has its default.
type Config struct {
	// Up is the 95th percentile above which a replica is added. Default: DefaultUp.
	Up time.Duration
	// Down is the 95th percentile below which a replica is taken away, less than Up. Default: DefaultDown.
	Down time.Duration
	// MinSamples is how many requests the window must have for its percentile to say anything. Default:
	// DefaultMinSamples.
	MinSamples uint64
	// Interval is the least time between two changes: as long as the window, so that a decision is never
	// about requests from before the last one. Default: DefaultInterval.
	Interval time.Duration
	// MaxAge is the age of the newest report above which the law does nothing. Default: DefaultMaxAge.
	MaxAge time.Duration
}

// Policy is the law.
type Policy struct{ c Config }

// New makes the law. It fails when Down is not below Up.
func New(c Config) (Policy, error) {
	if c.Up == 0 {
		c.Up = DefaultUp
	}
	if c.Down == 0 {
		c.Down = DefaultDown
	}
	if c.MinSamples == 0 {
		c.MinSamples = DefaultMinSamples
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.MaxAge == 0 {
		c.MaxAge = DefaultMaxAge
	}
	if c.Down < 0 || c.Down >= c.Up {
		return Policy{}, fmt.Errorf("tutorial: down at %v must be positive and below up at %v", c.Down, c.Up)
	}
	return Policy{c}, nil
}

// Name is Name.
func (Policy) Name() string { return Name }

// Want applies the law.
func (p Policy) Want(now time.Time, s autoscale.Signals, state autoscale.State) (int, string) {
	l := s.Latency
	switch {
	case l.Age < 0:
		return state.Desired, "hold: no gateway has reported"
	case l.Age > p.c.MaxAge:
		return state.Desired, fmt.Sprintf("hold: the newest report is %.1f s old", l.Age.Seconds())
	case l.Count < p.c.MinSamples:
		return state.Desired, fmt.Sprintf("hold: %d requests in %.0f s, %d needed", l.Count, l.Window.Seconds(), p.c.MinSamples)
	}
	wait := state.Changed.Add(p.c.Interval).Sub(now)
	// A clock that was set back must not hold the size for longer than the interval.
	settling := wait > 0 && wait <= p.c.Interval
	switch {
	case l.P95 > p.c.Up && settling, l.P95 < p.c.Down && settling:
		return state.Desired, fmt.Sprintf("hold: p95 %s, next step in %.0f s", ms(l.P95), wait.Seconds())
	case l.P95 > p.c.Up:
		return state.Desired + 1, fmt.Sprintf("p95 %s above %s", ms(l.P95), ms(p.c.Up))
	case l.P95 < p.c.Down:
		return state.Desired - 1, fmt.Sprintf("p95 %s below %s", ms(l.P95), ms(p.c.Down))
	default:
		return state.Desired, fmt.Sprintf("p95 %s between %s and %s", ms(l.P95), ms(p.c.Down), ms(p.c.Up))
	}
}

// ms writes a latency as people say it.
func ms(d time.Duration) string {
	v := float64(d) / float64(time.Millisecond)
	if v < 9.95 {
		return fmt.Sprintf("%.1f ms", v)
	}
	return fmt.Sprintf("%.0f ms", v)
}
