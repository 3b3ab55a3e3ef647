package main

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/coppice-mesh/coppice/gateway"
	"github.com/coppice-mesh/coppice/gateway/observe"
	"github.com/coppice-mesh/coppice/telemetry"
	"github.com/coppice-mesh/coppice/telemetry/logs"
	"github.com/coppice-mesh/coppice/telemetry/tracing"
)

// common are the flags of everything that serves.
type common struct {
	logFormat string
	logLevel  string
	stateDir  string
}

func (c *common) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.logFormat, "log-format", "auto", "`FORMAT` of logs: text, json, or auto for text on a terminal")
	cmd.Flags().StringVar(&c.logLevel, "log-level", "info", "least `LEVEL` of logs: debug, info, warn or error")
	cmd.Flags().StringVar(&c.stateDir, "state-dir", "", "`DIR`ectory of models, sockets and logs (default $XDG_STATE_HOME/coppice)")
}

// logger makes the logger and sends OpenTelemetry's complaints to it.
func (c *common) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.logLevel)); err != nil {
		return nil, usageError("--log-level is %q, it can be debug, info, warn or error", c.logLevel)
	}
	l, err := logs.New(w, c.logFormat, level)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	telemetry.HandleErrors(l)
	return l, nil
}

// state is the state directory.
func (c *common) state() (string, error) {
	dir := c.stateDir
	if dir == "" {
		base := os.Getenv("XDG_STATE_HOME")
		if base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", usageError("no home directory is known, --state-dir is needed: %w", err)
			}
			base = filepath.Join(home, ".local", "state")
		}
		dir = filepath.Join(base, "coppice")
	}
	return filepath.Abs(dir)
}

// gatewayFlags are the flags of a gateway.
type gatewayFlags struct {
	cfg       gateway.Config
	ratio     float64
	maxInFly  int64
	telemetry bool
}

func (g *gatewayFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&g.cfg.GRPCAddr, "grpc-addr", defaultGRPCAddr, "`ADDR`ess for Predict, health and reflection by gRPC")
	f.StringVar(&g.cfg.HTTPAddr, "http-addr", defaultHTTPAddr, "`ADDR`ess for POST /predict, GET /healthz and /readyz")
	f.DurationVar(&g.cfg.Server.DefaultTimeout, "default-timeout", 10*time.Second, "deadline of a request that brings none")
	f.DurationVar(&g.cfg.Server.MaxTimeout, "max-timeout", time.Minute, "longest deadline that a request may bring")
	f.IntVar(&g.cfg.Server.MaxMessageBytes, "max-message-bytes", 64<<20, "largest request and largest answer, in bytes")
	f.Int64Var(&g.maxInFly, "max-requests", 8192, "requests that may be accepted and not yet answered; more are refused")
	telemetryFlag(cmd, &g.telemetry)
	f.Float64Var(&g.ratio, "trace-ratio", tracing.DefaultRatio, "share of new traces that are recorded beyond the first 10 of a second")
}

// telemetryFlag is for measuring what telemetry costs: a pool without it cannot scale.
func telemetryFlag(cmd *cobra.Command, into *bool) {
	cmd.Flags().BoolVar(into, "telemetry", true, "export metrics and traces to the balancer")
	_ = cmd.Flags().MarkHidden("telemetry") // it exists
}

// config checks the flags.
func (g *gatewayFlags) config() (gateway.Config, error) {
	g.cfg.Admit.Requests = g.maxInFly
	g.cfg.Admit.Bytes = max(4*int64(g.cfg.Server.MaxMessageBytes), 256<<20)
	err := cmp.Or(checkAddr("grpc-addr", g.cfg.GRPCAddr), checkAddr("http-addr", g.cfg.HTTPAddr),
		checkPositive("default-timeout", g.cfg.Server.DefaultTimeout))
	if err != nil {
		return g.cfg, err
	}
	switch {
	case g.cfg.Server.MaxTimeout < g.cfg.Server.DefaultTimeout:
		return g.cfg, usageError("--max-timeout is %v, less than --default-timeout, %v", g.cfg.Server.MaxTimeout, g.cfg.Server.DefaultTimeout)
	case g.cfg.Server.MaxMessageBytes < 1 || g.cfg.Server.MaxMessageBytes > 1<<30:
		return g.cfg, usageError("--max-message-bytes is %d, it must be 1 to %d", g.cfg.Server.MaxMessageBytes, 1<<30)
	case g.maxInFly < 1:
		return g.cfg, usageError("--max-requests is %d, at least 1 is needed", g.maxInFly)
	case !(g.ratio >= 0 && g.ratio <= 1):
		return g.cfg, usageError("--trace-ratio is %v, it must be 0 to 1", g.ratio)
	}
	if err := g.cfg.Validate(); err != nil {
		return g.cfg, &exitError{exitUsage, err}
	}
	return g.cfg, nil
}

// runningGateway is a gateway with its telemetry.
type runningGateway struct {
	*gateway.Gateway
	pipeline *telemetry.Pipeline
}

// startGateway starts a gateway that exports to its balancer.
func startGateway(ctx context.Context, cfg gateway.Config, flags *gatewayFlags, logger *slog.Logger) (*runningGateway, error) {
	id := gateway.NewID()
	if !flags.telemetry {
		g, err := gateway.New(cfg, gateway.Settings{Logger: logger, Version: version, ID: id})
		if err == nil {
			err = g.Start(ctx)
		}
		return &runningGateway{Gateway: g}, err
	}
	start := time.Now()
	producer := observe.NewProducer(start)
	pipeline, err := telemetry.New(ctx, telemetry.Config{
		Service: telemetry.ServiceGateway, Instance: id, Incarnation: id, Version: version, Endpoint: cfg.Balancer,
	}, logger, sdkmetric.Producer(producer))
	if err != nil {
		return nil, err
	}
	rule := tracing.NewRule(tracing.DefaultPerSecond, flags.ratio, time.Now, rand.Float64)
	observer := observe.New(producer, pipeline.TracerProvider().Tracer("coppice/gateway"), rule, logger)
	g, err := gateway.New(cfg, gateway.Settings{Logger: logger, Version: version, ID: id, Observer: observer})
	if err == nil {
		err = observer.Instrument(pipeline.MeterProvider().Meter("coppice/gateway"), g.Pool())
	}
	if err == nil {
		err = g.Start(ctx)
	}
	if err != nil {
		pipeline.Shutdown(context.WithoutCancel(ctx))
		return nil, err
	}
	return &runningGateway{g, pipeline}, nil
}

// shutdown ends the gateway and exports what is left.
func (g *runningGateway) shutdown(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	g.Shutdown(ctx)
	if g.pipeline != nil {
		g.pipeline.Shutdown(context.Background())
	}
}

func gatewayCommand() *cobra.Command {
	var (
		c        common
		g        gatewayFlags
		balancer string
		drain    time.Duration
	)
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "Run a gateway alone",
		Long: "Run a gateway: it takes predictions and spreads them over the replicas of a balancer's pool. It goes on\n" +
			"with the pool as it last knew it when the balancer is gone. SIGTERM or SIGINT answers what was accepted\n" +
			"and exits; a second one exits at once.",
		Example: "  coppice gateway --balancer 127.0.0.1:7600\n  coppice gateway --balancer balancer:7600 --grpc-addr 0.0.0.0:8001 --http-addr 0.0.0.0:8000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := c.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := cmp.Or(checkAddr("balancer", balancer), checkPositive("drain-timeout", drain)); err != nil {
				return err
			}
			g.cfg.Balancer = balancer
			cfg, err := g.config()
			if err != nil {
				return err
			}
			run, err := startGateway(cmd.Context(), cfg, &g, logger)
			if err != nil {
				return interrupted(cmd.Context(), err)
			}
			<-cmd.Context().Done()
			run.shutdown(drain)
			return nil
		},
	}
	c.flags(cmd)
	_ = cmd.Flags().MarkHidden("state-dir") // a gateway keeps nothing, but takes the flags of every role
	g.flags(cmd)
	cmd.Flags().StringVar(&balancer, "balancer", defaultControlAddr, "`ADDR`ess of the balancer")
	cmd.Flags().DurationVar(&drain, "drain-timeout", 30*time.Second, "how long requests in flight may take at the end")
	return cmd
}
