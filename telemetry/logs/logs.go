// Package logs sets up slog: text for people at a terminal, JSON for everything else, with the trace's id on
// lines that are about a request.
package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/term"
)

// ErrFormat is wrapped by the error about a format that there is not.
var ErrFormat = errors.New("log format")

// New makes a logger. format is "text", "json", or "auto" for text on a terminal and JSON elsewhere. The values
// of attributes that are named like secrets are not written.
func New(w io.Writer, format string, level slog.Level) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: redact}
	switch format {
	case "auto", "":
		if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return slog.New(handler{slog.NewTextHandler(w, opts)}), nil
		}
		return slog.New(handler{slog.NewJSONHandler(w, opts)}), nil
	case "text":
		return slog.New(handler{slog.NewTextHandler(w, opts)}), nil
	case "json":
		return slog.New(handler{slog.NewJSONHandler(w, opts)}), nil
	}
	return nil, fmt.Errorf("%w is %q, it can be auto, text or json", ErrFormat, format)
}

// redact hides what nobody should have logged.
func redact(_ []string, a slog.Attr) slog.Attr {
	switch strings.ToLower(a.Key) {
	case "token", "join_token", "authorization", "headers", "password", "secret", "cookie":
		return slog.String(a.Key, "[redacted]")
	}
	return a
}

// handler adds the ids of the span in the context.
type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(a []slog.Attr) slog.Handler { return handler{h.Handler.WithAttrs(a)} }
func (h handler) WithGroup(name string) slog.Handler   { return handler{h.Handler.WithGroup(name)} }
