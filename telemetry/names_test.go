package telemetry

import (
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
