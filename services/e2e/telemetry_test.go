package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/services/e2e/mesh"
)

const timeoutOf = 30 * time.Second

// hostile is an environment that would switch OpenTelemetry's libraries off, or send their exports elsewhere.
var hostile = []string{
	"OTEL_SDK_DISABLED=true",
	"OTEL_METRICS_EXPORTER=none",
	"OTEL_EXPORTER_OTLP_PROTOCOL=http/json",
	"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://127.0.0.1:1",
	"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta",
	"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION=explicit_bucket_histogram",
	"OTEL_EXPORTER_OTLP_HEADERS=a=b",
	"OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere",
	"OTEL_METRIC_EXPORT_INTERVAL=3600000",
	"OTEL_RESOURCE_ATTRIBUTES=service.name=other,coppice.replica=r9",
	"OTEL_SERVICE_NAME=other",
	"OTEL_TRACES_SAMPLER=always_off",
	"OTEL_BSP_MAX_QUEUE_SIZE=1",
}

// TestEnvironment: the balancer learns the latencies of all whatever the OTEL_* variables say.
func TestEnvironment(t *testing.T) {
	env := append([]string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc"}, hostile...)
	model := demo(t)
	p, a := up(t, 2, env, "--model", model)
	load(t, a, model, "200", "3s", func() {
		mesh.Eventually(t, 10*time.Second, "the latency of each replica is known", func() bool {
			s := mesh.ReadStatus(t, a.Control)
			for _, r := range s.Replicas {
				if r.P99 == nil || *r.P99 <= 0 || r.Rate <= 0 {
					return false
				}
			}
			return true
		})
	})
	res, err := http.Get("http://" + a.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`coppice_replica_request_duration_seconds_bucket{ok="true",replica="r0",le="1e-05"}`,
		`coppice_replica_request_duration_seconds_count{ok="true",replica="r1"}`,
		`coppice_gateway_request_duration_seconds_bucket{`, `le="10"`,
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the metrics page has no %s", want)
		}
	}
	p.Terminate()
}

// collector receives traces as Jaeger would.
type collector struct {
	coltracepb.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string][]string // by trace: service and name
}

func (c *collector) Export(_ context.Context, req *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.GetResourceSpans() {
		service := ""
		for _, a := range r.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, s := range r.GetScopeSpans() {
			for _, span := range s.GetSpans() {
				id := string(span.GetTraceId())
				name := service + " " + span.GetName()
				if span.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR {
					name += " error"
				}
				c.spans[id] = append(c.spans[id], name)
			}
		}
	}
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

// of are the spans of a trace.
func (c *collector) of(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.spans[id], "\n")
}

// TestTraces: one trace a Predict, continuing the client's; a request that fails leaves its gateway's spans even
// when the client does not want it traced.
func TestTraces(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{spans: map[string][]string{}}
	srv := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(srv, c)
	go func() { _ = srv.Serve(lis) }()
	defer srv.Stop()
	p, a := up(t, 2, nil, "--otlp-endpoint", "http://"+lis.Addr().String())
	client := coppicev1.NewPredictServiceClient(dial(t, a.GRPC))
	call := func(id byte, flags string, features int) error {
		trace := strings.Repeat(string([]byte{'0', '0' + id}), 16)
		ctx := metadata.AppendToOutgoingContext(timeout(t), "traceparent", "00-"+trace+"-00f067aa0ba902b7-"+flags)
		_, err := client.Predict(ctx, &coppicev1.PredictRequest{Instances: zeros(features)})
		return err
	}
	if err := call(1, "01", 20); err != nil {
		t.Fatal(err)
	}
	if err := call(2, "00", 20); err != nil {
		t.Fatal(err)
	}
	if err := call(3, "00", 19); status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
	id := func(b byte) string { return strings.Repeat(string([]byte{b}), 16) }
	mesh.Eventually(t, 10*time.Second, "the sampled request has the spans of gateway and replica, the failed one those of the gateway", func() bool {
		for _, want := range []string{"coppice-gateway admission", "coppice-gateway pick", "coppice-gateway attempt", "coppice-replica queue", "coppice-replica batch", "coppice-replica evaluate"} {
			if !strings.Contains(c.of(id(1)), want) {
				return false
			}
		}
		return strings.Contains(c.of(id(3)), "coppice-gateway coppice.v1.PredictService/Predict error")
	})
	if spans := c.of(id(2)); spans != "" {
		t.Errorf("the client did not want a trace, and has one: %s", spans)
	}
	p.Terminate()
}

// TestDeadEndpoint: where traces cannot go, nothing else notices, and the end takes two seconds more at most.
func TestDeadEndpoint(t *testing.T) {
	hangs, err := net.Listen("tcp", "127.0.0.1:0") // it accepts, and never says anything
	if err != nil {
		t.Fatal(err)
	}
	defer hangs.Close()
	for _, endpoint := range []string{"http://127.0.0.1:1", "http://" + hangs.Addr().String()} {
		model := demo(t)
		p, a := up(t, 2, nil, "--model", model, "--otlp-endpoint", endpoint, "--trace-ratio", "1")
		load(t, a, model, "200", "2s", func() {})
		p.Terminate()
	}
}
