// Package gateway is Coppice's front door. It takes predictions by gRPC and HTTP, spreads them over the
// replicas of a balancer's pool, and answers each exactly once.
//
//   - server   Predict and PredictStream: from bytes to the one internal call
//   - rest     POST /predict and the health pages
//   - route    from a model's name to the version that answers
//   - pool     the call: admission, pick, the streams to replicas, replay
//   - control  watches the balancer's pool
//   - client   the Go client
package gateway

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/coppice-mesh/coppice/balancer/admit"
	"github.com/coppice-mesh/coppice/gateway/control"
	"github.com/coppice-mesh/coppice/gateway/pool"
	"github.com/coppice-mesh/coppice/gateway/rest"
	"github.com/coppice-mesh/coppice/gateway/route"
	"github.com/coppice-mesh/coppice/gateway/server"
	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// Config is what a user decides about a gateway.
type Config struct {
	// GRPCAddr and HTTPAddr are where to listen, "host:port"; port 0 takes a free one.
	GRPCAddr, HTTPAddr string
	// Balancer is the control address of the pool.
	Balancer string
	Server   server.Config
	// Admit bounds what is accepted and not yet answered.
	Admit admit.Config
}

// Validate says what is wrong with a Config.
func (c Config) Validate() error {
	switch {
	case c.Server.DefaultTimeout < 0:
		return fmt.Errorf("default timeout is %v, it must not be negative", c.Server.DefaultTimeout)
	case c.Server.MaxTimeout < 0:
		return fmt.Errorf("max timeout is %v, it must not be negative", c.Server.MaxTimeout)
	case c.Server.MaxTimeout > 0 && c.Server.DefaultTimeout > c.Server.MaxTimeout:
		return fmt.Errorf("default timeout %v is more than the max timeout %v", c.Server.DefaultTimeout, c.Server.MaxTimeout)
	case c.Server.MaxMessageBytes < 0:
		return fmt.Errorf("max message bytes is %d, it must not be negative", c.Server.MaxMessageBytes)
	}
	return c.Admit.Validate()
}

// Settings is what code gives to a gateway.
type Settings struct {
	Logger  *slog.Logger
	Version string
	// ID is unique among the gateways of a pool; NewID makes one.
	ID       string
	Observer server.Observer // nil for none
}

// Gateway is a running front door.
type Gateway struct {
	cfg    Config
	set    Settings
	pool   *pool.Pool
	server *server.Server
	health *health.Server

	grpc     *grpc.Server
	http     *http.Server
	balancer *grpc.ClientConn
	grpcLis  net.Listener
	httpLis  net.Listener

	stopping atomic.Bool
	ends     context.Context // done when streams that ask for no predictions are to end
	end      context.CancelFunc
	cancel   context.CancelFunc
	running  sync.WaitGroup

	healthMu sync.Mutex
	healthy  bool // as the health service says
}

// flush is how long clients may take for their last answers when the gateway stops.
const flush = 2 * time.Second

// farewell is how long those that watch the health have to hear that it ended.
const farewell = 50 * time.Millisecond

// NewID makes an id for a gateway: the host's name and random digits.
func NewID() string {
	host, err := os.Hostname()
	if err != nil || len(host) > 64 {
		host = "gateway"
	}
	return host + "-" + random(4)
}

// requestID makes an id to find a request by. It is no secret.
func requestID() string {
	return strconv.FormatUint(mathrand.Uint64()|1<<63, 16)
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// New makes a Gateway. It does nothing before Start.
func New(cfg Config, set Settings) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Server = cfg.Server.WithDefaults()
	g := &Gateway{cfg: cfg, set: set, health: health.NewServer()}
	g.ends, g.end = context.WithCancel(context.Background())
	g.pool = pool.New(pool.Config{Admit: cfg.Admit, MaxMessageBytes: cfg.Server.MaxMessageBytes}, pool.Settings{Logger: set.Logger})
	g.server = server.New(cfg.Server, server.Settings{Pool: g.pool, Observer: set.Observer, RequestID: requestID})
	return g, nil
}

// Pool is the core, for what observes it.
func (g *Gateway) Pool() *pool.Pool { return g.pool }

// GRPCAddr and HTTPAddr are the addresses that the gateway listens on, after Start.
func (g *Gateway) GRPCAddr() string { return g.grpcLis.Addr().String() }

// HTTPAddr is like GRPCAddr.
func (g *Gateway) HTTPAddr() string { return g.httpLis.Addr().String() }

// Start listens and serves. When it returns an error, nothing is left open.
func (g *Gateway) Start(ctx context.Context) (err error) {
	var lc net.ListenConfig
	if g.grpcLis, err = lc.Listen(ctx, "tcp", g.cfg.GRPCAddr); err != nil {
		return fmt.Errorf("gRPC address %s: %w", g.cfg.GRPCAddr, err)
	}
	if g.httpLis, err = lc.Listen(ctx, "tcp", g.cfg.HTTPAddr); err != nil {
		g.grpcLis.Close()
		return fmt.Errorf("HTTP address %s: %w", g.cfg.HTTPAddr, err)
	}
	g.balancer, err = grpc.NewClient(g.cfg.Balancer,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		g.grpcLis.Close()
		g.httpLis.Close()
		return fmt.Errorf("balancer %q: %w", g.cfg.Balancer, err)
	}
	g.grpc = grpc.NewServer(
		grpc.ForceServerCodecV2(frame.Codec()),
		// A little over the limit, so that the limit's own error is the one that clients see.
		grpc.MaxRecvMsgSize(g.cfg.Server.MaxMessageBytes+1<<20),
		grpc.StaticStreamWindowSize(4<<20),
		grpc.StaticConnWindowSize(16<<20),
		grpc.MaxConcurrentStreams(4096),
		grpc.MaxHeaderListSize(64<<10),
		grpc.StreamInterceptor(g.endingStream),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	g.server.Register(g.grpc)
	healthpb.RegisterHealthServer(g.grpc, g.health)
	reflection.Register(g.grpc)
	g.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	g.health.SetServingStatus(coppicev1.PredictService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_NOT_SERVING)
	g.http = &http.Server{
		Handler:           rest.New(g.server, g.Ready, g.cfg.Server.MaxMessageBytes),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       g.cfg.Server.MaxTimeout + 10*time.Second,
		WriteTimeout:      2*g.cfg.Server.MaxTimeout + 20*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(g.set.Logger.Handler(), slog.LevelDebug),
	}

	var run context.Context
	run, g.cancel = context.WithCancel(context.WithoutCancel(ctx))
	g.pool.Start()
	w := &control.Watcher{
		Client: coppicev1.NewBalancerServiceClient(g.balancer), Gateway: g.set.ID, Version: g.set.Version, Logger: g.set.Logger,
		Apply: g.apply, Report: g.report,
	}
	g.running.Go(func() { w.Run(run) })
	g.running.Go(func() { g.watchHealth(run) })
	g.running.Go(func() {
		if err := g.grpc.Serve(g.grpcLis); err != nil {
			g.set.Logger.Error("gRPC server ended", "error", err)
		}
	})
	g.running.Go(func() {
		if err := g.http.Serve(g.httpLis); !errors.Is(err, http.ErrServerClosed) {
			g.set.Logger.Error("HTTP server ended", "error", err)
		}
	})
	g.set.Logger.Info("gateway serves", "grpc", g.GRPCAddr(), "http", g.HTTPAddr(), "balancer", g.cfg.Balancer, "gateway", g.set.ID)
	return nil
}

// apply puts a description of the pool in force.
func (g *Gateway) apply(w *coppicev1.WatchResponse) {
	g.server.Serve(&server.Served{Models: route.New(w.GetModels()), AllowWork: w.GetAllowWork()})
	g.pool.Update(w.GetEndpoints())
	g.setHealth()
}

func (g *Gateway) report() *coppicev1.GatewayReport {
	inFlight, waiting := g.pool.Load()
	return &coppicev1.GatewayReport{Arrivals: g.server.Arrivals(), InFlight: uint64(max(inFlight, 0)), Queued: uint64(waiting)}
}

// Ready tells whether predictions can be answered, and why not.
func (g *Gateway) Ready() (bool, string) {
	switch {
	case g.stopping.Load():
		return false, "the gateway is stopping"
	case len(g.server.Served().Models.Models()) == 0:
		return false, "the balancer has not said yet what is served"
	case g.pool.Ready() == 0:
		return false, "no replica is ready"
	}
	return true, ""
}

// setHealth brings the health service up to date.
func (g *Gateway) setHealth() {
	g.healthMu.Lock()
	defer g.healthMu.Unlock()
	ready, _ := g.Ready()
	if ready == g.healthy {
		return
	}
	g.healthy = ready
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if ready {
		state = healthpb.HealthCheckResponse_SERVING
	}
	for _, service := range []string{"", coppicev1.PredictService_ServiceDesc.ServiceName} {
		g.health.SetServingStatus(service, state)
	}
}

// watchHealth follows the replicas' connections, which come and go between two descriptions of the pool.
func (g *Gateway) watchHealth(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.setHealth()
		}
	}
}

// endingStream ends streams that ask for no predictions when the gateway stops: a client may watch its health for
// ever. PredictStream ends by itself.
func (g *Gateway) endingStream(srv any, st grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if info.FullMethod == coppicev1.PredictService_PredictStream_FullMethodName {
		return handler(srv, st)
	}
	ctx, cancel := context.WithCancel(st.Context())
	defer cancel()
	defer context.AfterFunc(g.ends, cancel)()
	return handler(srv, endingStream{st, ctx})
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endingStream) Context() context.Context { return s.ctx }

// Shutdown stops accepting, answers what was accepted, and closes everything, within ctx.
func (g *Gateway) Shutdown(ctx context.Context) {
	g.stopping.Store(true)
	if g.cancel == nil {
		return // it was not started
	}
	g.health.Shutdown() // clients that watch the health go elsewhere
	g.server.Refuse()
	var closing sync.WaitGroup
	stopped := make(chan struct{})
	closing.Go(g.grpc.GracefulStop)
	closing.Go(func() { _ = g.http.Shutdown(ctx) }) // it is closed below
	go func() {
		closing.Wait()
		close(stopped)
	}()
	g.pool.Shutdown(ctx)
	ending := time.AfterFunc(farewell, g.end)
	defer ending.Stop()
	// What is still open are answers on their way, and clients that do not take theirs.
	late := time.NewTimer(flush)
	defer late.Stop()
	select {
	case <-stopped:
	case <-late.C:
	case <-ctx.Done():
	}
	g.grpc.Stop()
	g.http.Close()
	g.cancel()
	g.end()
	<-stopped
	g.server.Wait()
	g.running.Wait()
	g.balancer.Close()
	g.set.Logger.Info("gateway stopped")
}
