// Package rest is the HTTP side of the gateway: POST /predict with the JSON that the FastAPI tutorials use, and
// the health pages.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/gateway/server"
	"github.com/coppice-mesh/coppice/proto/frame"
)

// Backend answers requests; *server.Server is one.
type Backend interface {
	Do(ctx context.Context, r *server.Request)
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
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if t, _, err := mime.ParseMediaType(ct); err != nil || (t != "application/json" && t != "application/x-www-form-urlencoded") {
			fail(w, codes.InvalidArgument, http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Type is %.100q, application/json is needed", ct))
			return
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.maxBytes))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			fail(w, codes.InvalidArgument, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes (--max-message-bytes)", h.maxBytes))
			return
		}
		fail(w, codes.InvalidArgument, http.StatusBadRequest, "the body could not be read")
		return
	}
	req, err := parse(body)
	if err != nil {
		fail(w, codes.InvalidArgument, http.StatusBadRequest, err.Error())
		return
	}
	req.RequestId = r.Header.Get("X-Request-Id")
	payload, err := proto.Marshal(req)
	if err != nil {
		fail(w, codes.InvalidArgument, http.StatusBadRequest, err.Error())
		return
	}
	call := &server.Request{Protocol: "POST /predict"}
	call.Payload = payload
	call.Trace.Parent, call.Trace.State = r.Header.Get("Traceparent"), r.Header.Get("Tracestate")
	h.backend.Do(r.Context(), call)
	w.Header().Set("X-Request-Id", string(call.RequestID))
	if call.Trace.ID != "" {
		w.Header().Set("X-Trace-Id", call.Trace.ID)
	}
	if call.Err != nil {
		code := server.Code(call.Err)
		if code == codes.ResourceExhausted {
			w.Header().Set("Retry-After", "1")
		}
		fail(w, code, server.HTTPStatus(code), server.Message(call.Err))
		return
	}
	var res coppicev1.PredictResponse
	if err := proto.Unmarshal(call.Reply, &res); err != nil {
		fail(w, codes.Internal, http.StatusInternalServerError, "the replica's answer could not be read")
		return
	}
	write(w, http.StatusOK, render(&res, call.Model.GetClassKind()))
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
		a.Prediction = append(a.Prediction, label(p.GetLabel(), kind))
		a.Probability = append(a.Probability, p.GetScores())
	}
	return a
}

func label(s, kind string) any {
	switch kind {
	case "int", "float":
		var n json.Number
		if json.Unmarshal([]byte(s), &n) == nil {
			return n
		}
	case "bool":
		return strings.EqualFold(s, "true")
	}
	return s
}

// problem is the body of an error.
type problem struct {
	Error string `json:"error"`
	Code  string `json:"code"`
}

func fail(w http.ResponseWriter, code codes.Code, status int, msg string) {
	write(w, status, problem{Error: msg, Code: strings.ToUpper(snake(code.String()))})
}

// snake turns a code's name, such as InvalidArgument, into words with underscores.
func snake(s string) string {
	var b strings.Builder
	for i, r := range s {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return b.String()
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

// body is the tutorial's request.
type body struct {
	Features json.RawMessage `json:"features"`
	Work     string          `json:"work"`
	Model    string          `json:"model"`
	Version  string          `json:"version"`
}

// ErrBody is wrapped by errors about a request's JSON.
var ErrBody = errors.New("invalid request")

// parse reads {"features": [...] or [[...], ...], "work": "light"}, with an optional model and version. null
// among the features is a missing value.
func parse(b []byte) (*coppicev1.PredictRequest, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var in body
	if err := dec.Decode(&in); err != nil {
		return nil, fmt.Errorf("%w: %w; expected {\"features\": [...] or [[...], ...], \"work\": \"light\"}", ErrBody, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the JSON object", ErrBody)
	}
	req := &coppicev1.PredictRequest{Model: in.Model, Version: in.Version}
	switch in.Work {
	case "":
	case "light":
		req.Work = coppicev1.Work_WORK_LIGHT
	case "medium":
		req.Work = coppicev1.Work_WORK_MEDIUM
	case "heavy":
		req.Work = coppicev1.Work_WORK_HEAVY
	default:
		return nil, fmt.Errorf("%w: work is %.100q, it can be light, medium or heavy", ErrBody, in.Work)
	}
	if len(in.Model) > frame.MaxNameBytes {
		return nil, fmt.Errorf("%w: model has %d bytes, at most %d are taken", ErrBody, len(in.Model), frame.MaxNameBytes)
	}
	if len(in.Features) == 0 {
		return nil, fmt.Errorf("%w: features are missing", ErrBody)
	}
	rows, err := matrix(in.Features)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		req.Instances = append(req.Instances, &coppicev1.Instance{Values: row})
	}
	return req, nil
}

// matrix reads one row or a list of rows.
func matrix(raw json.RawMessage) ([][]float64, error) {
	var cells []json.RawMessage
	if err := json.Unmarshal(raw, &cells); err != nil {
		return nil, fmt.Errorf("%w: features are no list", ErrBody)
	}
	if len(cells) == 0 {
		return nil, fmt.Errorf("%w: features are empty, at least one row is needed", ErrBody)
	}
	if cells[0][0] != '[' {
		row, err := values(cells, 0)
		return [][]float64{row}, err
	}
	rows := make([][]float64, len(cells))
	for i, c := range cells {
		var inner []json.RawMessage
		if c[0] != '[' || json.Unmarshal(c, &inner) != nil {
			return nil, fmt.Errorf("%w: features: row %d is no list of numbers, row 0 is one", ErrBody, i)
		}
		row, err := values(inner, i)
		if err != nil {
			return nil, err
		}
		if len(row) != len(rows[0]) && i > 0 {
			return nil, fmt.Errorf("%w: features: row %d has %d values, row 0 has %d", ErrBody, i, len(row), len(rows[0]))
		}
		if len(row) == 0 {
			return nil, fmt.Errorf("%w: features: row %d is empty", ErrBody, i)
		}
		rows[i] = row
	}
	return rows, nil
}

func values(cells []json.RawMessage, row int) ([]float64, error) {
	out := make([]float64, len(cells))
	for j, c := range cells {
		if string(c) == "null" {
			out[j] = math.NaN()
			continue
		}
		v, err := strconv.ParseFloat(string(c), 64)
		if err != nil || (c[0] != '-' && (c[0] < '0' || c[0] > '9')) {
			return nil, fmt.Errorf("%w: features: row %d, value %d is %.40s, which is no number in the range of float64", ErrBody, row, j, c)
		}
		out[j] = v
	}
	return out, nil
}
