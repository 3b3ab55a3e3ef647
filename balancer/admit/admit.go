// Package admit bounds what a gateway has accepted and not yet answered. What does not fit is refused at once:
// a request that waits in an endless queue costs memory and is answered when nobody wants the answer.
package admit

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Errors of Admit, to be matched with errors.Is.
var (
	// ErrFull says that the gateway has as many requests, or as many bytes of them, as it may. At the edge it
	// is RESOURCE_EXHAUSTED.
	ErrFull = errors.New("admit: queue is full")
	// ErrDeadline says that the request came with no time left. At the edge it is DEADLINE_EXCEEDED.
	ErrDeadline = errors.New("admit: no time left to answer")
)

// Defaults of Config.
const (
	DefaultRequests = 8192
	DefaultBytes    = 256 << 20
)

// Config is what a user may set.
type Config struct {
	// Requests is how many requests may be accepted and not yet answered. 0: DefaultRequests. Negative values
	// are refused.
	Requests int64
	// Bytes is how many bytes these requests may have together, as they came. It should be several times the
	// largest message that the gateway takes: a request that is larger than Bytes never gets in. 0:
	// DefaultBytes. Negative values are refused.
	Bytes int64
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	if c.Requests < 0 {
		return fmt.Errorf("admit: the limit of requests is %d, expected at least 1 (or 0 for %d)", c.Requests, DefaultRequests)
	}
	if c.Bytes < 0 {
		return fmt.Errorf("admit: the limit of bytes is %d, expected at least 1 (or 0 for %d)", c.Bytes, int64(DefaultBytes))
	}
	return nil
}

// Gate counts what is accepted and not yet answered. Its methods may be called concurrently; they take no
// lock and allocate nothing.
type Gate struct {
	maxRequests, maxBytes int64
	// Made once: refusals come when there is no time to make them.
	requestsError, bytesError error

	requests atomic.Int64
	_        [56]byte
	bytes    atomic.Int64
}

// New makes a gate. The configuration must be valid.
func New(c Config) *Gate {
	g := &Gate{maxRequests: c.Requests, maxBytes: c.Bytes}
	if g.maxRequests == 0 {
		g.maxRequests = DefaultRequests
	}
	if g.maxBytes == 0 {
		g.maxBytes = DefaultBytes
	}
	g.requestsError = fmt.Errorf("%w: %d requests wait for their answers, which is the limit", ErrFull, g.maxRequests)
	g.bytesError = fmt.Errorf("%w: the requests that wait for their answers would have over %d bytes, which is the limit", ErrFull, g.maxBytes)
	return g
}

// Admit lets a request of so many bytes in that may take so long from now on. When it returns nil, the caller
// calls Release with the same number of bytes once the request is answered. Errors wrap ErrFull or
// ErrDeadline.
func (g *Gate) Admit(bytes int64, left time.Duration) error {
	if left <= 0 {
		return ErrDeadline
	}
	// Counting first and giving back keeps the sum below the limit whoever else comes; two that come at
	// once for the last place may both be refused, which is right for a limit and cheap.
	if g.requests.Add(1) > g.maxRequests {
		g.requests.Add(-1)
		return g.requestsError
	}
	if g.bytes.Add(bytes) > g.maxBytes {
		g.bytes.Add(-bytes)
		g.requests.Add(-1)
		return g.bytesError
	}
	return nil
}

// Release lets a request out.
func (g *Gate) Release(bytes int64) {
	g.bytes.Add(-bytes)
	g.requests.Add(-1)
}

// Requests is the number of requests that are in.
func (g *Gate) Requests() int64 { return g.requests.Load() }

// Bytes is how many bytes they have.
func (g *Gate) Bytes() int64 { return g.bytes.Load() }
