//go:build bench

// Package bench measures the whole mesh, with real processes on this machine, beside a reference in the same run:
// `make bench`. It asserts nothing; docs/performance.md has results and how to read them.
package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/gateway/client"
	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/services/e2e/mesh"
)

const (
	inFlight = 64
	rounds   = 5
	warmUp   = 500 * time.Millisecond
	measure  = 2 * time.Second
	echoEnv  = "COPPICE_BENCH_ECHO"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(echoEnv); addr != "" {
		serveEcho(addr)
		return
	}
	code := m.Run()
	mesh.RemoveBinary()
	os.Exit(code)
}

// serveEcho is the reference: a gRPC server whose only method answers 100 bytes, without decoding anything.
func serveEcho(addr string) {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		panic(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec()))
	answer := make([]byte, 100)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var m frame.Message
			if err := dec(&m); err != nil {
				return nil, err
			}
			return &frame.Message{Bytes: answer}, nil
		}}},
	}, struct{}{})
	_ = s.Serve(lis)
}

func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// echo starts the reference in a process of its own.
func echo(t *testing.T) func(context.Context, []byte) error {
	t.Helper()
	addr := mesh.FreeAddrs(t).GRPC
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), echoEnv+"="+addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	conn := dial(t, addr)
	return func(ctx context.Context, b []byte) error {
		var out frame.Message
		return conn.Invoke(ctx, "/bench.Echo/Echo", &frame.Message{Bytes: b}, &out, grpc.WaitForReady(true))
	}
}

// forest trains a forest of 20 features.
func forest(t *testing.T, trees, depth int) string {
	t.Helper()
	var b strings.Builder
	random := rand.New(rand.NewPCG(1, 1))
	for j := range 20 {
		fmt.Fprintf(&b, "f%d,", j)
	}
	b.WriteString("label\n")
	for range 1000 {
		sum := 0.0
		for range 20 {
			v := random.NormFloat64()
			sum += v
			b.WriteString(strconv.FormatFloat(v, 'f', 6, 64) + ",")
		}
		b.WriteString(strconv.FormatBool(sum > 0) + "\n")
	}
	dir := t.TempDir()
	data, out := filepath.Join(dir, "d.csv"), filepath.Join(dir, "bench.coppice")
	if err := os.WriteFile(data, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := mesh.Run(t, time.Minute, "train", "--data", data, "--label", "label", "--out", out,
		"--trees", strconv.Itoa(trees), "--max-depth", strconv.Itoa(depth))
	if code != 0 {
		t.Fatal(stderr)
	}
	return out
}

// up starts a mesh, with arguments for balancer and gateway, and returns unary and streamed Predict.
func up(t *testing.T, model string, args ...string) (unary, stream func(context.Context, []byte) error) {
	t.Helper()
	a := mesh.FreeAddrs(t)
	state := t.TempDir()
	mesh.Start(t, nil, append([]string{
		"balancer", "--control-addr", a.Control, "--metrics-addr", a.Metrics, "--state-dir", state,
		"--model", model, "--replicas", "2", "--log-level", "warn",
	}, args...)...)
	mesh.Start(t, nil, append([]string{
		"gateway", "--balancer", a.Control, "--grpc-addr", a.GRPC, "--http-addr", a.HTTP, "--log-level", "warn",
	}, args...)...)
	mesh.AwaitReady(t, a.Control, 2)
	mesh.Eventually(t, 10*time.Second, "the gateway is ready", func() bool {
		_, _, code := mesh.Run(t, 10*time.Second, "health", "--target", a.GRPC)
		return code == 0
	})
	conn := dial(t, a.GRPC)
	c, err := client.Dial(a.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Stream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		c.Close()
	})
	unary = func(ctx context.Context, b []byte) error {
		var out frame.Message
		return conn.Invoke(ctx, coppicev1.PredictService_Predict_FullMethodName, &frame.Message{Bytes: b}, &out)
	}
	stream = func(ctx context.Context, b []byte) error {
		_, err := s.DoRaw(ctx, b)
		return err
	}
	return unary, stream
}

// rate calls f from 64 goroutines and returns calls a second and the median latency.
func rate(t *testing.T, f func(context.Context, []byte) error) (perSecond float64, p50 time.Duration) {
	t.Helper()
	payload, err := proto.Marshal(&coppicev1.PredictRequest{Instances: []*coppicev1.Instance{{Values: make([]float64, 20)}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var calls atomic.Int64
	var counting, stop atomic.Bool
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	for range inFlight {
		wg.Go(func() {
			var mine []time.Duration
			for !stop.Load() {
				start := time.Now()
				if err := f(ctx, payload); err != nil {
					t.Error(err)
					return
				}
				if counting.Load() {
					if calls.Add(1)%16 == 0 {
						mine = append(mine, time.Since(start))
					}
				}
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
		})
	}
	time.Sleep(warmUp)
	counting.Store(true)
	start := time.Now()
	time.Sleep(measure)
	n, elapsed := calls.Load(), time.Since(start)
	stop.Store(true)
	wg.Wait()
	slices.Sort(took)
	return float64(n) / elapsed.Seconds(), took[len(took)/2]
}

// series is what one thing reached in all rounds.
type series struct {
	name  string
	call  func(context.Context, []byte) error
	rates []float64
	p50s  []time.Duration
}

func median[T float64 | time.Duration](v []T) T {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// compare runs all in turn, several times, and prints their medians and ratios to the first.
func compare(t *testing.T, all []*series) {
	t.Helper()
	for range rounds {
		for _, s := range all {
			r, p := rate(t, s.call)
			s.rates, s.p50s = append(s.rates, r), append(s.p50s, p)
		}
	}
	fmt.Printf("%-44s %12s %10s %8s   (median of %d, %d in flight)\n", "", "calls/s", "p50", "ratio", rounds, inFlight)
	for _, s := range all {
		fmt.Printf("%-44s %12.0f %10v %7.2fx\n", s.name, median(s.rates), median(s.p50s).Round(time.Microsecond), median(s.rates)/median(all[0].rates))
	}
}

func TestMeshBenchmark(t *testing.T) {
	small := forest(t, 10, 4)
	unary, stream := up(t, small)
	_, large := up(t, forest(t, 100, 0))
	compare(t, []*series{
		{name: "direct unary echo (grpc-go)", call: echo(t)},
		{name: "Predict unary, 10 trees of depth 4", call: unary},
		{name: "PredictStream, 10 trees of depth 4", call: stream},
		{name: "PredictStream, 100 trees without a limit", call: large},
	})
}

// TestTelemetryBenchmark compares a mesh that exports metrics and traces 1 % with one that does neither.
func TestTelemetryBenchmark(t *testing.T) {
	small := forest(t, 10, 4)
	_, off := up(t, small, "--telemetry=false")
	_, on := up(t, small)
	compare(t, []*series{
		{name: "PredictStream without telemetry", call: off},
		{name: "PredictStream, metrics and 1 % of traces", call: on},
	})
}
