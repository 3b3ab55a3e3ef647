// Package compose tries deployments/: how its files fit together, in every run of the tests, and, with the build tag
// compose, the whole of compose.yaml on a Docker engine. `make test-compose` makes the images for that.
package compose

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/coppice-mesh/coppice/services/e2e/mesh"
)

const deployments = "../../../deployments"

func TestMain(m *testing.M) {
	code := m.Run()
	mesh.RemoveBinary()
	os.Exit(code)
}

// service is what the tests look at of a service of the compose file.
type service struct {
	Image       string
	Command     []string
	Ports       []string
	Volumes     []string
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	SecurityOpt []string `yaml:"security_opt"`
	MemLimit    string   `yaml:"mem_limit"`
	Privileged  bool
	Deploy      struct{ Replicas *int }
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(deployments, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func services(t *testing.T) map[string]service {
	t.Helper()
	var file struct{ Services map[string]service }
	readYAML(t, "compose.yaml", &file)
	for _, name := range []string{"balancer", "gateway", "replica", "jaeger", "prometheus", "grafana"} {
		if _, ok := file.Services[name]; !ok {
			t.Fatalf("compose.yaml has no service %s", name)
		}
	}
	return file.Services
}

// TestContained: nothing is reachable from other machines, and no container may do more than it must.
func TestContained(t *testing.T) {
	tag := regexp.MustCompile(`^[a-z]+/[a-z]+:(v?\d+\.\d+\.\d+|\$\{COPPICE_TAG:-dev\})$`)
	for name, s := range services(t) {
		if !tag.MatchString(s.Image) {
			t.Errorf("%s: image %q has no fixed tag", name, s.Image)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s: port %q is published beyond 127.0.0.1", name, p)
			}
			if strings.HasSuffix(p, ":7600") {
				t.Errorf("%s: the control port is published", name)
			}
		}
		if !s.ReadOnly || s.Privileged || s.MemLimit == "" ||
			strings.Join(s.CapDrop, " ") != "ALL" || strings.Join(s.SecurityOpt, " ") != "no-new-privileges:true" {
			t.Errorf("%s: wants a read-only root, no capability, no new privileges and a memory limit: %+v", name, s)
		}
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if !strings.HasPrefix(source, ".") {
				continue // a named volume
			}
			if _, err := os.Stat(filepath.Join(deployments, source)); err != nil || !strings.HasSuffix(v, ":ro") {
				t.Errorf("%s: %q must exist and be mounted read-only: %v", name, v, err)
			}
		}
	}
	if n := services(t)["replica"].Deploy.Replicas; n == nil || *n != 0 {
		t.Error("joined replicas start without being asked for")
	}
}

// TestFlags: the roles have every flag that the compose file gives them.
func TestFlags(t *testing.T) {
	for _, name := range []string{"balancer", "gateway", "replica"} {
		cmd := services(t)[name].Command
		if len(cmd) < 2 || cmd[0] != name {
			t.Fatalf("%s runs %q", name, cmd)
		}
		help, _, code := mesh.Run(t, 2*time.Minute, name, "--help")
		if code != 0 {
			t.Fatalf("coppice %s --help ended with %d", name, code)
		}
		for _, arg := range cmd[1:] {
			flag, _, _ := strings.Cut(arg, "=")
			if !strings.Contains(help, flag+" ") {
				t.Errorf("coppice %s has no flag %s", name, flag)
			}
		}
	}
}

// panel is one of a dashboard.
type panel struct {
	ID         int
	Title      string
	Datasource struct{ UID string }
	Targets    []struct {
		Expr       string
		Datasource struct{ UID string }
	}
}

func panels(t *testing.T) []panel {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(deployments, "grafana/dashboards/coppice.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct{ Panels []panel }
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) == 0 {
		t.Fatal("the dashboard has no panel")
	}
	return d.Panels
}

// TestDashboard: Grafana finds the dashboard and its data source, and the dashboard asks for documented metrics.
func TestDashboard(t *testing.T) {
	var sources struct{ Datasources []struct{ UID, URL string } }
	readYAML(t, "grafana/provisioning/datasources/prometheus.yaml", &sources)
	known := map[string]bool{}
	all := services(t)
	for _, s := range sources.Datasources {
		known[s.UID] = true
		host, _, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
		if _, ok := all[host]; !ok {
			t.Errorf("data source %s: compose.yaml has no service %q", s.UID, host)
		}
	}
	var providers struct {
		Providers []struct{ Options struct{ Path string } }
	}
	readYAML(t, "grafana/provisioning/dashboards/coppice.yaml", &providers)
	for _, p := range providers.Providers {
		mounted := false
		for _, v := range all["grafana"].Volumes {
			mounted = mounted || v == "./grafana/dashboards:"+p.Options.Path+":ro"
		}
		if !mounted {
			t.Errorf("no volume of grafana puts the dashboards at %s", p.Options.Path)
		}
	}
	docs, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	metric := regexp.MustCompile(`coppice_[a-z0-9_]+`)
	ids := map[int]bool{}
	for _, p := range panels(t) {
		if ids[p.ID] {
			t.Errorf("%s: panel %d exists twice", p.Title, p.ID)
		}
		ids[p.ID] = true
		if !known[p.Datasource.UID] || len(p.Targets) == 0 {
			t.Errorf("%s: data source %q, %d queries", p.Title, p.Datasource.UID, len(p.Targets))
		}
		for _, target := range p.Targets {
			names := metric.FindAllString(target.Expr, -1)
			if !known[target.Datasource.UID] || len(names) == 0 {
				t.Errorf("%s: %s asks %q for no metric of ours", p.Title, target.Expr, target.Datasource.UID)
			}
			for _, name := range names {
				base := strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")
				if !strings.Contains(string(docs), "`"+base+"`") {
					t.Errorf("%s: docs/metrics.md has no %s", p.Title, base)
				}
			}
		}
	}
}
