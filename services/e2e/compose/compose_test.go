//go:build compose

package compose

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coppice-mesh/coppice/services/e2e/mesh"
)

// Of the compose file: what `make test-compose` brings up, and where it listens.
var started = []string{"balancer", "gateway", "replica", "jaeger", "prometheus"}

const (
	grpc   = "127.0.0.1:8001"
	jaeger = "http://127.0.0.1:16686"
	prom   = "http://127.0.0.1:9090"
)

// maxImageBytes bounds the image of Coppice.
const maxImageBytes = 40_000_000

// compose runs a command of docker compose and returns its output.
func compose(t *testing.T, args ...string) string {
	t.Helper()
	name, pre := "docker", []string{"compose"}
	if exec.Command("docker", "compose", "version").Run() != nil {
		name, pre = "docker-compose", nil
	}
	return command(t, name, append(append(pre, "-f", filepath.Join(deployments, "compose.yaml")), args...)...)
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// get asks an HTTP API for JSON; it returns false while there is none.
func get(into any, base, path string, query url.Values) bool {
	client := http.Client{Timeout: 5 * time.Second}
	res, err := client.Get(base + path + "?" + query.Encode())
	if err != nil {
		return false
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return err == nil && res.StatusCode == http.StatusOK && json.Unmarshal(b, into) == nil
}

// query asks Prometheus for an instant vector and returns its number of series and its first value.
func query(expr string) (series int, value float64, ok bool) {
	var res struct {
		Status string
		Data   struct {
			Result []struct{ Value [2]any }
		}
	}
	if !get(&res, prom, "/api/v1/query", url.Values{"query": {expr}}) || res.Status != "success" {
		return 0, 0, false
	}
	if len(res.Data.Result) > 0 {
		s, _ := res.Data.Result[0].Value[1].(string)
		value, _ = strconv.ParseFloat(s, 64)
	}
	return len(res.Data.Result), value, true
}

// status asks the balancer inside its container.
func status(t *testing.T) *mesh.Status {
	t.Helper()
	var s mesh.Status
	if err := json.Unmarshal([]byte(compose(t, "exec", "-T", "balancer", "/coppice", "status", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

func awaitReady(t *testing.T, what string, enough func(ready, joined int) bool) {
	t.Helper()
	mesh.Eventually(t, 60*time.Second, what, func() bool {
		ready, joined := 0, 0
		for _, r := range status(t).Ready() {
			ready++
			if !r.Spawned {
				joined++
			}
		}
		return enough(ready, joined)
	})
}

func TestCompose(t *testing.T) {
	compose(t, "down", "-v", "--remove-orphans")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(compose(t, "logs", "--no-color", "--tail=80"))
		}
		compose(t, "down", "-v", "--remove-orphans")
	})
	compose(t, append([]string{"up", "-d", "--no-build"}, started...)...)
	mesh.Eventually(t, 90*time.Second, "the gateway is healthy", func() bool {
		_, _, code := mesh.Run(t, 10*time.Second, "health", "--target", grpc)
		return code == 0
	})

	// The forest that the balancer serves, to compare answers with.
	model := filepath.Join(t.TempDir(), "demo.coppice")
	fetchModel(t, model)

	t.Run("image", func(t *testing.T) {
		out := command(t, "docker", "image", "inspect", "--format", "{{.Size}} {{.Config.User}}", "coppice/coppice:"+os.Getenv("COPPICE_TAG"))
		var size int
		var user string
		if _, err := fmt.Sscan(out, &size, &user); err != nil {
			t.Fatal(err)
		}
		t.Logf("image: %d bytes, user %s", size, user)
		if size > maxImageBytes || user != "65532:65532" {
			t.Errorf("the image has %d bytes, at most %d are allowed, and user %q", size, maxImageBytes, user)
		}
	})
	t.Run("predict", func(t *testing.T) {
		load(t, model, "50", "2s")
		res, err := http.Post("http://127.0.0.1:8000/predict", "application/json", strings.NewReader(`{"features":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"work":"heavy"}`))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(res.Body)
			t.Errorf("POST /predict: %d %s", res.StatusCode, b)
		}
	})
	t.Run("trace", testTrace)
	t.Run("metrics", testMetrics)
	t.Run("scaling", func(t *testing.T) {
		awaitReady(t, "one worker", func(ready, _ int) bool { return ready >= 1 })
		done := make(chan struct{})
		go func() {
			defer close(done)
			// Far more work than one worker can do in time; what fails is the point.
			mesh.Run(t, 2*time.Minute, "load", "--target", grpc, "--rate", "60", "--duration", "30s", "--work", "heavy", "--rows", "400", "--timeout", "5s", "--json")
		}()
		awaitReady(t, "more workers under load", func(ready, _ int) bool { return ready >= 2 })
		t.Logf("scaled: %s", status(t).Scale.Reason)
		<-done
	})
	t.Run("joined replicas", func(t *testing.T) {
		if ids := containers(t, "replica"); len(ids) > 0 {
			t.Errorf("%d joined replicas run without being asked for", len(ids))
		}
		compose(t, append([]string{"up", "-d", "--no-build", "--scale", "replica=2"}, started...)...)
		awaitReady(t, "two joined replicas", func(_, joined int) bool { return joined == 2 })
	})
	t.Run("kill", func(t *testing.T) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			load(t, model, "200", "10s")
		}()
		time.Sleep(2 * time.Second)
		pid := workerPID(t)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("kill worker, pid %d: %v", pid, err)
		}
		time.Sleep(2 * time.Second)
		ids := containers(t, "replica")
		if len(ids) != 2 {
			t.Fatalf("%d containers of joined replicas, not 2", len(ids))
		}
		command(t, "docker", "kill", ids[0])
		<-done
		// The loss of a worker is made good, that of a joined replica is not.
		awaitReady(t, "a spawned worker and one joined replica", func(ready, joined int) bool { return joined == 1 && ready >= 2 })
		mesh.Eventually(t, 20*time.Second, "Prometheus has the lost worker", func() bool {
			_, lost, ok := query("coppice_balancer_worker_losses_total")
			return ok && lost >= 1
		})
	})
	t.Run("dashboard", testDashboard)
}

// containers are the ids of a service's running containers.
func containers(t *testing.T, service string) []string {
	t.Helper()
	return strings.Fields(command(t, "docker", "ps", "-q", "--no-trunc",
		"--filter", "label=com.docker.compose.project="+os.Getenv("COMPOSE_PROJECT_NAME"),
		"--filter", "label=com.docker.compose.service="+service))
}

// balancerID is the id of the balancer's container.
func balancerID(t *testing.T) string {
	t.Helper()
	ids := containers(t, "balancer")
	if len(ids) != 1 {
		t.Fatalf("%d containers of the balancer, not 1", len(ids))
	}
	return ids[0]
}

// fetchModel copies the demo forest's canonical file out of the balancer's container.
func fetchModel(t *testing.T, to string) {
	t.Helper()
	var s struct {
		Models []struct{ SHA256 string }
	}
	if err := json.Unmarshal([]byte(compose(t, "exec", "-T", "balancer", "/coppice", "status", "--json")), &s); err != nil || len(s.Models) != 1 {
		t.Fatalf("status: %v, %d models", err, len(s.Models))
	}
	command(t, "docker", "cp", balancerID(t)+":/var/lib/coppice/models/"+s.Models[0].SHA256+".coppice", to)
}

// load sends requests and compares every answer with the model.
func load(t *testing.T, model, rate, duration string) {
	t.Helper()
	out, stderr, code := mesh.Run(t, time.Minute, "load", "--target", grpc, "--rate", rate, "--duration", duration, "--verify", model, "--json")
	if code != 0 {
		t.Errorf("load ended with %d: %s\n%s", code, stderr, out)
	}
	t.Logf("load: %s", out)
}

// testTrace sends a request with a trace of its own and finds its spans in Jaeger.
func testTrace(t *testing.T) {
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	req, err := http.NewRequest(http.MethodPost, "http://127.0.0.1:8000/predict", strings.NewReader(`{"features":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Traceparent", "00-"+id+"-00f067aa0ba902b7-01")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	var found struct {
		Data []struct {
			Spans     []struct{ OperationName, ProcessID string }
			Processes map[string]struct{ ServiceName string }
		}
	}
	want := []string{
		"coppice-gateway POST /predict", "coppice-gateway admission", "coppice-gateway pick", "coppice-gateway attempt",
		"coppice-replica coppice.v1.WorkerService/Exchange", "coppice-replica queue", "coppice-replica batch", "coppice-replica evaluate",
	}
	have := map[string]bool{}
	mesh.Eventually(t, 30*time.Second, "the trace in Jaeger has the spans of gateway and replica", func() bool {
		if !get(&found, jaeger, "/api/traces/"+id, nil) {
			return false
		}
		for _, trace := range found.Data {
			for _, s := range trace.Spans {
				have[trace.Processes[s.ProcessID].ServiceName+" "+s.OperationName] = true
			}
		}
		for _, w := range want {
			if !have[w] {
				return false
			}
		}
		return true
	})
}

// testMetrics finds the mesh's metrics in Prometheus.
func testMetrics(t *testing.T) {
	mesh.Eventually(t, 30*time.Second, "Prometheus has the requests of the gateway", func() bool {
		_, v, ok := query("sum(coppice_gateway_request_duration_seconds_count)")
		return ok && v > 0
	})
}

// testDashboard puts every query of the dashboard to Prometheus; after load and kills, each has an answer.
func testDashboard(t *testing.T) {
	for _, p := range panels(t) {
		for _, target := range p.Targets {
			mesh.Eventually(t, 20*time.Second, p.Title+" has data: "+target.Expr, func() bool {
				n, _, ok := query(target.Expr)
				return ok && n > 0
			})
		}
	}
}

// workerPID is the pid, on this machine, of a worker in the balancer's container.
func workerPID(t *testing.T) int {
	t.Helper()
	for _, line := range strings.Split(command(t, "docker", "top", balancerID(t), "-eo", "pid,args"), "\n") {
		fields := strings.Fields(line)
		if len(fields) > 2 && strings.Contains(line, "replica --plugin") {
			pid, err := strconv.Atoi(fields[0])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("no worker in the balancer's container")
	return 0
}
