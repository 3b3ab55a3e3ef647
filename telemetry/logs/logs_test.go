package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

func traced() context.Context {
	return trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{0xab, 15: 1}, SpanID: trace.SpanID{0xcd, 7: 2},
	}))
}

func TestFormats(t *testing.T) {
	for format, isJSON := range map[string]bool{"": true, "auto": true, "json": true, "text": false} {
		var buf bytes.Buffer
		l, err := New(&buf, format, slog.LevelInfo)
		if err != nil {
			t.Fatal(err)
		}
		l.Debug("not written")
		l.InfoContext(traced(), "written", "n", 7)
		got := buf.String()
		if strings.Count(got, "\n") != 1 || json.Valid([]byte(got)) != isJSON || !strings.Contains(got, "written") {
			t.Errorf("%q: %s", format, got)
		}
	}
	for _, format := range []string{"xml", "JSON", " text"} {
		if _, err := New(&bytes.Buffer{}, format, slog.LevelInfo); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", format, err)
		}
	}
	// A file is no terminal.
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := New(f, "auto", slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	l.Info("written")
	if b, err := os.ReadFile(f.Name()); err != nil || !json.Valid(b) {
		t.Errorf("%s, %v", b, err)
	}
}

// TestTrace: lines about a request have its trace, also from loggers that were derived; others have none.
func TestTrace(t *testing.T) {
	var buf bytes.Buffer
	l, err := New(&buf, "json", slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	for _, derived := range []*slog.Logger{l, l.With("a", 1)} {
		buf.Reset()
		derived.ErrorContext(traced(), "failed")
		var line map[string]any
		if err := json.Unmarshal(buf.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line["trace_id"] != "ab000000000000000000000000000001" || line["span_id"] != "cd00000000000002" {
			t.Errorf("%s", buf.String())
		}
	}
	buf.Reset()
	l.WithGroup("g").InfoContext(traced(), "grouped", "b", 2)
	if !strings.Contains(buf.String(), `"trace_id":"ab0`) {
		t.Errorf("%s", buf.String())
	}
	buf.Reset()
	l.Info("of nobody")
	if strings.Contains(buf.String(), "trace_id") {
		t.Errorf("%s", buf.String())
	}
}

func TestSecrets(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		var buf bytes.Buffer
		l, err := New(&buf, format, slog.LevelInfo)
		if err != nil {
			t.Fatal(err)
		}
		l.With("token", "hunter2").WithGroup("g").Info("joined", "Authorization", "Bearer hunter2", "replica", "r1",
			"headers", map[string]string{"api-key": "hunter2"})
		if got := buf.String(); strings.Contains(got, "hunter2") || !strings.Contains(got, "r1") {
			t.Errorf("%s", got)
		}
	}
}
