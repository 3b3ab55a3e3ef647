// Package control is the gateway's side of BalancerService.Watch: it learns the pool from the balancer, says
// which generation is in force, and reports the gateway's load.
package control

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

const (
	// reportEvery is the time between two reports of load.
	reportEvery = 100 * time.Millisecond
	redialMin   = 50 * time.Millisecond
	redialMax   = 2 * time.Second
)

// Watcher follows the pool.
type Watcher struct {
	Client  coppicev1.BalancerServiceClient
	Gateway string // this gateway's id
	Version string
	Logger  *slog.Logger
	// Apply puts a description of the pool in force. When it returns, nothing new goes by the one before.
	Apply func(*coppicev1.WatchResponse)
	// Report says how the gateway stands.
	Report func() *coppicev1.GatewayReport
}

// Run watches until ctx is done, and begins again whenever the stream breaks. What was applied last stays in
// force meanwhile.
func (w *Watcher) Run(ctx context.Context) {
	wait, lost := redialMin, false
	for ctx.Err() == nil {
		heard, err := w.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if heard {
			wait, lost = redialMin, false
		}
		if !lost {
			w.Logger.Warn("balancer is not reached; the pool stays as it was last known", "error", err)
			lost = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		}
		wait = min(2*wait, redialMax)
	}
}

// watch is one stream.
func (w *Watcher) watch(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.Client.Watch(ctx)
	if err != nil {
		return false, err
	}
	hello := &coppicev1.WatchRequest{Hello: &coppicev1.GatewayHello{Gateway: w.Gateway, Version: w.Version}, Report: w.Report()}
	if err := stream.Send(hello); err != nil {
		_, err = stream.Recv()
		return false, err
	}
	var inForce atomic.Uint64
	applied := make(chan struct{}, 1)
	var reporting sync.WaitGroup
	defer reporting.Wait()
	defer cancel()
	reporting.Go(func() {
		tick := time.NewTicker(reportEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case <-applied:
			}
			if stream.Send(&coppicev1.WatchRequest{AcknowledgedGeneration: inForce.Load(), Report: w.Report()}) != nil {
				return // Recv has the reason
			}
		}
	})
	for {
		res, err := stream.Recv()
		if err != nil {
			return heard, err
		}
		heard = true
		w.Apply(res)
		inForce.Store(res.GetGeneration())
		select {
		case applied <- struct{}{}:
		default:
		}
	}
}
