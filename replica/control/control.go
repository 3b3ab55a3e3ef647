// Package control is a replica's side of BalancerService.Join: the stream that makes it a member of a pool.
package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// heartbeatEvery is the time between two heartbeats.
	heartbeatEvery = 100 * time.Millisecond
	// redialMin and redialMax bound the wait between two attempts to join.
	redialMin = 20 * time.Millisecond
	redialMax = time.Second
	// loadAgain is the wait after models could not be loaded.
	loadAgain = time.Second
	// defaultLease is used until a balancer has said otherwise.
	defaultLease = 5 * time.Second
)

// ErrLease is returned by Run when a spawned replica was without its balancer for too long.
var ErrLease = errors.New("no balancer within the lease")

// ErrRefused is wrapped by Run's error when the balancer does not take the replica.
var ErrRefused = errors.New("the balancer refused this replica")

// ErrUnfit is wrapped by errors of Replica.Load that trying again would not cure. Run returns them.
var ErrUnfit = errors.New("this replica cannot serve the pool's models")

// Replica is what the stream steers. Its methods are called from several goroutines.
type Replica interface {
	// Load makes the models of a welcome available. It may take long and is abandoned with ctx. After an error it is
	// tried again, unless that wraps ErrUnfit.
	Load(ctx context.Context, w *coppicev1.Welcome) error
	// Heartbeat says how the replica stands.
	Heartbeat() *coppicev1.Heartbeat
	// Drain tells the replica that it gets nothing new.
	Drain()
}

// Joiner is what a Member needs of a balancer. coppicev1.BalancerServiceClient is one.
type Joiner interface {
	Join(ctx context.Context, opts ...grpc.CallOption) (coppicev1.BalancerService_JoinClient, error)
}

// Member keeps a replica in a pool.
type Member struct {
	Client  Joiner
	Hello   *coppicev1.ReplicaHello
	Replica Replica
	Logger  *slog.Logger
}

// Run joins the pool, and joins again whenever the stream breaks, until the balancer says stop (nil). When
// leave is done the replica asks to be drained and goes on until the balancer says stop, or the stream breaks
// and there is nobody to ask (nil, too). When the replica cannot serve the pool's models it returns ErrUnfit. A spawned replica ends with ErrLease when it had no balancer for its
// lease; one that was started by hand keeps trying. When ctx is done, Run returns its cause.
func (m *Member) Run(ctx, leave context.Context) error {
	lease, last := defaultLease, time.Now()
	wait := redialMin
	for {
		s := &session{member: m, lease: lease, heard: last, patience: lease, loaded: make(chan struct{}, 1)}
		if m.Hello.GetSpawned() {
			s.patience = lease - time.Since(last)
		}
		err := s.run(ctx, leave)
		if err == nil {
			return nil
		}
		if s.welcomed {
			wait = redialMin
		}
		lease, last = s.lease, s.heard
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, ErrUnfit) {
			return err
		}
		switch code := status.Code(err); code {
		case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.FailedPrecondition, codes.AlreadyExists:
			return fmt.Errorf("%w: %s", ErrRefused, status.Convert(err).Message())
		}
		pause := wait/2 + rand.N(wait/2+1)
		if m.Hello.GetSpawned() {
			left := lease - time.Since(last)
			if left <= 0 {
				return fmt.Errorf("%w of %v: %w", ErrLease, lease, err)
			}
			pause = min(pause, left)
		}
		if leave.Err() != nil {
			return nil //nolint:nilerr // it was told to leave, and there is nobody to ask
		}
		m.Logger.Warn("control stream broke, joining again", "in", pause, "error", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-leave.Done():
		case <-time.After(pause):
		}
		wait = min(2*wait, redialMax)
	}
}

// session is one Join stream.
type session struct {
	member   *Member
	lease    time.Duration
	heard    time.Time     // when the balancer was last known to be there
	patience time.Duration // how long it may take to welcome the replica
	welcomed bool
	newest   context.CancelFunc // abandons the loading of the newest welcome's models
	loaded   chan struct{}      // models were loaded: the balancer is told at once
}

func (s *session) run(ctx, leave context.Context) (err error) {
	m := s.member
	ctx, end := context.WithCancelCause(ctx)
	cancel := func() { end(nil) }
	defer cancel()
	// A balancer that does not answer is as good as none.
	joining := time.AfterFunc(s.patience, cancel)
	defer joining.Stop()
	stream, err := m.Client.Join(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&coppicev1.JoinRequest{Hello: m.Hello, Heartbeat: m.Replica.Heartbeat()})
	if err != nil && !errors.Is(err, io.EOF) { // at the end of the stream, Recv has the reason
		return err
	}
	var work sync.WaitGroup
	defer func() {
		cancel()
		work.Wait()
	}()
	work.Go(func() { s.heartbeats(ctx, leave, stream) })
	defer func() {
		if s.welcomed {
			s.heard = time.Now()
		}
	}()
	for {
		msg, err := stream.Recv()
		if err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, ErrUnfit) {
				return cause
			}
			return err
		}
		if w := msg.GetWelcome(); w != nil {
			joining.Stop()
			s.welcomed = true
			if d := w.GetLease().AsDuration(); d > 0 {
				s.lease = d
			}
			if s.newest != nil {
				s.newest() // the welcome before is out of date
			}
			var load context.Context
			load, s.newest = context.WithCancel(ctx)
			work.Go(func() {
				for load.Err() == nil {
					err := m.Replica.Load(load, w)
					if err == nil {
						select {
						case s.loaded <- struct{}{}:
						default:
						}
					}
					if err == nil || load.Err() != nil {
						return
					}
					if errors.Is(err, ErrUnfit) {
						end(err)
						return
					}
					m.Logger.Error("models could not be loaded, trying again", "in", loadAgain, "error", err)
					select {
					case <-load.Done():
					case <-time.After(loadAgain):
					}
				}
			})
		}
		if msg.GetDrain() != nil {
			m.Replica.Drain()
		}
		if msg.GetStop() {
			return nil
		}
	}
}

// heartbeats tells the balancer how the replica stands, and that it wants to leave, until ctx is done.
func (s *session) heartbeats(ctx, leave context.Context, stream coppicev1.BalancerService_JoinClient) {
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	leaving := leave.Done()
	for {
		req := &coppicev1.JoinRequest{}
		select {
		case <-ctx.Done():
			return
		case <-leaving:
			leaving = nil
			req.Leaving = true
		case <-tick.C:
		case <-s.loaded:
		}
		req.Heartbeat = s.member.Replica.Heartbeat()
		if stream.Send(req) != nil {
			return // Recv has the reason
		}
	}
}
