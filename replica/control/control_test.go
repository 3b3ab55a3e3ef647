package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBalancer is a balancer without a network, so that time can be fake, too. Join runs handle beside the
// caller, as gRPC runs a handler.
type fakeBalancer struct {
	handle func(ctx context.Context, n int, s *fakeStream) error
	joins  []time.Time
	done   sync.WaitGroup
}

// fakeStream is both ends of a Join: Send and Recv are the replica's, in and out the balancer's.
type fakeStream struct {
	grpc.ClientStream

	ctx   context.Context
	in    chan *coppicev1.JoinRequest
	out   chan *coppicev1.JoinResponse
	ended chan struct{}
	err   error
}

func (b *fakeBalancer) Join(ctx context.Context, _ ...grpc.CallOption) (coppicev1.BalancerService_JoinClient, error) {
	b.joins = append(b.joins, time.Now())
	s := &fakeStream{ctx: ctx, in: make(chan *coppicev1.JoinRequest, 8), out: make(chan *coppicev1.JoinResponse, 8), ended: make(chan struct{})}
	n := len(b.joins)
	b.done.Go(func() {
		s.err = b.handle(ctx, n, s)
		close(s.ended)
	})
	return s, nil
}

func (s *fakeStream) Send(m *coppicev1.JoinRequest) error {
	select {
	case <-s.ended:
		return io.EOF
	default:
	}
	select {
	case s.in <- m:
		return nil
	case <-s.ended:
	case <-s.ctx.Done():
	}
	return io.EOF
}

func (s *fakeStream) Recv() (*coppicev1.JoinResponse, error) {
	select {
	case m := <-s.out: // what was sent before the end comes before it
		return m, nil
	default:
	}
	select {
	case m := <-s.out:
		return m, nil
	case <-s.ended:
		select {
		case m := <-s.out:
			return m, nil
		default:
		}
		if s.err == nil {
			return nil, io.EOF
		}
		return nil, s.err
	case <-s.ctx.Done():
		return nil, status.FromContextError(s.ctx.Err()).Err()
	}
}

// next is the replica's next message.
func (s *fakeStream) next() (*coppicev1.JoinRequest, error) {
	select {
	case m := <-s.in:
		return m, nil
	case <-s.ctx.Done():
		return nil, status.FromContextError(s.ctx.Err()).Err()
	}
}

// until reads messages up to one that is as wanted.
func (s *fakeStream) until(want func(*coppicev1.JoinRequest) bool) (*coppicev1.JoinRequest, error) {
	for {
		m, err := s.next()
		if err != nil || want(m) {
			return m, err
		}
	}
}

func (s *fakeStream) welcome(lease time.Duration, models ...string) {
	w := &coppicev1.Welcome{Replica: "r0", Incarnation: "i", Lease: durationpb.New(lease)}
	for _, m := range models {
		w.Models = append(w.Models, &coppicev1.ServedModel{Name: m, Sha256: m})
	}
	s.out <- &coppicev1.JoinResponse{Welcome: w}
}

func (s *fakeStream) stop() { s.out <- &coppicev1.JoinResponse{Stop: true} }

// fakeReplica notes what it is told.
type fakeReplica struct {
	load func(ctx context.Context, w *coppicev1.Welcome) error // nil: it succeeds

	mu     sync.Mutex
	loaded []string
	drains int
}

func (r *fakeReplica) Load(ctx context.Context, w *coppicev1.Welcome) error {
	if r.load != nil {
		if err := r.load(ctx, w); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loaded = nil
	for _, m := range w.GetModels() {
		r.loaded = append(r.loaded, m.GetSha256())
	}
	return nil
}

func (r *fakeReplica) Heartbeat() *coppicev1.Heartbeat {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &coppicev1.Heartbeat{Models: r.loaded, InFlight: 7}
}

func (r *fakeReplica) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drains++
}

// run runs a member in a bubble of fake time, until it ends by itself or two fake hours are over.
func run(t *testing.T, hello *coppicev1.ReplicaHello, rep *fakeReplica, handle func(ctx context.Context, n int, s *fakeStream) error, leave context.Context) (b *fakeBalancer, took time.Duration, err error) {
	t.Helper()
	b = &fakeBalancer{handle: handle}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Hour, errTestOver)
	defer cancel()
	start := time.Now()
	m := &Member{Client: b, Hello: hello, Replica: rep, Logger: slog.New(slog.DiscardHandler)}
	err = m.Run(ctx, leave)
	took = time.Since(start)
	b.done.Wait() // its streams have ended
	return b, took, err
}

var errTestOver = errors.New("two hours are over")

var unreachable = status.Error(codes.Unavailable, "connection refused")

// joined and spawned are the two kinds of replicas.
var (
	joined  = &coppicev1.ReplicaHello{Token: "t", Address: "tcp:1", Pid: 3}
	spawned = &coppicev1.ReplicaHello{Token: "t", Replica: "r0", Incarnation: "i", Spawned: true}
)

func TestMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const loading = 333 * time.Millisecond
		rep := &fakeReplica{load: func(context.Context, *coppicev1.Welcome) error {
			time.Sleep(loading)
			return nil
		}}
		_, _, err := run(t, joined, rep, func(_ context.Context, _ int, s *fakeStream) error {
			first, err := s.next()
			if err != nil {
				return err
			}
			want := &coppicev1.JoinRequest{Hello: joined, Heartbeat: &coppicev1.Heartbeat{InFlight: 7}}
			if d := cmp.Diff(want, first, protocmp.Transform()); d != "" {
				t.Errorf("first message (-want +got):\n%s", d)
			}
			welcomed := time.Now()
			s.welcome(time.Second, "a", "b")
			ready, err := s.until(func(m *coppicev1.JoinRequest) bool { return len(m.GetHeartbeat().GetModels()) > 0 })
			if err != nil {
				return err
			}
			if ready.GetHello() != nil || ready.GetLeaving() {
				t.Errorf("a later message is %v", ready)
			}
			// Not at the next tick, which would be 67 ms later.
			if took := time.Since(welcomed); took != loading {
				t.Errorf("the balancer heard after %v that models are loaded, they were after %v", took, loading)
			}
			s.out <- &coppicev1.JoinResponse{Drain: &coppicev1.Drain{}}
			for range 10 {
				last := time.Now()
				if _, err := s.next(); err != nil {
					return err
				}
				if took := time.Since(last); took > heartbeatEvery {
					t.Errorf("%v between heartbeats", took)
				}
			}
			rep.mu.Lock()
			drains := rep.drains
			rep.mu.Unlock()
			if drains != 1 {
				t.Errorf("drained %d times", drains)
			}
			s.stop()
			return nil
		}, context.Background())
		if err != nil {
			t.Error(err)
		}
	})
}

// TestJoinsAgain sees that a stream that breaks is made again, soon after a welcome, and ever more slowly
// without one.
func TestJoinsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, err := run(t, joined, &fakeReplica{}, func(_ context.Context, n int, s *fakeStream) error {
			hello, err := s.next()
			if err != nil {
				return err
			}
			if d := cmp.Diff(joined, hello.GetHello(), protocmp.Transform()); d != "" {
				t.Errorf("join %d (-want +got):\n%s", n, d)
			}
			switch n {
			case 12:
				s.welcome(time.Second)
				if _, err := s.next(); err != nil {
					return err
				}
			case 14:
				s.stop()
				return nil
			}
			return unreachable
		}, context.Background())
		if err != nil {
			t.Fatal(err)
		}
		want := redialMin
		for i := 1; i < len(b.joins); i++ {
			if i == 12 {
				want = redialMin
			}
			// A welcomed stream lives up to its first heartbeat here, and others for no time.
			if gap := b.joins[i].Sub(b.joins[i-1]); gap < want/2 || gap > want+heartbeatEvery {
				t.Errorf("join %d came %v after the one before, want %v to %v", i+1, gap, want/2, want)
			}
			want = min(2*want, redialMax)
		}
		if len(b.joins) != 14 {
			t.Errorf("%d joins", len(b.joins))
		}
	})
}

// TestLease sees that a spawned replica ends when it has no balancer for its lease, however it misses it.
func TestLease(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lease time.Duration
		// handle serves the joins after the first, which is welcomed if lease is not the default.
		handle func(ctx context.Context, s *fakeStream) error
	}{
		{"never there", defaultLease, func(context.Context, *fakeStream) error { return unreachable }},
		{"silent from the start", defaultLease, func(ctx context.Context, _ *fakeStream) error { <-ctx.Done(); return ctx.Err() }},
		{"gone", 400 * time.Millisecond, func(context.Context, *fakeStream) error { return unreachable }},
		{"gone for a long lease", time.Minute, func(context.Context, *fakeStream) error { return unreachable }},
		{"silent", 400 * time.Millisecond, func(ctx context.Context, _ *fakeStream) error { <-ctx.Done(); return ctx.Err() }},
		{"slow to fail", 10 * time.Second, func(ctx context.Context, _ *fakeStream) error {
			select {
			case <-ctx.Done():
			case <-time.After(7 * time.Second):
			}
			return unreachable
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lost := time.Now()
				_, _, err := run(t, spawned, &fakeReplica{}, func(ctx context.Context, n int, s *fakeStream) error {
					if n > 1 || tt.lease == defaultLease {
						return tt.handle(ctx, s)
					}
					s.welcome(tt.lease)
					time.Sleep(time.Hour) // a lease counts from the loss of the balancer
					lost = time.Now()
					return unreachable
				}, context.Background())
				if !errors.Is(err, ErrLease) {
					t.Fatalf("got %v", err)
				}
				if !strings.Contains(err.Error(), tt.lease.String()) {
					t.Errorf("the error does not name the lease of %v: %v", tt.lease, err)
				}
				if took := time.Since(lost); took < tt.lease || took > tt.lease+100*time.Millisecond {
					t.Errorf("it ended %v after its balancer, its lease is %v", took, tt.lease)
				}
			})
		})
	}
}

// TestLeaseHolds sees that a balancer that comes back within the lease keeps its replica.
func TestLeaseHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lost time.Time
		_, took, err := run(t, spawned, &fakeReplica{}, func(_ context.Context, _ int, s *fakeStream) error {
			if lost.IsZero() || time.Since(lost) > 4*time.Second {
				s.welcome(5 * time.Second)
				if time.Since(lost) < time.Hour {
					s.stop()
					return nil
				}
				lost = time.Now()
			}
			return unreachable
		}, context.Background())
		if err != nil || took > 5*time.Second {
			t.Errorf("got %v after %v", err, took)
		}
	})
}

// TestKeepsTrying sees that a replica that was started by hand waits for its balancer as long as it takes.
func TestKeepsTrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		b, _, err := run(t, joined, &fakeReplica{}, func(ctx context.Context, n int, s *fakeStream) error {
			switch {
			case time.Since(start) > time.Hour:
				s.stop()
				return nil
			case n%2 == 0: // it takes the stream and is silent
				<-ctx.Done()
				return ctx.Err()
			}
			return unreachable
		}, context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if n := len(b.joins); n < 500 || n > 3700 {
			t.Errorf("%d joins in an hour", n)
		}
	})
}

func TestRefused(t *testing.T) {
	for code, refused := range map[codes.Code]bool{
		codes.Unauthenticated: true, codes.PermissionDenied: true, codes.InvalidArgument: true,
		codes.FailedPrecondition: true, codes.AlreadyExists: true,
		codes.Unavailable: false, codes.Internal: false, codes.DeadlineExceeded: false, codes.Unknown: false,
		codes.ResourceExhausted: false, codes.Aborted: false,
	} {
		for _, welcomed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, welcomed %v", code, welcomed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, _, err := run(t, joined, &fakeReplica{}, func(_ context.Context, n int, s *fakeStream) error {
						if n == 2 {
							s.stop()
							return nil
						}
						if welcomed {
							s.welcome(time.Second)
						}
						return status.Error(code, "this is why")
					}, context.Background())
					if !refused {
						if err != nil || len(b.joins) != 2 {
							t.Errorf("got %v after %d joins, want a second join", err, len(b.joins))
						}
						return
					}
					if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "this is why") {
						t.Errorf("got %v", err)
					}
					if len(b.joins) != 1 {
						t.Errorf("joined %d times", len(b.joins))
					}
				})
			})
		}
	}
}

// TestEndedByWelcome is a balancer that goes at once behind its welcome: that is no stop.
func TestEndedByWelcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The stream has ended before the replica sends its first message.
		ended := func(n int) *fakeStream {
			s := &fakeStream{ctx: t.Context(), out: make(chan *coppicev1.JoinResponse, 2), ended: make(chan struct{}), err: unreachable}
			close(s.ended)
			s.welcome(time.Second)
			if n == 3 {
				s.stop()
			}
			return s
		}
		n := 0
		m := &Member{
			Client: joinFunc(func(context.Context) (coppicev1.BalancerService_JoinClient, error) {
				n++
				return ended(n), nil
			}),
			Hello: joined, Replica: &fakeReplica{}, Logger: slog.New(slog.DiscardHandler),
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Run(ctx, context.Background()); err != nil || n != 3 {
			t.Errorf("got %v after %d joins, want 3", err, n)
		}
	})
}

type joinFunc func(ctx context.Context) (coppicev1.BalancerService_JoinClient, error)

func (f joinFunc) Join(ctx context.Context, _ ...grpc.CallOption) (coppicev1.BalancerService_JoinClient, error) {
	return f(ctx)
}

func TestLeave(t *testing.T) {
	t.Run("asks once and goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			leave, tell := context.WithCancel(t.Context())
			began := time.Now()
			_, took, err := run(t, joined, &fakeReplica{}, func(_ context.Context, _ int, s *fakeStream) error {
				s.welcome(time.Second)
				time.AfterFunc(time.Minute, tell)
				asked := 0
				for time.Since(began) < 2*time.Minute {
					m, err := s.next()
					if err != nil {
						return err
					}
					if m.GetLeaving() {
						asked++
						if m.GetHeartbeat() == nil {
							t.Error("without a heartbeat")
						}
					}
				}
				if asked != 1 {
					t.Errorf("it asked %d times to leave", asked)
				}
				s.stop()
				return nil
			}, leave)
			if err != nil || took < 2*time.Minute {
				t.Errorf("got %v after %v: it waits for the balancer's word", err, took)
			}
		})
	})
	for _, tt := range []struct {
		name   string
		after  time.Duration
		handle func(ctx context.Context, s *fakeStream) error
		within time.Duration
	}{
		{"no balancer", time.Minute, func(context.Context, *fakeStream) error { return unreachable }, 0},
		{"at once, no balancer", 0, func(context.Context, *fakeStream) error { return unreachable }, 0},
		{"silent balancer", time.Minute, func(ctx context.Context, _ *fakeStream) error { <-ctx.Done(); return ctx.Err() }, 2 * defaultLease},
		{"balancer goes", time.Minute, func(_ context.Context, s *fakeStream) error {
			s.welcome(time.Second)
			if _, err := s.until(func(m *coppicev1.JoinRequest) bool { return m.GetLeaving() }); err != nil {
				return err
			}
			return unreachable
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				leave, tell := context.WithCancel(t.Context())
				defer tell()
				defer time.AfterFunc(tt.after, tell).Stop()
				_, took, err := run(t, joined, &fakeReplica{}, func(ctx context.Context, _ int, s *fakeStream) error { return tt.handle(ctx, s) }, leave)
				if err != nil {
					t.Error(err)
				}
				if took < tt.after || took > tt.after+tt.within {
					t.Errorf("it left after %v, it was told to after %v", took, tt.after)
				}
			})
		})
	}
}

// TestEndedByContext sees that the context ends everything at once: waits, streams and loads.
func TestEndedByContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, handle := range map[string]func(ctx context.Context, n int, s *fakeStream) error{
			"unreachable": func(context.Context, int, *fakeStream) error { return unreachable },
			"silent":      func(ctx context.Context, _ int, _ *fakeStream) error { <-ctx.Done(); return ctx.Err() },
			"loading": func(ctx context.Context, _ int, s *fakeStream) error {
				s.welcome(time.Second, "a")
				<-ctx.Done()
				return ctx.Err()
			},
		} {
			loading := &fakeReplica{load: func(ctx context.Context, _ *coppicev1.Welcome) error {
				<-ctx.Done()
				return ctx.Err()
			}}
			_, took, err := run(t, joined, loading, handle, context.Background())
			if !errors.Is(err, errTestOver) || took != 2*time.Hour {
				t.Errorf("%s: got %v after %v", name, err, took)
			}
		}
	})
}

// TestLoads sees that a load that fails is tried again, and that a new welcome ends the load of the one before.
func TestLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun []string
		var mu sync.Mutex
		rep := &fakeReplica{load: func(ctx context.Context, w *coppicev1.Welcome) error {
			name := w.GetModels()[0].GetSha256()
			mu.Lock()
			begun = append(begun, name)
			n := len(begun)
			mu.Unlock()
			if name == "b" && n == 4 {
				return nil
			}
			if name == "b" {
				return errors.New("no space left")
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		_, took, err := run(t, joined, rep, func(_ context.Context, _ int, s *fakeStream) error {
			s.welcome(time.Second, "a")
			time.Sleep(10 * time.Second)
			s.welcome(time.Second, "b")
			if _, err := s.until(func(m *coppicev1.JoinRequest) bool { return len(m.GetHeartbeat().GetModels()) > 0 }); err != nil {
				return err
			}
			s.stop()
			return nil
		}, context.Background())
		if err != nil {
			t.Error(err)
		}
		if d := cmp.Diff([]string{"a", "b", "b", "b"}, begun); d != "" {
			t.Errorf("loads (-want +got):\n%s", d)
		}
		if want := 10*time.Second + 2*loadAgain; took != want {
			t.Errorf("loaded after %v, want %v", took, want)
		}
	})
}

// TestUnfit sees that a load that cannot succeed is not tried again, and ends the membership.
func TestUnfit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loads := 0
		rep := &fakeReplica{load: func(context.Context, *coppicev1.Welcome) error {
			loads++
			return fmt.Errorf("model %q: %w", "a", ErrUnfit)
		}}
		b, _, err := run(t, joined, rep, func(ctx context.Context, _ int, s *fakeStream) error {
			s.welcome(time.Second, "a")
			<-ctx.Done()
			return ctx.Err()
		}, context.Background())
		if !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), `model "a"`) {
			t.Errorf("it ended with %v", err)
		}
		if loads != 1 || len(b.joins) != 1 {
			t.Errorf("%d loads, joined %d times", loads, len(b.joins))
		}
	})
}
