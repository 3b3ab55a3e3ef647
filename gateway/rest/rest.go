// Package rest is the HTTP side of the gateway: POST /predict with the JSON that the FastAPI tutorials use, and
// the health pages.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/gateway/server"
	"github.com/coppice-mesh/coppice/proto/frame"
)

// Backend answers requests; *server.Server is one.
type Backend interface {
	// Do runs a request to its end.
	Do(ctx context.Context, r *server.Request)
	// Reject ends a request that is none, with an error.
	Reject(r *server.Request, err error)
}

// Handler serves the HTTP port.
type Handler struct {
	mux      http.ServeMux
	backend  Backend
	ready    func() (ready bool, why string)
	maxBytes int64
}

// New makes a Handler. ready says whether predictions can be answered, and why not.
func New(backend Backend, ready func() (bool, string), maxBytes int) *Handler {
	h := &Handler{backend: backend, ready: ready, maxBytes: int64(maxBytes)}
	h.mux.HandleFunc("/predict", h.predict)
	h.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	h.mux.HandleFunc("GET /readyz", h.readyz)
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, codes.NotFound, http.StatusNotFound, fmt.Sprintf("nothing is at %s %.200s; there are POST /predict, GET /healthz and GET /readyz", r.Method, r.URL.Path))
	})
	return h
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Handler) readyz(w http.ResponseWriter, _ *http.Request) {
	if ok, why := h.ready(); !ok {
		fail(w, codes.Unavailable, http.StatusServiceUnavailable, why)
		return
	}
	write(w, http.StatusOK, map[string]string{"status": "ready"})
}

// answer is the body of a good response.
type answer struct {
	Prediction  []any       `json:"prediction"`
	Probability [][]float64 `json:"probability,omitempty"`
	Classes     []any       `json:"classes,omitempty"`
	Model       string      `json:"model"`
	Version     string      `json:"version"`
	RequestID   string      `json:"request_id"`
}

func (h *Handler) predict(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		fail(w, codes.Unimplemented, http.StatusMethodNotAllowed, r.Method+" /predict is not there, POST is")
		return
	}
	call := &server.Request{Protocol: "POST /predict", OnDone: func(*server.Request) {}}
	call.Trace.Parent, call.Trace.State = r.Header.Get("Traceparent"), r.Header.Get("Tracestate")
	payload, status, err := h.payload(w, r)
	call.Payload = payload
	if err != nil {
		h.backend.Reject(call, err)
	} else {
		h.backend.Do(r.Context(), call)
	}
	w.Header().Set("X-Request-Id", string(call.RequestID))
	if call.Trace.ID != "" {
		w.Header().Set("X-Trace-Id", call.Trace.ID)
	}
	if call.Err != nil {
		code := server.Code(call.Err)
		if code == codes.ResourceExhausted {
			w.Header().Set("Retry-After", "1")
		}
		if status == 0 {
			status = server.HTTPStatus(code)
		}
		fail(w, code, status, server.Message(call.Err))
		return
	}
	var res coppicev1.PredictResponse
	if err := proto.Unmarshal(call.Reply, &res); err != nil {
		fail(w, codes.Internal, http.StatusInternalServerError, "the replica's answer could not be read")
		return
	}
	write(w, http.StatusOK, render(&res, call.Model.GetClassKind()))
}

// payload makes an encoded PredictRequest of a request. With an error comes its HTTP status.
func (h *Handler) payload(w http.ResponseWriter, r *http.Request) (payload []byte, status int, err error) {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		// curl's -d says that it sends a form.
		if t, _, err := mime.ParseMediaType(ct); err != nil || (t != "application/json" && t != "application/x-www-form-urlencoded") {
			return nil, http.StatusUnsupportedMediaType, fmt.Errorf("%w: Content-Type is %.100q, application/json is needed", frame.ErrRequest, ct)
		}
	}
	var body bytes.Buffer
	if r.ContentLength > 0 { // a length that was only said costs little
		body.Grow(int(min(r.ContentLength, 1<<20)) + bytes.MinRead)
	}
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, h.maxBytes)); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("%w: the body has more than %d bytes (--max-message-bytes)", frame.ErrTooLarge, h.maxBytes)
		}
		return nil, http.StatusBadRequest, fmt.Errorf("%w: the body could not be read", frame.ErrRequest)
	}
	payload, err = parse(body.Bytes(), r.Header.Get("X-Request-Id"), int(h.maxBytes))
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	return payload, 0, nil
}

// render makes the answer's body. Labels that spell numbers or booleans are given as such, as the model's
// library would.
func render(res *coppicev1.PredictResponse, kind string) *answer {
	a := &answer{Prediction: []any{}, Model: res.GetModel(), Version: res.GetVersion(), RequestID: res.GetRequestId()}
	for _, c := range res.GetClasses() {
		a.Classes = append(a.Classes, label(c, kind))
	}
	for _, p := range res.GetPredictions() {
		if p.Value != nil {
			a.Prediction = append(a.Prediction, p.GetValue())
			continue
		}
		if len(p.GetValues()) > 0 {
			a.Prediction = append(a.Prediction, p.GetValues())
			continue
		}
		if len(p.GetLabels()) > 0 {
			var labels []any
			for _, l := range p.GetLabels() {
				labels = append(labels, label(l, kind))
			}
			a.Prediction = append(a.Prediction, labels)
		} else {
			a.Prediction = append(a.Prediction, label(p.GetLabel(), kind))
		}
		a.Probability = append(a.Probability, p.GetScores())
	}
	return a
}

func label(s, kind string) any {
	switch kind {
	case "int", "float":
		if b := []byte(s); json.Valid(b) && (b[0] == '-' || (b[0] >= '0' && b[0] <= '9')) {
			return json.Number(strings.TrimSpace(s))
		}
	case "bool":
		switch {
		case strings.EqualFold(s, "true"):
			return true
		case strings.EqualFold(s, "false"):
			return false
		}
	}
	return s
}

// problem is the body of an error.
type problem struct {
	Error string `json:"error"`
	Code  string `json:"code"`
}

func fail(w http.ResponseWriter, code codes.Code, status int, msg string) {
	write(w, status, problem{Error: msg, Code: server.CodeName(code)})
}

func write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // a value that is no JSON number
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer holds a value that JSON cannot","code":"INTERNAL"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // fails when the client is gone
}
