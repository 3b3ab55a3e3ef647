package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/coppice-mesh/coppice/replica"
	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
	"github.com/coppice-mesh/coppice/replica/forest/store"
	"github.com/coppice-mesh/coppice/replica/observe"
	"github.com/coppice-mesh/coppice/replica/plugin"
	"github.com/coppice-mesh/coppice/replica/worker"
	"github.com/coppice-mesh/coppice/telemetry"
)

// maxModelBytes bounds a model that a balancer sends.
const maxModelBytes = 8 << 30

// failpointEnv names an input that crashes a replica: tests of the mesh set it.
const failpointEnv = "COPPICE_FAILPOINT"

func replicaCommand() *cobra.Command {
	var (
		c                        common
		cfg                      replica.Config
		token, tokenFile, listen string
		kernel                   string
		spawned, exports         bool
	)
	cmd := &cobra.Command{
		Use:   "replica",
		Short: "Run a replica that joins a balancer's pool",
		Long: "Run a replica by hand: it joins a balancer's pool, gets its models from there, and answers predictions.\n" +
			"The balancer counts and drains it, but does not start it again. It needs the pool's join token, which the\n" +
			"balancer keeps in join-token of its state directory. SIGTERM or SIGINT drains it; a second one ends it at once.",
		Example: "  coppice replica --balancer 127.0.0.1:7600 --join-token-file ~/.local/state/coppice/join-token\n" +
			"  COPPICE_JOIN_TOKEN=… coppice replica --balancer balancer:7600 --listen 0.0.0.0:0",
		RunE: func(cmd *cobra.Command, _ []string) error {
			set := replica.Settings{Version: version}
			if spawned {
				launch, err := plugin.Parse(os.LookupEnv)
				if err != nil {
					return usageError("--plugin is for balancers: %w", err)
				}
				set.Launch = &launch
				cfg.Balancer, cfg.Listen, cfg.Advertise = launch.Balancer, launch.Listen, launch.Advertise
				if launch.StateDir != "" {
					c.stateDir = launch.StateDir
				}
				if c.logFormat == "auto" {
					c.logFormat = "json"
				}
			} else {
				cfg.Listen = "tcp:" + listen
				if err := cmp.Or(checkAddr("listen", listen), checkAddr("balancer", cfg.Balancer)); err != nil {
					return err
				}
				if err := joinToken(&cfg.Token, token, tokenFile); err != nil {
					return err
				}
			}
			state, err := c.state()
			if err != nil {
				return err
			}
			if !spawned && c.stateDir == "" {
				state = filepath.Join(state, "joined")
			}
			if err := cmp.Or(checkWorker(&cfg.Worker), checkKernel(kernel), checkPositive("drain-timeout", cfg.DrainTimeout)); err != nil {
				return err
			}
			set.Models = storeOpener{store.New(state), kernel}
			if set.Failpoint, err = failpoint(os.Getenv(failpointEnv)); err != nil {
				return err
			}
			return runReplica(cmd.Context(), cfg, set, exports, &c, cmd.ErrOrStderr())
		},
	}
	c.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&cfg.Balancer, "balancer", defaultControlAddr, "`ADDR`ess of the balancer")
	f.StringVar(&token, "join-token", "", "the pool's join token; better given as COPPICE_JOIN_TOKEN, since command lines are public")
	f.StringVar(&tokenFile, "join-token-file", "", "`FILE` that holds the join token")
	f.StringVar(&listen, "listen", "127.0.0.1:0", "`ADDR`ess to serve gateways on; port 0 takes a free one")
	f.StringVar(&cfg.Advertise, "advertise", "", "`HOST` under which gateways reach this replica (default the address that it listens on)")
	workerFlags(cmd, &cfg.Worker)
	kernelFlag(cmd, &kernel)
	telemetryFlag(cmd, &exports)
	f.DurationVar(&cfg.DrainTimeout, "drain-timeout", 30*time.Second, "how long requests in flight may take at the end")
	f.BoolVar(&spawned, "plugin", false, "started by a balancer")
	_ = f.MarkHidden("plugin") // it exists
	return cmd
}

// workerFlags are the flags of whatever evaluates forests.
func workerFlags(cmd *cobra.Command, cfg *worker.Config) {
	cmd.Flags().IntVar(&cfg.Threads, "threads", 1, "batches that a replica evaluates at the same time")
	cmd.Flags().IntVar(&cfg.MaxBatchRows, "max-batch-rows", 1024, "rows up to which a replica puts requests into one batch")
}

func checkWorker(cfg *worker.Config) error {
	return cmp.Or(checkAtLeastOne("threads", cfg.Threads), checkAtLeastOne("max-batch-rows", cfg.MaxBatchRows))
}

// joinToken takes the token from the one flag or from the file that the other names.
func joinToken(into *string, token, file string) error {
	switch {
	case token != "" && file != "":
		return usageError("--join-token and --join-token-file are both given")
	case token != "":
		*into = token
		return nil
	case file == "":
		return usageError("the pool's join token is needed: --join-token-file, or COPPICE_JOIN_TOKEN")
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	const most = 4 << 10
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return err
	}
	*into = strings.TrimSpace(string(b))
	switch {
	case *into == "":
		return fmt.Errorf("%s is empty, a join token is needed", file)
	case len(b) > most || !utf8.ValidString(*into):
		return fmt.Errorf("%s holds no join token: that is one line of text, of at most %d bytes", file, most)
	}
	return nil
}

// failpoint reads "panic:VALUE": a batch with this value among its features panics.
func failpoint(s string) (func([]float32), error) {
	if s == "" {
		return nil, nil
	}
	text, ok := strings.CutPrefix(s, "panic:")
	v, err := strconv.ParseFloat(text, 32)
	if !ok || err != nil {
		return nil, usageError("%s is %q, panic:VALUE is needed", failpointEnv, s)
	}
	return func(rows []float32) {
		for _, x := range rows {
			if x == float32(v) {
				panic("failpoint: " + s)
			}
		}
	}, nil
}

// runReplica runs a replica with its telemetry, which needs the place that the balancer gives it.
func runReplica(ctx context.Context, cfg replica.Config, set replica.Settings, exports bool, c *common, stderr io.Writer) error {
	logger, err := c.logger(stderr)
	if err != nil {
		return err
	}
	set.Logger = logger
	if !exports {
		return replica.New(cfg, set).Run(context.WithoutCancel(ctx), ctx)
	}
	producer := observe.NewProducer(time.Now())
	observer := observe.New(producer)
	set.Observer = observer
	var (
		mu       sync.Mutex
		pipeline *telemetry.Pipeline
		load     func() int64
	)
	set.Joined = func(name, incarnation string) {
		mu.Lock()
		defer mu.Unlock()
		if pipeline != nil {
			return
		}
		p, err := telemetry.New(ctx, telemetry.Config{
			Service: telemetry.ServiceReplica, Instance: name, Incarnation: incarnation, Version: version, Endpoint: cfg.Balancer,
		}, logger, sdkmetric.Producer(producer))
		if err == nil {
			err = observer.Instrument(p.MeterProvider().Meter("coppice/replica"), load)
		}
		if err != nil {
			logger.Error("no telemetry", "error", err)
			return
		}
		observer.Trace(p.TracerProvider().Tracer("coppice/replica"))
		pipeline = p
	}
	r := replica.New(cfg, set)
	load = func() int64 { return int64(r.Heartbeat().GetInFlight()) }
	// The first signal ends leave; run ends only with the process.
	err = r.Run(context.WithoutCancel(ctx), ctx)
	mu.Lock()
	defer mu.Unlock()
	if pipeline != nil {
		pipeline.Shutdown(context.WithoutCancel(ctx))
	}
	return err
}

// storeOpener opens models from a store, and fetches into it those that it does not have.
type storeOpener struct {
	store  *store.Store
	kernel string // the only one to use, or empty
}

func (o storeOpener) OpenModel(ctx context.Context, sha256 string, fetch func(context.Context, func([]byte) error) error) (replica.Model, error) {
	m, err := o.ready(o.store.Open(sha256))
	if err == nil {
		return m, nil
	}
	if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrHash) && !errors.Is(err, coppice.ErrFormat) {
		return nil, err
	}
	// It is not here, or what is here is damaged: the balancer has it.
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(fetch(ctx, func(b []byte) error {
			_, err := pw.Write(b)
			return err
		}))
	}()
	err = o.store.Put(sha256, pr, maxModelBytes)
	pr.Close()
	<-done
	if err != nil {
		return nil, err
	}
	return o.ready(o.store.Open(sha256))
}

// ready prepares a model before its first request. It keeps a nil pointer from becoming a Model that is not nil.
//
// Each batch is evaluated on one thread: the cores are the executors', of which --threads says how many there are. A
// batch that took more of them would only take them from the batches beside it.
func (o storeOpener) ready(m *store.Mapped, err error) (replica.Model, error) {
	if err != nil {
		return nil, err
	}
	alone, err := evaluatedBy(m.Model, o.kernel, 1)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", replica.ErrUnfit, errors.Join(err, m.Close()))
	}
	m.Model = alone
	m.Prepare()
	return m, nil
}
