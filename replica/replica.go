// Package replica is the worker process: it joins a balancer's pool, loads the pool's models and answers the
// predictions that gateways send.
//
//   - worker   serves WorkerService: batches, evaluation, answers
//   - control  the stream to the balancer: membership, heartbeats, drain
//   - plugin   how a balancer launches a worker
//   - forest   the models and the engine, a library of its own
package replica

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica/control"
	"github.com/coppice-mesh/coppice/replica/plugin"
	"github.com/coppice-mesh/coppice/replica/worker"
)

// Config is what a user decides about a replica.
type Config struct {
	// Balancer is the control address of the pool to join, "host:port".
	Balancer string
	// Listen is where to serve gateways: "unix:/path" or "tcp:host:port", port 0 for any.
	Listen string
	// Advertise is the host under which gateways reach a replica that listens on TCP. Empty: the host that
	// it listens on, or when that is unspecified, the one that its connection to the balancer comes from.
	Advertise string
	// Token is the pool's join token.
	Token string
	// DrainTimeout is how long requests in flight may take when the replica is told to leave. Default 30 s.
	DrainTimeout time.Duration
	Worker       worker.Config
}

// Settings is what code gives to a replica.
type Settings struct {
	Logger *slog.Logger
	// Version is the binary's.
	Version string
	// Models opens the models that the pool serves.
	Models ModelOpener
	// Launch is set for a replica that a balancer spawned.
	Launch *plugin.Launch
	// Observer is told of every answer; nil for none.
	Observer worker.Observer
	// Joined is called each time that the balancer gives the replica its place; nil for nothing.
	Joined    func(replica, incarnation string)
	Failpoint func(rows []float32)
}

// ErrUnfit is wrapped by a ModelOpener's error that trying again would not cure: the replica ends with it.
var ErrUnfit = control.ErrUnfit

// ModelOpener opens models for a replica, ready to predict. fetch gets the canonical file from the balancer, for
// models that are not on this machine.
type ModelOpener interface {
	OpenModel(ctx context.Context, sha256 string, fetch func(ctx context.Context, write func([]byte) error) error) (Model, error)
}

// Model is an open model. Close may be called once no request uses it.
type Model interface {
	worker.Forest
	Close() error
}

// Replica is a running worker.
type Replica struct {
	cfg    Config
	set    Settings
	table  worker.Table
	server *worker.Server
	client coppicev1.BalancerServiceClient
	token  string

	draining atomic.Bool

	mu   sync.Mutex
	open map[string]Model // by SHA-256
}

// New makes a Replica. It does nothing before Run.
func New(cfg Config, set Settings) *Replica {
	if cfg.DrainTimeout <= 0 {
		cfg.DrainTimeout = 30 * time.Second
	}
	r := &Replica{cfg: cfg, set: set, token: cfg.Token, open: map[string]Model{}}
	r.server = worker.New(cfg.Worker, worker.Settings{Models: &r.table, Observer: set.Observer, Failpoint: set.Failpoint})
	return r
}

// Run serves until the balancer says stop, the lease is over, or leave is done and what was in flight is
// answered. It returns nil when the replica left in order. When ctx is done it ends at once and returns the
// cause. Its error wraps control.ErrRefused when the balancer does not take the replica, and ErrUnfit when the replica
// cannot serve the pool's models.
func (r *Replica) Run(ctx, leave context.Context) error {
	conn, err := grpc.NewClient(r.cfg.Balancer,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return fmt.Errorf("balancer %q: %w", r.cfg.Balancer, err)
	}
	defer conn.Close()
	r.client = coppicev1.NewBalancerServiceClient(conn)

	lis, err := listen(ctx, r.cfg.Listen)
	if err != nil {
		return err
	}
	address, err := r.advertised(ctx, lis.Addr())
	if err != nil {
		lis.Close()
		return err
	}
	srv := grpc.NewServer(
		grpc.ForceServerCodecV2(frame.Codec()),
		grpc.MaxRecvMsgSize(4<<20), // payloads come in chunks
		grpc.StaticStreamWindowSize(4<<20),
		grpc.StaticConnWindowSize(16<<20),
		grpc.MaxConcurrentStreams(1024),
	)
	r.server.Register(srv)
	r.server.Start()
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(lis) })
	defer func() {
		over, cancel := context.WithCancel(context.WithoutCancel(ctx))
		cancel()
		r.server.Stop(over) // whatever way Run ends, nothing is left running
		srv.Stop()
		serving.Wait()
		r.server.Wait()
		r.closeModels()
	}()

	hello := &coppicev1.ReplicaHello{
		Token: r.cfg.Token, Address: address, Pid: int64(os.Getpid()), Version: r.set.Version,
	}
	hello.Host, _ = os.Hostname()
	if l := r.set.Launch; l != nil {
		hello.Spawned, hello.Token, hello.Replica, hello.Incarnation = true, l.Secret, l.Replica, l.Incarnation
		r.token = l.Secret
		lctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := plugin.Serve(lctx, plugin.Description{PID: os.Getpid(), Address: address, Version: r.set.Version})
		cancel()
		if err != nil {
			return err
		}
	} else {
		hello.Incarnation = newIncarnation()
	}
	r.set.Logger.Info("replica serves", "address", address, "pid", os.Getpid(), "balancer", r.cfg.Balancer)

	told, err := r.stay(ctx, leave, hello)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		r.set.Logger.Warn("replica goes on without its balancer until it has answered", "error", err)
	}
	wait := r.cfg.DrainTimeout
	if !told.IsZero() {
		wait = max(time.Until(told.Add(wait)), closing)
	}
	stop, done := context.WithTimeout(ctx, wait)
	defer done()
	r.server.Stop(stop)
	r.set.Logger.Info("replica stopped")
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, control.ErrLease) || errors.Is(err, errOverdue) {
		return nil // it left in order: nobody was there to ask, or to answer
	}
	return err
}

// closing is what a replica takes at the end at most, after its drain took as long as it may.
const closing = time.Second

// errOverdue ends the membership of a replica that was told to leave, by a balancer that does not let it go.
var errOverdue = errors.New("the balancer did not let the replica go within its drain timeout")

// stay keeps the replica in the pool. Once it is told to leave, which told says when, that takes no longer than
// its drain may.
func (r *Replica) stay(ctx, leave context.Context, hello *coppicev1.ReplicaHello) (told time.Time, err error) {
	member, end := context.WithCancelCause(ctx)
	var leaving sync.WaitGroup
	leaving.Go(func() {
		select {
		case <-leave.Done():
		case <-member.Done():
			return
		}
		told = time.Now()
		r.set.Logger.Info("replica leaves", "timeout", r.cfg.DrainTimeout)
		overdue := time.NewTimer(r.cfg.DrainTimeout + closing)
		defer overdue.Stop()
		select {
		case <-overdue.C:
			end(errOverdue)
		case <-member.Done():
		}
	})
	m := &control.Member{Client: r.client, Hello: hello, Replica: r, Logger: r.set.Logger}
	err = m.Run(member, leave)
	end(nil)
	leaving.Wait()
	return told, err
}

// Heartbeat says how the replica stands.
func (r *Replica) Heartbeat() *coppicev1.Heartbeat {
	inFlight, queued, answered := r.server.Load()
	return &coppicev1.Heartbeat{
		Models: r.table.Hashes(), InFlight: uint64(max(inFlight, 0)), Queued: uint64(queued), Answered: answered,
	}
}

// Drain notes that gateways send nothing new. What still arrives is answered: it was sent before they knew.
func (r *Replica) Drain() {
	if !r.draining.Swap(true) {
		r.set.Logger.Info("replica drains")
	}
}

// Load opens the models of a welcome that are not open yet and serves exactly those.
func (r *Replica) Load(ctx context.Context, w *coppicev1.Welcome) error {
	if r.set.Joined != nil {
		r.set.Joined(w.GetReplica(), w.GetIncarnation())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx) // while it waited, a newer welcome was here
	}
	var models []*worker.Model
	var errs []error
	for _, s := range w.GetModels() {
		m := r.open[s.GetSha256()]
		if m == nil {
			var err error
			if m, err = r.set.Models.OpenModel(ctx, s.GetSha256(), r.fetcher(s.GetSha256())); err != nil {
				errs = append(errs, fmt.Errorf("model %q, version %s: %w", s.GetName(), s.GetVersion(), err))
				continue
			}
			r.open[s.GetSha256()] = m
			r.set.Logger.Info("model loaded", "model", s.GetName(), "version", s.GetVersion())
		}
		models = append(models, worker.NewModel(s.GetName(), s.GetVersion(), s.GetSha256(), m))
	}
	if ctx.Err() == nil {
		r.table.Set(models)
	}
	return errors.Join(errs...)
}

// fetcher gets a model's file from the balancer.
func (r *Replica) fetcher(sha256 string) func(context.Context, func([]byte) error) error {
	return func(ctx context.Context, write func([]byte) error) error {
		stream, err := r.client.FetchModel(ctx, &coppicev1.FetchModelRequest{Token: r.token, Sha256: sha256})
		if err != nil {
			return err
		}
		for {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := write(part.GetData()); err != nil {
				return err
			}
		}
	}
}

func (r *Replica) closeModels() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.open {
		if err := m.Close(); err != nil {
			r.set.Logger.Warn("model could not be closed", "error", err)
		}
	}
	clear(r.open)
}

// listen opens the data socket. A Unix socket is the owner's alone.
func listen(ctx context.Context, at string) (net.Listener, error) {
	network, address, err := plugin.SplitListen(at)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		// A socket is what a process that was killed left. Anything else is none of ours.
		if info, err := os.Lstat(address); err == nil && info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("listen on unix:%s: a file that is no socket is there", address)
		}
		if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o600); err != nil {
			lis.Close()
			return nil, err
		}
	}
	return lis, nil
}

// advertised is the address that gateways are told.
func (r *Replica) advertised(ctx context.Context, a net.Addr) (string, error) {
	if a.Network() == "unix" {
		return "unix:" + a.String(), nil
	}
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return "", err
	}
	if r.cfg.Advertise != "" {
		return net.JoinHostPort(r.cfg.Advertise, port), nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		// No packet is sent: this only asks the routing table.
		var d net.Dialer
		c, err := d.DialContext(ctx, "udp", r.cfg.Balancer)
		if err != nil {
			return "", fmt.Errorf("which address gateways should use is unknown, --advertise says it: %w", err)
		}
		defer c.Close()
		if host, _, err = net.SplitHostPort(c.LocalAddr().String()); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port), nil
}

func newIncarnation() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
