package fakes

import (
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// Balancer is a balancer on a socket that has nothing but a description of the pool.
type Balancer struct {
	coppicev1.UnimplementedBalancerServiceServer
	lis   *listener
	srv   *grpc.Server
	ended sync.WaitGroup

	mu      sync.Mutex
	moved   *sync.Cond
	pool    *coppicev1.WatchResponse // nil: none yet
	hellos  []*coppicev1.GatewayHello
	last    *coppicev1.WatchRequest
	acks    []uint64 // of the newest stream, without repetitions
	streams int      // that were opened
	refuse  bool
	stopped bool
}

// StartBalancer makes a Balancer that ends with the test.
func StartBalancer(t testing.TB) *Balancer {
	t.Helper()
	b := &Balancer{lis: listen(t)}
	b.moved = sync.NewCond(&b.mu)
	b.srv = grpc.NewServer(grpc.WaitForHandlers(true))
	coppicev1.RegisterBalancerServiceServer(b.srv, b)
	b.ended.Go(func() { _ = b.srv.Serve(b.lis) })
	t.Cleanup(func() {
		b.mu.Lock()
		b.stopped = true
		b.moved.Broadcast()
		b.mu.Unlock()
		b.srv.Stop()
		b.ended.Wait()
	})
	return b
}

// Addr is where the balancer is.
func (b *Balancer) Addr() string { return b.lis.Addr().String() }

// Publish sends a description of the pool to all who watch, and to those that come.
func (b *Balancer) Publish(pool *coppicev1.WatchResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pool = proto.CloneOf(pool)
	b.moved.Broadcast()
}

// Break cuts all connections. With refuse, streams that are opened from now on fail.
func (b *Balancer) Break(refuse bool) {
	b.mu.Lock()
	b.refuse = refuse
	b.mu.Unlock()
	b.lis.cut()
}

// Watched says what watchers sent: the hellos so far, the newest message, the generations that were acknowledged on
// the newest stream, and the number of streams that were opened.
func (b *Balancer) Watched() (hellos []*coppicev1.GatewayHello, last *coppicev1.WatchRequest, acks []uint64, streams int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append(hellos, b.hellos...), b.last, append(acks, b.acks...), b.streams
}

// Watch serves a gateway.
func (b *Balancer) Watch(st grpc.BidiStreamingServer[coppicev1.WatchRequest, coppicev1.WatchResponse]) error {
	b.mu.Lock()
	b.streams++
	b.acks = nil
	refuse := b.refuse
	b.mu.Unlock()
	if refuse {
		return status.Error(codes.Unavailable, "not now")
	}
	gone := false
	b.ended.Go(func() {
		for {
			m, err := st.Recv()
			b.mu.Lock()
			if err != nil {
				gone = true
				b.moved.Broadcast()
				b.mu.Unlock()
				return
			}
			if h := m.GetHello(); h != nil {
				b.hellos = append(b.hellos, h)
			}
			b.last = m
			if g := m.GetAcknowledgedGeneration(); g > 0 && (len(b.acks) == 0 || b.acks[len(b.acks)-1] != g) {
				b.acks = append(b.acks, g)
			}
			b.mu.Unlock()
		}
	})
	var sent *coppicev1.WatchResponse
	for {
		b.mu.Lock()
		for b.pool == sent && !gone && !b.stopped {
			b.moved.Wait()
		}
		ends := gone || b.stopped
		sent = b.pool
		b.mu.Unlock()
		if ends {
			return status.Error(codes.Unavailable, "the balancer is stopping")
		}
		if err := st.Send(sent); err != nil {
			return err
		}
	}
}
