package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/coppice-mesh/coppice/balancer"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/services/config"
)

func TestMain(m *testing.M) {
	for _, kv := range os.Environ() { // settings of whoever runs the tests
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, config.EnvPrefix) {
			os.Unsetenv(name)
		}
	}
	state, err := os.MkdirTemp("", "coppice-state-") // predict keeps models in it
	if err != nil {
		panic(err)
	}
	os.Setenv("XDG_STATE_HOME", state)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(state)
		os.Exit(code)
	}))
}

// invoke runs one command in this process.
func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(args, &out, &err)
	return code, out.String(), err.String()
}

// succeed runs a command that must exit with 0, and returns what it printed.
func succeed(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := invoke(t, args...)
	if code != exitOK {
		t.Fatalf("coppice %s: exit code %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

// commands are all that users may call, the root among them.
func commands(t *testing.T) []*cobra.Command {
	t.Helper()
	root := newRoot()
	root.InitDefaultVersionFlag()
	out := []*cobra.Command{root}
	for i := 0; i < len(out); i++ {
		for _, c := range out[i].Commands() {
			if !c.Hidden {
				out = append(out, c)
			}
		}
	}
	for _, c := range out {
		c.InitDefaultHelpFlag()
	}
	if len(out) < 15 {
		t.Fatalf("%d commands", len(out))
	}
	return out
}

// words are a command as it is typed, without "coppice".
func words(c *cobra.Command) []string { return strings.Fields(c.CommandPath())[1:] }

func TestCommands(t *testing.T) {
	for _, c := range commands(t) {
		t.Run(c.CommandPath(), func(t *testing.T) {
			if c.Short == "" || strings.HasSuffix(c.Short, ".") || len(c.Short) > 70 {
				t.Errorf("its short description is %q", c.Short)
			}
			if c.Example == "" {
				t.Error("it has no example")
			}
			for line := range strings.SplitSeq(c.Example, "\n") {
				if !strings.HasPrefix(line, "  ") || !strings.Contains(line, c.CommandPath()) {
					t.Errorf("example %q does not show it, behind two spaces", line)
				}
			}
			help := succeed(t, append(words(c), "--help")...)
			for _, want := range []string{"Usage:", "Examples:", c.Example, "Flags:", "--help"} {
				if !strings.Contains(help, want) {
					t.Errorf("%q is not in its help:\n%s", want, help)
				}
			}
			if got := succeed(t, append([]string{"help"}, words(c)...)...); got != help {
				t.Errorf("`help` says something else than --help:\n%s", got)
			}
		})
	}
}

// TestExamplesParse sees that the flags of every example exist and take the values that they are given.
func TestExamplesParse(t *testing.T) {
	shown := regexp.MustCompile(`coppice [^|#>)]*`)
	for _, c := range commands(t) {
		for line := range strings.SplitSeq(c.Example, "\n") {
			args := strings.Fields(shown.FindString(line))[1:]
			target, rest, err := newRoot().Find(args)
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			target.InitDefaultHelpFlag()
			if err := target.ParseFlags(rest); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"version"}} {
		if got := succeed(t, args...); got != version+"\n" {
			t.Errorf("%v: %q", args, got)
		}
	}
	if got := succeed(t, "--version"); got != "coppice "+version+"\n" {
		t.Errorf("--version: %q", got)
	}
}

func TestCompletion(t *testing.T) {
	for shell, want := range map[string][]string{
		"bash":       {"__start_coppice", "complete -o default"},
		"zsh":        {"#compdef coppice", "_coppice"},
		"fish":       {"complete -c coppice"},
		"powershell": {"Register-ArgumentCompleter", "'coppice'"},
	} {
		script := succeed(t, "completion", shell)
		for _, want := range want {
			if !strings.Contains(script, want) {
				t.Errorf("%s: %q is not in the script", shell, want)
			}
		}
		if path, err := exec.LookPath(shell); err == nil && (shell == "bash" || shell == "zsh" || shell == "fish") {
			cmd := exec.Command(path, "-n", "/dev/stdin")
			cmd.Stdin = strings.NewReader(script)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s does not take its script: %v\n%s", shell, err, out)
			}
		}
	}
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{""}, []string{"up", "balancer", "load", "completion", "help"}},
		{[]string{"up", "--re"}, []string{"--replicas"}},
		{[]string{"completion", ""}, []string{"bash", "zsh", "fish", "powershell"}},
		{[]string{"replica", "--"}, []string{"--balancer", "--join-token-file"}},
	} {
		var out bytes.Buffer
		root := newRoot()
		root.SetArgs(append([]string{cobra.ShellCompNoDescRequestCmd}, tt.args...))
		root.SetOut(&out)
		root.SetErr(io.Discard)
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains("\n"+out.String(), "\n"+want+"\n") {
				t.Errorf("%q completes to:\n%swithout %s", tt.args, out.String(), want)
			}
		}
		if strings.Contains(out.String(), "--plugin") || strings.Contains(out.String(), "--telemetry\n") {
			t.Errorf("%q completes to a hidden flag", tt.args)
		}
	}
}

// TestUsage is about command lines that are wrong: exit code 2, what is wrong, and where to look.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	state := []string{"--state-dir", filepath.Join(dir, "state")}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"upp"}, `there is no command "upp"; did you mean up?`},
		{[]string{"xyzzy"}, `there is no command "xyzzy"`},
		{[]string{"help", "upp"}, `there is no command "upp"; did you mean up?`},
		{[]string{"help", "up", "extra"}, "accepts at most 1 arg(s), received 2"},
		{[]string{"--nope"}, "unknown flag: --nope"},
		{[]string{"up", "--nope"}, "unknown flag: --nope"},
		{[]string{"up", "extra"}, "extra"},
		{[]string{"version", "extra"}, "extra"},
		{[]string{"completion"}, "accepts 1 arg(s), received 0"},
		{[]string{"completion", "tcsh"}, `"tcsh"`},
		{[]string{"completion", "bash", "zsh"}, "accepts 1 arg(s), received 2"},
		{[]string{"inspect"}, "accepts 1 arg(s), received 0"},
		{[]string{"drain"}, "accepts 1 arg(s), received 0"},
		{[]string{"drain", "r0", "--drain-timeout", "0s"}, "--drain-timeout is 0s, it must be more than 0"},
		{[]string{"scale"}, "either a number of replicas or --auto is needed"},
		{[]string{"scale", "3", "--auto"}, "either a number of replicas or --auto is needed"},
		{[]string{"scale", "0"}, `"0" is not a number of replicas; at least 1 is needed`},
		{[]string{"scale", "many"}, `"many" is not a number of replicas`},
		{[]string{"scale", "9999999999"}, "is not a number of replicas"},
		{[]string{"status", "--interval", "1ms"}, "--interval is 1ms, at least 100ms is needed"},
		{[]string{"up", "--replicas", "many"}, `"many"`},
		{[]string{"up", "--replicas", "0"}, "replicas is 0, expected at least 1"},
		{[]string{"up", "--replicas", "2", "--max-replicas", "3"}, "cannot be given with min-replicas or max-replicas"},
		{[]string{"up", "--threads", "0"}, "--threads is 0, at least 1 is needed"},
		{[]string{"up", "--kernel", "nope"}, `--kernel is "nope", it can be scalar, `},
		{[]string{"up", "--max-batch-rows", "-4"}, "--max-batch-rows is -4, at least 1 is needed"},
		{[]string{"up", "--drain-timeout", "0"}, "--drain-timeout is 0s, it must be more than 0"},
		{[]string{"up", "--default-timeout", "0s"}, "--default-timeout is 0s, it must be more than 0"},
		{[]string{"up", "--max-timeout", "1s"}, "--max-timeout is 1s, less than --default-timeout, 10s"},
		{[]string{"up", "--max-message-bytes", "0"}, "--max-message-bytes is 0"},
		{[]string{"up", "--max-requests", "0"}, "--max-requests is 0"},
		{[]string{"up", "--trace-ratio", "NaN"}, "--trace-ratio is NaN, it must be 0 to 1"},
		{[]string{"up", "--trace-ratio", "1.5"}, "--trace-ratio is 1.5"},
		{[]string{"up", "--grpc-addr", "nonsense"}, `--grpc-addr is "nonsense", host:port is needed`},
		{[]string{"up", "--http-addr", "127.0.0.1"}, `--http-addr is "127.0.0.1", host:port is needed`},
		{[]string{"up", "--control-addr", "nonsense"}, `control-addr is "nonsense"`},
		{[]string{"up", "--log-level", "loud"}, `--log-level is "loud", it can be debug, info, warn or error`},
		{[]string{"up", "--log-format", "xml"}, `log format is "xml"`},
		{[]string{"up", "--policy", "magic"}, `"magic"`},
		{[]string{"up", "--worker-listen", "udp"}, `"udp"`},
		{[]string{"up", "--join-token", "a", "--join-token-file", "b"}, "--join-token and --join-token-file are both given"},
		{append([]string{"up", "--model", "=x"}, state...), `--model "=x"`},
		{append([]string{"up", "--model", "x="}, state...), `--model "x="`},
		{append([]string{"up", "--model", strings.Repeat("n", 257) + "=x"}, state...), "1 to 256 bytes"},
		{append([]string{"balancer", "--replicas", "-1"}, state...), "replicas is -1"},
		{[]string{"gateway", "--balancer", "nonsense"}, `--balancer is "nonsense", host:port is needed`},
		{[]string{"gateway", "--drain-timeout", "-1s"}, "--drain-timeout is -1s"},
		{[]string{"gateway", "--grpc-addr", ":"}, `--grpc-addr is ":", host:port is needed`},
		{[]string{"replica"}, "the pool's join token is needed"},
		{[]string{"replica", "--join-token", "t", "--listen", "nonsense"}, `--listen is "nonsense", host:port is needed`},
		{[]string{"replica", "--join-token", "t", "--balancer", "nonsense"}, `--balancer is "nonsense", host:port is needed`},
		{[]string{"replica", "--join-token", "t", "--drain-timeout", "0"}, "--drain-timeout is 0s"},
		{[]string{"replica", "--join-token", "t", "--threads", "-1"}, "--threads is -1"},
		{[]string{"replica", "--join-token", "t", "--kernel", "nope"}, `--kernel is "nope"`},
		{[]string{"replica", "--plugin"}, "--plugin is for balancers"},
		{[]string{"load", "--rate", "0"}, "rate is 0"},
		{[]string{"load", "--rate", "NaN"}, "rate is NaN"},
		{[]string{"load", "--work", "hard"}, `--work is "hard"`},
		{[]string{"load", "--features", "-1"}, "--features is -1"},
		{[]string{"train", "--data", "x", "--label", "y"}, "--out is needed"},
		{[]string{"train", "--data", "x", "--label", "y", "--out", "z", "--task", "cluster"}, `--task is "cluster"`},
		{[]string{"train", "--data", "x", "--label", "y", "--out", "z", "--trees", "0"}, "--trees is 0, at least 1 is needed"},
		{[]string{"train", "--data", "x", "--label", "y", "--out", "z", "--min-leaf", "0"}, "--min-leaf is 0"},
		{[]string{"train", "--data", file("tiny.csv", "a,y\n1,0\n2,1\n"), "--label", "y", "--out", filepath.Join(dir, "o"), "--max-features", "2"}, "2 features"},
		{[]string{"predict", "--model", "m", "--input", "x"}, "--out is needed"},
		{[]string{"predict", "--model", "m", "--input", "x", "--out", "y", "--kernel", "nope"}, `--kernel is "nope"`},
		{[]string{"predict", "--model", "m", "--input", "x", "--out", "y", "--threads", "-1"}, "--threads is -1"},
		{[]string{"version", "--config", file("bad.yaml", "replicas: [1")}, "bad.yaml"},
		{[]string{"version", "--config", file("unknown.yaml", "replica: 1")}, `unknown setting "replica"`},
		{[]string{"up", "--config", file("wrong.yaml", "grpc-addr: x\nreplicas: many")}, "wrong.yaml:2: replicas"},
	} {
		code, stdout, stderr := invoke(t, tt.args...)
		if code != exitUsage || !strings.Contains(stderr, tt.want) {
			t.Errorf("coppice %s: exit code %d, want %q in:\n%s", strings.Join(tt.args, " "), code, tt.want, stderr)
		}
		if !strings.HasPrefix(stderr, "coppice: ") || !strings.Contains(stderr, "\nTry 'coppice") || stdout != "" {
			t.Errorf("coppice %s prints\n%s\nand to standard error\n%s", strings.Join(tt.args, " "), stdout, stderr)
		}
	}
}

// TestSettings sees that commands take what they are not told from the file and the environment.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "coppice.yaml")
	// One file for all roles: replicas is of others.
	if err := os.WriteFile(file, []byte("replicas: 3\ninterval: 1ms\nlog-level: debug\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := invoke(t, "status", "--config", file); code != exitUsage || !strings.Contains(stderr, "--interval is 1ms") {
		t.Errorf("file: exit code %d\n%s", code, stderr)
	}
	t.Setenv("COPPICE_CONFIG", file)
	if code, _, stderr := invoke(t, "status"); code != exitUsage || !strings.Contains(stderr, "--interval is 1ms") {
		t.Errorf("file by the environment: exit code %d\n%s", code, stderr)
	}
	t.Setenv("COPPICE_INTERVAL", "2ms")
	if code, _, stderr := invoke(t, "status"); code != exitUsage || !strings.Contains(stderr, "--interval is 2ms") {
		t.Errorf("environment: exit code %d\n%s", code, stderr)
	}
	if code, _, stderr := invoke(t, "status", "--interval", "3ms"); code != exitUsage || !strings.Contains(stderr, "--interval is 3ms") {
		t.Errorf("flag: exit code %d\n%s", code, stderr)
	}
	// The scripts of shells, and help, are there whatever is configured.
	t.Setenv("COPPICE_CONFIG", filepath.Join(dir, "none.yaml"))
	if code, _, stderr := invoke(t, "version"); code != exitUsage || !strings.Contains(stderr, "none.yaml") {
		t.Errorf("no file: exit code %d\n%s", code, stderr)
	}
	for _, args := range [][]string{{"completion", "bash"}, {"help", "up"}, {"up", "--help"}, {"--version"}, {}} {
		if code, stdout, stderr := invoke(t, args...); code != exitOK || stdout == "" {
			t.Errorf("%v: exit code %d\n%s", args, code, stderr)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), exitFailed},
		{usageError("x"), exitUsage},
		{fmt.Errorf("around: %w", usageError("x")), exitUsage},
		{&exitError{exitDiffers, errors.New("x")}, exitDiffers},
		{fmt.Errorf("%w: x", config.ErrConfig), exitUsage},
		{fmt.Errorf("%w: x", balancer.ErrConfig), exitUsage},
		{fmt.Errorf("%w: x", engine.ErrKernel), exitUsage},
		{status.Error(codes.Unavailable, "x"), exitUnavailable},
		{status.Error(codes.DeadlineExceeded, "x"), exitUnavailable},
		{status.Error(codes.InvalidArgument, "x"), exitUsage},
		{status.Error(codes.NotFound, "x"), exitFailed},
		{status.Error(codes.Internal, "x"), exitFailed},
		{fmt.Errorf("around: %w", status.Error(codes.Unavailable, "x")), exitUnavailable},
		{os.ErrNotExist, exitFailed},
		{context.Canceled, exitFailed},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
	if exitOK != 0 || exitFailed != 1 || exitUsage != 2 || exitUnavailable != 3 || exitDiffers != 4 {
		t.Error("docs/cli.md has other exit codes")
	}
	if got := message(status.Error(codes.NotFound, "no replica r9")); got != "no replica r9 (NotFound)" {
		t.Errorf("message is %q", got)
	}
}

func TestInterrupted(t *testing.T) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	failed := errors.New("x")
	for _, tt := range []struct {
		ctx  context.Context
		err  error
		want error
	}{
		{over, nil, nil},
		{over, fmt.Errorf("training: %w", context.Canceled), nil},
		{over, failed, failed},
		{context.Background(), context.Canceled, context.Canceled},
	} {
		if got := interrupted(tt.ctx, tt.err); !errors.Is(got, tt.want) || (tt.want == nil) != (got == nil) {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
}

// fakeBalancer answers the operator's commands.
type fakeBalancer struct {
	coppicev1.UnimplementedBalancerServiceServer
	health *health.Server
}

func (fakeBalancer) Status(context.Context, *coppicev1.StatusRequest) (*coppicev1.StatusResponse, error) {
	return testStatus(), nil
}

func (fakeBalancer) Scale(_ context.Context, req *coppicev1.ScaleRequest) (*coppicev1.ScaleResponse, error) {
	s := &coppicev1.ScaleStatus{Desired: 2, Min: 1, Max: 4, Auto: true}
	if n := req.GetReplicas(); n > 4 {
		return nil, status.Error(codes.InvalidArgument, "replicas is 9, expected 1 to 4")
	} else if n > 0 {
		s.Desired, s.Pinned = n, true
	}
	return &coppicev1.ScaleResponse{Scale: s}, nil
}

func (fakeBalancer) Drain(ctx context.Context, req *coppicev1.DrainRequest) (*coppicev1.DrainResponse, error) {
	switch req.GetReplica() {
	case "r0":
		return &coppicev1.DrainResponse{}, nil
	case "r1":
		return &coppicev1.DrainResponse{Abandoned: 3}, nil
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, status.Errorf(codes.NotFound, "there is no replica %q", req.GetReplica())
}

func startFake(t *testing.T) (addr string, b *fakeBalancer) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b = &fakeBalancer{health: health.NewServer()}
	srv := grpc.NewServer()
	coppicev1.RegisterBalancerServiceServer(srv, b)
	healthpb.RegisterHealthServer(srv, b.health)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(lis)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return lis.Addr().String(), b
}

func TestOperate(t *testing.T) {
	addr, fake := startFake(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	for _, tt := range []struct {
		args []string
		code int
		out  string // what is printed, to standard error if the code is not 0
	}{
		{[]string{"scale", "3"}, exitOK, "3 replicas wanted (pinned, 1 to 4)\n"},
		{[]string{"scale", "--auto"}, exitOK, "2 replicas wanted (automatic, 1 to 4)\n"},
		{[]string{"scale", "3", "--json"}, exitOK, `{"desired":3,"min":1,"max":4,"pinned":true,"auto":true,"reason":""}` + "\n"},
		{[]string{"scale", "9"}, exitUsage, "replicas is 9, expected 1 to 4 (InvalidArgument)"},
		{[]string{"drain", "r0"}, exitOK, "r0 drained and stopped\n"},
		{[]string{"drain", "r1"}, exitOK, "r1 stopped; 3 requests were not done in time and went to other replicas\n"},
		{[]string{"drain", "r1", "--json"}, exitOK, `{"replica":"r1","abandoned":3}` + "\n"},
		{[]string{"drain", "r9"}, exitFailed, `there is no replica "r9" (NotFound)`},
		{[]string{"drain", "slow", "--timeout", "50ms"}, exitUnavailable, "no answer from the balancer at " + addr},
		{[]string{"health"}, exitOK, "balancer at " + addr + ": SERVING\n"},
		{[]string{"health", "--json"}, exitOK, `{"address":"` + addr + `","role":"balancer","status":"SERVING"}` + "\n"},
		{[]string{"health", "--target", addr}, exitOK, "gateway at " + addr + ": SERVING\n"},
	} {
		code, stdout, stderr := invoke(t, append(tt.args, "--control-addr", addr)...)
		got := stdout
		if code != exitOK {
			got = stderr
		}
		if code != tt.code || !strings.Contains(got, tt.out) {
			t.Errorf("%v: exit code %d, want %d and %q in\n%s", tt.args, code, tt.code, tt.out, got)
		}
	}
	fake.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	if code, stdout, stderr := invoke(t, "health", "--control-addr", addr); code != exitUnavailable || !strings.Contains(stdout, "NOT_SERVING") || !strings.Contains(stderr, "is not ready") {
		t.Errorf("not serving: exit code %d\n%s%s", code, stdout, stderr)
	}
	for _, args := range [][]string{
		{"status", "--control-addr", nobody},
		{"scale", "2", "--control-addr", nobody},
		{"drain", "r0", "--control-addr", nobody},
		{"health", "--control-addr", nobody},
		{"health", "--target", nobody},
		{"load", "--target", nobody, "--rate", "10", "--duration", "100ms"},
		{"load", "--target", nobody, "--rate", "10", "--duration", "100ms", "--features", "2"},
	} {
		if code, _, stderr := invoke(t, args...); code != exitUnavailable || !strings.Contains(stderr, nobody) {
			t.Errorf("%v: exit code %d\n%s", args, code, stderr)
		}
	}
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}
