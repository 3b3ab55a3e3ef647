package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/gateway/client"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/services/load"
)

// The rows that a load draws from when it is given none.
const loadRows = 1024

func loadCommand() *cobra.Command {
	var (
		target, input, verify, work string
		unary, js                   bool
		features                    int
		cfg                         load.Config
	)
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Send predictions at a steady rate and measure the answers",
		Long: "Send predictions to a gateway at a steady rate, whether or not it keeps up, and measure latency from the\n" +
			"time at which each request should have been sent. With --verify every answer is compared, bit by bit,\n" +
			"with what the same model says here. Rows are random unless --input gives them.\n\n" +
			"Exits with 4 when a request failed, got no answer, or got a wrong one.",
		Example: "  coppice load --rate 200 --duration 10s --model demo\n" +
			"  coppice load --rate 2000 --duration 30s --model fraud --verify fraud.joblib\n" +
			"  coppice load --rate 30 --duration 40s --work mix        # the tutorial's load test (needs --allow-work)\n" +
			"  coppice load --rate 100 --duration 5s --json | jq .latency_s.p99",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Works, err = parseWork(work); err != nil {
				return err
			}
			if err := cfg.Validate(); err != nil {
				return &exitError{exitUsage, err}
			}
			if features < 0 {
				return usageError("--features is %d, it must not be negative", features)
			}
			in, check, err := loadInput(cmd.Context(), &cfg, target, input, verify, features)
			if err != nil {
				return err
			}
			c, err := client.Dial(target)
			if err != nil {
				return usageError("--target %q: %w", target, err)
			}
			defer c.Close()
			to := load.Target(unaryTarget{c})
			if !unary {
				s, err := c.Stream(cmd.Context())
				if err != nil {
					return unreachable("gateway", target, err)
				}
				defer s.Close()
				to = s
			}
			p := newProgress(cmd.ErrOrStderr())
			report, err := load.Run(cmd.Context(), cfg, to, in, check, func(elapsed time.Duration, sent, done, failed int64) {
				p.show(elapsed.Seconds()/cfg.Duration.Seconds(), fmt.Sprintf("%d sent, %d answered, %d bad", sent, done, failed))
			})
			p.end()
			if err != nil {
				return err
			}
			if js {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				err = printReport(cmd.OutOrStdout(), report)
			}
			if err != nil {
				return err
			}
			if report.OK == 0 && report.Errors["Unavailable"] == report.Failed && report.Failed > 0 {
				return &exitError{exitUnavailable, fmt.Errorf("no request was answered by the gateway at %s: %s", target, report.FirstErrors[0])}
			}
			if !report.Good() {
				return &exitError{exitDiffers, fmt.Errorf("%d failed, %d wrong, %d not sent of %d requests", report.Failed, report.Wrong, report.Unsent, report.Intended)}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&target, "target", defaultGRPCAddr, "`ADDR`ess of the gateway")
	f.Float64Var(&cfg.Rate, "rate", 100, "requests a second")
	f.DurationVar(&cfg.Duration, "duration", 10*time.Second, "how long to send")
	f.StringVar(&cfg.Model, "model", "", "`NAME` of the model; may be left out when one is served")
	f.IntVar(&cfg.Rows, "rows", 1, "rows in each request")
	f.StringVar(&input, "input", "", "`FILE` of rows to send, npy or CSV")
	f.IntVar(&features, "features", 0, "number of features of random rows; 0 asks the gateway")
	f.StringVar(&verify, "verify", "", "model `FILE` to compare every answer with")
	f.StringVar(&work, "work", "", "`WORK` to ask for: light, medium, heavy, or mix for one of them at random")
	f.BoolVar(&cfg.Tensor, "tensor", false, "send rows as a raw float32 tensor")
	f.BoolVar(&unary, "unary", false, "use unary Predict instead of one PredictStream")
	f.BoolVar(&cfg.Poisson, "poisson", false, "draw the times between requests at random instead of equal ones")
	f.Uint64Var(&cfg.Seed, "seed", 1, "seed of everything random")
	f.DurationVar(&cfg.Timeout, "timeout", 10*time.Second, "deadline of each request, from the time it should be sent")
	f.IntVar(&cfg.MaxOutstanding, "max-outstanding", 100_000, "requests without an answer up to which more are sent")
	f.BoolVar(&js, "json", false, "print JSON")
	return cmd
}

// unaryTarget sends by Predict.
type unaryTarget struct{ c *client.Client }

func (t unaryTarget) Do(ctx context.Context, req *coppicev1.PredictRequest) (*coppicev1.PredictResponse, error) {
	return t.c.Predict(ctx, req)
}

func parseWork(s string) ([]coppicev1.Work, error) {
	all := []coppicev1.Work{coppicev1.Work_WORK_LIGHT, coppicev1.Work_WORK_MEDIUM, coppicev1.Work_WORK_HEAVY}
	if s == "" {
		return nil, nil
	}
	if s == "mix" {
		return all, nil
	}
	for _, w := range all {
		if strings.EqualFold("WORK_"+s, w.String()) {
			return []coppicev1.Work{w}, nil
		}
	}
	return nil, usageError("--work is %q, it can be light, medium, heavy or mix", s)
}

// loadInput makes the rows to send and, for --verify, what the model says about them.
func loadInput(ctx context.Context, cfg *load.Config, target, input, verify string, features int) (*load.Input, load.Checker, error) {
	var m *forest.Model
	var names []string
	if verify != "" {
		var err error
		if m, err = forest.Open(verify); err != nil {
			return nil, nil, err
		}
		features, names = m.NumFeatures(), m.Info().Names
	}
	var in *load.Input
	var err error
	switch {
	case input != "":
		var t *table
		if t, err = readTable(input, features, names); err == nil {
			in, err = load.NewInput(t.rows, t.columns)
		}
	default:
		if features == 0 {
			if features, err = askFeatures(ctx, target, cfg.Model); err != nil {
				return nil, nil, err
			}
		}
		in, err = load.RandomInput(loadRows, features, cfg.Seed)
	}
	if err != nil || m == nil {
		return in, nil, err
	}
	n, k := m.NumScores(), m.NumMargins()
	e := &load.Expected{Classes: m.Classes(), Outputs: n, Targets: m.NumTargets(), Scores: make([]float64, in.Len()*n)}
	margins := make([]float64, in.Len()*k)
	if err := m.Margins(margins, in.Rows()); err != nil {
		return nil, nil, err
	}
	if err := m.Scores(e.Scores, margins); err != nil {
		return nil, nil, err
	}
	for i := 0; i < in.Len() && e.Classes != nil; i++ {
		for t := range e.Targets {
			e.Labels = append(e.Labels, m.LabelOf(t, margins[i*k:(i+1)*k], e.Scores[i*n:(i+1)*n]))
		}
	}
	return in, e, nil
}

// askFeatures asks a gateway how many features a model has.
func askFeatures(ctx context.Context, target, model string) (int, error) {
	c, err := client.Dial(target)
	if err != nil {
		return 0, usageError("--target %q: %w", target, err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	models, err := c.Models(ctx)
	if err != nil {
		return 0, unreachable("gateway", target, err)
	}
	var names []string
	for _, m := range models {
		if m.GetName() == model || (model == "" && len(models) == 1) {
			return int(m.GetFeatures()), nil
		}
		names = append(names, m.GetName())
	}
	return 0, usageError("--model %q is not served at %s; it serves %s", model, target, strings.Join(names, ", "))
}

func printReport(w io.Writer, r *load.Report) error {
	fmt.Fprintf(w, "%d requests in %.1f s to model %q: %d ok, %d failed, %d wrong, %d not sent\n",
		r.Intended, r.Duration, r.Model, r.OK, r.Failed, r.Wrong, r.Unsent)
	if r.Verified {
		fmt.Fprintf(w, "every answer was compared bit by bit\n")
	}
	for _, code := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(w, "  %s: %d\n", code, r.Errors[code])
	}
	for _, e := range r.FirstErrors {
		fmt.Fprintf(w, "  %s\n", e)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "latency\tcount\tmean\tp50\tp90\tp95\tp99\tp99.9\tmax\t")
	line := func(name string, l load.Latency) {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", name, l.Count, seconds(&l.Mean), seconds(&l.P50),
			seconds(&l.P90), seconds(&l.P95), seconds(&l.P99), seconds(&l.P999), seconds(&l.Max))
	}
	line("all", r.Latency)
	for _, name := range []string{"WORK_LIGHT", "WORK_MEDIUM", "WORK_HEAVY"} {
		if l, ok := r.ByWork[name]; ok {
			line(strings.ToLower(strings.TrimPrefix(name, "WORK_")), l)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "rate: %.1f/s wanted, %.1f/s good\n", r.Rate, r.Achieved)
	return err
}
