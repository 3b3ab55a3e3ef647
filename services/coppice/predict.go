package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
)

func predictCommand() *cobra.Command {
	var path, input, output, out, iterations string
	cmd := &cobra.Command{
		Use:   "predict",
		Short: "Predict offline, with the engine of the replicas",
		Long: "Predict the rows of a .npy or .csv file and write a .npy file, in the type and shape in which the\n" +
			"library that trained the model gives the output:\n\n" +
			"  predict            what the library's predict gives: labels, values, or a booster's probabilities\n" +
			"  margin             what the trees add up to, before the link function\n" +
			"  proba              a classifier's probabilities; proba_0, proba_1, ... for several targets\n" +
			"  decision_function, score_samples   as scikit-learn has them\n" +
			"  leaf               the leaf of every tree\n\n" +
			"'coppice inspect' lists which of them a model has.",
		Example: "  coppice predict --model rf.joblib --input X.npy --output proba --out P.npy\n" +
			"  coppice predict --model booster.json --input X.npy --iterations 0:17 --out P.npy\n" +
			"  coppice predict --model m.coppice --input rows.csv --out labels.npy",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, f := range []struct{ name, value string }{{"model", path}, {"input", input}, {"out", out}} {
				if f.value == "" {
					return usageError("--%s is needed", f.name)
				}
			}
			m, err := openRounds(path, iterations)
			if err != nil {
				return err
			}
			o, err := m.Output(output)
			if err != nil {
				return usageError("--output: %w", err)
			}
			p := newProgress(cmd.ErrOrStderr())
			defer p.end()
			if m.Input() == model.Float64 {
				return predictFile(cmd.Context(), m, o, input, out, p, rowsOf[float64]{m.CheckRows64, o.Append64})
			}
			return predictFile(cmd.Context(), m, o, input, out, p, rowsOf[float32]{m.CheckRows, o.Append})
		},
	}
	f := cmd.Flags()
	f.StringVar(&path, "model", "", "model `FILE`, of any format that Coppice reads")
	f.StringVar(&input, "input", "", "`FILE` of rows, .npy or .csv")
	f.StringVar(&output, "output", "predict", "`KIND` of output: predict, margin, proba, leaf, ...")
	f.StringVar(&out, "out", "", ".npy `FILE` to write")
	f.StringVar(&iterations, "iterations", "", "boosting rounds `FIRST:LAST` to use, without LAST (default all)")
	return cmd
}

// openRounds opens a model, or a part of its boosting rounds. iterations is empty or FIRST:LAST, each of which may be
// empty.
func openRounds(path, iterations string) (*forest.Model, error) {
	m, err := forest.Open(path)
	if err != nil || iterations == "" {
		return m, err
	}
	first, last := 0, m.NumRounds()
	from, to, ok := strings.Cut(iterations, ":")
	for _, end := range []struct {
		text string
		into *int
	}{{from, &first}, {to, &last}} {
		if end.text == "" {
			continue
		}
		n, err := strconv.Atoi(end.text)
		ok = ok && err == nil
		*end.into = n
	}
	if !ok {
		return nil, usageError("--iterations is %q, it can be FIRST:LAST, such as 0:10", iterations)
	}
	part, err := m.Rounds(first, last)
	if err != nil {
		return nil, usageError("--iterations: %w", err)
	}
	return part, nil
}

// rowsOf are the functions of a model for rows of one type.
type rowsOf[T npy.Float] struct {
	check  func(rows []T) error
	append func(dst []byte, rows []T) ([]byte, error)
}

// predictFile evaluates a file of rows block by block and writes the output.
func predictFile[T npy.Float](ctx context.Context, m *forest.Model, o *forest.Output, input, out string, p *progress, f rowsOf[T]) error {
	in, err := openRows[T](input, m.NumFeatures(), m.Info().Names)
	if err != nil {
		return err
	}
	defer in.Close()
	return writeFile(out, func(w *bufio.Writer) error {
		if err := npy.WriteHeader(w, o.Type, append([]int{in.rows}, o.Shape...)...); err != nil {
			return err
		}
		block := make([]T, in.columns*max(1, blockValues/in.columns))
		var elements []byte
		for done := 0; ; {
			n, err := in.read(block)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			rows := block[:n*in.columns]
			if err := f.check(rows); err != nil {
				var at *forest.RowError
				if errors.As(err, &at) {
					at.Row += done
				}
				return fmt.Errorf("%s: %w", input, err)
			}
			if elements, err = f.append(elements[:0], rows); err != nil {
				return err
			}
			if _, err := w.Write(elements); err != nil {
				return err
			}
			done += n
			p.show(float64(done)/float64(in.rows), fmt.Sprintf("%d of %d rows", done, in.rows))
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	})
}
