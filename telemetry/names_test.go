package telemetry

import (
	"os"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// TestConventions: the attributes that the semantic conventions have are named as they name them.
func TestConventions(t *testing.T) {
	for ours, theirs := range map[attribute.Key]attribute.Key{
		AttrService:   semconv.ServiceNameKey,
		AttrVersion:   semconv.ServiceVersionKey,
		AttrInstance:  semconv.ServiceInstanceIDKey,
		AttrRPCSystem: semconv.RPCSystemNameKey,
		AttrRPCMethod: semconv.RPCMethodKey,
		AttrRPCCode:   semconv.RPCResponseStatusCodeKey,
	} {
		if ours != theirs {
			t.Errorf("%q is %q in the conventions", ours, theirs)
		}
	}
}

// TestDocumented: docs/metrics.md has every instrument, by both of its names.
func TestDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for name, suffix := range map[string]string{
		GatewayDuration: "_seconds", GatewayReplays: "_total", GatewayInFlight: "",
		ReplicaDuration: "_seconds", ReplicaRows: "_total", ReplicaBatches: "_total", ReplicaInFlight: "",
		SpansDropped: "_total",
	} {
		page := strings.ReplaceAll(name, ".", "_") + suffix
		if !strings.Contains(doc, "| `"+name+"` | `"+page+"` |") {
			t.Errorf("%s and %s are not in docs/metrics.md", name, page)
		}
	}
	for _, key := range []attribute.Key{
		AttrService, AttrVersion, AttrInstance, AttrReplica, AttrIncarnation, AttrGateway, AttrRPCSystem, AttrRPCMethod, AttrRPCCode,
		AttrModel, AttrModelVersion, AttrRows, AttrWork, AttrRequestID, AttrAttempt, AttrBatchRows, AttrBatchSize,
	} {
		if !strings.Contains(doc, "`"+string(key)+"`") {
			t.Errorf("attribute %s is not in docs/metrics.md", key)
		}
	}
}
