// Package e2e tests the whole mesh as its users run it: the real binary, real processes, real sockets.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/services/e2e/mesh"
)

func TestMain(m *testing.M) {
	code := m.Run()
	mesh.RemoveBinary()
	os.Exit(code)
}

// up starts `coppice up` with a state directory of its own and waits until n replicas are ready.
func up(t *testing.T, n int, env []string, args ...string) (*mesh.Process, mesh.Addrs) {
	t.Helper()
	a := mesh.FreeAddrs(t)
	args = append([]string{
		"up", "--grpc-addr", a.GRPC, "--http-addr", a.HTTP, "--metrics-addr", a.Metrics,
		"--control-addr", a.Control, "--state-dir", t.TempDir(),
	}, args...)
	p := mesh.Start(t, env, args...)
	mesh.AwaitReady(t, a.Control, n)
	return p, a
}

// roles starts a balancer and a gateway apart.
func roles(t *testing.T, n int, state string, a mesh.Addrs, args ...string) (balancer, gateway *mesh.Process) {
	t.Helper()
	balancer = startBalancer(t, state, a, args...)
	gateway = mesh.Start(t, nil, "gateway", "--balancer", a.Control, "--grpc-addr", a.GRPC, "--http-addr", a.HTTP)
	mesh.AwaitReady(t, a.Control, n)
	return balancer, gateway
}

func startBalancer(t *testing.T, state string, a mesh.Addrs, args ...string) *mesh.Process {
	t.Helper()
	return mesh.Start(t, nil, append([]string{
		"balancer", "--control-addr", a.Control, "--metrics-addr", a.Metrics, "--state-dir", state,
	}, args...)...)
}

// demo trains a small forest once and returns its file.
func demo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "train.csv")
	var b strings.Builder
	random := rand.New(rand.NewPCG(1, 1))
	for j := range 20 {
		b.WriteString("f" + string(rune('a'+j)) + ",")
	}
	b.WriteString("label\n")
	for range 400 {
		sum := 0.0
		for j := range 20 {
			v := random.NormFloat64()
			if j < 4 {
				sum += v
			}
			b.WriteString(strconv.FormatFloat(v, 'f', 6, 64) + ",")
		}
		if sum > 0 {
			b.WriteString("yes\n")
		} else {
			b.WriteString("no\n")
		}
	}
	if err := os.WriteFile(data, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "demo.coppice")
	if _, stderr, code := mesh.Run(t, time.Minute, "train", "--data", data, "--label", "label", "--out", out, "--trees", "30", "--seed", "7"); code != 0 {
		t.Fatalf("train ended with %d: %s", code, stderr)
	}
	return out
}

// load runs `coppice load --verify` beside f and fails unless every answer was right.
func load(t *testing.T, a mesh.Addrs, model, rate, duration string, f func(), args ...string) {
	t.Helper()
	done := make(chan struct{})
	var stdout, stderr string
	var code int
	go func() {
		defer close(done)
		stdout, stderr, code = mesh.Run(t, 2*time.Minute, append([]string{
			"load", "--target", a.GRPC, "--rate", rate, "--duration", duration, "--verify", model, "--json", "--poisson",
		}, args...)...)
	}()
	time.Sleep(300 * time.Millisecond) // the load is under way
	f()
	select {
	case <-done:
		t.Error("the load ended before what it was to accompany")
	default:
	}
	<-done
	if code != 0 {
		t.Errorf("load ended with %d: %s\n%s", code, stderr, stdout)
	}
	var report struct {
		Intended, OK int
		Verified     bool
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatalf("load --json printed %q: %v", stdout, err)
	}
	if report.OK == 0 || report.OK != report.Intended || !report.Verified {
		t.Errorf("load: %s", stdout)
	}
}

func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func zeros(n int) []*coppicev1.Instance {
	return []*coppicev1.Instance{{Values: make([]float64, n)}}
}

// TestUp is the first minute with Coppice: the demo forest, a Predict by gRPC and one by HTTP, and the end.
func TestUp(t *testing.T) {
	p, a := up(t, 2, nil)
	if !strings.Contains(p.Output(), "grpcurl") {
		t.Errorf("up prints no line for grpcurl:\n%s", p.Output())
	}
	s := mesh.ReadStatus(t, a.Control)
	client := coppicev1.NewPredictServiceClient(dial(t, a.GRPC))
	res, err := client.Predict(timeout(t), &coppicev1.PredictRequest{Model: "demo", Instances: zeros(20), Work: coppicev1.Work_WORK_HEAVY})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.GetClasses()) != 2 || len(res.GetPredictions()) != 1 || len(res.GetPredictions()[0].GetScores()) != 2 ||
		res.GetPredictions()[0].GetLabel() == "" || res.GetVersion() == "" || res.GetRequestId() == "" || res.GetModel() != "demo" {
		t.Errorf("answer: %v", res)
	}
	var answer struct {
		Prediction  []any
		Probability [][]float64
	}
	if code := post(t, a.HTTP, `{"features":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"work":"light"}`, &answer); code != http.StatusOK {
		t.Fatalf("POST /predict: %d", code)
	}
	if len(answer.Probability) != 1 || answer.Probability[0][0] != res.GetPredictions()[0].GetScores()[0] {
		t.Errorf("HTTP says %v, gRPC %v", answer.Probability, res.GetPredictions()[0].GetScores())
	}
	for _, args := range [][]string{{"health", "--control-addr", a.Control}, {"health", "--target", a.GRPC}, {"status", "--control-addr", a.Control}} {
		if out, stderr, code := mesh.Run(t, 10*time.Second, args...); code != 0 {
			t.Errorf("%v ended with %d: %s%s", args, code, out, stderr)
		}
	}
	p.Terminate()
	for _, r := range s.Replicas {
		if mesh.Alive(r.PID) {
			t.Errorf("replica %s, pid %d, is left", r.ID, r.PID)
		}
	}
}

func post(t *testing.T, addr, body string, into any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(timeout(t), http.MethodPost, "http://"+addr+"/predict", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(into); err != nil {
		t.Fatalf("%d: %q: %v", res.StatusCode, b, err)
	}
	return res.StatusCode
}

// TestKillReplicas kills replicas at seeded times under load: no answer is wrong and none is missing.
func TestKillReplicas(t *testing.T) {
	model := demo(t)
	p, a := up(t, 3, nil, "--replicas", "3", "--model", model)
	random := rand.New(rand.NewPCG(42, 0))
	load(t, a, model, "400", "6s", func() {
		for range 4 {
			ready := mesh.AwaitReady(t, a.Control, 3).Ready()
			victim := ready[random.IntN(len(ready))]
			if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(200+random.IntN(300)) * time.Millisecond)
		}
	})
	p.Terminate()
}

// TestDrainEach drains every replica in turn under load.
func TestDrainEach(t *testing.T) {
	model := demo(t)
	p, a := up(t, 3, nil, "--replicas", "3", "--model", model)
	before := mesh.AwaitReady(t, a.Control, 3)
	load(t, a, model, "400", "6s", func() {
		for _, r := range before.Replicas {
			if out, stderr, code := mesh.Run(t, 30*time.Second, "drain", r.ID, "--control-addr", a.Control); code != 0 {
				t.Errorf("drain %s ended with %d: %s%s", r.ID, code, out, stderr)
			}
			if mesh.Alive(r.PID) {
				t.Errorf("replica %s, pid %d, is drained and runs", r.ID, r.PID)
			}
			mesh.AwaitReady(t, a.Control, 3)
		}
	})
	p.Terminate()
}

// TestKillBalancer kills the balancer under load and starts it again: gateways keep serving, and the same
// workers are adopted.
func TestKillBalancer(t *testing.T) {
	model := demo(t)
	a, state := mesh.FreeAddrs(t), t.TempDir()
	balancer, gateway := roles(t, 2, state, a, "--replicas", "2", "--model", model)
	before := mesh.AwaitReady(t, a.Control, 2)
	load(t, a, model, "300", "5s", func() {
		balancer.Signal(syscall.SIGKILL)
		balancer.Wait(5 * time.Second)
		time.Sleep(500 * time.Millisecond)
		balancer = startBalancer(t, state, a, "--replicas", "2", "--model", model)
		mesh.AwaitReady(t, a.Control, 2)
	})
	after := mesh.AwaitReady(t, a.Control, 2)
	for i := range before.Replicas {
		if before.Replicas[i].PID != after.Replicas[i].PID {
			t.Errorf("replica %s was pid %d and is %d: it was not adopted", before.Replicas[i].ID, before.Replicas[i].PID, after.Replicas[i].PID)
		}
	}
	gateway.Terminate()
	balancer.Terminate()
	for _, r := range after.Replicas {
		if mesh.Alive(r.PID) {
			t.Errorf("replica %s, pid %d, is left", r.ID, r.PID)
		}
	}
}

// TestNoOrphans kills a balancer for good: its workers end within their lease.
func TestNoOrphans(t *testing.T) {
	a, state := mesh.FreeAddrs(t), t.TempDir()
	balancer, _ := roles(t, 2, state, a, "--replicas", "2", "--lease", "1s", "--model", demo(t))
	s := mesh.AwaitReady(t, a.Control, 2)
	balancer.Signal(syscall.SIGKILL)
	mesh.Eventually(t, 10*time.Second, "the workers of a dead balancer end", func() bool {
		for _, r := range s.Replicas {
			if mesh.Alive(r.PID) {
				return false
			}
		}
		return true
	})
}

// TestPoison sends an input that crashes whatever evaluates it: two workers die of it, not more, the request
// gets a typed error, and the others are answered.
func TestPoison(t *testing.T) {
	model := demo(t)
	_, a := up(t, 4, []string{"COPPICE_FAILPOINT=panic:12345"}, "--replicas", "4", "--model", model)
	before := mesh.AwaitReady(t, a.Control, 4)
	client := coppicev1.NewPredictServiceClient(dial(t, a.GRPC))
	bad := zeros(20)
	bad[0].Values[0] = 12345
	_, err := client.Predict(timeout(t), &coppicev1.PredictRequest{Instances: bad})
	if status.Code(err) != codes.Internal {
		t.Errorf("the poisonous input got %v, want INTERNAL", err)
	}
	if _, err := client.Predict(timeout(t), &coppicev1.PredictRequest{Instances: zeros(20)}); err != nil {
		t.Error(err)
	}
	dead := 0
	for _, r := range before.Replicas {
		if !mesh.Alive(r.PID) {
			dead++
		}
	}
	if dead != 2 {
		t.Errorf("%d workers died, want 2", dead)
	}
	mesh.AwaitReady(t, a.Control, 4)
}

// TestJoin starts a replica by hand: it is counted, answers, is drained, and needs the token.
func TestJoin(t *testing.T) {
	model := demo(t)
	a, state := mesh.FreeAddrs(t), t.TempDir()
	roles(t, 1, state, a, "--replicas", "1", "--model", model)
	token := filepath.Join(state, "join-token")
	bad := mesh.Start(t, []string{"COPPICE_JOIN_TOKEN=wrong"}, "replica", "--balancer", a.Control, "--state-dir", t.TempDir())
	if code := bad.Wait(10 * time.Second); code == 0 || !strings.Contains(bad.Output(), "token") {
		t.Errorf("a replica with a wrong token ended with %d: %s", code, bad.Output())
	}
	joined := mesh.Start(t, nil, "replica", "--balancer", a.Control, "--join-token-file", token, "--state-dir", t.TempDir())
	s := mesh.AwaitReady(t, a.Control, 2)
	var id string
	for _, r := range s.Replicas {
		if r.PID == joined.PID() {
			id = r.ID
			if r.Spawned {
				t.Error("the joined replica counts as spawned")
			}
		}
	}
	load(t, a, model, "300", "3s", func() {
		if out, stderr, code := mesh.Run(t, 30*time.Second, "drain", id, "--control-addr", a.Control); code != 0 {
			t.Errorf("drain ended with %d: %s%s", code, out, stderr)
		}
	})
	if code := joined.Wait(10 * time.Second); code != 0 {
		t.Errorf("the drained replica ended with %d: %s", code, joined.Output())
	}
	mesh.AwaitReady(t, a.Control, 1)
}

// TestWrongUse starts things that cannot work: each says why and what to do.
func TestWrongUse(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	garbage := filepath.Join(t.TempDir(), "garbage.joblib")
	if err := os.WriteFile(garbage, []byte("this is no model"), 0o600); err != nil {
		t.Fatal(err)
	}
	model := demo(t)
	a := mesh.FreeAddrs(t)
	state := t.TempDir()
	_, b := up(t, 1, nil, "--replicas", "1", "--model", model, "--state-dir", state)
	up := []string{"up", "--grpc-addr", a.GRPC, "--http-addr", a.HTTP, "--metrics-addr", a.Metrics, "--control-addr", a.Control}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "version"), []byte("999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		say  []string
	}{
		{"replicas 0", append(up, "--replicas", "0", "--model", model, "--state-dir", t.TempDir()), 2, []string{"replicas", "at least 1"}},
		{"port in use", append(up[:1:1], "--grpc-addr", busy.Addr().String(), "--http-addr", a.HTTP, "--metrics-addr", a.Metrics, "--control-addr", a.Control, "--model", model, "--state-dir", t.TempDir()), 1, []string{busy.Addr().String(), "in use"}},
		{"state directory in use", append(up, "--model", model, "--state-dir", state), 1, []string{state, "in use"}},
		{"state directory of another version", append(up, "--model", model, "--state-dir", other), 1, []string{other, "999"}},
		{"no model", append(up, "--model", garbage, "--state-dir", t.TempDir()), 1, []string{garbage}},
		{"no such file", append(up, "--model", "/nowhere/m.pkl", "--state-dir", t.TempDir()), 1, []string{"/nowhere/m.pkl", "no such file"}},
		{"unknown flag", append(up, "--replica", "3"), 2, []string{"--replica", "--help"}},
		{"unknown command", []string{"serve"}, 2, []string{"serve"}},
		{"nobody there", []string{"status", "--control-addr", a.Control, "--timeout", "1s"}, 3, []string{a.Control, "running"}},
		{"no such replica", []string{"drain", "r77", "--control-addr", b.Control}, 1, []string{"r77"}},
		{"scale to 0", []string{"scale", "0", "--control-addr", b.Control}, 2, []string{"at least 1"}},
		{"rate 0", []string{"load", "--rate", "0"}, 2, []string{"rate"}},
		{"no label column", []string{"train", "--data", model, "--out", filepath.Join(t.TempDir(), "m.coppice")}, 2, []string{"label"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, stderr, code := mesh.Run(t, 20*time.Second, tt.args...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, s := range tt.say {
				if !strings.Contains(stderr, s) {
					t.Errorf("%q is not in: %s", s, stderr)
				}
			}
		})
	}
}

// TestBadRequests sends what cannot be answered: each gets its code and its reason, and nothing else notices.
func TestBadRequests(t *testing.T) {
	model := demo(t)
	_, a := up(t, 2, nil, "--model", "m="+model, "--model", "n="+model)
	client := coppicev1.NewPredictServiceClient(dial(t, a.GRPC))
	load(t, a, model, "100", "3s", func() { refusals(t, client, a) }, "--model", "n")
}

func refusals(t *testing.T, client coppicev1.PredictServiceClient, a mesh.Addrs) {
	t.Helper()
	tensor := func(rows, columns int64, data int) *coppicev1.Tensor {
		return &coppicev1.Tensor{DataType: coppicev1.DataType_DATA_TYPE_FP32, Shape: []int64{rows, columns}, Data: make([]byte, data)}
	}
	for _, tt := range []struct {
		name string
		req  *coppicev1.PredictRequest
		code codes.Code
		say  []string
	}{
		{"features", &coppicev1.PredictRequest{Model: "m", Instances: zeros(19)}, codes.InvalidArgument, []string{"19", "20"}},
		{"unknown model", &coppicev1.PredictRequest{Model: "x", Instances: zeros(20)}, codes.NotFound, []string{"x", "m"}},
		{"no model", &coppicev1.PredictRequest{Instances: zeros(20)}, codes.InvalidArgument, []string{"model"}},
		{"unknown version", &coppicev1.PredictRequest{Model: "m", Version: "0123456789abcdef", Instances: zeros(20)}, codes.NotFound, []string{"0123456789abcdef"}},
		{"nothing", &coppicev1.PredictRequest{Model: "m"}, codes.InvalidArgument, []string{"at least one row"}},
		{"ragged", &coppicev1.PredictRequest{Model: "m", Instances: append(zeros(20), zeros(21)...)}, codes.InvalidArgument, []string{"21", "20"}},
		{"tensor bytes", &coppicev1.PredictRequest{Model: "m", Tensor: tensor(2, 20, 159)}, codes.InvalidArgument, []string{"159"}},
		{"huge shape", &coppicev1.PredictRequest{Model: "m", Tensor: tensor(1<<40, 20, 160)}, codes.InvalidArgument, []string{"1099511627776"}},
		{"work", &coppicev1.PredictRequest{Model: "m", Instances: zeros(20), Work: coppicev1.Work_WORK_HEAVY}, codes.InvalidArgument, []string{"--allow-work"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := client.Predict(timeout(t), tt.req)
			if status.Code(err) != tt.code {
				t.Errorf("got %v, want %v", err, tt.code)
			}
			for _, s := range tt.say {
				if !strings.Contains(status.Convert(err).Message(), s) {
					t.Errorf("%q is not in: %v", s, err)
				}
			}
		})
	}
	for _, tt := range []struct {
		body string
		code int
	}{
		{`{"features":[1,2,3],"model":"m"}`, http.StatusBadRequest},
		{`{"features":[[1],[1,2]],"model":"m"}`, http.StatusBadRequest},
		{`{"features":`, http.StatusBadRequest},
		{`{"features":[],"model":"m"}`, http.StatusBadRequest},
		{`{"featurs":[1]}`, http.StatusBadRequest},
		{`{"features":["a"],"model":"m"}`, http.StatusBadRequest},
		{`{"features":[0],"model":"x"}`, http.StatusNotFound},
	} {
		var answer struct{ Error string }
		if code := post(t, a.HTTP, tt.body, &answer); code != tt.code || answer.Error == "" {
			t.Errorf("%s: %d %q, want %d", tt.body, code, answer.Error, tt.code)
		}
	}
}
