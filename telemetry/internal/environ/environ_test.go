package environ

import (
	"maps"
	"os"
	"testing"
)

func TestWith(t *testing.T) {
	t.Setenv("OTEL_SERVICE_NAME", "before")
	t.Setenv("NOT_OTEL_SERVICE_NAME", "kept")
	called := false
	With(map[string]string{"OTEL_TRACES_SAMPLER": "always_off", "HOME": "nowhere", "OTEL_BROKEN": "a\x00b"}, func() {
		called = true
		if v, ok := os.LookupEnv("OTEL_SERVICE_NAME"); ok {
			t.Errorf("OTEL_SERVICE_NAME is seen as %q", v)
		}
		if v := os.Getenv("OTEL_TRACES_SAMPLER"); v != "always_off" {
			t.Errorf("OTEL_TRACES_SAMPLER is %q", v)
		}
		if os.Getenv("HOME") == "nowhere" {
			t.Error("With sets what is not OpenTelemetry's")
		}
	})
	if !called {
		t.Fatal("f was not called")
	}
	if v := os.Getenv("OTEL_SERVICE_NAME"); v != "before" {
		t.Errorf("OTEL_SERVICE_NAME is %q afterwards", v)
	}
	if v, ok := os.LookupEnv("OTEL_TRACES_SAMPLER"); ok {
		t.Errorf("OTEL_TRACES_SAMPLER is still %q", v)
	}
}

func TestTake(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "a=b,c=d")
	t.Setenv("OTEL_EMPTY", "")
	t.Setenv("NOT_OTEL", "kept")
	want := map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "a=b,c=d", "OTEL_EMPTY": ""}
	if got := Take(); !maps.Equal(got, want) {
		t.Errorf("Take() = %v, want %v", got, want)
	}
	if _, ok := os.LookupEnv("OTEL_EMPTY"); ok {
		t.Error("OTEL_EMPTY is still there")
	}
	if os.Getenv("NOT_OTEL") != "kept" {
		t.Error("NOT_OTEL was taken")
	}
	if got := Take(); len(got) != 0 {
		t.Errorf("a second Take() = %v", got)
	}
}
