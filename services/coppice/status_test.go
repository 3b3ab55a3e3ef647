package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// testStatus has a replica that answers, one that is new, and everything else.
func testStatus() *coppicev1.StatusResponse {
	return &coppicev1.StatusResponse{
		Version: "v1", Generation: 12,
		Replicas: []*coppicev1.ReplicaStatus{
			{
				Id: "r0", Pid: 4711, State: coppicev1.ReplicaState_REPLICA_STATE_READY, InFlight: 2, Queued: 1, Rate: 99.5,
				P50: proto.Float64(0.001), P95: proto.Float64(0.0025), P99: proto.Float64(1.5), Versions: []string{"aa", "bb"}, Spawned: true,
				Address: "unix:/run/r0.sock", Host: "h", Restarts: 3, HeartbeatAge: 0.05, MetricsAge: 0.2, Incarnation: "i",
			},
			{Id: "r1", State: coppicev1.ReplicaState_REPLICA_STATE_STARTING},
		},
		Gateways: []*coppicev1.GatewayStatus{{Id: "g", InFlight: 3, Queued: 1, Rate: 100, P50: proto.Float64(0.002), AcknowledgedGeneration: 12}},
		Models:   []*coppicev1.ServedModel{{Name: "demo", Version: "aa", Sha256: "aabb", Task: "classify", Features: 20, Outputs: 2, Trees: 100, Bytes: 1000, Cost: 7}},
		Scale:    &coppicev1.ScaleStatus{Desired: 2, Min: 1, Max: 4, Auto: true, Reason: "idle"},
	}
}

// keys are the names of a JSON object's fields, in their order.
func keys(t *testing.T, object json.RawMessage) string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	var out []string
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, name.(string))
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join(out, " ")
}

// TestStatusJSON holds the names fast that programs read.
func TestStatusJSON(t *testing.T) {
	b, err := json.Marshal(statusJSON(testStatus()))
	if err != nil {
		t.Fatal(err)
	}
	var top struct {
		Replicas, Gateways, Models []json.RawMessage
		Scale                      json.RawMessage
	}
	if err := json.Unmarshal(b, &top); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what string
		got  json.RawMessage
		want string
	}{
		{"status", b, "version generation replicas gateways models scale"},
		{"replica", top.Replicas[0], "id pid state in_flight queued rate p50 p95 p99 version versions spawned incarnation address host restarts heartbeat_age metrics_age"},
		{"new replica", top.Replicas[1], "id pid state in_flight queued rate p50 p95 p99 version versions spawned incarnation address host restarts heartbeat_age metrics_age"},
		{"gateway", top.Gateways[0], "id in_flight queued rate p50 p95 p99 acknowledged_generation"},
		{"model", top.Models[0], "name version sha256 task features outputs trees bytes"},
		{"scale", top.Scale, "desired min max pinned auto reason"},
	} {
		if got := keys(t, tt.got); got != tt.want {
			t.Errorf("%s has\n%s, want\n%s", tt.what, got, tt.want)
		}
	}
	want := `{"id":"r0","pid":4711,"state":"ready","in_flight":2,"queued":1,"rate":99.5,"p50":0.001,"p95":0.0025,"p99":1.5,"version":"aa,bb","versions":["aa","bb"],` +
		`"spawned":true,"incarnation":"i","address":"unix:/run/r0.sock","host":"h","restarts":3,"heartbeat_age":0.05,"metrics_age":0.2}`
	if got := string(top.Replicas[0]); got != want {
		t.Errorf("replica is\n%s, want\n%s", got, want)
	}
	for _, part := range []string{`"state":"starting"`, `"p50":null`, `"version":""`, `"versions":[]`} {
		if !bytes.Contains(top.Replicas[1], []byte(part)) {
			t.Errorf("a new replica is %s, without %s", top.Replicas[1], part)
		}
	}
	// An empty pool has empty lists, which a program can go through.
	if b, err = json.Marshal(statusJSON(&coppicev1.StatusResponse{})); err != nil || !bytes.Contains(b, []byte(`"replicas":[],"gateways":[],"models":[],"scale":{`)) {
		t.Errorf("an empty pool is %s, %v", b, err)
	}
}

func TestStateName(t *testing.T) {
	for v, name := range coppicev1.ReplicaState_name {
		want := strings.ToLower(strings.TrimPrefix(name, "REPLICA_STATE_"))
		if got := stateName(coppicev1.ReplicaState(v)); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestStatus(t *testing.T) {
	addr, _ := startFake(t)
	text := succeed(t, "status", "--control-addr", addr)
	for _, want := range []string{"r0 ", "4711", "ready", "starting", "99.5", "demo", "classify", "Scale: 2 wanted, 1 to 4, automatic: idle"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("what is no terminal gets %q", text)
	}
	js := succeed(t, "status", "--json", "--control-addr", addr)
	if strings.Count(js, "\n") != 1 {
		t.Errorf("not one line: %s", js)
	}
	if replicas := decode(t, js)["replicas"].([]any); len(replicas) != 2 {
		t.Errorf("replicas are %v", replicas)
	}
}

func TestSeconds(t *testing.T) {
	for _, v := range []float64{0, 1e-7, 0.00001, 0.001234, 0.5, 12, 1e6} {
		if got := seconds(&v); got == "" || strings.ContainsAny(got, " \n") {
			t.Errorf("%v: %q", v, got)
		}
	}
	if got := seconds(nil); got != "-" {
		t.Errorf("nothing: %q", got)
	}
}
