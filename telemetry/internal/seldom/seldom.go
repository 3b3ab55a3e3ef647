// Package seldom keeps a complaint that is true for hours from filling a log.
package seldom

import (
	"sync/atomic"
	"time"
)

// epoch makes times comparable on the monotonic clock.
var epoch = time.Now()

// Gate lets the first through and then at most one in Every. It may be used by several goroutines.
type Gate struct {
	Every time.Duration

	next atomic.Int64 // since epoch
	held atomic.Int64
}

// Pass says whether something at this time may be said, and how much has been held back since the last that
// was.
func (g *Gate) Pass(now time.Time) (held int64, ok bool) {
	at := int64(now.Sub(epoch))
	next := g.next.Load()
	if next != 0 && at < next || !g.next.CompareAndSwap(next, at+int64(g.Every)) {
		g.held.Add(1)
		return 0, false
	}
	return g.held.Swap(0), true
}
