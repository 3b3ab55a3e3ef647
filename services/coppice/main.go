// Command coppice serves forests: decision trees, random forests and boosted trees, over gRPC.
//
// One file here is one subcommand; main.go only joins them. What the roles do is in the modules balancer,
// gateway and replica.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/coppice-mesh/coppice/balancer"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/services/config"
	"github.com/coppice-mesh/coppice/telemetry"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// version is set when the binary is built.
var version = "dev"

// The exit codes. docs/cli.md lists them.
const (
	exitOK          = 0
	exitFailed      = 1 // it was tried and went wrong
	exitUsage       = 2 // wrong flags, arguments or configuration
	exitUnavailable = 3 // the server could not be reached or is not ready
	exitDiffers     = 4 // a check found wrong, failed or lost answers
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usageError says that the command line is at fault.
func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func main() {
	environment = telemetry.TakeEnvironment()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command and returns its exit code. The first SIGINT or SIGTERM ends the context, the
// second one the process.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from now on a signal has its default effect
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	fmt.Fprintf(stderr, "coppice: %s\n", message(err))
	if code == exitUsage {
		fmt.Fprintf(stderr, "Try '%s --help'.\n", cmd.CommandPath())
	}
	return code
}

func exitCode(err error) int {
	var e *exitError
	switch {
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, config.ErrConfig), errors.Is(err, balancer.ErrConfig), errors.Is(err, engine.ErrKernel):
		return exitUsage
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return exitUnavailable
	case codes.InvalidArgument:
		return exitUsage
	}
	return exitFailed
}

// message leaves out the wrapping that gRPC puts around a status for programs.
func message(err error) string {
	if s, ok := status.FromError(err); ok && s.Code() != codes.OK && s.Code() != codes.Unknown {
		return fmt.Sprintf("%s (%s)", s.Message(), s.Code())
	}
	return err.Error()
}

func newRoot() *cobra.Command {
	var file string
	root := &cobra.Command{
		Use:           "coppice",
		Short:         "Serve random forests and boosted trees over gRPC",
		Long:          "Coppice serves tree ensembles over gRPC: a gateway in front of a pool of replica processes,\nwhich a balancer watches, spawns and drains.",
		Example:       "  coppice up                       # train a demo forest and serve it\n  coppice up --model rf.joblib     # serve a forest that scikit-learn saved\n  coppice status --watch",
		Args:          cobra.ArbitraryArgs,
		RunE:          noCommand,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate("coppice {{.Version}}\n")
	root.PersistentFlags().StringVar(&file, "config", "", "YAML `FILE` of settings; they have the names of flags (environment: COPPICE_CONFIG)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitUsage, err} })
	for _, c := range []*cobra.Command{
		upCommand(), balancerCommand(), gatewayCommand(), replicaCommand(),
		statusCommand(), scaleCommand(), drainCommand(), healthCommand(),
		trainCommand(), predictCommand(), inspectCommand(), convertCommand(), verifyCommand(), benchCommand(), loadCommand(), completionCommand(), versionCommand(),
	} {
		root.AddCommand(c)
	}
	root.SetHelpCommand(helpCommand())
	root.InitDefaultHelpCmd() // now, so that wrapArgs sees it
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd == root {
			return nil // it only shows its help
		}
		if file == "" {
			file = os.Getenv(config.EnvName("config"))
		}
		known := map[string]bool{}
		for _, c := range root.Commands() {
			c.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
		}
		return config.Apply(cmd.Flags(), file, os.LookupEnv, func(name string) bool { return known[name] })
	}
	wrapArgs(root)
	return root
}

// noCommand runs when no subcommand was named.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		cmd.InitDefaultHelpFlag()
		cmd.InitDefaultVersionFlag()
		return cmd.Help()
	}
	msg := fmt.Sprintf("there is no command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		msg += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageError("%s", msg)
}

// wrapArgs makes a wrong number of arguments a usage error.
func wrapArgs(root *cobra.Command) {
	for _, c := range root.Commands() {
		check := c.Args
		if check == nil {
			check = cobra.NoArgs
		}
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &exitError{exitUsage, err}
			}
			return nil
		}
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  coppice version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version)
			return err
		},
	}
}
