package main

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
)

// predictBlock is the number of rows that are predicted between two looks at the progress.
const predictBlock = 4096

func predictCommand() *cobra.Command {
	var model, input, output, out string
	cmd := &cobra.Command{
		Use:   "predict",
		Short: "Predict offline, with the engine of the replicas",
		Long: "Predict the rows of a .npy or .csv file and write a .npy file.\n\n" +
			"  proba    a classifier's probabilities, float64, [rows, classes]\n" +
			"  predict  a classifier's labels (integers, numbers or strings, as it was trained with), or a\n" +
			"           regressor's values, float64; [rows]\n" +
			"  leaf     the leaf of every tree, int64, [rows, trees]",
		Example: "  coppice predict --model rf.joblib --input X.npy --output proba --out P.npy\n" +
			"  coppice predict --model m.coppice --input rows.csv --output predict --out labels.npy",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, f := range []struct{ name, value string }{{"model", model}, {"input", input}, {"out", out}} {
				if f.value == "" {
					return usageError("--%s is needed", f.name)
				}
			}
			m, err := forest.Open(model)
			if err != nil {
				return err
			}
			if output != "proba" && output != "predict" && output != "leaf" {
				return usageError("--output is %q, it can be proba, predict or leaf", output)
			}
			if output == "proba" && m.Classes() == nil {
				return usageError("%s is a regressor: it has no probabilities; --output predict gives its values", model)
			}
			t, err := readTable(input, m.NumFeatures(), m.Info().Names)
			if err != nil {
				return err
			}
			if err := m.CheckRows(t.rows); err != nil {
				return fmt.Errorf("%s: %w", input, err)
			}
			p := newProgress(cmd.ErrOrStderr())
			defer p.end()
			n := len(t.rows) / t.columns
			blocks := func(f func(from, to int) error) error {
				for i := 0; i < n; i += predictBlock {
					if err := cmd.Context().Err(); err != nil {
						return err
					}
					if err := f(i, min(i+predictBlock, n)); err != nil {
						return err
					}
					p.show(float64(i)/float64(n), fmt.Sprintf("%d of %d rows", i, n))
				}
				return nil
			}
			if output == "leaf" {
				leaves := make([]int64, n*m.NumTrees())
				err := blocks(func(from, to int) error {
					return m.Leaves(leaves[from*m.NumTrees():to*m.NumTrees()], t.rows[from*t.columns:to*t.columns])
				})
				if err != nil {
					return err
				}
				return writeFile(out, func(w *bufio.Writer) error { return npy.Write(w, leaves, n, m.NumTrees()) })
			}
			k := m.NumOutputs()
			scores := make([]float64, n*k)
			err = blocks(func(from, to int) error {
				return m.Predict(scores[from*k:to*k], t.rows[from*t.columns:to*t.columns])
			})
			if err != nil {
				return err
			}
			return writeFile(out, func(w *bufio.Writer) error {
				switch {
				case output == "proba":
					return npy.Write(w, scores, n, k)
				case m.Classes() == nil:
					return npy.Write(w, scores, n)
				}
				return writeLabels(w, m, scores, n)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&model, "model", "", "model `FILE`")
	f.StringVar(&input, "input", "", "`FILE` of rows, .npy or .csv")
	f.StringVar(&output, "output", "predict", "`KIND` of output: proba, predict or leaf")
	f.StringVar(&out, "out", "", ".npy `FILE` to write")
	return cmd
}

// writeLabels writes the predicted classes in the type that they were trained with.
func writeLabels(w *bufio.Writer, m *forest.Model, scores []float64, n int) error {
	classes, k := m.Classes(), m.NumOutputs()
	label := func(i int) int { return m.Label(scores[i*k : (i+1)*k]) }
	switch m.Info().ClassKind {
	case "int", "bool":
		values, err := parseAll(classes, func(s string) (int64, error) {
			switch strings.ToLower(s) {
			case "true":
				return 1, nil
			case "false":
				return 0, nil
			}
			return strconv.ParseInt(s, 10, 64)
		})
		if err == nil {
			out := make([]int64, n)
			for i := range out {
				out[i] = values[label(i)]
			}
			if m.Info().ClassKind == "bool" {
				bools := make([]bool, n)
				for i := range out {
					bools[i] = out[i] == 1
				}
				return npy.WriteBools(w, bools, n)
			}
			return npy.Write(w, out, n)
		}
	case "float":
		values, err := parseAll(classes, func(s string) (float64, error) { return strconv.ParseFloat(s, 64) })
		if err == nil {
			out := make([]float64, n)
			for i := range out {
				out[i] = values[label(i)]
			}
			return npy.Write(w, out, n)
		}
	}
	out := make([]string, n)
	for i := range out {
		out[i] = classes[label(i)]
	}
	return npy.WriteStrings(w, out, n)
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
