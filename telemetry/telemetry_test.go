package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"go.uber.org/goleak"

	"github.com/coppice-mesh/coppice/telemetry/internal/otlptest"
	"github.com/coppice-mesh/coppice/telemetry/latency"
)

// childEnv makes the test's program a member of a mesh that exports to this address.
const childEnv = "COPPICE_TELEMETRY_TEST_ENDPOINT"

func TestMain(m *testing.M) {
	if endpoint := os.Getenv(childEnv); endpoint != "" {
		child(endpoint)
		return
	}
	goleak.VerifyTestMain(m)
}

// record is a logger that keeps its lines.
type record struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(b)
}

func (r *record) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Split(strings.TrimSuffix(r.buf.String(), "\n"), "\n")[:strings.Count(r.buf.String(), "\n")]
}

func (r *record) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func testConfig(endpoint string) Config {
	return Config{Service: ServiceReplica, Instance: "r1", Incarnation: "i7", Version: "1.2.3", Endpoint: endpoint}
}

// exercise records a bit of everything.
func exercise(ctx context.Context, endpoint string, logger *slog.Logger) (*Pipeline, error) {
	durations := latency.NewProducer("test", ReplicaDuration, "how long", time.Now())
	p, err := New(ctx, testConfig(endpoint), logger, durations)
	if err != nil {
		return nil, err
	}
	durations.Histogram(attribute.Bool("ok", true)).Record(3 * time.Millisecond)
	rows, err := p.MeterProvider().Meter("test").Int64Counter(ReplicaRows)
	if err != nil {
		return nil, err
	}
	for i := range 5 {
		rows.Add(ctx, 1, metric.WithAttributes(attribute.Int("model", i)))
	}
	sizes, err := p.MeterProvider().Meter("test").Float64Histogram("sizes")
	if err != nil {
		return nil, err
	}
	_, span := p.TracerProvider().Tracer("test").Start(ctx, "evaluate", trace.WithAttributes(attribute.String("long", strings.Repeat("x", 100)), AttrRows.Int(7)))
	sizes.Record(trace.ContextWithSpan(ctx, span), 0.25)
	span.End()
	return p, nil
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	m := make(map[string]string)
	for _, kv := range list {
		m[kv.GetKey()] = kv.GetValue().GetStringValue()
	}
	return m
}

// check asserts that exactly what exercise recorded has arrived, as it should.
func check(t *testing.T, r *otlptest.Receiver) {
	t.Helper()
	resource := func(res *resourcepb.Resource) {
		t.Helper()
		want := map[string]string{
			"service.name": "coppice-replica", "service.instance.id": "r1", "service.version": "1.2.3",
			"coppice.replica": "r1", "coppice.incarnation": "i7",
		}
		if got := attributes(res.GetAttributes()); !maps.Equal(got, want) {
			t.Errorf("the resource has %v, want %v", got, want)
		}
	}
	m, from := r.Metric(ReplicaDuration)
	if m == nil {
		t.Fatalf("%s has not come", ReplicaDuration)
	}
	resource(from.GetResource())
	h := m.GetExponentialHistogram()
	if m.GetUnit() != "s" || h.GetAggregationTemporality() != metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE || len(h.GetDataPoints()) != 1 {
		t.Fatalf("%v", m)
	}
	point := h.GetDataPoints()[0]
	if s, err := latency.FromOTLP(point); err != nil || s.Count != 1 || s.Scale != latency.Scale || point.GetStartTimeUnixNano() == 0 || point.GetTimeUnixNano() < point.GetStartTimeUnixNano() {
		t.Errorf("%v (%v)", point, err)
	}
	m, _ = r.Metric(ReplicaRows)
	if sum := m.GetSum(); !sum.GetIsMonotonic() || sum.GetAggregationTemporality() != metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE || len(sum.GetDataPoints()) != 5 {
		t.Errorf("%s is %v", ReplicaRows, m)
	}
	m, _ = r.Metric("sizes")
	if h := m.GetExponentialHistogram(); len(h.GetDataPoints()) != 1 || len(h.GetDataPoints()[0].GetExemplars()) != 0 ||
		h.GetAggregationTemporality() != metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
		t.Errorf("sizes is %v", m)
	}
	if m, _ = r.Metric(SpansDropped); len(m.GetSum().GetDataPoints()) != 1 || m.GetSum().GetDataPoints()[0].GetAsInt() != 0 {
		t.Errorf("%s is %v", SpansDropped, m)
	}
	spans := r.Spans()
	if len(spans) != 1 || spans[0].GetName() != "evaluate" || len(spans[0].GetAttributes()) != 2 || len(attributes(spans[0].GetAttributes())["long"]) != 100 {
		t.Errorf("the spans are %v", spans)
	}
	for _, rs := range r.Traces() {
		resource(rs.GetResource())
	}
	for name, values := range r.Headers() {
		switch name {
		case ":authority", "content-type", "user-agent", "grpc-accept-encoding", "grpc-timeout":
		default:
			t.Errorf("header %s: %s", name, values)
		}
	}
}

func TestExport(t *testing.T) {
	r := otlptest.Listen(t)
	var log record
	p, err := exercise(testContext(t), r.Addr(), log.logger())
	if err != nil {
		t.Fatal(err)
	}
	// Without anybody asking, within the interval.
	otlptest.Until(t, "metrics and a span arrive", func() bool {
		m, _ := r.Metric(ReplicaDuration)
		return m != nil && len(r.Spans()) > 0
	})
	p.Shutdown(testContext(t))
	p.Shutdown(testContext(t))
	check(t, r)
	if lines := log.lines(); len(lines) != 0 {
		t.Errorf("logged %q", lines)
	}
}

// hostile sets every variable that OpenTelemetry's libraries are known to read to something that would break the
// pipeline if it were read.
func hostile(decoy string) map[string]string {
	env := map[string]string{
		"OTEL_SDK_DISABLED":                                        "true",
		"OTEL_RESOURCE_ATTRIBUTES":                                 "coppice.gateway=evil,coppice.replica=r9,service.name=evil,team=blue",
		"OTEL_SERVICE_NAME":                                        "evil",
		"OTEL_TRACES_EXPORTER":                                     "none",
		"OTEL_METRICS_EXPORTER":                                    "none",
		"OTEL_TRACES_SAMPLER":                                      "always_off",
		"OTEL_TRACES_SAMPLER_ARG":                                  "0",
		"OTEL_PROPAGATORS":                                         "none",
		"OTEL_METRIC_EXPORT_INTERVAL":                              "3600000",
		"OTEL_METRIC_EXPORT_TIMEOUT":                               "1",
		"OTEL_METRICS_EXEMPLAR_FILTER":                             "always_on",
		"OTEL_BSP_SCHEDULE_DELAY":                                  "3600000",
		"OTEL_BSP_EXPORT_TIMEOUT":                                  "1",
		"OTEL_BSP_MAX_QUEUE_SIZE":                                  "1",
		"OTEL_BSP_MAX_EXPORT_BATCH_SIZE":                           "1",
		"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT":                        "1",
		"OTEL_ATTRIBUTE_COUNT_LIMIT":                               "1",
		"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT":                   "1",
		"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT":                          "1",
		"OTEL_SPAN_EVENT_COUNT_LIMIT":                              "0",
		"OTEL_SPAN_LINK_COUNT_LIMIT":                               "0",
		"OTEL_GO_X_CARDINALITY_LIMIT":                              "2",
		"OTEL_GO_X_EXEMPLAR":                                       "true",
		"OTEL_GO_X_OBSERVABILITY":                                  "true",
		"OTEL_GO_X_SELF_OBSERVABILITY":                             "true",
		"OTEL_GO_X_RESOURCE":                                       "true",
		"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "explicit_bucket_histogram",
		"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE":        "delta",
	}
	for _, signal := range []string{"", "TRACES_", "METRICS_"} {
		prefix := "OTEL_EXPORTER_OTLP_" + signal
		env[prefix+"ENDPOINT"] = "https://" + decoy
		env[prefix+"INSECURE"] = "false"
		env[prefix+"PROTOCOL"] = "http/json"
		env[prefix+"HEADERS"] = "authorization=Bearer%20secret,x-evil=1"
		env[prefix+"COMPRESSION"] = "gzip"
		env[prefix+"TIMEOUT"] = "1"
		env[prefix+"CERTIFICATE"] = "/nonexistent/ca.pem"
		env[prefix+"CLIENT_CERTIFICATE"] = "/nonexistent/cert.pem"
		env[prefix+"CLIENT_KEY"] = "/nonexistent/key.pem"
	}
	return env
}

// TestHostileEnvironment: the pipeline works whatever the OTEL_* variables say, even for a program that does not
// take them away.
func TestHostileEnvironment(t *testing.T) {
	decoy := otlptest.Listen(t)
	all := hostile(decoy.Addr())
	cases := map[string]map[string]string{"all": all}
	for name, value := range all {
		cases[name] = map[string]string{name: value}
	}
	for name, env := range cases {
		t.Run(name, func(t *testing.T) {
			for k, v := range env {
				t.Setenv(k, v)
			}
			r := otlptest.Listen(t)
			var log record
			p, err := exercise(testContext(t), r.Addr(), log.logger())
			if err != nil {
				t.Fatal(err)
			}
			p.Shutdown(testContext(t))
			check(t, r)
			if lines := log.lines(); len(lines) != 0 {
				t.Errorf("logged %q", lines)
			}
			for k, v := range env {
				if os.Getenv(k) != v {
					t.Errorf("%s is %q now", k, os.Getenv(k))
				}
			}
		})
	}
	if n := decoy.Calls(); n != 0 {
		t.Errorf("the user's endpoint was called %d times", n)
	}
}

// child is the program that TestProcess runs: a main as a member has it.
func child(endpoint string) {
	taken := TakeEnvironment()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	HandleErrors(logger)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p, err := exercise(ctx, endpoint, logger)
	if err != nil {
		logger.Error("failed", "error", err)
		os.Exit(1)
	}
	p.Shutdown(ctx)
	// What a child of this process would see.
	seen, err := exec.Command("/usr/bin/env").Output()
	if err != nil {
		logger.Error("failed", "error", err)
		os.Exit(1)
	}
	left := []string{}
	for line := range strings.Lines(string(seen)) {
		if strings.HasPrefix(line, "OTEL_") {
			left = append(left, line)
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"taken": taken, "left": left})
}

func runChild(t *testing.T, endpoint string, env map[string]string) (stdout, stderr bytes.Buffer, took time.Duration) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(testContext(t), exe)
	cmd.Env = append(os.Environ(), childEnv+"="+endpoint)
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return stdout, stderr, time.Since(start)
}

// TestProcess runs a real process with all the hostile variables from its start.
func TestProcess(t *testing.T) {
	decoy := otlptest.Listen(t)
	r := otlptest.Listen(t)
	env := hostile(decoy.Addr())
	stdout, stderr, _ := runChild(t, r.Addr(), env)
	var said struct {
		Taken map[string]string
		Left  []string
	}
	if err := json.Unmarshal(stdout.Bytes(), &said); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(said.Taken, env) || len(said.Left) != 0 {
		t.Errorf("taken %d of %d variables, %q are left", len(said.Taken), len(env), said.Left)
	}
	check(t, r)
	if stderr.Len() != 0 {
		t.Errorf("it wrote %q", stderr.String())
	}
	if n := decoy.Calls(); n != 0 {
		t.Errorf("the user's endpoint was called %d times", n)
	}
}

// TestBadEndpoint: whatever is wrong with the endpoint, whoever records does not wait, what is dropped is
// counted, and the end comes in two seconds.
func TestBadEndpoint(t *testing.T) {
	slow := otlptest.Listen(t)
	slow.Answer(func(ctx context.Context) (*collectortrace.ExportTraceServiceResponse, error) {
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return &collectortrace.ExportTraceServiceResponse{}, nil
	})
	hung := otlptest.Listen(t)
	hung.Hang()
	for _, c := range []struct {
		name, endpoint string
		takes          *otlptest.Receiver
	}{
		{"refuses", otlptest.Refusing(t), nil},
		{"accepts and says nothing", otlptest.Silent(t), nil},
		{"hangs", hung.Addr(), nil},
		{"slow", slow.Addr(), slow},
	} {
		t.Run(c.name, func(t *testing.T) {
			const spans = 4 * maxQueuedSpans
			var log record
			p, err := New(testContext(t), testConfig(c.endpoint), log.logger())
			if err != nil {
				t.Fatal(err)
			}
			tracer := p.TracerProvider().Tracer("test")
			start := time.Now()
			for range spans {
				_, span := tracer.Start(context.Background(), "s")
				span.End()
			}
			// Each of these batches would take 300 ms or more to export, if anybody waited for it.
			if took := time.Since(start); took > spans/batchSpans*300*time.Millisecond/2 {
				t.Errorf("%d spans took %v", spans, took)
			}
			time.Sleep(400 * time.Millisecond) // exports are under way
			start = time.Now()
			p.Shutdown(testContext(t))
			if took := time.Since(start); took > shutdownTimeout+500*time.Millisecond {
				t.Errorf("Shutdown took %v", took)
			}
			got := 0
			if c.takes != nil {
				got = len(c.takes.Spans())
				if got == 0 {
					t.Error("the slow endpoint got nothing")
				}
			}
			// An export that was given up may have arrived all the same: one batch, at most, is counted twice.
			if n := p.DroppedSpans(); n+int64(got) < spans || n+int64(got) > spans+batchSpans {
				t.Errorf("%d spans ended, %d arrived and %d were dropped", spans, got, n)
			}
			if lines := log.lines(); len(lines) > 1 || (len(lines) == 0 && c.takes == nil) {
				t.Errorf("logged %q", lines)
			}
		})
	}
}

// TestBadEndpointProcess: a process whose endpoint hangs ends in time, and says one line about it.
func TestBadEndpointProcess(t *testing.T) {
	_, stderr, took := runChild(t, otlptest.Silent(t), nil)
	if took > shutdownTimeout+2*time.Second {
		t.Errorf("it took %v to end", took)
	}
	if n := strings.Count(stderr.String(), "\n"); n > 1 {
		t.Errorf("it wrote %d lines: %s", n, stderr.String())
	}
}

// TestEndpointComesBack: a balancer that was restarted gets everything from then on, counted from the start.
func TestEndpointComesBack(t *testing.T) {
	r := otlptest.Listen(t)
	r.Stop()
	durations := latency.NewProducer("test", ReplicaDuration, "", time.Now())
	h := durations.Histogram()
	h.Record(time.Millisecond)
	var log record
	p, err := New(testContext(t), testConfig(r.Addr()), log.logger(), durations)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.Shutdown(testContext(t)) }()
	count := func() uint64 {
		m, _ := r.Metric(ReplicaDuration)
		points := m.GetExponentialHistogram().GetDataPoints()
		if len(points) == 0 {
			return 0
		}
		return points[0].GetCount()
	}
	otlptest.Until(t, "a failure is logged", func() bool { return len(log.lines()) > 0 })
	r.Restart(t)
	otlptest.Until(t, "the first request arrives", func() bool { return count() == 1 })
	r.Stop()
	h.Record(time.Millisecond)
	time.Sleep(2 * MetricInterval)
	r.Restart(t)
	otlptest.Until(t, "both requests arrive", func() bool { return count() == 2 })
	if n := len(log.lines()); n != 1 {
		t.Errorf("logged %d lines", n)
	}
}

func TestValidate(t *testing.T) {
	good := testConfig("127.0.0.1:7600")
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"service":        func(c *Config) { c.Service = "apache" },
		"instance":       func(c *Config) { c.Instance = "" },
		"no endpoint":    func(c *Config) { c.Endpoint = "" },
		"no port":        func(c *Config) { c.Endpoint = "localhost" },
		"empty port":     func(c *Config) { c.Endpoint = "localhost:" },
		"a URL":          func(c *Config) { c.Endpoint = "http://localhost:7600" },
		"two and a half": func(c *Config) { c.Endpoint = "a:b:c" },
	} {
		c := good
		change(&c)
		if _, err := New(testContext(t), c, slog.Default()); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHandleErrors: what the libraries complain of is a line now and then, not one each.
func TestHandleErrors(t *testing.T) {
	var log record
	HandleErrors(log.logger())
	for i := range 100 {
		otel.Handle(fmt.Errorf("failure %d", i))
	}
	if lines := log.lines(); len(lines) != 1 || !strings.Contains(lines[0], "failure 0") {
		t.Errorf("logged %q", lines)
	}
	l := slog.New(limited{log.logger().Handler(), newGate()}).With("a", 1).WithGroup("g")
	for range 100 {
		l.Error("internal")
	}
	if lines := log.lines(); len(lines) != 2 || !strings.Contains(lines[1], "internal") || !strings.Contains(lines[1], "a=1") {
		t.Errorf("logged %q", lines)
	}
}
