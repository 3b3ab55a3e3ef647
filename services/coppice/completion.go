package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// shells write the completion script of each shell.
var shells = []struct {
	name  string
	write func(root *cobra.Command, w io.Writer) error
}{
	{"bash", func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) }},
	{"zsh", (*cobra.Command).GenZshCompletion},
	{"fish", func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) }},
	{"powershell", (*cobra.Command).GenPowerShellCompletionWithDesc},
}

func completionCommand() *cobra.Command {
	var names []string
	for _, s := range shells {
		names = append(names, s.name)
	}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion script of a shell",
		Long:  "Print the script that completes commands and flags in a shell: " + strings.Join(names, ", ") + ".",
		Example: "  source <(coppice completion bash)                                      # for this session\n" +
			"  coppice completion bash > /etc/bash_completion.d/coppice               # for good\n" +
			"  coppice completion zsh > \"${fpath[1]}/_coppice\"\n" +
			"  coppice completion fish > ~/.config/fish/completions/coppice.fish\n" +
			"  coppice completion powershell | Out-String | Invoke-Expression",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: names,
		// A script is the same whatever is configured.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, s := range shells {
				if s.name == args[0] {
					return s.write(cmd.Root(), cmd.OutOrStdout())
				}
			}
			return usageError("no completion for %q", args[0])
		},
	}
}

// helpCommand is `coppice help COMMAND`, which does what `coppice COMMAND --help` does.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND]",
		Short:             "Show the help of a command",
		Example:           "  coppice help up",
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return noCommand(cmd.Root(), nil)
			}
			target, _, err := cmd.Root().Find(args)
			if err != nil || target == cmd.Root() {
				return noCommand(cmd.Root(), args)
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
		Args: cobra.MaximumNArgs(1),
	}
}
