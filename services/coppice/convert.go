package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
)

func convertCommand() *cobra.Command {
	var out, golden string
	var js bool
	cmd := &cobra.Command{
		Use:   "convert MODEL --out FILE",
		Short: "Convert a model file to .coppice",
		Long: "Read a model file of any format that Coppice knows, write it as a .coppice file, and say what was read and\n" +
			"what was not. Nothing in the file is executed. With --golden, the first 64 rows of a file and the margins that\n" +
			"the reference kernel gives for them are kept in the model. Whoever opens it checks them: the file then proves\n" +
			"on any machine that it answers as it did on this one.",
		Example: "  coppice convert booster.json --out booster.coppice\n  coppice convert rf.joblib --out rf.coppice --golden X.npy",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usageError("--out is needed")
			}
			if sameFile(args[0], out) {
				return usageError("--out is %s itself, name another file", args[0])
			}
			m, err := forest.Open(args[0])
			if err != nil {
				return err
			}
			if golden != "" {
				if err := addGolden(m, golden); err != nil {
					return err
				}
			}
			write := func(w *bufio.Writer) error {
				return coppice.Encode(untilDone{cmd.Context(), w}, m.Canonical())
			}
			if err := writeFile(out, write); err != nil {
				if cmd.Context().Err() != nil {
					return fmt.Errorf("%w: %s was not written", errInterrupted, out)
				}
				return err
			}
			d, err := describe(m, out)
			if err != nil {
				return err
			}
			d.From = args[0]
			return d.print(cmd.OutOrStdout(), js)
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", ".coppice `FILE` to write")
	f.StringVar(&golden, "golden", "", "`FILE` of rows, .npy, .csv or .parquet, of which the first 64 are kept with what they give")
	f.BoolVar(&js, "json", false, "print JSON")
	return cmd
}

// untilDone writes until a signal comes.
type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u untilDone) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

// addGolden puts the first rows of a file, and what the reference kernel makes of them, into a model that nobody else
// uses yet. The rows are what the model compares: rounded to float32 for one that compares those.
func addGolden(m *forest.Model, path string) error {
	var rows []float64
	if m.Input() == model.Float64 {
		var err error
		if rows, err = firstRows(m, path, m.CheckRows64); err != nil {
			return err
		}
	} else {
		singles, err := firstRows(m, path, m.CheckRows)
		if err != nil {
			return err
		}
		for _, v := range singles {
			rows = append(rows, float64(v))
		}
	}
	f := &m.Canonical().Forest
	g := model.Golden{Rows: rows, Margins: make([]float64, len(rows)/m.NumFeatures()*m.NumMargins())}
	engine.Reference[float64](f).Margins(g.Margins, g.Rows, m.NumFeatures())
	m.Canonical().Golden = g
	return nil
}

// firstRows reads as many rows of a file as a model may keep.
func firstRows[T npy.Float](m *forest.Model, path string, check func([]T) error) ([]T, error) {
	in, err := openRows[T](path, m.NumFeatures(), m.Info().Names)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	rows := make([]T, model.MaxGoldenRows*in.columns)
	for n := 0; ; {
		k, err := in.read(rows[n*in.columns:])
		n += k
		switch {
		case errors.Is(err, io.EOF) && n == 0:
			return nil, fmt.Errorf("%s: it has no rows", path)
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case err != nil || n == model.MaxGoldenRows:
			rows = rows[:n*in.columns]
			if err := check(rows); err != nil {
				return nil, in.explain(err, path, 0)
			}
			return rows, nil
		}
	}
}
