package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
	"github.com/coppice-mesh/coppice/services/exact"
)

func verifyCommand() *cobra.Command {
	var input, against, output, iterations string
	var maxULP uint64
	var tolerance float64
	var js bool
	cmd := &cobra.Command{
		Use:   "verify MODEL",
		Short: "Compare a model with what its library answered, bit by bit",
		Long: "Evaluate the rows of a file and compare with outputs that the model's library gave for them, saved by\n" +
			"numpy.save: element types, shapes and every bit. Any NaN equals any NaN. The kind of output is that by which\n" +
			"the file is called (proba.npy) unless --output says it; margin_best.npy and the like are of the rounds up to\n" +
			"the best one. The first differing rows are printed, then a line of totals.\n\n" +
			"Libraries round contribs many times on the way: they count as equal up to --tolerance of the largest of their row.\n\n" +
			"Exits with 0 when all rows are equal and with 1 when some differ.",
		Example: "  coppice verify rf.joblib --input X.npy --against proba.npy\n" +
			"  coppice verify booster.json --input X.npy --against P.npy --output predict --iterations 0:17\n" +
			"  coppice verify booster.json --input X.npy --against margin.npy --max-ulp 1 --json | jq .differing",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, f := range []struct{ name, value string }{{"input", input}, {"against", against}} {
				if f.value == "" {
					return usageError("--%s is needed", f.name)
				}
			}
			m, o, err := openOutput(args[0], output, against, iterations)
			if err != nil {
				return err
			}
			switch {
			case !cmd.Flags().Changed("tolerance"):
				tolerance = tolerances[o.Kind]
			case !(tolerance >= 0 && tolerance < 1):
				return usageError("--tolerance is %v, it can be 0 to less than 1", tolerance)
			}
			p := newProgress(cmd.ErrOrStderr())
			v, err := verifyFile(cmd.Context(), m, o, input, against, maxULP, tolerance, p)
			p.end()
			if err != nil {
				return err
			}
			if js {
				err = printJSON(cmd.OutOrStdout(), v)
			} else {
				err = v.print(cmd.OutOrStdout())
			}
			if err != nil {
				return err
			}
			if !v.Equal {
				return fmt.Errorf("%s does not answer as %s has it", args[0], against)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&input, "input", "", "`FILE` of rows, .npy, .csv or .parquet")
	f.StringVar(&against, "against", "", ".npy `FILE` of what the library answered")
	f.StringVar(&output, "output", "", "`KIND` of output (default by the name of the file)")
	f.StringVar(&iterations, "iterations", "", "boosting rounds `FIRST:LAST` to use, without LAST (default all)")
	f.Uint64Var(&maxULP, "max-ulp", 0, "units in the last place up to which numbers count as equal")
	f.Float64Var(&tolerance, "tolerance", 0, "`PART` of a row's largest number up to which numbers count as equal (default 1e-06 for contribs)")
	f.BoolVar(&js, "json", false, "print JSON")
	return cmd
}

// tolerances are those of outputs that libraries do not work out to the last bit.
var tolerances = map[string]float64{"contribs": 1e-6}

// best marks files of outputs that stop at the best round.
const best = "_best"

// openOutput opens a model and finds the kind of output, which may be empty: then the name of the file against tells it.
func openOutput(path, kind, against, iterations string) (*forest.Model, *forest.Output, error) {
	m, err := openRounds(path, iterations)
	if err != nil {
		return nil, nil, err
	}
	if kind != "" {
		o, err := m.Output(kind)
		if err != nil {
			return nil, nil, usageError("--output: %w", err)
		}
		return m, o, nil
	}
	name := strings.TrimSuffix(filepath.Base(against), filepath.Ext(against))
	if rounds := m.Info().Best; strings.HasSuffix(name, best) && rounds > 0 && iterations == "" {
		if m, err = m.Rounds(0, rounds); err != nil {
			return nil, nil, err
		}
	}
	o, err := m.Output(strings.TrimSuffix(name, best))
	if err != nil {
		return nil, nil, usageError("%s does not tell by its name what it holds; --output can be %s", against, strings.Join(m.Info().Outputs, ", "))
	}
	return m, o, nil
}

// verification is what a comparison of two files found.
type verification struct {
	Output    string `json:"output"`
	Type      string `json:"type"`
	Shape     []int  `json:"shape"` // of a row
	Rows      int    `json:"rows"`
	Differing int    `json:"differing"`
	Equal     bool   `json:"equal"`
	// Largest is the largest difference: a number of units in the last place, sign for zeros of two signs, nan for a
	// NaN where a number is, - where there is no distance.
	Largest string `json:"largest_difference"`
	// Relative is the largest difference as a part of the largest number of its row, if there is a tolerance.
	Relative    float64            `json:"largest_relative,omitempty"`
	Reason      string             `json:"reason,omitempty"` // why nothing could be compared
	Differences []exact.Difference `json:"differences,omitempty"`
}

// maxDifferences are the differing rows that are shown.
const maxDifferences = 10

// errUnlike ends a comparison of arrays of which no element can be compared.
var errUnlike = errors.New("unlike")

// verifyFile compares an output for the rows of a file with another file.
func verifyFile(ctx context.Context, m *forest.Model, o *forest.Output, input, against string, maxULP uint64, tolerance float64, p *progress) (*verification, error) {
	f, err := os.Open(against)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	expected, err := npy.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", against, err)
	}
	v := &verification{Output: o.Kind, Type: o.Type, Shape: append([]int{}, o.Shape...)}
	c := &exact.Comparison{Type: o.Type, Shape: o.Shape, MaxULP: maxULP, Tolerance: tolerance}
	seen := -1
	c.Each = func(d exact.Difference) {
		if d.Row != seen && len(v.Differences) < maxDifferences { // one of a row is enough
			v.Differences = append(v.Differences, d)
		}
		seen = d.Row
	}
	refuse := func(format string, args ...any) error {
		v.Reason = fmt.Sprintf(format, args...)
		return errUnlike
	}
	var want []byte
	rows := 0
	err = evaluate(ctx, m, o, input, p,
		func(rows int) error {
			switch {
			case expected.Type != o.Type:
				return refuse("elements are %s in %s, and %s by the model", expected.Type, against, o.Type)
			case !slices.Equal(expected.Shape[1:], o.Shape) || (rows >= 0 && rows != expected.Rows()):
				return refuse("the shape is %s in %s, and %s by the model", shape(expected.Rows(), expected.Shape[1:]), against, shape(rows, o.Shape))
			}
			return nil
		},
		func(got []byte, n int) error {
			if rows += n; rows > expected.Rows() {
				return refuse("there are %d rows in %s, and more in %s", expected.Rows(), against, input)
			}
			want = slices.Grow(want[:0], len(got))[:len(got)]
			if k, err := expected.ReadBytes(want); err != nil || k != n {
				return fmt.Errorf("%s: %w", against, err)
			}
			return c.Add(want, got)
		})
	if err == nil && rows < expected.Rows() {
		err = refuse("there are %d rows in %s, and %d in %s", expected.Rows(), against, rows, input)
	}
	if err == nil && rows > 0 {
		if _, err = expected.ReadBytes(want); errors.Is(err, io.EOF) {
			err = nil // the file ends where it should
		} else {
			err = fmt.Errorf("%s: %w", against, err)
		}
	}
	if err != nil && !errors.Is(err, errUnlike) {
		return nil, err
	}
	v.Rows, v.Differing, v.Largest, v.Relative = c.Rows, c.Differing, c.Largest.String(), c.Relative
	v.Equal = v.Reason == "" && v.Differing == 0
	return v, nil
}

// shape of an array, as NumPy has it. The number of rows may be -1, unknown.
func shape(rows int, of []int) string {
	out := []string{strconv.Itoa(rows)}
	if rows < 0 {
		out[0] = "rows"
	}
	out = append(out, numbers(of)...)
	if len(of) == 0 {
		return "(" + out[0] + ",)"
	}
	return "(" + strings.Join(out, ", ") + ")"
}

func (v *verification) print(w io.Writer) error {
	for _, d := range v.Differences {
		at := ""
		if len(d.Index) > 0 {
			at = ", element " + strings.Join(numbers(d.Index), ",")
		}
		fmt.Fprintf(w, "row %d%s: expected %s, got %s (%s)\n", d.Row, at, d.Want, d.Got, d.Describe())
	}
	if more := v.Differing - len(v.Differences); more > 0 {
		fmt.Fprintf(w, "and %d rows more\n", more)
	}
	if v.Reason != "" {
		_, err := fmt.Fprintf(w, "%s: %s\n", v.Output, v.Reason)
		return err
	}
	relative := ""
	if v.Relative > 0 {
		relative = fmt.Sprintf(", as a part of the largest of its row: %.2g", v.Relative)
	}
	_, err := fmt.Fprintf(w, "%s %s: %d rows, %d differ, largest difference in ulp: %s%s\n", v.Output, v.Type, v.Rows, v.Differing, v.Largest, relative)
	return err
}
