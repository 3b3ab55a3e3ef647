package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
	"github.com/coppice-mesh/coppice/replica/forest/shap"
)

const (
	maxBenchRows    = 1 << 20
	maxBenchThreads = 1024
	maxBenchBytes   = 1 << 30 // of the rows of all batches
	// benchSample is how long one sample takes at least: long against the clock and its reading.
	benchSample = 2 * time.Millisecond
	// benchSeed makes the rows of a model for which no file of rows is given.
	benchSeed = 20
)

// benchConfig says what is measured.
type benchConfig struct {
	input   string
	batches []int
	kernel  string
	threads int
	output  string
	time    time.Duration // for each batch
}

// benchLine is what was measured of one batch.
type benchLine struct {
	Model      string  `json:"model"`
	Kernel     string  `json:"kernel"` // those of the plan, joined by "+"
	Threads    int     `json:"threads"`
	Output     string  `json:"output"`
	Input      string  `json:"input"` // the type of the rows
	Batch      int     `json:"batch"`
	Rows       int     `json:"rows"` // that were gone through, again and again
	Samples    int     `json:"samples"`
	Min        float64 `json:"ns_per_row_min"`
	Median     float64 `json:"ns_per_row_median"`
	RowsPerS   float64 `json:"rows_per_s"` // by the median
	ModelBytes int     `json:"model_bytes"`
}

func benchCommand() *cobra.Command {
	var path, batches string
	var js bool
	var cfg benchConfig
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast a model predicts",
		Long: "Measure how long the engine of the replicas takes for the margins of batches of rows, or for what each feature\n" +
			"contributes to them, without a server. Batches go through the rows of the file again and again;\n" +
			"without a file, through random rows around the model's thresholds. Rows have the type in which the model\n" +
			"compares. The least time is what the machine can do, the median what it did.",
		Example: "  coppice bench --model rf.joblib\n" +
			"  coppice bench --model booster.json --input X.npy --batch 1,512\n" +
			"  coppice bench --model booster.json --batch 65536 --threads 2\n" +
			"  coppice bench --model m.coppice --batch 8192 --kernel scalar --json | jq .ns_per_row_min",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return usageError("--model is needed")
			}
			var err error
			if cfg.batches, err = parseBatches(batches); err != nil {
				return err
			}
			if cfg.time <= 0 {
				return usageError("--time is %v, it must be above 0", cfg.time)
			}
			if cfg.threads < 1 || cfg.threads > maxBenchThreads {
				return usageError("--threads is %d, it can be 1 to %d", cfg.threads, maxBenchThreads)
			}
			if cfg.output != "margin" && cfg.output != "contribs" {
				return usageError("--output is %q, it can be margin or contribs", cfg.output)
			}
			if cfg.output == "contribs" && cfg.kernel != "" {
				return usageError("--kernel: contribs have only one")
			}
			m, err := forest.Open(path)
			if err != nil {
				return err
			}
			p := newBenchPrinter(cmd.OutOrStdout(), js)
			if m.Input() == model.Float64 {
				err = bench[float64](cmd.Context(), m, path, cfg, p.line)
			} else {
				err = bench[float32](cmd.Context(), m, path, cfg, p.line)
			}
			return errors.Join(err, p.end())
		},
	}
	f := cmd.Flags()
	f.StringVar(&path, "model", "", "model `FILE`, of any format that Coppice reads")
	f.StringVar(&cfg.input, "input", "", "`FILE` of rows, .npy, .csv or .parquet")
	f.StringVar(&batches, "batch", "1,8,64,512,8192", "`ROWS` of a batch, or several of them")
	f.StringVar(&cfg.kernel, "kernel", "", "`NAME` of a kernel: "+strings.Join(engine.Names(), ", ")+" (default those that cost the least)")
	f.IntVar(&cfg.threads, "threads", 1, "`N` threads at most, over which large batches are split")
	f.StringVar(&cfg.output, "output", "margin", "`KIND` of output: margin or contribs")
	f.DurationVar(&cfg.time, "time", 500*time.Millisecond, "how long to measure each batch")
	f.BoolVar(&js, "json", false, "print JSON, an object a line and batch")
	return cmd
}

func parseBatches(text string) ([]int, error) {
	var batches []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > maxBenchRows {
			return nil, usageError("--batch is %q, it can be numbers from 1 to %d, such as 1,512", text, maxBenchRows)
		}
		batches = append(batches, n)
	}
	return batches, nil
}

// bench measures a model's batches, and shows what it measured of each.
func bench[T npy.Float](ctx context.Context, m *forest.Model, path string, cfg benchConfig, show func(benchLine) error) error {
	f := &m.Canonical().Forest
	e, err := engine.New(f, engine.Options{Kernel: cfg.kernel, Threads: cfg.threads})
	if err != nil {
		return usageError("--kernel: %w", err)
	}
	kernel := engine.Of[T](e)
	run, each, size := kernel.Margins, m.NumMargins(), func() int { return f.Bytes() + e.Bytes() }
	name := func(batch int) string { return planned(e.Plan(batch)) }
	if cfg.output == "contribs" {
		explainer, err := shap.New(f)
		if err != nil {
			return usageError("--output: %w", err)
		}
		run, each = func(dst []float64, rows []T, features int) {
			shap.Values(explainer, dst, rows, features, features, cfg.threads)
		}, m.NumContribs()
		name = func(int) string { return "shap" }
		size = func() int { return f.Bytes() + explainer.Bytes() }
	}
	features := m.NumFeatures()
	most := slices.Max(cfg.batches)
	if size := most * (features + each) * 8; size > maxBenchBytes {
		return usageError("--batch: %d rows of %d features and %d values of output are more than %d MB", most, features, each, maxBenchBytes>>20)
	}
	rows, err := benchRows[T](m, cfg.input, most)
	if err != nil {
		return err
	}
	n := len(rows) / features
	dst := make([]float64, most*each)
	for _, batch := range cfg.batches {
		at := 0 // the row at which the next batch begins
		next := func() {
			run(dst[:batch*each], rows[at*features:(at+batch)*features], features)
			if at += batch; at+batch > n {
				at = 0
			}
		}
		samples, err := sample(ctx, next, cfg.time)
		if err != nil {
			return err
		}
		line := benchLine{
			Model: path, Kernel: name(batch), Threads: cfg.threads, Output: cfg.output, Input: string(m.Input()), Batch: batch, Rows: n, Samples: len(samples),
			Min: samples[0] / float64(batch), Median: samples[len(samples)/2] / float64(batch), ModelBytes: size(),
		}
		line.RowsPerS = 1e9 / line.Median
		if err := show(line); err != nil {
			return err
		}
	}
	return nil
}

// planned names the kernels of a plan.
func planned(plan []engine.Step) string {
	var names []string
	for _, s := range plan {
		names = append(names, s.Kernel)
	}
	return strings.Join(names, "+")
}

// sample calls a function for some time and gives the nanoseconds of a call in each sample, ascending. The first
// calls, which warm caches up, do not count.
func sample(ctx context.Context, call func(), long time.Duration) ([]float64, error) {
	calls := 1
	for {
		start := time.Now()
		for range calls {
			call()
		}
		if took := time.Since(start); took >= benchSample || calls >= 1<<20 {
			break
		}
		calls *= 2
	}
	var samples []float64
	for begin := time.Now(); len(samples) == 0 || time.Since(begin) < long; {
		if ctx.Err() != nil {
			return nil, errInterrupted
		}
		start := time.Now()
		for range calls {
			call()
		}
		samples = append(samples, float64(time.Since(start).Nanoseconds())/float64(calls))
	}
	slices.Sort(samples)
	return samples, nil
}

// benchRows gives rows to measure with, at least so many: those of a file, over and over if it has too few, or random
// ones.
func benchRows[T npy.Float](m *forest.Model, input string, least int) ([]T, error) {
	features := m.NumFeatures()
	if input == "" {
		return randomRows[T](&m.Canonical().Forest, features, max(least, 1<<10)), nil
	}
	in, err := openRows[T](input, features, m.Info().Names)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	var rows []T
	block := make([]T, features*max(1, blockValues/features))
	for len(rows) < maxBenchRows*features && len(rows)*8 < maxBenchBytes {
		n, err := in.read(block)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, block[:n*features]...)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s: it has no rows", input)
	}
	for have := len(rows); len(rows) < least*features; {
		rows = append(rows, rows[:min(have, least*features-len(rows))]...)
	}
	return rows, nil
}

// randomRows draws each value from the range of its feature's thresholds, so that rows take many paths.
func randomRows[T npy.Float](f *model.Forest, features, n int) []T {
	random := rand.New(rand.NewPCG(benchSeed, 0))
	low, high := make([]float64, features), make([]float64, features)
	for _, s := range f.Splits {
		if s.Has(model.Set) {
			high[s.Feature()] = max(high[s.Feature()], float64(32*len(f.Set(s.Value))))
			continue
		}
		t := f.Threshold(s)
		if t-t != 0 { // infinite
			continue
		}
		low[s.Feature()], high[s.Feature()] = min(low[s.Feature()], t), max(high[s.Feature()], t)
	}
	rows := make([]T, n*features)
	for i := range rows {
		j := i % features
		rows[i] = T(low[j] + (high[j]-low[j])*random.Float64())
	}
	return rows
}

// benchPrinter prints what was measured.
type benchPrinter struct {
	w     io.Writer
	js    bool
	table *tabwriter.Writer
}

func newBenchPrinter(w io.Writer, js bool) *benchPrinter {
	p := &benchPrinter{w, js, tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)}
	if !js {
		fmt.Fprintln(p.table, "batch\tkernel\tns/row, least\tns/row, median\trows/s\t")
	}
	return p
}

func (p *benchPrinter) line(l benchLine) error {
	if p.js {
		return json.NewEncoder(p.w).Encode(l)
	}
	_, err := fmt.Fprintf(p.table, "%d\t%s\t%.0f\t%.0f\t%.0f\t\n", l.Batch, l.Kernel, l.Min, l.Median, l.RowsPerS)
	return err
}

func (p *benchPrinter) end() error { return p.table.Flush() }
