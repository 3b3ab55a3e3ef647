package forward

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/telemetry/internal/otlptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

func (r *record) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// spans makes a batch of n spans with a name.
func spans(name string, n int) []*tracepb.ResourceSpans {
	s := &tracepb.ScopeSpans{}
	for range n {
		s.Spans = append(s.Spans, &tracepb.Span{Name: name, TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{2}, 8)})
	}
	return []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{s}}}
}

func start(t *testing.T, endpoint string, env map[string]string, log *record) *Forwarder {
	t.Helper()
	f, err := New(endpoint, env, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Shutdown(testContext(t)) })
	return f
}

func TestForward(t *testing.T) {
	r := otlptest.Listen(t)
	var log record
	f := start(t, r.Addr(), nil, &log)
	for range 100 {
		f.Forward(spans("s", 3))
	}
	otlptest.Until(t, "the spans arrive", func() bool { return len(r.Spans()) == 300 })
	f.Forward(spans("last", 1))
	f.Shutdown(testContext(t))
	if n := len(r.Spans()); n != 301 || f.Sent() != 301 || f.Dropped() != 0 {
		t.Errorf("%d arrived, %d sent, %d dropped", n, f.Sent(), f.Dropped())
	}
	f.Forward(spans("late", 1))
	f.Shutdown(testContext(t))
	if f.Dropped() != 1 {
		t.Errorf("%d dropped, want the one after Shutdown", f.Dropped())
	}
	if log.String() != "" {
		t.Errorf("logged %s", log.String())
	}
}

// TestNone: without an endpoint there is nothing to do, and nothing that could fail.
func TestNone(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"no variables":  nil,
		"other signals": {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4317"},
		"disabled":      {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_SDK_DISABLED": "true"},
		"none":          {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_TRACES_EXPORTER": "none"},
		"console":       {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_TRACES_EXPORTER": "console"},
	} {
		f, err := New("", env, slog.Default())
		if f != nil || err != nil {
			t.Errorf("%s: %v, %v", name, f, err)
		}
		if err := f.Start(testContext(t)); err != nil {
			t.Error(err)
		}
		f.Forward(spans("s", 1))
		f.Shutdown(testContext(t))
		if f.Sent() != 0 || f.Dropped() != 0 {
			t.Error("a nil Forwarder counts")
		}
	}
	f, err := New("127.0.0.1:4317", nil, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	f.Forward(spans("early", 1))
	f.Shutdown(testContext(t)) // without Start
	if f.Dropped() != 1 {
		t.Errorf("%d dropped", f.Dropped())
	}
	if err := f.Start(testContext(t)); err == nil {
		t.Error("started after Shutdown")
	}
}

func TestResolve(t *testing.T) {
	const traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	for _, c := range []struct {
		given string
		env   map[string]string
		http  bool
		want  string // of the variable for traces; empty: an error
	}{
		{given: "localhost:4317", want: "http://localhost:4317"},
		{given: "localhost", want: "http://localhost:4317"},
		{given: "http://jaeger", want: "http://jaeger:4317"},
		{given: "http://jaeger:4317/", want: "http://jaeger:4317"},
		{given: "[::1]:4317", want: "http://[::1]:4317"},
		{given: "https://api.example", want: "https://api.example"},
		{given: "unix:///run/otlp.sock", want: "unix:///run/otlp.sock"},
		{given: "localhost:4318", http: true, want: "http://localhost:4318/v1/traces"},
		{given: "http://jaeger:4318/v1/traces", http: true, want: "http://jaeger:4318/v1/traces"},
		{given: "https://example/otlp/", http: true, want: "https://example/otlp/v1/traces"},
		{given: "localhost:9", env: map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, http: true, want: "http://localhost:9/v1/traces"},
		{given: "localhost:9", env: map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, http: true, want: "http://localhost:9/v1/traces"},
		{given: "localhost:4318", env: map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, want: "http://localhost:4318"},
		{given: "localhost:9", env: map[string]string{traces: "https://other:1", "OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_INSECURE": "false"}, want: "http://localhost:9"},
		{env: map[string]string{traces: "https://other:1/x"}, http: true, want: "https://other:1/x"},
		{env: map[string]string{traces: "other:1"}, want: "other:1"},
		{env: map[string]string{traces: "http://other:4318"}, http: true, want: "http://other:4318"},
		{env: map[string]string{traces: "http://other:4317", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://o:4318"}, want: "http://other:4317"},

		{given: "http://"},
		{given: "http://:4317"},
		{given: "ftp://host:4317"},
		{given: "http://user:password@host:4317"},
		{given: "http://host:4317?x=y"},
		{given: "http://ho st:4317"},
		{given: "localhost:4317", env: map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}},
		{env: map[string]string{traces: "other:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}},
		{given: "unix:///run/otlp.sock", env: map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}},
	} {
		got, err := resolve(c.given, c.env)
		if c.want == "" {
			if !errors.Is(err, ErrEndpoint) {
				t.Errorf("%q %v: %v", c.given, c.env, err)
			} else if strings.Contains(err.Error(), "password") {
				t.Errorf("the error tells the password: %v", err)
			}
			continue
		}
		if err != nil || got == nil {
			t.Errorf("%q %v: %v", c.given, c.env, err)
			continue
		}
		if got.http != c.http || got.env[traces] != c.want {
			t.Errorf("%q %v: %q (http %v), want %q (%v)", c.given, c.env, got.env[traces], got.http, c.want, c.http)
		}
		if c.given != "" && (got.env["OTEL_EXPORTER_OTLP_ENDPOINT"] != "" || got.env["OTEL_EXPORTER_OTLP_INSECURE"] != "") {
			t.Errorf("%q: %v", c.given, got.env)
		}
	}
}

// TestVariables: headers, compression and protocol of the user's variables are honoured, and none of them stays
// in the environment.
func TestVariables(t *testing.T) {
	r := otlptest.Listen(t)
	env := map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT":       "http://" + r.Addr(),
		"OTEL_EXPORTER_OTLP_HEADERS":        "api-key=general,x-a=1",
		"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=of%20traces",
		"OTEL_EXPORTER_OTLP_COMPRESSION":    "gzip",
		"OTEL_EXPORTER_OTLP_CERTIFICATE":    "/nonexistent", // of no use to http://
	}
	f := start(t, "", env, &record{})
	for k := range env {
		if v, ok := os.LookupEnv(k); ok {
			t.Errorf("%s=%s is in the environment", k, v)
		}
	}
	f.Forward(spans("s", 1))
	otlptest.Until(t, "the span arrives", func() bool { return len(r.Spans()) == 1 })
	h := r.Headers()
	if got := h.Get("api-key"); len(got) != 1 || got[0] != "of traces" {
		t.Errorf("the headers are %v", h)
	}
}

// TestFlagWins: the flag says where, the variables how.
func TestFlagWins(t *testing.T) {
	other, r := otlptest.Listen(t), otlptest.Listen(t)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=not-this-one")
	f := start(t, "http://"+r.Addr(), map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT":        "https://" + other.Addr(),
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://" + other.Addr(),
		"OTEL_EXPORTER_OTLP_INSECURE":        "false",
		"OTEL_EXPORTER_OTLP_HEADERS":         "api-key=k",
	}, &record{})
	f.Forward(spans("s", 1))
	otlptest.Until(t, "the span arrives", func() bool { return len(r.Spans()) == 1 })
	if got := r.Headers().Get("api-key"); len(got) != 1 || got[0] != "k" {
		t.Errorf("the headers are %v", r.Headers())
	}
	if other.Calls() != 0 {
		t.Error("the endpoint of the variables was called")
	}
}

// httpReceiver takes OTLP over HTTP.
type httpReceiver struct {
	*httptest.Server
	mu      sync.Mutex
	spans   int
	calls   int
	path    string
	header  http.Header
	answers []int // codes of the first calls
}

func (h *httpReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls++
	h.path, h.header = req.URL.Path, req.Header
	if len(h.answers) > 0 {
		code := h.answers[0]
		h.answers = h.answers[1:]
		w.WriteHeader(code)
		return
	}
	body := io.Reader(req.Body)
	if req.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		body = z
	}
	b, err := io.ReadAll(body)
	var export collectortrace.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(b, &export)
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, r := range export.GetResourceSpans() {
		for _, s := range r.GetScopeSpans() {
			h.spans += len(s.GetSpans())
		}
	}
}

func (h *httpReceiver) got() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.spans
}

func listenHTTP(t *testing.T, answers ...int) *httpReceiver {
	h := &httpReceiver{answers: answers}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func TestHTTP(t *testing.T) {
	h := listenHTTP(t, http.StatusServiceUnavailable, http.StatusTooManyRequests)
	f := start(t, h.URL+"/base", map[string]string{
		"OTEL_EXPORTER_OTLP_HEADERS":     "api-key=k",
		"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
	}, &record{})
	f.Forward(spans("s", 5))
	otlptest.Until(t, "the spans arrive", func() bool { return h.got() == 5 })
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.path != "/base/v1/traces" || h.header.Get("Api-Key") != "k" || h.header.Get("Content-Encoding") != "gzip" ||
		h.header.Get("Content-Type") != "application/x-protobuf" {
		t.Errorf("%s %v", h.path, h.header)
	}
}

// TestHTTPRefused: what can never be taken is not sent again, and what comes after it is.
func TestHTTPRefused(t *testing.T) {
	h := listenHTTP(t, http.StatusUnauthorized)
	var log record
	f := start(t, h.URL+"/v1/traces", nil, &log)
	f.Forward(spans("s", 5))
	otlptest.Until(t, "the refusal is counted", func() bool { return f.Dropped() == 5 })
	f.Forward(spans("s", 2))
	otlptest.Until(t, "the next spans arrive", func() bool { return h.got() == 2 })
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("logged %s", log.String())
	}
}

// TestHTTPComesBack: nobody listens at first.
func TestHTTPComesBack(t *testing.T) {
	addr := otlptest.Refusing(t)
	f := start(t, "http://"+addr+"/v1/traces", nil, &record{})
	f.Forward(spans("s", 5))
	time.Sleep(100 * time.Millisecond)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	h := &httpReceiver{Server: httptest.NewUnstartedServer(nil)}
	h.Config.Handler = h
	_ = h.Listener.Close()
	h.Listener = l
	h.Start()
	t.Cleanup(h.Close)
	otlptest.Until(t, "the spans arrive", func() bool { return h.got() == 5 })
}

// TestComesBack: what was queued while the endpoint was down arrives, oldest first.
func TestComesBack(t *testing.T) {
	r := otlptest.Listen(t)
	r.Stop()
	var log record
	f := start(t, r.Addr(), nil, &log)
	f.Forward(spans("first", 1))
	otlptest.Until(t, "the failure is logged", func() bool { return log.String() != "" })
	f.Forward(spans("second", 1))
	r.Restart(t)
	otlptest.Until(t, "the spans arrive", func() bool { return f.Sent() == 2 })
	if s := r.Spans(); s[0].GetName() != "first" || s[1].GetName() != "second" {
		t.Errorf("%v", s)
	}
	r.Stop()
	f.Forward(spans("third", 1))
	time.Sleep(50 * time.Millisecond)
	r.Restart(t)
	otlptest.Until(t, "the third arrives", func() bool { return f.Sent() == 3 })
	if f.Dropped() != 0 || len(r.Spans()) != 3 || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("%d dropped, %d arrived, logged %s", f.Dropped(), len(r.Spans()), log.String())
	}
}

// TestBadEndpoint: however bad the endpoint is, Forward does not wait, the queue has a limit, the newest are
// kept, and the end comes in two seconds.
func TestBadEndpoint(t *testing.T) {
	hung := otlptest.Listen(t)
	hung.Hang()
	for name, endpoint := range map[string]string{
		"refuses":                  otlptest.Refusing(t),
		"accepts and says nothing": otlptest.Silent(t),
		"hangs":                    hung.Addr(),
		"HTTP refuses":             "http://" + otlptest.Refusing(t) + "/v1/traces",
		"HTTP says nothing":        "http://" + otlptest.Silent(t) + "/v1/traces",
	} {
		t.Run(name, func(t *testing.T) {
			var log record
			f := start(t, endpoint, nil, &log)
			const batches = 3 * maxQueuedSpans / 100
			begin := time.Now()
			for range batches {
				f.Forward(spans("s", 100))
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("Forward took %v for %d batches", took, batches)
			}
			f.mu.Lock()
			queued := f.queued
			f.mu.Unlock()
			if queued.count > maxQueuedSpans || queued.bytes > maxQueuedBytes || f.Dropped() < 100*batches-maxQueuedSpans-2*maxSendSpans {
				t.Errorf("%d spans of %d bytes are queued, %d dropped", queued.count, queued.bytes, f.Dropped())
			}
			begin = time.Now()
			f.Shutdown(testContext(t))
			if took := time.Since(begin); took > shutdownTimeout+500*time.Millisecond {
				t.Errorf("Shutdown took %v", took)
			}
			if f.Sent() != 0 || f.Dropped() != 100*batches {
				t.Errorf("%d sent, %d of %d dropped", f.Sent(), f.Dropped(), 100*batches)
			}
			if n := strings.Count(log.String(), "\n"); n > 1 {
				t.Errorf("logged %s", log.String())
			}
		})
	}
}

// TestDropsOldest: of what does not fit, the newest is kept.
func TestDropsOldest(t *testing.T) {
	r := otlptest.Listen(t)
	release := make(chan struct{})
	r.Answer(func(ctx context.Context) (*collectortrace.ExportTraceServiceResponse, error) {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return &collectortrace.ExportTraceServiceResponse{}, ctx.Err()
	})
	f := start(t, r.Addr(), nil, &record{})
	f.Forward(spans("stuck", 1))
	otlptest.Until(t, "the first is on its way", func() bool { return r.Calls() == 1 })
	f.Forward(spans("old", 1))
	for range maxQueuedSpans / 1024 {
		f.Forward(spans("new", 1024))
	}
	f.Forward(spans("too large for any queue", maxQueuedSpans+1))
	if got := f.Dropped(); got != 1+maxQueuedSpans+1 {
		t.Errorf("%d dropped, want the old one and the large ones", got)
	}
	close(release)
	otlptest.Until(t, "all arrive", func() bool { return len(r.Spans()) == 1+maxQueuedSpans })
	for i, s := range r.Spans() {
		if (i == 0) != (s.GetName() == "stuck") || s.GetName() == "old" {
			t.Fatalf("span %d is %q", i, s.GetName())
		}
	}
	if n := r.Calls(); n > 2+maxQueuedSpans/1024 {
		t.Errorf("%d calls", n)
	}
}

// TestBytes: large spans are bounded by their size.
func TestBytes(t *testing.T) {
	f := start(t, otlptest.Silent(t), nil, &record{})
	for range 64 {
		f.Forward(spans(strings.Repeat("x", 1<<20), 1))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.queued.bytes > maxQueuedBytes || f.queued.bytes < maxQueuedBytes/2 || len(f.queue) != f.queued.count {
		t.Errorf("%d batches, %d spans, %d bytes", len(f.queue), f.queued.count, f.queued.bytes)
	}
}

// TestGivesUp: an endpoint that says "later" for too long does not hold up what is newer.
func TestGivesUp(t *testing.T) {
	r := otlptest.Listen(t)
	var mu sync.Mutex
	calls := 0
	r.Answer(func(context.Context) (*collectortrace.ExportTraceServiceResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls <= 3 {
			return nil, status.Error(codes.Unavailable, "later")
		}
		return &collectortrace.ExportTraceServiceResponse{}, nil
	})
	f, err := New(r.Addr(), nil, (&record{}).logger())
	if err != nil {
		t.Fatal(err)
	}
	f.giveUp = 0
	if err := f.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	defer f.Shutdown(testContext(t))
	for range 3 {
		before := f.Dropped()
		f.Forward(spans("s", 1))
		otlptest.Until(t, "it is given up", func() bool { return f.Dropped() == before+1 })
	}
	f.Forward(spans("s", 1))
	otlptest.Until(t, "the next arrives", func() bool { return f.Sent() == 1 })
}

// TestAnswers: what a gRPC endpoint says decides whether it is asked again.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name    string
		resp    *collectortrace.ExportTraceServiceResponse
		err     error
		again   bool
		dropped uint64
	}{
		{"unavailable", nil, status.Error(codes.Unavailable, "x"), true, 0},
		{"aborted", nil, status.Error(codes.Aborted, "x"), true, 0},
		{"unauthenticated", nil, status.Error(codes.Unauthenticated, "x"), false, 2},
		{"too large", nil, status.Error(codes.ResourceExhausted, "x"), false, 2},
		{"unimplemented", nil, status.Error(codes.Unimplemented, "x"), false, 2},
		{"partial success", &collectortrace.ExportTraceServiceResponse{
			PartialSuccess: &collectortrace.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: "bad span"},
		}, nil, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := otlptest.Listen(t)
			first := make(chan struct{}, 1)
			first <- struct{}{}
			r.Answer(func(context.Context) (*collectortrace.ExportTraceServiceResponse, error) {
				select {
				case <-first:
					return c.resp, c.err
				default:
					return &collectortrace.ExportTraceServiceResponse{}, nil
				}
			})
			var log record
			f := start(t, r.Addr(), nil, &log)
			f.Forward(spans("s", 2))
			otlptest.Until(t, "it is dealt with", func() bool { return f.Sent()+f.Dropped() == 2 })
			calls := 1
			if c.again {
				calls = 2
			}
			if r.Calls() != calls || f.Dropped() != c.dropped || strings.Count(log.String(), "\n") != 1 {
				t.Errorf("%d calls, want %d; %d dropped, want %d; logged %s", r.Calls(), calls, f.Dropped(), c.dropped, log.String())
			}
		})
	}
}

// TestTLS: certificates of the variables are honoured, and an endpoint that nobody vouches for is not trusted.
func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	r := otlptest.Listen(t, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})))

	f := start(t, "https://"+r.Addr(), map[string]string{"OTEL_EXPORTER_OTLP_CERTIFICATE": ca, "OTEL_EXPORTER_OTLP_INSECURE": "true"}, &record{})
	f.Forward(spans("trusted", 1))
	otlptest.Until(t, "the span arrives", func() bool { return len(r.Spans()) == 1 })

	var log record
	g := start(t, "https://"+r.Addr(), nil, &log)
	g.Forward(spans("not trusted", 1))
	otlptest.Until(t, "the failure is logged", func() bool { return log.String() != "" })
	g.Shutdown(testContext(t))
	if len(r.Spans()) != 1 || g.Dropped() != 1 {
		t.Errorf("%d arrived, %d dropped", len(r.Spans()), g.Dropped())
	}
}

func BenchmarkForward(b *testing.B) {
	f, err := New("127.0.0.1:9", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	f.state = started // nobody sends: the queue is full most of the time
	s := spans("coppice.v1.PredictService/Predict", 64)
	b.ReportAllocs()
	for b.Loop() {
		f.Forward(s)
	}
}
