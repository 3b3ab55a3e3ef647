package control_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/coppice-mesh/coppice/gateway/control"
	"github.com/coppice-mesh/coppice/gateway/internal/fakes"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Watcher that runs.
type rig struct {
	mu      sync.Mutex
	applied []uint64
	hold    atomic.Pointer[chan struct{}] // Apply waits for it
	reports atomic.Uint64
}

func watch(t *testing.T, b *fakes.Balancer) *rig {
	t.Helper()
	conn, err := grpc.NewClient(b.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{}
	w := &control.Watcher{
		Client: coppicev1.NewBalancerServiceClient(conn), Gateway: "g1", Version: "v1", Logger: slog.New(slog.DiscardHandler),
		Apply: func(m *coppicev1.WatchResponse) {
			if hold := r.hold.Load(); hold != nil {
				<-*hold
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.applied = append(r.applied, m.GetGeneration())
		},
		Report: func() *coppicev1.GatewayReport {
			return &coppicev1.GatewayReport{Arrivals: r.reports.Add(1)}
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("Run did not end")
		}
		conn.Close()
	})
	return r
}

func (r *rig) got() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.applied)
}

func acked(b *fakes.Balancer) []uint64 {
	_, _, acks, _ := b.Watched()
	return acks
}

func generation(n uint64) *coppicev1.WatchResponse { return &coppicev1.WatchResponse{Generation: n} }

// TestWatch: a gateway says who it is, and reports ten times a second.
func TestWatch(t *testing.T) {
	b := fakes.StartBalancer(t)
	r := watch(t, b)
	fakes.Eventually(t, "three reports came", func() bool {
		_, last, _, _ := b.Watched()
		return last.GetReport().GetArrivals() >= 3
	})
	hellos, last, acks, streams := b.Watched()
	if len(hellos) != 1 || hellos[0].GetGateway() != "g1" || hellos[0].GetVersion() != "v1" || streams != 1 {
		t.Errorf("hellos %v on %d streams", hellos, streams)
	}
	if last.GetHello() != nil || len(acks) != 0 || len(r.got()) != 0 {
		t.Errorf("before anything was published: %v, acknowledged %v, applied %v", last, acks, r.got())
	}
}

// TestAcknowledge: a generation is acknowledged when it is in force, not before, and then at once.
func TestAcknowledge(t *testing.T) {
	b := fakes.StartBalancer(t)
	r := watch(t, b)
	b.Publish(generation(1))
	fakes.Eventually(t, "1 is acknowledged", func() bool { return slices.Equal(acked(b), []uint64{1}) })
	hold := make(chan struct{})
	r.hold.Store(&hold)
	b.Publish(generation(2))
	before := r.reports.Load()
	fakes.Eventually(t, "three reports came", func() bool { return r.reports.Load() >= before+3 })
	if got := acked(b); !slices.Equal(got, []uint64{1}) {
		t.Errorf("%v were acknowledged while 2 was being applied", got)
	}
	r.hold.Store(nil)
	close(hold)
	fakes.Eventually(t, "2 is acknowledged", func() bool { return slices.Equal(acked(b), []uint64{1, 2}) })

	// Not only with the next report: all of these would take 10 s.
	begun := time.Now()
	for g := uint64(3); g < 103; g++ {
		b.Publish(generation(g))
		fakes.Eventually(t, "it is acknowledged", func() bool { return slices.Contains(acked(b), g) })
	}
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("100 acknowledgements took %v", d)
	}
}

// TestReconnect: what was applied stays when the stream breaks; on the new stream nothing is acknowledged that was not
// received on it; what it says is applied.
func TestReconnect(t *testing.T) {
	b := fakes.StartBalancer(t)
	r := watch(t, b)
	b.Publish(generation(1))
	fakes.Eventually(t, "1 is acknowledged", func() bool { return slices.Equal(acked(b), []uint64{1}) })
	b.Break(true)
	fakes.Eventually(t, "it tried again, twice", func() bool { _, _, _, n := b.Watched(); return n >= 3 })
	if got := r.got(); !slices.Equal(got, []uint64{1}) {
		t.Errorf("applied %v while the balancer was gone", got)
	}
	b.Publish(generation(2))
	b.Break(false)
	fakes.Eventually(t, "2 is acknowledged", func() bool { return slices.Equal(acked(b), []uint64{2}) })
	if got := r.got(); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("applied %v", got)
	}
	for range 10 {
		_, _, _, before := b.Watched()
		b.Break(false)
		fakes.Eventually(t, "it is back", func() bool {
			_, _, acks, n := b.Watched()
			return n > before && slices.Equal(acks, []uint64{2})
		})
	}
	hellos, _, _, _ := b.Watched()
	if len(hellos) < 12 {
		t.Errorf("%d hellos", len(hellos))
	}
}

// TestNoBalancer: Run ends when it is told to, though nobody is there.
func TestNoBalancer(t *testing.T) {
	b := fakes.StartBalancer(t)
	b.Break(true)
	r := watch(t, b)
	fakes.Eventually(t, "it tried", func() bool { _, _, _, n := b.Watched(); return n > 1 })
	if got := r.got(); len(got) != 0 {
		t.Errorf("applied %v", got)
	}
}
