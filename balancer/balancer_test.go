package balancer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/coppice-mesh/coppice/balancer/internal/testworker"
	"github.com/coppice-mesh/coppice/balancer/supervise"
	"github.com/coppice-mesh/coppice/balancer/supervise/process"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/telemetry"
	"github.com/coppice-mesh/coppice/telemetry/latency"
)

const (
	// asBalancer makes this binary a balancer: its value is the state directory.
	asBalancer     = "COPPICE_TEST_BALANCER"
	asBalancerAddr = "COPPICE_TEST_ADDR"
)

func TestMain(m *testing.M) {
	testworker.Main()
	if dir := os.Getenv(asBalancer); dir != "" {
		runBalancer(dir, os.Getenv(asBalancerAddr))
		return
	}
	goleak.VerifyTestMain(m)
}

// runBalancer is a balancer in a process of its own, for tests that kill it.
func runBalancer(dir, addr string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b, err := New(testConfig(dir, addr), testSettings())
	if err == nil {
		err = b.Start(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-ctx.Done()
}

const lease = 1500 * time.Millisecond

func testConfig(dir, addr string) Config {
	c := DefaultConfig()
	c.StateDir, c.ControlAddr, c.MetricsAddr = dir, addr, "127.0.0.1:0"
	c.Lease = lease
	return c
}

var modelHash = hex.EncodeToString(sha256.New().Sum(nil))

func testSettings() Settings {
	s := Settings{
		Models: []Model{{
			Served: &coppicev1.ServedModel{Name: "m", Sha256: modelHash, Version: modelHash[:16], Features: 3},
			Path:   "no such file",
		}},
		Version:       "v0-test",
		WorkerEnviron: testworker.Environ("worker"),
		Supervise:     supervise.Config{SuspectAfter: 300 * time.Millisecond, AckTimeout: time.Second},
		CPUs:          2,
	}
	if os.Getenv("COPPICE_TEST_LOG") != "" {
		s.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return s
}

// pool is a balancer in this process.
type pool struct {
	*Balancer
	t      *testing.T
	conn   *grpc.ClientConn
	client coppicev1.BalancerServiceClient
}

func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "c") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*"))
			for _, l := range logs {
				b, _ := os.ReadFile(l)
				t.Logf("%s:\n%.2000s", l, b)
			}
		}
		os.RemoveAll(dir)
	})
	return dir
}

func start(t *testing.T, c Config, s Settings) *pool {
	t.Helper()
	b, err := New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	conn := dial(t, b.ControlAddr())
	return &pool{Balancer: b, t: t, conn: conn, client: coppicev1.NewBalancerServiceClient(conn)}
}

func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// timeout is a context for one test.
func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (p *pool) ready(n int) {
	p.t.Helper()
	if err := p.WaitReady(timeout(p.t), n); err != nil {
		p.t.Fatal(err)
	}
}

// until waits for something to become true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to pass that %s", what)
		}
	}
}

func (p *pool) member(id string) supervise.Member {
	for _, m := range p.Members() {
		if m.Replica == id {
			return m
		}
	}
	return supervise.Member{}
}

func (p *pool) states() string {
	var s []string
	for _, m := range p.Members() {
		s = append(s, m.Replica+" "+m.State.String())
	}
	return strings.Join(s, ", ")
}

func alive(pid int64) bool {
	_, err := process.Of(int(pid))
	return err == nil
}

func signal(t *testing.T, pid int64, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(int(pid), s); err != nil {
		t.Fatal(err)
	}
}

func (p *pool) status() *coppicev1.StatusResponse {
	p.t.Helper()
	s, err := p.client.Status(timeout(p.t), &coppicev1.StatusRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// TestPool: workers come up, are shown, are stopped.
func TestPool(t *testing.T) {
	began := time.Now()
	p := start(t, testConfig(stateDir(t), "127.0.0.1:0"), testSettings())
	p.ready(2)
	t.Logf("2 workers were ready after %v", time.Since(began))
	s := p.status()
	if s.GetVersion() != "v0-test" || len(s.GetModels()) != 1 || s.GetGeneration() == 0 || s.GetScale().GetDesired() != 2 ||
		s.GetScale().GetReason() != "fixed at 2" || s.GetScale().GetAuto() || s.GetScale().GetPinned() {
		t.Errorf("status %v", s)
	}
	var pids []int64
	for i, r := range s.GetReplicas() {
		pids = append(pids, r.GetPid())
		if r.GetId() != fmt.Sprint("r", i) || r.GetState() != coppicev1.ReplicaState_REPLICA_STATE_READY || !r.GetSpawned() || !alive(r.GetPid()) ||
			len(r.GetVersions()) != 1 || r.GetVersions()[0] != modelHash[:16] || !strings.HasPrefix(r.GetAddress(), "unix:") || r.P95 != nil {
			t.Errorf("replica %v", r)
		}
	}
	h, err := healthpb.NewHealthClient(p.conn).Check(timeout(t), &healthpb.HealthCheckRequest{})
	if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", h, err)
	}
	if err := p.Shutdown(timeout(t)); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	if left, err := os.ReadDir(filepath.Join(p.c.StateDir, "run")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestKilled: a worker that is killed is replaced at once, in its slot.
func TestKilled(t *testing.T) {
	p := start(t, testConfig(stateDir(t), "127.0.0.1:0"), testSettings())
	p.ready(2)
	before := p.member("r1")
	killed := time.Now()
	signal(t, before.PID, syscall.SIGKILL)
	until(t, "r1 is gone", func() bool { return p.member("r1").Incarnation != before.Incarnation })
	noticed := time.Since(killed)
	until(t, "another is ready", func() bool { m := p.member("r1"); return m.State == supervise.Ready })
	t.Logf("noticed after %v, replaced after %v", noticed, time.Since(killed))
	if m := p.member("r1"); m.Restarts != 1 || m.PID == before.PID {
		t.Errorf("member %+v", m)
	}
	if n := p.member("r0").Restarts; n != 0 {
		t.Errorf("r0 has %d restarts", n)
	}
}

// TestFrozen: a worker that is stopped is suspect, then killed and replaced.
func TestFrozen(t *testing.T) {
	p := start(t, testConfig(stateDir(t), "127.0.0.1:0"), testSettings())
	p.ready(2)
	before := p.member("r0")
	signal(t, before.PID, syscall.SIGSTOP)
	frozen := time.Now()
	until(t, "r0 is suspect", func() bool { return p.member("r0").State == supervise.Suspect })
	t.Logf("suspect after %v", time.Since(frozen))
	signal(t, before.PID, syscall.SIGCONT)
	until(t, "r0 is ready again", func() bool { return p.member("r0").State == supervise.Ready })
	if p.member("r0").PID != before.PID {
		t.Error("it was replaced although it came back")
	}
	signal(t, before.PID, syscall.SIGSTOP)
	until(t, "r0 is replaced", func() bool { m := p.member("r0"); return m.State == supervise.Ready && m.PID != before.PID })
	if alive(before.PID) {
		t.Error("the frozen one is left")
	}
}

// TestCrashLoop: workers that do not come up are launched again, ever more slowly; the log says why.
func TestCrashLoop(t *testing.T) {
	s := testSettings()
	s.WorkerEnviron = testworker.Environ("crash")
	s.Supervise.BackoffMin, s.Supervise.BackoffMax = 50*time.Millisecond, 200*time.Millisecond
	c := testConfig(stateDir(t), "127.0.0.1:0")
	c.Replicas = 1
	p := start(t, c, s)
	until(t, "it was tried often", func() bool { return p.supervisor.Restarts() > 5 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := p.WaitReady(ctx, 1)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "0 of 1 replicas are ready") || !strings.Contains(err.Error(), filepath.Join(c.StateDir, "logs")) {
		t.Errorf("error %v", err)
	}
	if b, err := os.ReadFile(p.LogFile("r0")); err != nil || !strings.Contains(string(b), "as it was told to") {
		t.Errorf("log %q, %v", b, err)
	}
}

// gateway watches the pool and acknowledges what it is told to.
type gateway struct {
	stream coppicev1.BalancerService_WatchClient
	views  chan *coppicev1.WatchResponse
}

func watch(t *testing.T, p *pool, id string) *gateway {
	t.Helper()
	stream, err := p.client.Watch(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&coppicev1.WatchRequest{Hello: &coppicev1.GatewayHello{Gateway: id}, Report: &coppicev1.GatewayReport{InFlight: 4, Queued: 1}}); err != nil {
		t.Fatal(err)
	}
	g := &gateway{stream: stream, views: make(chan *coppicev1.WatchResponse, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			v, err := stream.Recv()
			if err != nil {
				return
			}
			g.views <- v
		}
	}()
	t.Cleanup(func() { <-done })
	return g
}

// view waits for one in which every replica is in the state that want says.
func (g *gateway) view(t *testing.T, want string) *coppicev1.WatchResponse {
	t.Helper()
	var got string
	for {
		select {
		case v := <-g.views:
			var s []string
			for _, e := range v.GetEndpoints() {
				s = append(s, e.GetReplica()+" "+strings.ToLower(strings.TrimPrefix(e.GetState().String(), "REPLICA_STATE_")))
			}
			if got = strings.Join(s, ", "); got == want {
				return v
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("the newest view is %q, want %q", got, want)
		}
	}
}

func (g *gateway) acknowledge(t *testing.T, v *coppicev1.WatchResponse) {
	t.Helper()
	if err := g.stream.Send(&coppicev1.WatchRequest{AcknowledgedGeneration: v.GetGeneration()}); err != nil {
		t.Fatal(err)
	}
}

// TestDrain: a replica is stopped after gateways have acknowledged that they do not use it, and after what it
// had in flight.
func TestDrain(t *testing.T) {
	flight := filepath.Join(t.TempDir(), "in-flight")
	s := testSettings()
	s.WorkerEnviron = testworker.Environ("worker", testworker.InFlight+"="+flight)
	s.Supervise.AckTimeout = 20 * time.Second
	p := start(t, testConfig(stateDir(t), "127.0.0.1:0"), s)
	p.ready(2)
	g := watch(t, p, "g")
	g.acknowledge(t, g.view(t, "r0 ready, r1 ready"))
	until(t, "the gateway is shown", func() bool {
		gs := p.status().GetGateways()
		return len(gs) == 1 && gs[0].GetId() == "g" && gs[0].GetAcknowledgedGeneration() > 0 && gs[0].GetInFlight() == 4 && gs[0].GetQueued() == 1
	})
	if err := os.WriteFile(flight, []byte("3"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "r1 has requests in flight", func() bool { return p.member("r1").Heartbeat.GetInFlight() == 3 })

	pid := p.member("r1").PID
	drained := make(chan error, 1)
	go func() {
		_, err := p.client.Drain(timeout(t), &coppicev1.DrainRequest{Replica: "r1"})
		drained <- err
	}()
	log := func(s string) bool {
		b, err := os.ReadFile(p.LogFile("r1"))
		return err == nil && strings.Contains(string(b), s)
	}
	unchanged := func(why string, f func() bool) {
		t.Helper()
		for range 30 {
			time.Sleep(5 * time.Millisecond)
			if f() {
				t.Fatal(why)
			}
		}
	}
	// Its place is taken by r2 while it drains.
	v := g.view(t, "r0 ready, r1 draining, r2 ready")
	unchanged("the replica was told before the gateway had acknowledged", func() bool { return log("told to drain") })
	g.acknowledge(t, v)
	until(t, "the replica is told", func() bool { return log("told to drain") })
	unchanged("the replica was stopped with requests in flight", func() bool { return log("told to stop") || !alive(pid) })
	if err := os.WriteFile(flight, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if alive(pid) {
		t.Error("the drained worker is left")
	}
	g.view(t, "r0 ready, r2 ready")

	if _, err := p.client.Drain(timeout(t), &coppicev1.DrainRequest{Replica: "r9"}); status.Code(err) != codes.NotFound {
		t.Errorf("draining a replica that is not there: %v", err)
	}
	if _, err := p.client.Drain(timeout(t), &coppicev1.DrainRequest{Replica: "r0", Timeout: durationpb.New(-1)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("draining for less than no time: %v", err)
	}

	// With requests in flight when the time is up.
	if err := os.WriteFile(flight, []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "r0 has requests in flight", func() bool { return p.member("r0").Heartbeat.GetInFlight() == 2 })
	go func() {
		g.acknowledge(t, g.view(t, "r0 draining, r1 ready, r2 ready"))
	}()
	resp, err := p.client.Drain(timeout(t), &coppicev1.DrainRequest{Replica: "r0", Timeout: durationpb.New(500 * time.Millisecond)})
	if err != nil || resp.GetAbandoned() != 2 {
		t.Errorf("%v, %v", resp, err)
	}
	if err := os.WriteFile(flight, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAdoption: the next balancer finds the workers of one that was killed, and says nothing before it has.
func TestAdoption(t *testing.T) {
	dir := stateDir(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	first := exec.Command(exe)
	first.Env = append(os.Environ(), asBalancer+"="+dir, asBalancerAddr+"="+addr)
	first.Stderr = os.Stderr
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = first.Process.Kill()
		_ = first.Wait()
	})
	client := coppicev1.NewBalancerServiceClient(dial(t, addr))
	var before *coppicev1.StatusResponse
	until(t, "the first balancer has its workers", func() bool {
		before, err = client.Status(timeout(t), &coppicev1.StatusRequest{}, grpc.WaitForReady(true))
		ready := 0
		for _, r := range before.GetReplicas() {
			if r.GetState() == coppicev1.ReplicaState_REPLICA_STATE_READY {
				ready++
			}
		}
		return err == nil && ready == 2
	})
	// While it lives, no other takes its state directory.
	second, err := New(testConfig(dir, "127.0.0.1:0"), testSettings())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(t.Context()); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("state directory in use by pid %d", first.Process.Pid)) {
		t.Errorf("a second balancer starts with %v", err)
	}

	// One of its workers dies with it.
	lost := before.GetReplicas()[1]
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	signal(t, lost.GetPid(), syscall.SIGKILL)
	until(t, "the worker has ended", func() bool { return !alive(lost.GetPid()) })

	restarted := time.Now()
	p := start(t, testConfig(dir, addr), testSettings())
	g := watch(t, p, "g")
	first0 := <-g.views
	if first0.GetGeneration() <= before.GetGeneration() {
		t.Errorf("generation %d after %d", first0.GetGeneration(), before.GetGeneration())
	}
	p.ready(2)
	t.Logf("the pool was complete %v after the restart", time.Since(restarted))
	for _, e := range first0.GetEndpoints() {
		if e.GetReplica() == "r0" && e.GetIncarnation() != before.GetReplicas()[0].GetIncarnation() {
			t.Errorf("endpoint %v", e)
		}
	}
	if first0.GetEndpoints()[0].GetReplica() != "r0" {
		t.Errorf("the first view is %v", first0)
	}
	after := p.status()
	if r := after.GetReplicas()[0]; r.GetPid() != before.GetReplicas()[0].GetPid() || r.GetRestarts() != 0 {
		t.Errorf("r0 was %v, is %v", before.GetReplicas()[0], r)
	}
	if r := after.GetReplicas()[1]; r.GetPid() == lost.GetPid() || r.GetRestarts() != 1 {
		t.Errorf("r1 was %v, is %v", lost, r)
	}
	// An adopted worker is watched, and stopped, like a child.
	adopted := after.GetReplicas()[0].GetPid()
	signal(t, adopted, syscall.SIGKILL)
	until(t, "the adopted worker is replaced", func() bool { m := p.member("r0"); return m.State == supervise.Ready && m.PID != adopted })
}

// TestNobodyComesBack: workers that are recorded and do not join again are replaced after the lease.
func TestNobodyComesBack(t *testing.T) {
	dir := stateDir(t)
	p := start(t, testConfig(dir, "127.0.0.1:0"), testSettings())
	p.ready(2)
	// Another balancer with the same record, at another address: these workers never join it.
	other := stateDir(t)
	if err := os.MkdirAll(filepath.Join(other, "balancer"), 0o700); err != nil {
		t.Fatal(err)
	}
	record, err := os.ReadFile(filepath.Join(dir, "balancer", "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "balancer", "state.json"), record, 0o600); err != nil {
		t.Fatal(err)
	}
	victims := []int64{p.member("r0").PID, p.member("r1").PID}
	c := testConfig(other, "127.0.0.1:0")
	c.Lease = 500 * time.Millisecond
	q := start(t, c, testSettings())
	time.Sleep(300 * time.Millisecond)
	if s := q.states(); s != "r0 starting, r1 starting" {
		t.Errorf("within the lease: %s", s)
	}
	q.ready(2)
	for i, pid := range victims {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
		if q.member(fmt.Sprint("r", i)).PID == pid {
			t.Errorf("r%d is the one of before", i)
		}
	}
}

// TestJoinByHand: replicas with the token join; they are drained, and outlive the balancer.
func TestJoinByHand(t *testing.T) {
	dir := stateDir(t)
	c := testConfig(dir, "127.0.0.1:0")
	c.Replicas = 1
	p := start(t, c, testSettings())
	p.ready(1)
	if info, err := os.Stat(filepath.Join(dir, "join-token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("token file: %v, %v", info, err)
	}
	hand := func(token string) *exec.Cmd {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = testworker.Environ("hand", testworker.Balancer+"="+p.ControlAddr(), testworker.Token+"="+token)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return cmd
	}
	if err := hand("wrong").Wait(); err == nil {
		t.Error("a replica with a wrong token ended in peace")
	}
	if len(p.Members()) != 1 {
		t.Errorf("members %s", p.states())
	}
	a, b := hand(p.JoinToken()), hand(p.JoinToken())
	p.ready(3)
	if m := p.member("r1"); m.Spawned || !strings.HasPrefix(m.Address, "127.0.0.1:") {
		t.Errorf("member %+v", m)
	}
	// The pool's size is of those that it spawns.
	if s := p.status().GetScale(); s.GetDesired() != 1 {
		t.Errorf("scale %v", s)
	}
	var drained string
	for _, m := range p.Members() {
		if m.PID == int64(a.Process.Pid) {
			drained = m.Replica
		}
	}
	if _, err := p.client.Drain(timeout(t), &coppicev1.DrainRequest{Replica: drained}); err != nil {
		t.Error(err)
	}
	if err := a.Wait(); err != nil {
		t.Errorf("the drained replica ended with %v", err)
	}
	// Its own operator may drain it, too.
	c2 := hand(p.JoinToken())
	p.ready(3)
	if err := c2.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c2.Wait(); err != nil {
		t.Errorf("the replica that left ended with %v", err)
	}
	until(t, "it is no member", func() bool { return len(p.Members()) == 2 })
	addr := p.ControlAddr()
	if err := p.Shutdown(timeout(t)); err != nil {
		t.Fatal(err)
	}
	if !alive(int64(b.Process.Pid)) {
		t.Fatal("the joined replica ended with the balancer")
	}
	c.ControlAddr = addr
	q := start(t, c, testSettings())
	q.ready(2)
}

func TestScale(t *testing.T) {
	p := start(t, testConfig(stateDir(t), "127.0.0.1:0"), testSettings())
	p.ready(2)
	scale := func(n int64) (*coppicev1.ScaleStatus, error) {
		resp, err := p.client.Scale(timeout(t), &coppicev1.ScaleRequest{Target: &coppicev1.ScaleRequest_Replicas{Replicas: n}})
		return resp.GetScale(), err
	}
	s, err := scale(4)
	if err != nil || s.GetDesired() != 4 || !s.GetPinned() || s.GetReason() != "pinned to 4: 2 -> 4" {
		t.Errorf("%v, %v", s, err)
	}
	p.ready(4)
	for n, code := range map[int64]codes.Code{0: codes.InvalidArgument, -1: codes.InvalidArgument, 5: codes.ResourceExhausted} {
		if _, err := scale(n); status.Code(err) != code {
			t.Errorf("scale %d: %v, want %v", n, err, code)
		}
	}
	if _, err := scale(5); !strings.Contains(err.Error(), "machine full") {
		t.Errorf("error %v", err)
	}
	for _, req := range []*coppicev1.ScaleRequest{{}, {Target: &coppicev1.ScaleRequest_Auto{}}} {
		if _, err := p.client.Scale(timeout(t), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
	resp, err := p.client.Scale(timeout(t), &coppicev1.ScaleRequest{Target: &coppicev1.ScaleRequest_Auto{Auto: true}})
	if err != nil || resp.GetScale().GetDesired() != 2 || resp.GetScale().GetPinned() {
		t.Errorf("%v, %v", resp, err)
	}
	until(t, "the pool has shrunk", func() bool { return p.states() == "r0 ready, r1 ready" })
}

// exporter exports latencies as a member of the mesh does.
func exporter(t *testing.T, p *pool, service, id, incarnation string) *latency.Histogram {
	t.Helper()
	name := map[string]string{telemetry.ServiceGateway: telemetry.GatewayDuration, telemetry.ServiceReplica: telemetry.ReplicaDuration}[service]
	producer := latency.NewProducer("test", name, "How long requests take.", time.Now())
	pipeline, err := telemetry.New(t.Context(), telemetry.Config{
		Service: service, Instance: id, Incarnation: incarnation, Endpoint: p.ControlAddr(),
	}, slog.New(slog.DiscardHandler), metric.Producer(producer))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pipeline.Shutdown(context.Background()) })
	return producer.Histogram()
}

// TestAutoscale: what gateways export makes the pool grow until the machine is full, and is shown everywhere.
func TestAutoscale(t *testing.T) {
	c := testConfig(stateDir(t), "127.0.0.1:0")
	c.Replicas, c.MinReplicas, c.MaxReplicas, c.MaxWorkers = 0, 1, 8, 3
	s := testSettings()
	s.Policy = eager{}
	p := start(t, c, s)
	p.ready(1)
	if s := p.status().GetScale(); !s.GetAuto() || s.GetMin() != 1 || s.GetMax() != 8 || s.GetReason() != "wait" {
		t.Errorf("scale %v", s)
	}
	gw := exporter(t, p, telemetry.ServiceGateway, "g", "i")
	watch(t, p, "g")
	for i := range 100 {
		gw.Record(time.Duration(i+1) * 2 * time.Millisecond)
	}
	p.ready(3)
	until(t, "the machine is full", func() bool { return p.status().GetScale().GetReason() == "slow: machine full at 3" })

	r0 := p.member("r0")
	rep := exporter(t, p, telemetry.ServiceReplica, "r0", r0.Incarnation)
	for range 50 {
		rep.Record(3 * time.Millisecond)
	}
	near := func(got, want float64) bool { return got > want*0.95 && got < want*1.05 }
	until(t, "the replica's latency is known", func() bool {
		r := p.status().GetReplicas()[0]
		return near(r.GetP50(), 0.003) && near(r.GetP99(), 0.003) && r.GetRate() > 1 && r.GetMetricsAge() >= 0
	})
	gs := p.status().GetGateways()
	if len(gs) != 1 || !near(gs[0].GetP50(), 0.1) || !near(gs[0].GetP95(), 0.19) || gs[0].GetRate() < 1 {
		t.Errorf("gateways %v", gs)
	}

	page := scrape(t, p)
	for _, want := range []string{
		`coppice_gateway_request_duration_seconds_count{gateway="g"} 100`,
		`coppice_gateway_request_duration_seconds_bucket{gateway="g",le="10"} 100`,
		`coppice_replica_request_duration_seconds_bucket{replica="r0",le="0.0025"} 0`,
		`coppice_replica_request_duration_seconds_bucket{replica="r0",le="0.005"} 50`,
		`coppice_balancer_replicas{state="ready"} 3`,
		`coppice_balancer_desired_replicas 3`,
		`coppice_balancer_scale_steps_total{direction="up"} 2`,
		`coppice_balancer_gateways 1`,
		`coppice_balancer_signal_requests 100`,
		`coppice_balancer_spans_dropped_total 0`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("the page lacks %s", want)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
	// A worker that is gone takes its series with it.
	signal(t, r0.PID, syscall.SIGKILL)
	until(t, "r0 is replaced", func() bool { return p.member("r0").Incarnation != r0.Incarnation })
	if strings.Contains(scrape(t, p), `replica_request_duration_seconds_count{replica="r0"}`) {
		t.Error("the series of a worker that is gone are shown")
	}
}

func scrape(t *testing.T, p *pool) string {
	t.Helper()
	req, err := http.NewRequestWithContext(timeout(t), http.MethodGet, "http://"+p.MetricsAddr()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %s", resp.Status, err, b)
	}
	return string(b)
}
