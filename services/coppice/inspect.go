package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

func inspectCommand() *cobra.Command {
	var js, trees, verify, plan bool
	cmd := &cobra.Command{
		Use:     "inspect MODEL",
		Short:   "Say what a model file is",
		Long:    "Say what a model file is: where it comes from, what it predicts, how large it is, and what of it is not kept.\nNothing in the file is executed.",
		Example: "  coppice inspect rf.joblib\n  coppice inspect booster.json --trees\n  coppice inspect m.coppice --verify\n  coppice inspect booster.json --plan\n  coppice inspect m.coppice --json | jq .trees",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := forest.Open(args[0])
			if err != nil {
				return err
			}
			d, err := describe(m, args[0])
			if err != nil {
				return err
			}
			if verify {
				if err := prove(m); err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				d.Verified = true
			}
			if plan {
				d.Plan = newPlan(m)
			}
			if trees && js {
				d.Lines = treeLines(m)
			}
			if err := d.print(cmd.OutOrStdout(), js); err != nil || js || !trees {
				return err
			}
			return printTrees(cmd.OutOrStdout(), treeLines(m))
		},
	}
	f := cmd.Flags()
	f.BoolVar(&js, "json", false, "print JSON")
	f.BoolVar(&plan, "plan", false, "say which kernel evaluates batches of some sizes, how, and what that should take")
	f.BoolVar(&trees, "trees", false, "print a line for each tree, too")
	f.BoolVar(&verify, "verify", false, "prove the structure and evaluate the golden rows with every kernel")
	return cmd
}

// prove checks the structure of a model and that it gives what its golden rows promise, by every kernel.
func prove(m *forest.Model) error {
	c := m.Canonical()
	// What Encode writes Decode reads: it checks all that a file must be.
	if err := coppice.Encode(io.Discard, c); err != nil {
		return err
	}
	rows := c.Golden.Rows
	got := make([]float64, len(c.Golden.Margins))
	for _, name := range engine.Names() {
		k := engine.ByName[float64](name, &c.Forest)
		if k == nil || len(rows) == 0 {
			continue
		}
		k.Margins(got, rows, m.NumFeatures())
		for i, v := range got {
			if w := c.Golden.Margins[i]; math.Float64bits(v) != math.Float64bits(w) && (v == v || w == w) {
				return fmt.Errorf("%w: kernel %s, row %d, margin %d: expected %v, got %v", coppice.ErrGolden, name, i/m.NumMargins(), i%m.NumMargins(), w, v)
			}
		}
	}
	return nil
}

// description is what is printed about a model.
type description struct {
	File  string `json:"file"`
	From  string `json:"from,omitempty"` // what it was converted from
	Bytes int64  `json:"bytes"`
	// BytesANode counts splits and leaves.
	BytesANode float64          `json:"bytes_a_node"`
	Categories model.Categories `json:"categories,omitempty"` // how values become categories
	Verified   bool             `json:"verified,omitempty"`
	forest.Info
	Plan  *plan      `json:"plan,omitempty"`
	Lines []treeLine `json:"tree_list,omitempty"`
}

// describe a model and the file in which it is.
func describe(m *forest.Model, path string) (*description, error) {
	file, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	d := &description{File: path, Bytes: file.Size(), Info: m.Info()}
	d.BytesANode = float64(d.Bytes) / float64(d.Nodes)
	if len(d.Categorical) > 0 {
		d.Categories = m.Canonical().Forest.Categories
	}
	return d, nil
}

// categoryWays say what of a value is its category.
var categoryWays = map[model.Categories]string{
	model.Truncate: "the fraction is dropped, then negative numbers are in no set",
	model.Floor:    "negative numbers are in no set, then the fraction is dropped",
	model.Whole:    "only whole numbers from 0 are in a set",
}

// print writes a description for people, or as JSON.
func (d *description) print(w io.Writer, js bool) error {
	if js {
		return printJSON(w, d)
	}
	info := d.Info
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name string, value any) { fmt.Fprintf(t, "%s\t%v\n", name, value) }
	line("file", d.File)
	if d.From != "" {
		line("converted from", d.From)
	}
	line("bytes", fmt.Sprintf("%d, %.2f a node", d.Bytes, d.BytesANode))
	line("source", info.Kind+" of "+info.Library)
	if info.Version != "" {
		line("library version", info.Version)
	}
	line("task", info.Task)
	if info.Objective != "" {
		line("objective", info.Objective)
	}
	line("link", info.Link.Name)
	line("features", few(info.Features, info.Names))
	if info.Classes != nil {
		line("classes", few(len(info.Classes), info.Classes))
	}
	if info.Targets > 1 {
		line("targets", info.Targets)
	}
	line("outputs", strings.Join(info.Outputs, ", "))
	line("compares", info.Input)
	line("missing values", taken[info.Missing])
	line("infinities", taken[info.Infinite])
	if info.ZeroMissing {
		line("zeros", "are missing, where a split says so")
	}
	if len(info.Categorical) > 0 {
		line("categorical", few(len(info.Categorical), numbers(info.Categorical)))
		line("categories", categoryWays[d.Categories])
	}
	if info.Linear {
		line("leaves", "linear in the row")
	}
	if info.Rounds != info.Trees {
		line("rounds", info.Rounds)
	}
	if info.Best > 0 {
		line("best round", info.Best)
	}
	line("trees", info.Trees)
	line("nodes", info.Nodes)
	line("leaves", info.Leaves)
	line("depth", info.Depth)
	line("golden rows", info.Golden)
	if len(info.Lost) > 0 {
		line("not preserved", strings.Join(info.Lost, ", "))
	}
	if d.Verified {
		line("verified", fmt.Sprintf("the structure, and %d golden rows by every kernel", info.Golden))
	}
	if err := t.Flush(); err != nil || d.Plan == nil {
		return err
	}
	return d.Plan.print(w)
}

var taken = map[bool]string{true: "taken", false: "refused"}

// treeLine describes one tree.
type treeLine struct {
	Tree   int `json:"tree"`
	Round  int `json:"round"`
	Output int `json:"output"`
	Nodes  int `json:"nodes"`
	Leaves int `json:"leaves"`
	Depth  int `json:"depth"`
}

func treeLines(m *forest.Model) []treeLine {
	f := &m.Canonical().Forest
	lines := make([]treeLine, f.NumTrees())
	for t := range lines {
		n := int(f.Trees[t+1].Split - f.Trees[t].Split)
		lines[t] = treeLine{Tree: t, Round: t / f.Round, Nodes: 2*n + 1, Leaves: n + 1, Depth: f.TreeDepth(t)}
		if f.First != nil {
			lines[t].Output = int(f.First[t])
		}
	}
	return lines
}

func printTrees(w io.Writer, lines []treeLine) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\ntree\tround\toutput\tnodes\tleaves\tdepth\t")
	for _, l := range lines {
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%d\t%d\t\n", l.Tree, l.Round, l.Output, l.Nodes, l.Leaves, l.Depth)
	}
	return t.Flush()
}

func numbers(v []int) []string {
	out := make([]string, len(v))
	for i, n := range v {
		out[i] = strconv.Itoa(n)
	}
	return out
}

// few shows a number and the first of the names that it counts.
func few(n int, names []string) string {
	const show = 12
	s := strconv.Itoa(n)
	if len(names) == 0 {
		return s
	}
	s += ": " + strings.Join(names[:min(show, len(names))], ", ")
	if len(names) > show {
		s += ", …"
	}
	return s
}
