package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
	"github.com/coppice-mesh/coppice/replica/forest/store"
)

func predictCommand() *cobra.Command {
	var path, input, output, out, iterations, kernel, stateDir string
	var threads int
	cmd := &cobra.Command{
		Use:   "predict",
		Short: "Predict offline, with the engine of the replicas",
		Long: "Predict the rows of a .npy, .csv or .parquet file and write a .npy file, in the type and shape in which the\n" +
			"library that trained the model gives the output:\n\n" +
			"  predict            what the library's predict gives: labels, values, or a booster's probabilities\n" +
			"  margin             what the trees add up to, before the link function\n" +
			"  proba              a classifier's probabilities; proba_0, proba_1, ... for several targets\n" +
			"  decision_function, score_samples   as scikit-learn has them\n" +
			"  leaf               the leaf of every tree\n" +
			"  contribs           what each feature contributes to each margin (SHAP values), and the mean margin\n\n" +
			"'coppice inspect' lists which of them a model has. Columns of .csv and .parquet files are found by the names of\n" +
			"the model's features, if it has names, and otherwise taken in their order; what is empty or null is missing.\n" +
			"Rows are read in blocks: a file may be larger than memory.\n\n" +
			"The model is kept in the state directory in its canonical form and found there by the SHA-256 of the file: a\n" +
			"large one is imported once. Where that is not possible, it is imported every\n" +
			"time; with --state-dir it is an error.",
		Example: "  coppice predict --model rf.joblib --input X.npy --output proba --out P.npy\n" +
			"  coppice predict --model booster.json --input X.npy --iterations 0:17 --out P.npy\n" +
			"  coppice predict --model m.coppice --input rows.csv --out labels.npy",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, f := range []struct{ name, value string }{{"model", path}, {"input", input}, {"out", out}} {
				if f.value == "" {
					return usageError("--%s is needed", f.name)
				}
			}
			if err := checkKernel(kernel); err != nil {
				return err
			}
			if threads < 0 {
				return usageError("--threads is %d, it must be 0 for all or above", threads)
			}
			for _, from := range []string{path, input} {
				if sameFile(from, out) {
					return usageError("--out is %s itself, name another file", from)
				}
			}
			whole, closeModel, err := openStored(path, stateDir)
			if err != nil {
				return err
			}
			defer closeModel()
			m, err := rounds(whole, iterations)
			if err != nil {
				return err
			}
			if m, err = evaluatedBy(m, kernel, threads); err != nil {
				return err
			}
			o, err := m.Output(output)
			if err != nil {
				return usageError("--output: %w", err)
			}
			if output == "contribs" && kernel != "" {
				return usageError("--kernel: contribs have only one")
			}
			p := newProgress(cmd.ErrOrStderr())
			defer p.end()
			err = predictFile(cmd.Context(), m, o, input, out, p)
			if errors.Is(err, errInterrupted) {
				return fmt.Errorf("%w: %s was not written", err, out)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&path, "model", "", "model `FILE`, of any format that Coppice reads")
	f.StringVar(&input, "input", "", "`FILE` of rows, .npy, .csv or .parquet")
	f.StringVar(&output, "output", "predict", "`KIND` of output: predict, margin, proba, leaf, contribs, ...")
	f.StringVar(&out, "out", "", ".npy `FILE` to write")
	f.StringVar(&iterations, "iterations", "", "boosting rounds `FIRST:LAST` to use, without LAST (default all)")
	kernelFlag(cmd, &kernel)
	f.IntVar(&threads, "threads", 0, "threads that evaluate the rows, at most (default 0, all)")
	f.StringVar(&stateDir, "state-dir", "", "`DIR`ectory in which imported models are kept (default $XDG_STATE_HOME/coppice)")
	return cmd
}

// openStored opens a model file by way of the model store, or directly where there is none that can be used.
func openStored(path, stateDir string) (m *forest.Model, end func(), err error) {
	dir, err := (&common{stateDir: stateDir}).state()
	if err == nil {
		var mapped *store.Mapped
		if mapped, err = store.New(dir).OpenFile(path); err == nil {
			return mapped.Model, func() { _ = mapped.Close() }, nil
		}
		if !errors.Is(err, store.ErrWrite) && !errors.Is(err, store.ErrUnsafe) {
			return nil, nil, err
		}
	}
	if stateDir != "" { // it was asked for
		return nil, nil, err
	}
	m, err = forest.Open(path)
	return m, func() {}, err
}

// openRounds opens a model, or a part of its boosting rounds.
func openRounds(path, iterations string) (*forest.Model, error) {
	m, err := forest.Open(path)
	if err != nil {
		return nil, err
	}
	return rounds(m, iterations)
}

// rounds is a model, or a part of its boosting rounds. iterations is empty or FIRST:LAST, each of which may be empty.
func rounds(m *forest.Model, iterations string) (*forest.Model, error) {
	if iterations == "" {
		return m, nil
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

// evaluate gives the elements of an output for the rows of a file, block by block, in the type in which the model
// compares. open is told the number of rows beforehand, -1 when only the end of the file tells.
func evaluate(ctx context.Context, m *forest.Model, o *forest.Output, input string, p *progress, open func(rows int) error, each func(elements []byte, rows int) error) error {
	if m.Input() == model.Float64 {
		return evaluateAs(ctx, m, m.CheckRows64, o, o.Append64, input, p, open, each)
	}
	return evaluateAs(ctx, m, m.CheckRows, o, o.Append, input, p, open, each)
}

func evaluateAs[T npy.Float](
	ctx context.Context, m *forest.Model, check func([]T) error, o *forest.Output, add func([]byte, []T) ([]byte, error),
	input string, p *progress, open func(rows int) error, each func(elements []byte, rows int) error,
) error {
	in, err := openRows[T](input, m.NumFeatures(), m.Info().Names)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := open(in.rows); err != nil {
		return err
	}
	block := make([]T, in.columns*max(1, blockValues/max(in.columns, elementsOf(o), m.NumScores())))
	var elements []byte
	for done := 0; ; {
		if ctx.Err() != nil {
			return errInterrupted
		}
		n, err := in.read(block)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		rows := block[:n*in.columns]
		if err := check(rows); err != nil {
			return in.explain(err, input, done)
		}
		if elements, err = add(elements[:0], rows); err != nil {
			return err
		}
		if err := each(elements, n); err != nil {
			return err
		}
		done += n
		p.show(in.fraction(done), rowsDone(done, in.rows))
	}
}

// elementsOf is the number of elements of an output in a row.
func elementsOf(o *forest.Output) int {
	n := 1
	for _, d := range o.Shape {
		n *= d
	}
	return n
}

// errInterrupted is the error of a command that a signal ended.
var errInterrupted = errors.New("interrupted")

func rowsDone(done, of int) string {
	if of < 0 {
		return fmt.Sprintf("%d rows", done)
	}
	return fmt.Sprintf("%d of %d rows", done, of)
}

// predictFile writes an output for the rows of a file.
func predictFile(ctx context.Context, m *forest.Model, o *forest.Output, input, out string, p *progress) error {
	return replaceFile(out, func(f *os.File) error {
		w := bufio.NewWriterSize(f, 1<<16)
		claimed, done := 0, 0
		err := evaluate(ctx, m, o, input, p,
			func(rows int) error {
				claimed = max(rows, 0)
				return npy.WriteHeader(w, o.Type, append([]int{claimed}, o.Shape...)...)
			},
			func(elements []byte, rows int) error {
				done += rows
				_, err := w.Write(elements)
				return err
			})
		if err == nil {
			err = w.Flush()
		}
		if err != nil || done == claimed {
			return err
		}
		var header bytes.Buffer // as long as the first one
		if err := npy.WriteHeader(&header, o.Type, append([]int{done}, o.Shape...)...); err != nil {
			return err
		}
		_, err = f.WriteAt(header.Bytes(), 0)
		return err
	})
}
