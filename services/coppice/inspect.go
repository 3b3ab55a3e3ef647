package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
)

func inspectCommand() *cobra.Command {
	var js, trees, verify bool
	cmd := &cobra.Command{
		Use:     "inspect MODEL",
		Short:   "Say what a model file is",
		Long:    "Say what a model file is: where it comes from, what it predicts, how large it is, and what of it is not kept.\nNothing in the file is executed.",
		Example: "  coppice inspect rf.joblib\n  coppice inspect booster.json --trees\n  coppice inspect m.coppice --json | jq .trees",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := forest.Open(args[0])
			if err != nil {
				return err
			}
			file, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			if verify {
				// What Encode writes Decode reads: structure and golden rows are checked on the way.
				if err := coppice.Encode(io.Discard, m.Canonical()); err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
			}
			if trees {
				return printTrees(cmd.OutOrStdout(), m, js)
			}
			if err := printInfo(cmd.OutOrStdout(), args[0], file.Size(), m.Info(), js); err != nil {
				return err
			}
			if verify && !js {
				fmt.Fprintln(cmd.OutOrStdout(), "verified: structure, and golden rows if there are any")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&js, "json", false, "print JSON")
	f.BoolVar(&trees, "trees", false, "print a line for each tree instead")
	f.BoolVar(&verify, "verify", false, "prove the structure and evaluate the golden rows")
	return cmd
}

// printInfo prints what a model is.
func printInfo(w io.Writer, path string, bytes int64, info forest.Info, js bool) error {
	if js {
		return printJSON(w, struct {
			File  string `json:"file"`
			Bytes int64  `json:"bytes"`
			forest.Info
		}{path, bytes, info})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name string, value any) { fmt.Fprintf(t, "%s\t%v\n", name, value) }
	line("file", path)
	line("bytes", fmt.Sprintf("%d, %.2f a node", bytes, float64(bytes)/float64(info.Nodes)))
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
	line("missing values", map[bool]string{true: "taken", false: "refused"}[info.Missing])
	if info.ZeroMissing {
		line("zeros", "are missing, where a split says so")
	}
	if len(info.Categorical) > 0 {
		line("categorical", few(len(info.Categorical), numbers(info.Categorical)))
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
	return t.Flush()
}

// treeLine describes one tree.
type treeLine struct {
	Tree   int `json:"tree"`
	Round  int `json:"round"`
	Output int `json:"output"`
	Nodes  int `json:"nodes"`
	Leaves int `json:"leaves"`
	Depth  int `json:"depth"`
}

func printTrees(w io.Writer, m *forest.Model, js bool) error {
	f := &m.Canonical().Forest
	lines := make([]treeLine, f.NumTrees())
	for t := range lines {
		n := int(f.Trees[t+1].Split - f.Trees[t].Split)
		lines[t] = treeLine{Tree: t, Round: t / f.Round, Nodes: 2*n + 1, Leaves: n + 1, Depth: f.TreeDepth(t)}
		if f.First != nil {
			lines[t].Output = int(f.First[t])
		}
	}
	if js {
		return printJSON(w, lines)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "tree\tround\toutput\tnodes\tleaves\tdepth\t")
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
