package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

func convertCommand() *cobra.Command {
	var out, golden string
	var js bool
	cmd := &cobra.Command{
		Use:   "convert MODEL",
		Short: "Convert a model file to .coppice",
		Long: "Read a model file of any format that Coppice knows, write it as a .coppice file, and say what was read and\n" +
			"what was not. With --golden, the first rows of a file and the margins that they give are kept in the model;\n" +
			"whoever opens it checks them.",
		Example: "  coppice convert booster.json --out booster.coppice\n  coppice convert rf.joblib --out rf.coppice --golden X.npy",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usageError("--out is needed")
			}
			m, err := forest.Open(args[0])
			if err != nil {
				return err
			}
			if golden != "" {
				if err := addGolden(m, golden); err != nil {
					return err
				}
				m = forest.New(m.Canonical())
			}
			if err := writeFile(out, func(w *bufio.Writer) error { return coppice.Encode(w, m.Canonical()) }); err != nil {
				return fmt.Errorf("%s: %w", filepath.Clean(out), err)
			}
			file, err := os.Stat(out)
			if err != nil {
				return err
			}
			return printInfo(cmd.OutOrStdout(), out, file.Size(), m.Info(), js)
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", ".coppice `FILE` to write")
	f.StringVar(&golden, "golden", "", "`FILE` of rows, .npy or .csv, of which the first are kept with what they give")
	f.BoolVar(&js, "json", false, "print JSON")
	return cmd
}

// addGolden puts the first rows of a file into a model that nobody else uses yet.
func addGolden(m *forest.Model, path string) error {
	in, err := openRows[float64](path, m.NumFeatures(), m.Info().Names)
	if err != nil {
		return err
	}
	defer in.Close()
	rows := make([]float64, min(in.rows, model.MaxGoldenRows)*in.columns)
	n, err := in.read(rows)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	g := model.Golden{Rows: rows[:n*in.columns], Margins: make([]float64, n*m.NumMargins())}
	if err := m.CheckRows64(g.Rows); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := m.Margins64(g.Margins, g.Rows); err != nil {
		return err
	}
	m.Canonical().Golden = g
	return nil
}
