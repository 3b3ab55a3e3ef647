package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica/forest"
)

func inspectCommand() *cobra.Command {
	var js bool
	cmd := &cobra.Command{
		Use:     "inspect MODEL",
		Short:   "Say what a model file is",
		Long:    "Say what a model file is: where it comes from, what it predicts, how large it is. Nothing in the file is\nexecuted.",
		Example: "  coppice inspect rf.joblib\n  coppice inspect m.coppice --json | jq .trees",
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
			info := m.Info()
			if js {
				return printJSON(cmd.OutOrStdout(), struct {
					File  string `json:"file"`
					Bytes int64  `json:"bytes"`
					forest.Info
				}{args[0], file.Size(), info})
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			line := func(name string, value any) { fmt.Fprintf(t, "%s\t%v\n", name, value) }
			line("file", args[0])
			line("bytes", file.Size())
			line("source", info.Kind+" of "+info.Library)
			if info.Version != "" {
				line("library version", info.Version)
			}
			line("task", info.Task)
			line("features", few(info.Features, info.Names))
			if info.Classes != nil {
				line("classes", few(len(info.Classes), info.Classes))
			}
			line("missing values", map[bool]string{true: "taken", false: "refused"}[info.Missing])
			line("trees", info.Trees)
			line("nodes", info.Nodes)
			line("leaves", info.Leaves)
			line("depth", info.Depth)
			line("golden rows", info.Golden)
			return t.Flush()
		},
	}
	cmd.Flags().BoolVar(&js, "json", false, "print JSON")
	return cmd
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
