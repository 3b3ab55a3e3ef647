// Package balancer is the control plane of a mesh. It keeps a pool of replicas, tells gateways of it, learns how
// long requests take and decides how large the pool is to be. No prediction passes through it: when it is gone
// gateways and replicas go on, and the next balancer finds them.
//
//   - pick, admit   what gateways use of it: which replica, and whether at all
//   - supervise     launches, watches and drains replicas
//   - roster        hands the pool's newest view to gateways
//   - track         follows latencies, from OpenTelemetry exports
//   - autoscale     decides a size
//   - server        all of it on the control address
//   - expose        the metrics page
//
// This package joins them: Config is what a user writes, Settings what a program gives.
package balancer

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
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	"github.com/coppice-mesh/coppice/balancer/autoscale/policies"
	"github.com/coppice-mesh/coppice/balancer/expose"
	"github.com/coppice-mesh/coppice/balancer/roster"
	"github.com/coppice-mesh/coppice/balancer/server"
	"github.com/coppice-mesh/coppice/balancer/supervise"
	"github.com/coppice-mesh/coppice/balancer/supervise/journal"
	"github.com/coppice-mesh/coppice/balancer/supervise/local"
	"github.com/coppice-mesh/coppice/balancer/track"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/telemetry/forward"
)

const (
	// maxToken bounds a join token in bytes.
	maxToken = 512
	// closeTimeout bounds the end of the network servers once no worker is left.
	closeTimeout = 2 * time.Second
)

// Model is a model that the pool serves.
type Model = server.Model

// Settings is what a program gives. A zero field has the default that is named.
type Settings struct {
	// Models are what every replica serves. At least one.
	Models []Model
	// Version is that of the binary.
	Version string
	// Logger takes the balancer's log. Default: none is written.
	Logger *slog.Logger
	// Environment holds the OTEL_* variables that say where traces go. Default: none are looked at.
	Environment map[string]string
	// Executable and WorkerEnviron launch workers: default this program, and this process's environment
	// without COPPICE_*.
	Executable    string
	WorkerEnviron []string
	// Supervise overrides times of the pool. Lease and DrainTimeout come from Config.
	Supervise supervise.Config
	// CPUs is how many the machine has. Default: runtime.NumCPU.
	CPUs int
	// Policy is the law of scaling. Default: the one that Config names.
	Policy autoscale.Policy
}

// Balancer is a control plane. Make one with New.
type Balancer struct {
	c Config
	s Settings

	journal    *journal.Journal
	token      string
	spawner    *local.Spawner
	roster     *roster.Roster
	supervisor *supervise.Supervisor
	tracker    *track.Tracker
	scaler     *scaler
	forwarder  *forward.Forwarder
	server     *server.Server
	page       *expose.Page

	control net.Listener
	metrics net.Listener
	web     *http.Server

	stop    context.CancelFunc
	running sync.WaitGroup
	failed  chan error

	closing sync.Once
	err     error // of Shutdown
}

// New makes a balancer and checks its configuration. It touches nothing. Errors wrap ErrConfig.
func New(c Config, s Settings) (*Balancer, error) {
	if s.CPUs == 0 {
		s.CPUs = runtime.NumCPU()
	}
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	if err := c.validate(s.CPUs); err != nil {
		return nil, err
	}
	if err := s.Supervise.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if len(s.Models) == 0 {
		return nil, fmt.Errorf("%w: there is no model to serve", ErrConfig)
	}
	if s.Policy == nil {
		var err error
		if s.Policy, err = policies.ByName(c.Policy); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	forwarder, err := forward.New(c.OTLPEndpoint, s.Environment, s.Logger)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return &Balancer{c: c, s: s, forwarder: forwarder, failed: make(chan error, 2)}, nil
}

// Start takes the state directory, opens the ports and begins to keep the pool. It does not wait for replicas:
// WaitReady does. When it fails it leaves nothing behind. ctx bounds Start only.
func (b *Balancer) Start(ctx context.Context) (err error) {
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()
	if b.journal, err = journal.Open(b.c.StateDir); err != nil {
		return err
	}
	undo = append(undo, func() { b.journal.Close() })
	record, err := b.journal.Load()
	if err != nil {
		return err
	}
	if b.token, err = joinToken(b.c.JoinToken, filepath.Join(b.c.StateDir, "join-token")); err != nil {
		return err
	}
	var lc net.ListenConfig
	if b.control, err = lc.Listen(ctx, "tcp", b.c.ControlAddr); err != nil {
		return fmt.Errorf("control-addr: %w", err)
	}
	undo = append(undo, func() { b.control.Close() })
	if b.c.MetricsAddr != Off {
		if b.metrics, err = lc.Listen(ctx, "tcp", b.c.MetricsAddr); err != nil {
			return fmt.Errorf("metrics-addr: %w", err)
		}
		undo = append(undo, func() { b.metrics.Close() })
	}
	launch := b.c.local()
	launch.Executable, launch.Environ = b.s.Executable, b.s.WorkerEnviron
	b.spawner = local.New(launch)
	var keep []string
	for _, m := range record.Members {
		keep = append(keep, m.Address)
	}
	if err := b.spawner.Start(b.WorkerAddr(), keep); err != nil {
		return err
	}
	if err := b.forwarder.Start(ctx); err != nil {
		return err
	}

	b.join(record)
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	// The size first, so that nothing is launched for another one.
	b.scaler.begin(record.Scale)
	b.supervisor.Start() //nolint:contextcheck // the pool lives until Shutdown
	b.running.Go(func() { b.scaler.run(run) })
	b.running.Go(func() { b.serve("control", b.server.Serve(b.control)) })
	if b.metrics != nil {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", b.page.Handler(b.s.Logger))
		b.web = &http.Server{
			Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
			ErrorLog: slog.NewLogLogger(b.s.Logger.Handler(), slog.LevelDebug),
		}
		b.running.Go(func() { b.serve("metrics", b.web.Serve(b.metrics)) })
	}
	b.s.Logger.Info("balancer runs", "control_addr", b.ControlAddr(), "metrics_addr", b.MetricsAddr(), "state_dir", b.c.StateDir)
	return nil
}

// join makes the parts and joins them.
func (b *Balancer) join(record journal.Record) {
	models := make([]*coppicev1.ServedModel, len(b.s.Models))
	for i, m := range b.s.Models {
		models[i] = m.Served
	}
	times := b.s.Supervise
	times.Lease, times.DrainTimeout = b.c.Lease, b.c.DrainTimeout
	b.roster = roster.New(record.Generation)
	b.supervisor = supervise.New(times, supervise.Settings{
		Spawner: b.spawner, Journal: b.journal, Record: record, Roster: b.roster, JoinToken: b.token, Models: models,
		AllowWork: b.c.AllowWork, Logger: b.s.Logger, Jitter: mathrand.Float64,
	})
	b.tracker = track.New(time.Now)
	b.scaler = &scaler{
		scaler: autoscale.Scaler{Policy: b.s.Policy, Bounds: b.c.bounds(b.s.CPUs)}, supervisor: b.supervisor, tracker: b.tracker,
		now: time.Now, logger: b.s.Logger,
	}
	b.page = expose.New(time.Now, b.member, collector{b.supervisor, b.roster, b.scaler, b.forwarder})
	b.server = server.New(server.Settings{
		Supervisor: b.supervisor, Roster: b.roster, Scaler: b.scaler, Tracker: b.tracker, Page: b.page, Models: b.s.Models,
		Traces:  func(req *coltracepb.ExportTraceServiceRequest) { b.forwarder.Forward(req.GetResourceSpans()) },
		Version: b.s.Version, Logger: b.s.Logger,
	})
}

// member says whether a process that exports belongs to the mesh. A gateway may have lost its watch for a
// moment, so gateways are believed; what they export is dropped when they fall silent.
func (b *Balancer) member(s track.Source) bool {
	if s.Kind == track.Gateway {
		return true
	}
	for _, m := range b.supervisor.Members() {
		if m.Replica == s.ID && m.Incarnation == s.Incarnation {
			return true
		}
	}
	return false
}

// serve notes that a server has ended, and how.
func (b *Balancer) serve(what string, err error) {
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		b.failed <- fmt.Errorf("%s server: %w", what, err)
	}
}

// Failed gives the error of a server that ended by itself. The balancer is of no use then and should be shut
// down.
func (b *Balancer) Failed() <-chan error { return b.failed }

// ControlAddr is the address that the control port has, once Start has returned.
func (b *Balancer) ControlAddr() string { return b.control.Addr().String() }

// WorkerAddr is the control address for processes of this machine.
func (b *Balancer) WorkerAddr() string {
	a, ok := b.control.Addr().(*net.TCPAddr)
	if !ok || !a.IP.IsUnspecified() {
		return b.control.Addr().String()
	}
	// Go takes 0.0.0.0, too, for both families where there are both; where there is one it is this one.
	loopback := "127.0.0.1"
	if host, _, err := net.SplitHostPort(b.c.ControlAddr); err == nil && strings.Contains(host, ":") {
		loopback = "::1"
	}
	return net.JoinHostPort(loopback, strconv.Itoa(a.Port))
}

// MetricsAddr is the address that the metrics page has, once Start has returned, or Off.
func (b *Balancer) MetricsAddr() string {
	if b.metrics == nil {
		return Off
	}
	return b.metrics.Addr().String()
}

// JoinToken is what replicas join with that are started by hand.
func (b *Balancer) JoinToken() string { return b.token }

// LogFile is where the output of a spawned replica goes.
func (b *Balancer) LogFile(replica string) string { return b.spawner.LogFile(replica) }

// Members lists the replicas of the pool.
func (b *Balancer) Members() []supervise.Member { return b.supervisor.Members() }

// WaitReady blocks until so many replicas are ready. When ctx is done before, its error says how many are and
// where to look.
func (b *Balancer) WaitReady(ctx context.Context, replicas int) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		ready := 0
		for _, m := range b.Members() {
			if m.State == supervise.Ready {
				ready++
			}
		}
		if ready >= replicas {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d replicas are ready, %d workers were lost; their output is in %s: %w",
				ready, replicas, b.supervisor.Restarts(), filepath.Dir(b.LogFile("r0")), context.Cause(ctx))
		}
	}
}

// Shutdown drains and stops all spawned workers and closes the ports. When ctx is done before the workers have
// ended they are killed, so that none is left in any case; then it returns an error. Replicas that joined by
// themselves go on. It may be called more than once, and after a Start that failed.
func (b *Balancer) Shutdown(ctx context.Context) error {
	b.closing.Do(func() { b.err = b.shutdown(ctx) })
	return b.err
}

func (b *Balancer) shutdown(ctx context.Context) error {
	if b.stop == nil {
		return nil
	}
	b.stop()
	err := b.supervisor.Shutdown(ctx)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	b.server.Shutdown(end)
	if b.web != nil {
		if b.web.Shutdown(end) != nil {
			b.web.Close()
		}
	}
	b.forwarder.Shutdown(end)
	b.running.Wait()
	b.spawner.Close()
	b.journal.Close()
	b.s.Logger.Info("balancer stopped")
	return err
}

// joinToken is the token that is given, or the one of the file, which is made if there is none.
func joinToken(given, file string) (string, error) {
	if given != "" {
		return given, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		var raw [24]byte
		_, _ = rand.Read(raw[:]) // never fails, by its contract
		made := hex.EncodeToString(raw[:])
		if err := os.WriteFile(file, []byte(made+"\n"), 0o600); err != nil {
			return "", fmt.Errorf("join token: %w", err)
		}
		return made, nil
	}
	if err != nil {
		return "", fmt.Errorf("join token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || len(token) > maxToken {
		return "", fmt.Errorf("join token: %s has %d bytes, expected 1 to %d; remove it to have a new one made", file, len(token), maxToken)
	}
	return token, nil
}
