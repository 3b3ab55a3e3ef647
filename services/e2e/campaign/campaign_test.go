//go:build campaign

// Package campaign kills and drains parts of a mesh at half of its capacity, by a seed, and compares every answer:
// `make campaign`. The tests of package e2e are its short form.
package campaign

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coppice-mesh/coppice/gateway/client"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/services/e2e/mesh"
)

const (
	replicas = 3
	kills    = 20
)

func TestMain(m *testing.M) {
	code := m.Run()
	mesh.RemoveBinary()
	os.Exit(code)
}

// seed is COPPICE_SEED, or 1.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("COPPICE_SEED")
	if s == "" {
		return 1
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// train makes a forest of 20 features and 100 trees.
func train(t *testing.T) string {
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
	data, out := filepath.Join(dir, "d.csv"), filepath.Join(dir, "m.coppice")
	if err := os.WriteFile(data, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := mesh.Run(t, time.Minute, "train", "--data", data, "--label", "label", "--out", out); code != 0 {
		t.Fatal(stderr)
	}
	return out
}

// capacity is the number of answers a second over one stream with 64 requests in flight.
func capacity(t *testing.T, addr string) float64 {
	t.Helper()
	c, err := client.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := c.Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	req := &coppicev1.PredictRequest{Instances: []*coppicev1.Instance{{Values: make([]float64, 20)}}}
	var n atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range 64 {
		wg.Go(func() {
			for time.Since(start) < 3*time.Second {
				if _, err := s.Do(ctx, req); err != nil {
					t.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(start).Seconds()
}

// pool is a balancer and a gateway as processes of their own.
type pool struct {
	t        *testing.T
	a        mesh.Addrs
	state    string
	model    string
	balancer *mesh.Process
	gateway  *mesh.Process
	pids     map[int]bool // of all workers that were seen
}

func (p *pool) start() {
	p.balancer = mesh.Start(p.t, nil, "balancer", "--control-addr", p.a.Control, "--metrics-addr", p.a.Metrics, "--state-dir", p.state,
		"--replicas", strconv.Itoa(replicas), "--model", p.model, "--log-level", "warn")
}

func (p *pool) ready() []mesh.Replica {
	p.t.Helper()
	s := mesh.AwaitReady(p.t, p.a.Control, replicas)
	for _, r := range s.Replicas {
		p.pids[r.PID] = true
	}
	return s.Ready()
}

// loaded runs f under load at the rate and checks every answer.
func (p *pool) loaded(what string, rate float64, duration time.Duration, f func()) {
	p.t.Helper()
	done := make(chan struct{})
	var out, stderr string
	var code int
	go func() {
		defer close(done)
		out, stderr, code = mesh.Run(p.t, duration+time.Minute, "load", "--target", p.a.GRPC, "--rate", strconv.Itoa(int(rate)),
			"--duration", duration.String(), "--verify", p.model, "--json", "--poisson", "--seed", strconv.FormatUint(seed(p.t), 10))
	}()
	time.Sleep(500 * time.Millisecond)
	start := time.Now()
	f()
	took := time.Since(start)
	select {
	case <-done:
		p.t.Errorf("%s took %v, longer than the load", what, took)
	default:
	}
	<-done
	var r struct {
		Intended, OK, Failed, Wrong, Unsent int
		Latency                             struct{ P50, P99, Max float64 } `json:"latency_s"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		p.t.Fatalf("%s: load printed %q: %s", what, out, stderr)
	}
	fmt.Printf("%-28s %8d requests, %d failed, %d wrong, %d unsent; p50 %.2f ms, p99 %.2f ms, max %.0f ms\n", what,
		r.Intended, r.Failed, r.Wrong, r.Unsent, 1000*r.Latency.P50, 1000*r.Latency.P99, 1000*r.Latency.Max)
	if code != 0 || r.OK != r.Intended {
		p.t.Errorf("%s: load ended with %d: %s\n%s", what, code, stderr, out)
	}
}

func TestCampaign(t *testing.T) {
	p := &pool{t: t, a: mesh.FreeAddrs(t), state: t.TempDir(), model: train(t), pids: map[int]bool{}}
	p.start()
	p.gateway = mesh.Start(t, nil, "gateway", "--balancer", p.a.Control, "--grpc-addr", p.a.GRPC, "--http-addr", p.a.HTTP, "--log-level", "warn")
	p.ready()
	// The load generator decodes and compares every answer on the same cores: it is part of the capacity.
	full := capacity(t, p.a.GRPC)
	rate := full / 2
	fmt.Printf("seed %d, capacity %.0f/s, load %.0f/s\n", seed(t), full, rate)
	random := rand.New(rand.NewPCG(seed(t), 0))
	pause := func() { time.Sleep(time.Duration(200+random.IntN(800)) * time.Millisecond) }

	p.loaded(fmt.Sprintf("%d kills of replicas", kills), rate, 45*time.Second, func() {
		for range kills {
			ready := p.ready()
			if err := syscall.Kill(ready[random.IntN(len(ready))].PID, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			pause()
		}
	})
	p.loaded("3 kills of the balancer", rate, 30*time.Second, func() {
		for range 3 {
			p.ready()
			p.balancer.Signal(syscall.SIGKILL)
			p.balancer.Wait(5 * time.Second)
			pause()
			p.start()
			p.ready()
			pause()
		}
	})
	p.loaded("a drain of each replica", rate, 20*time.Second, func() {
		for _, r := range p.ready() {
			if _, stderr, code := mesh.Run(t, 40*time.Second, "drain", r.ID, "--control-addr", p.a.Control); code != 0 {
				t.Errorf("drain %s: %s", r.ID, stderr)
			}
			p.ready()
		}
	})
	p.gateway.Terminate()
	p.balancer.Terminate()
	orphans := 0
	for pid := range p.pids {
		if mesh.Alive(pid) {
			orphans++
		}
	}
	fmt.Printf("%d workers were seen, %d are left\n", len(p.pids), orphans)
	if orphans > 0 {
		t.Errorf("%d orphans", orphans)
	}
}
