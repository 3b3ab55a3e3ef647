package balancer

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	"github.com/coppice-mesh/coppice/balancer/supervise/journal"
)

// eager is a law without patience.
type eager struct{}

func (eager) Name() string { return "eager" }

func (eager) Want(_ time.Time, s autoscale.Signals, state autoscale.State) (int, string) {
	if s.Latency.Count > 0 && s.Latency.P95 > 100*time.Millisecond {
		return state.Desired + 1, "slow"
	}
	return state.Desired, "wait"
}

func TestConfig(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string // "" for a valid one
	}{
		{"default", func(*Config) {}, ""},
		{"all CPUs", func(c *Config) { c.Replicas = 4 }, ""},
		{"no replicas", func(c *Config) { c.Replicas = 0 }, "replicas is 0, expected at least 1"},
		{"negative", func(c *Config) { c.Replicas = -1 }, "replicas is -1"},
		{"too many", func(c *Config) { c.Replicas = 5 }, "replicas is 5, but this machine runs at most 4 workers"},
		{"more by hand", func(c *Config) { c.Replicas, c.MaxWorkers = 5, 5 }, ""},
		{"scaling", func(c *Config) { c.Replicas, c.MinReplicas, c.MaxReplicas = 0, 1, 4 }, ""},
		{"scaling beyond the machine", func(c *Config) { c.Replicas, c.MaxReplicas = 0, 40 }, ""},
		{"only a minimum", func(c *Config) { c.Replicas, c.MinReplicas = 0, 2 }, ""},
		{"both", func(c *Config) { c.MaxReplicas = 4 }, "cannot be given with"},
		{"upside down", func(c *Config) { c.Replicas, c.MinReplicas, c.MaxReplicas = 0, 3, 2 }, "min-replicas is 3, more than max-replicas"},
		{"minimum beyond the machine", func(c *Config) { c.Replicas, c.MinReplicas = 0, 9 }, "min-replicas is 9"},
		{"negative minimum", func(c *Config) { c.Replicas, c.MinReplicas = 0, -1 }, "min-replicas is -1"},
		{"negative maximum", func(c *Config) { c.Replicas, c.MaxReplicas = 0, -1 }, "max-replicas is -1"},
		{"negative machine", func(c *Config) { c.MaxWorkers = -1 }, "max-workers is -1"},
		{"address", func(c *Config) { c.ControlAddr = "7600" }, `control-addr is "7600", expected host:port`},
		{"metrics", func(c *Config) { c.MetricsAddr = "" }, `metrics-addr is ""`},
		{"metrics off", func(c *Config) { c.MetricsAddr = Off }, ""},
		{"lease", func(c *Config) { c.Lease = time.Millisecond }, "lease is 1ms"},
		{"drain", func(c *Config) { c.DrainTimeout = -1 }, "drain-timeout is -1ns"},
		{"policy", func(c *Config) { c.Policy = "coin" }, "expected one of tutorial"},
		{"state", func(c *Config) { c.StateDir = "" }, "no state directory"},
		{"listen", func(c *Config) { c.WorkerListen = "tcp:0.0.0.0" }, "need a host"},
		{"token", func(c *Config) { c.JoinToken = " x" }, "join token"},
		{"long token", func(c *Config) { c.JoinToken = strings.Repeat("x", 513) }, "513 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			c.StateDir = "state"
			tt.change(&c)
			err := c.validate(2)
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	tests := []struct {
		c    Config
		want autoscale.Bounds
	}{
		{Config{Replicas: 3}, autoscale.Bounds{Min: 3, Max: 3, Machine: 8}},
		{Config{MinReplicas: 2}, autoscale.Bounds{Min: 2, Max: 8, Machine: 8}},
		{Config{MaxReplicas: 40, MaxWorkers: 6}, autoscale.Bounds{Min: 1, Max: 40, Machine: 6}},
	}
	for _, tt := range tests {
		if got := tt.c.bounds(4); got != tt.want {
			t.Errorf("%+v has bounds %+v, want %+v", tt.c, got, tt.want)
		}
	}
	if DefaultMaxWorkers(1) != 4 || DefaultMaxWorkers(8) != 16 {
		t.Error("the default of max-workers is another")
	}
}

func TestNewRefuses(t *testing.T) {
	c := testConfig("state", "127.0.0.1:0")
	s := testSettings()
	s.Models = nil
	if _, err := New(c, s); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "no model") {
		t.Errorf("without models: %v", err)
	}
	c.OTLPEndpoint = "ftp://x"
	if _, err := New(c, testSettings()); !errors.Is(err, ErrConfig) {
		t.Errorf("with a strange endpoint: %v", err)
	}
}

// TestStartFails: a start that fails says why, and leaves nothing in the way of the next.
func TestStartFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := stateDir(t)
	attempt := func(c Config) error {
		t.Helper()
		b, err := New(c, testSettings())
		if err != nil {
			t.Fatal(err)
		}
		err = b.Start(t.Context())
		if again := b.Shutdown(t.Context()); again != nil {
			t.Errorf("shutdown after it: %v", again)
		}
		return err
	}
	c := testConfig(dir, taken.Addr().String())
	if err := attempt(c); err == nil || !strings.Contains(err.Error(), "control-addr") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("control port in use: %v", err)
	}
	c = testConfig(dir, "127.0.0.1:0")
	c.MetricsAddr = taken.Addr().String()
	if err := attempt(c); err == nil || !strings.Contains(err.Error(), "metrics-addr") {
		t.Errorf("metrics port in use: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "join-token"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := attempt(testConfig(dir, "127.0.0.1:0")); err == nil || !strings.Contains(err.Error(), "join token") {
		t.Errorf("empty token file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("7"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := attempt(testConfig(dir, "127.0.0.1:0")); !errors.Is(err, journal.ErrVersion) {
		t.Errorf("state of another version: %v", err)
	}
}
