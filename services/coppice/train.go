package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	csv "github.com/coppice-mesh/coppice/replica/forest/table"
	"github.com/coppice-mesh/coppice/replica/forest/train"
)

func trainCommand() *cobra.Command {
	var (
		data, label, out, task string
		cfg                    train.Config
		js                     bool
	)
	cmd := &cobra.Command{
		Use:   "train",
		Short: "Train a random forest from a CSV file",
		Long: "Train a random forest. The first line of the CSV file names its columns; all but the label's must be\n" +
			"numbers. A label of text or of whole numbers makes a classifier, any other a regressor; --task decides\n" +
			"otherwise. The same data, settings and seed give the same file, on any number of cores.",
		Example: "  coppice train --data churn.csv --label churned --out churn.coppice\n" +
			"  coppice train --data prices.csv --label price --task regress --trees 300 --seed 7 --out prices.coppice",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, f := range []struct{ name, value string }{{"data", data}, {"label", label}, {"out", out}} {
				if f.value == "" {
					return usageError("--%s is needed", f.name)
				}
			}
			if err := cmp.Or(checkAtLeastOne("trees", cfg.Trees), checkAtLeastOne("min-leaf", cfg.MinLeaf)); err != nil {
				return err
			}
			if task != "" && task != string(model.Classify) && task != string(model.Regress) {
				return usageError("--task is %q, it can be classify or regress", task)
			}
			f, err := os.Open(data)
			if err != nil {
				return err
			}
			defer f.Close()
			t, err := csv.Read(bufio.NewReaderSize(f, 1<<16), label, nil)
			if err != nil {
				return fmt.Errorf("%s: %w", data, err)
			}
			d, err := trainingData(t, label, task)
			if err != nil {
				return fmt.Errorf("%s: %w", data, err)
			}
			cfg.Task = model.Regress
			if d.Classes != nil {
				cfg.Task = model.Classify
			}
			start := time.Now()
			m, err := trainForest(cmd.Context(), cfg, d, cmd.ErrOrStderr())
			if errors.Is(err, train.ErrConfig) {
				return &exitError{exitUsage, err}
			}
			if err != nil {
				return err
			}
			m.Meta.Source.Version = version
			if err := writeFile(out, func(w *bufio.Writer) error { return coppice.Encode(w, m) }); err != nil {
				return err
			}
			info := forest.New(m).Info()
			if js {
				return printJSON(cmd.OutOrStdout(), struct {
					File    string  `json:"file"`
					Rows    int     `json:"rows"`
					Seconds float64 `json:"seconds"`
					forest.Info
				}{out, d.Len(), time.Since(start).Seconds(), info})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %d trees, %d nodes, depth %d, from %d rows of %d features in %v\n",
				out, info.Task, info.Trees, info.Nodes, info.Depth, d.Len(), d.Features, time.Since(start).Round(time.Millisecond))
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&data, "data", "", "CSV `FILE` to learn from")
	fl.StringVar(&label, "label", "", "`COLUMN` to predict")
	fl.StringVar(&out, "out", "", ".coppice `FILE` to write")
	fl.StringVar(&task, "task", "", "classify or regress (default by the labels)")
	fl.IntVar(&cfg.Trees, "trees", 100, "number of trees")
	fl.IntVar(&cfg.MaxDepth, "max-depth", 0, "splits on the longest path; 0 does not limit them")
	fl.IntVar(&cfg.MinLeaf, "min-leaf", 1, "rows that a leaf must have")
	fl.IntVar(&cfg.MaxFeatures, "max-features", 0, "features that are tried at each split (default: the square root of all to classify, all to regress)")
	fl.Uint64Var(&cfg.Seed, "seed", 0, "seed of everything random")
	fl.BoolVar(&js, "json", false, "print JSON")
	return cmd
}

// trainForest grows a forest and shows how far it is.
func trainForest(ctx context.Context, cfg train.Config, d *train.Data, stderr io.Writer) (*model.Model, error) {
	p := newProgress(stderr)
	defer p.end()
	return train.Forest(ctx, cfg, d, func(done, total int) {
		p.show(float64(done)/float64(total), fmt.Sprintf("%d of %d trees", done, total))
	})
}

// trainingData makes what the trainer takes of a table with labels.
func trainingData(t *csv.Table, label, task string) (*train.Data, error) {
	rows, err := convert[float32](t)
	if err != nil {
		return nil, err
	}
	for i, v := range rows {
		if v-v != 0 {
			return nil, fmt.Errorf("%w: line %d, column %q is %v; the trainer takes finite values", train.ErrData, t.Lines[i/len(t.Names)], t.Names[i%len(t.Names)], v)
		}
	}
	d := &train.Data{Features: len(t.Names), Names: t.Names, Rows: rows}
	ints, err := parseAll(t.Labels, parseInt)
	allInts := err == nil
	floats, err := parseAll(t.Labels, parseNumber)
	allFloats := err == nil
	if task == string(model.Regress) || (task == "" && allFloats && !allInts) {
		if !allFloats {
			for i, s := range t.Labels {
				if _, err := parseNumber(s); err != nil {
					return nil, fmt.Errorf("%w: line %d, column %q: %.80q; a regressor needs numbers", csv.ErrNumber, t.Lines[i], label, s)
				}
			}
		}
		for i, v := range floats {
			if !(math.Abs(v) <= train.MaxTarget) { // NaN, too
				return nil, fmt.Errorf("%w: line %d, column %q is %v, it must be a number from %v to %v", train.ErrData, t.Lines[i], label, v, -train.MaxTarget, train.MaxTarget)
			}
		}
		d.Targets = floats
		return d, nil
	}
	d.ClassKind = "string"
	names := slices.Clone(t.Labels)
	if allInts {
		d.ClassKind = "int"
		slices.Sort(ints)
		names = names[:0]
		for _, v := range slices.Compact(ints) {
			names = append(names, strconv.FormatInt(v, 10))
		}
	} else {
		slices.Sort(names)
		names = slices.Compact(names)
	}
	d.Classes = slices.Clone(names)
	index := make(map[string]int32, len(names))
	for i, n := range d.Classes {
		index[n] = int32(i)
	}
	for i, s := range t.Labels {
		if allInts {
			v, _ := parseInt(s) // it was parsed before
			s = strconv.FormatInt(v, 10)
		}
		at, ok := index[s]
		if !ok {
			return nil, fmt.Errorf("line %d: label %q has no class", t.Lines[i], s)
		}
		d.Labels = append(d.Labels, at)
	}
	return d, nil
}

func parseInt(s string) (int64, error) { return strconv.ParseInt(strings.TrimSpace(s), 10, 64) }

// parseNumber takes decimal numbers alone: a label such as 0x1F is a name.
func parseNumber(s string) (float64, error) {
	if strings.ContainsAny(s, "_xX") {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(strings.TrimSpace(s), 64)
}

func parseAll[T any](in []string, parse func(string) (T, error)) ([]T, error) {
	out := make([]T, len(in))
	for i, s := range in {
		var err error
		if out[i], err = parse(s); err != nil {
			return nil, err
		}
	}
	return out, nil
}
