package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/balancer"
	"github.com/coppice-mesh/coppice/balancer/autoscale/policies"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica/forest/store"
	"github.com/coppice-mesh/coppice/replica/forest/train"
	"github.com/coppice-mesh/coppice/replica/worker"
	"github.com/coppice-mesh/coppice/telemetry"
)

// environment is what OTEL_* variables said when the process began; main takes it before anything else.
var environment telemetry.Environment

// demoName is what the demo forest is called.
const demoName = "demo"

// balancerFlags are the flags of a balancer.
type balancerFlags struct {
	cfg    balancer.Config
	models []string
	token  string
	file   string
	worker worker.Config
	kernel string

	telemetry bool // of the workers
}

func (b *balancerFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&b.models, "model", nil, "`[NAME=]FILE` to serve, several times for several; without one, a demo forest is trained")
	f.IntVar(&b.cfg.Replicas, "replicas", balancer.DefaultReplicas, "number of replicas")
	f.IntVar(&b.cfg.MinReplicas, "min-replicas", 0, "least number of replicas; with --max-replicas, the autoscaler decides")
	f.IntVar(&b.cfg.MaxReplicas, "max-replicas", 0, "largest number of replicas")
	f.IntVar(&b.cfg.MaxWorkers, "max-workers", 0, "workers that this machine can run (default twice its cores, at least 4)")
	f.StringVar(&b.cfg.Policy, "policy", "", "scaling `POLICY`: "+strings.Join(policies.Names(), ", "))
	f.StringVar(&b.cfg.ControlAddr, "control-addr", defaultControlAddr, "`ADDR`ess for control of the pool, and for OTLP from its members")
	f.StringVar(&b.cfg.MetricsAddr, "metrics-addr", defaultMetricsAddr, "`ADDR`ess of the mesh's Prometheus metrics, or off")
	f.StringVar(&b.cfg.OTLPEndpoint, "otlp-endpoint", "", "`URL` that traces go to, such as http://127.0.0.1:4317 (default by the OTEL_EXPORTER_OTLP_* variables)")
	f.DurationVar(&b.cfg.Lease, "lease", balancer.DefaultLease, "how long a replica may be without its balancer")
	f.DurationVar(&b.cfg.DrainTimeout, "drain-timeout", balancer.DefaultDrainTimeout, "how long requests in flight may take when a replica has to go")
	f.StringVar(&b.cfg.WorkerListen, "worker-listen", "unix", "where spawned replicas listen for gateways: unix, or tcp:HOST")
	f.StringVar(&b.cfg.WorkerAdvertise, "worker-advertise", "", "`HOST` under which gateways reach replicas that listen on TCP")
	f.BoolVar(&b.cfg.AllowWork, "allow-work", false, "let requests ask for more work than they need, for load tests (the demo does)")
	f.StringVar(&b.token, "join-token", "", "token that replicas started by hand join with; better given as COPPICE_JOIN_TOKEN")
	f.StringVar(&b.file, "join-token-file", "", "`FILE` that holds it (default join-token in the state directory, made at the first start)")
	workerFlags(cmd, &b.worker)
	kernelFlag(cmd, &b.kernel)
}

// config checks the flags and finishes the configuration.
func (b *balancerFlags) config(cmd *cobra.Command, state string) (balancer.Config, error) {
	cfg := b.cfg
	cfg.StateDir = state
	scaling := cfg.MinReplicas != 0 || cfg.MaxReplicas != 0
	if scaling && !cmd.Flags().Changed("replicas") {
		cfg.Replicas = 0
	}
	if b.token != "" || b.file != "" {
		if err := joinToken(&cfg.JoinToken, b.token, b.file); err != nil {
			return cfg, err
		}
	}
	if err := cmp.Or(checkWorker(&b.worker), checkKernel(b.kernel), checkPositive("drain-timeout", cfg.DrainTimeout)); err != nil {
		return cfg, err
	}
	if !b.telemetry {
		cfg.WorkerArgs = append(cfg.WorkerArgs, "--telemetry=false")
	}
	cfg.WorkerArgs = append(cfg.WorkerArgs, "--threads", strconv.Itoa(b.worker.Threads), "--max-batch-rows", strconv.Itoa(b.worker.MaxBatchRows))
	if b.kernel != "" {
		cfg.WorkerArgs = append(cfg.WorkerArgs, "--kernel", b.kernel)
	}
	if len(b.models) == 0 {
		cfg.AllowWork = true
	}
	if err := cfg.Validate(); err != nil {
		return cfg, &exitError{exitUsage, err}
	}
	return cfg, nil
}

// load puts the models into the store, and trains the demo forest when there are none. The kernel is for all of them.
func (b *balancerFlags) load(ctx context.Context, s *store.Store, stderr io.Writer) ([]balancer.Model, error) {
	models, err := b.stored(ctx, s, stderr)
	if err != nil {
		return nil, err
	}
	return models, checkModels(s, models, b.kernel)
}

func (b *balancerFlags) stored(ctx context.Context, s *store.Store, stderr io.Writer) ([]balancer.Model, error) {
	if len(b.models) == 0 {
		start := time.Now()
		if isTerminal(stderr) {
			fmt.Fprintf(stderr, "training a demo forest: %d trees, %d rows, %d features\n", train.DemoConfig().Trees, train.DemoRows, train.DemoFeatures)
		}
		m, err := trainForest(ctx, train.DemoConfig(), train.Demo(), stderr)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(stderr, "trained the demo forest in %v\n", time.Since(start).Round(time.Millisecond))
		e, err := s.Add(m)
		if err != nil {
			return nil, err
		}
		return []balancer.Model{served(demoName, e)}, nil
	}
	var out []balancer.Model
	names := map[string]string{}
	for _, arg := range b.models {
		name, path, ok := strings.Cut(arg, "=")
		if !ok {
			name, path = modelName(arg), arg
		}
		if name == "" || path == "" || len(name) > 256 {
			return nil, usageError("--model %q: a file, or NAME=FILE with a name of 1 to 256 bytes, is needed", arg)
		}
		if other, twice := names[name]; twice {
			return nil, usageError("--model: both %s and %s are called %q; NAME=FILE gives another name", other, path, name)
		}
		names[name] = path
		e, err := s.AddFile(path)
		if err != nil {
			return nil, err
		}
		out = append(out, served(name, e))
	}
	return out, nil
}

func served(name string, e *store.Entry) balancer.Model {
	return balancer.Model{Path: e.Path, Served: &coppicev1.ServedModel{
		Name: name, Version: e.Version, Sha256: e.SHA256, Features: int64(e.Info.Features), Outputs: int64(e.Info.Scores),
		Trees: int64(e.Info.Trees), Cost: int64(e.Cost), Task: string(e.Info.Task), Bytes: e.Bytes, ClassKind: e.Info.ClassKind,
	}}
}

// startBalancer starts a balancer.
func startBalancer(ctx context.Context, cfg balancer.Config, models []balancer.Model, logger *slog.Logger) (*balancer.Balancer, error) {
	set := balancer.Settings{Models: models, Version: version, Logger: logger, Environment: environment}
	if v, ok := os.LookupEnv(failpointEnv); ok {
		for _, kv := range os.Environ() {
			if !strings.HasPrefix(kv, "COPPICE_") {
				set.WorkerEnviron = append(set.WorkerEnviron, kv)
			}
		}
		set.WorkerEnviron = append(set.WorkerEnviron, failpointEnv+"="+v)
	}
	b, err := balancer.New(cfg, set)
	if err != nil {
		return nil, err
	}
	if err := b.Start(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

func balancerCommand() *cobra.Command {
	var (
		c common
		b balancerFlags
	)
	cmd := &cobra.Command{
		Use:   "balancer",
		Short: "Run a balancer alone, with the replicas that it spawns",
		Long: "Run a balancer: it spawns replicas, watches their latency, scales and drains them. Gateways find the\n" +
			"replicas through it. A balancer that was killed finds its replicas again if it is started within their\n" +
			"lease. SIGTERM or SIGINT drains the replicas and exits; a second one exits at once.",
		Example: "  coppice balancer --replicas 3\n  coppice balancer --min-replicas 1 --max-replicas 4 --model rf.joblib --otlp-endpoint http://127.0.0.1:4317\n" +
			"  coppice balancer --control-addr 0.0.0.0:7600 --worker-listen tcp:0.0.0.0 --worker-advertise balancer   # in a container",
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := c.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			state, err := c.state()
			if err != nil {
				return err
			}
			cfg, err := b.config(cmd, state)
			if err != nil {
				return err
			}
			models, err := b.load(cmd.Context(), store.New(state), cmd.ErrOrStderr())
			if err != nil {
				return interrupted(cmd.Context(), err)
			}
			run, err := startBalancer(cmd.Context(), cfg, models, logger)
			if err != nil {
				return interrupted(cmd.Context(), err)
			}
			select {
			case <-cmd.Context().Done():
			case err = <-run.Failed():
			}
			return errors.Join(err, shutdownBalancer(run, cfg.DrainTimeout))
		},
	}
	c.flags(cmd)
	b.flags(cmd)
	telemetryFlag(cmd, &b.telemetry)
	return cmd
}

// shutdownBalancer drains all workers and ends.
func shutdownBalancer(b *balancer.Balancer, drain time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), drain+10*time.Second)
	defer cancel()
	return b.Shutdown(ctx)
}
