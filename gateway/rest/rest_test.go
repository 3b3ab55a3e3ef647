package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/coppice-mesh/coppice/balancer/admit"
	"github.com/coppice-mesh/coppice/gateway/pool"
	"github.com/coppice-mesh/coppice/gateway/route"
	"github.com/coppice-mesh/coppice/gateway/server"
	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// backend answers with what a test says and keeps what was asked.
type backend struct {
	res   *coppicev1.PredictResponse
	raw   []byte // instead of res
	err   error
	kind  string
	trace string

	asked    *server.Request
	request  coppicev1.PredictRequest
	rejected error
}

func (b *backend) Do(_ context.Context, r *server.Request) {
	b.asked = r
	if err := proto.Unmarshal(r.Payload, &b.request); err != nil {
		r.Err = err
		return
	}
	r.RequestID, r.Trace.ID = []byte(b.request.GetRequestId()), b.trace
	if len(r.RequestID) == 0 {
		r.RequestID = []byte("made")
	}
	r.Model = &coppicev1.ServedModel{ClassKind: b.kind}
	if r.Err = b.err; r.Err != nil {
		return
	}
	if r.Reply = b.raw; r.Reply == nil {
		r.Reply, r.Err = proto.Marshal(b.res)
	}
}

func (b *backend) Reject(r *server.Request, err error) {
	b.asked, b.rejected, r.Err = r, err, err
	r.RequestID = []byte("made")
	r.OnDone(r)
}

func value(v float64) *coppicev1.Prediction { return &coppicev1.Prediction{Value: &v} }

func ready() (bool, string) { return true, "" }

// ask sends a body and gives the answer, which is JSON.
func ask(t testing.TB, b *backend, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/predict", strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return serve(t, b, r)
}

func serve(t testing.TB, b *backend, r *http.Request) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	New(b, ready, 10_000).ServeHTTP(w, r)
	got := w.Body.String()
	if ct := w.Header().Get("Content-Type"); ct != "application/json" || !json.Valid(w.Body.Bytes()) {
		t.Errorf("answer is %s %q", ct, got)
	}
	return w.Result(), got
}

// TestAnswers: answers as the tutorials have them, with labels of their own kind.
func TestAnswers(t *testing.T) {
	classes := func(labels ...string) *coppicev1.PredictResponse {
		res := &coppicev1.PredictResponse{Model: "m", Version: "v", RequestId: "id", Classes: labels}
		for _, l := range labels {
			res.Predictions = append(res.Predictions, &coppicev1.Prediction{Label: l, Scores: []float64{0.25, 0.75}})
		}
		return res
	}
	const tail = `,"model":"m","version":"v","request_id":"id"}`
	probability := func(n int) string {
		return `,"probability":[` + strings.TrimSuffix(strings.Repeat("[0.25,0.75],", n), ",") + "]"
	}
	both := func(labels string, n int) string {
		return `{"prediction":[` + labels + "]" + probability(n) + `,"classes":[` + labels + "]" + tail
	}
	for _, tt := range []struct {
		name, kind string
		res        *coppicev1.PredictResponse
		want       string
	}{
		{"int", "int", classes("0", "-17", "9007199254740993"), both("0,-17,9007199254740993", 3)},
		{"float", "float", classes("1.0", "2.5", "1e+22"), both("1.0,2.5,1e+22", 3)},
		{"float that JSON has not", "float", classes("nan", "inf", "-inf"), both(`"nan","inf","-inf"`, 3)},
		{"bool", "bool", classes("False", "True"), both("false,true", 2)},
		{"string", "string", classes("0", "true", "größe \"x\""), both(`"0","true","größe \"x\""`, 3)},
		{"int that is none", "int", classes("", "null", `"5"`, " 1", "01"), both(`"","null","\"5\""," 1","01"`, 5)},
		{"bool that is none", "bool", classes("yes"), both(`"yes"`, 1)},
		{"unknown kind", "", classes("1"), both(`"1"`, 1)},
		{
			"regressor", "",
			&coppicev1.PredictResponse{Model: "m", Version: "v", RequestId: "id", Predictions: []*coppicev1.Prediction{value(1.5), value(0), value(-1e-300)}},
			`{"prediction":[1.5,0,-1e-300]` + tail,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, got := ask(t, &backend{res: tt.res, kind: tt.kind}, `{"features":[1,2]}`)
			if res.StatusCode != http.StatusOK || strings.TrimSpace(got) != tt.want {
				t.Errorf("%d\n%s\nwant\n%s", res.StatusCode, got, tt.want)
			}
		})
	}
}

// TestBodies: what good bodies ask for.
func TestBodies(t *testing.T) {
	nan := math.NaN()
	rows := func(rows ...[]float64) *coppicev1.PredictRequest {
		r := &coppicev1.PredictRequest{}
		for _, row := range rows {
			r.Instances = append(r.Instances, &coppicev1.Instance{Values: row})
		}
		return r
	}
	with := func(r *coppicev1.PredictRequest, f func(*coppicev1.PredictRequest)) *coppicev1.PredictRequest {
		f(r)
		return r
	}
	for _, tt := range []struct {
		body string
		want *coppicev1.PredictRequest
	}{
		{`{"features":[1,2.5,-3e2]}`, rows([]float64{1, 2.5, -300})},
		{`{"features":[[1,2],[3,4]]}`, rows([]float64{1, 2}, []float64{3, 4})},
		{"\n {\t\"features\" : [ [ 1 , 2 ] ,\r\n [ 3 , null ] ] } \n", rows([]float64{1, 2}, []float64{3, nan})},
		{`{"features":[null]}`, rows([]float64{nan})},
		{`{"features":[1e-400,-0,1E+5,0.1]}`, rows([]float64{0, math.Copysign(0, -1), 1e5, 0.1})},
		{`{"features":[1],"work":"light"}`, with(rows([]float64{1}), func(r *coppicev1.PredictRequest) { r.Work = coppicev1.Work_WORK_LIGHT })},
		{`{"features":[1],"work":"medium"}`, with(rows([]float64{1}), func(r *coppicev1.PredictRequest) { r.Work = coppicev1.Work_WORK_MEDIUM })},
		{`{"work":"heavy","features":[1]}`, with(rows([]float64{1}), func(r *coppicev1.PredictRequest) { r.Work = coppicev1.Work_WORK_HEAVY })},
		{`{"features":[1],"model":"größe","version":"01234567"}`, with(rows([]float64{1}), func(r *coppicev1.PredictRequest) { r.Model, r.Version = "größe", "01234567" })},
	} {
		t.Run(tt.body, func(t *testing.T) {
			b := &backend{res: &coppicev1.PredictResponse{}}
			if res, got := ask(t, b, tt.body); res.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", res.StatusCode, got)
			}
			if d := cmp.Diff(tt.want, &b.request, protocmp.Transform(), cmp.Comparer(func(a, b float64) bool {
				return math.Float64bits(a) == math.Float64bits(b) || (a != a && b != b)
			})); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestBadBodies: each says what was expected and what came, and is observed as a request that failed.
func TestBadBodies(t *testing.T) {
	for _, tt := range []struct {
		body   string
		status int
		want   string
	}{
		{"", 400, "EOF; expected {\\\"features\\\""},
		{"{", 400, "unexpected EOF"},
		{"x", 400, "invalid character 'x'"},
		{"null", 400, "features are missing"},
		{"[]", 400, "cannot unmarshal array"},
		{`"features"`, 400, "cannot unmarshal string"},
		{"{}", 400, "features are missing"},
		{`{"features":null}`, 400, "features are no list"},
		{`{"features":1}`, 400, "features are no list"},
		{`{"features":{"a":1}}`, 400, "features are no list"},
		{`{"features":"[1]"}`, 400, "features are no list"},
		{`{"features":[]}`, 400, "features are empty"},
		{`{"features":[[]]}`, 400, "row 0 is empty"},
		{`{"features":[[1],[]]}`, 400, "row 1 is empty"},
		{`{"features":[[1,2],[3]]}`, 400, "row 1 has 1 values, row 0 has 2"},
		{`{"features":[[1],[2,3]]}`, 400, "row 1 has 2 values, row 0 has 1"},
		{`{"features":[1,[2]]}`, 400, "row 0, value 1 is [2], which is no number"},
		{`{"features":[[1],2]}`, 400, "row 1 is no list of numbers, row 0 is one"},
		{`{"features":[[1],null]}`, 400, "row 1 is no list of numbers"},
		{`{"features":[[[1]]]}`, 400, "row 0, value 0 is [1], which is no number"},
		{`{"features":["1"]}`, 400, `row 0, value 0 is \"1\", which is no number`},
		{`{"features":[true]}`, 400, "value 0 is true"},
		{`{"features":[[1,2],[1,{"a":[1,2]}]]}`, 400, `row 1, value 1 is {\"a\":[1,2]}`},
		{`{"features":[1e400]}`, 400, "value 0 is 1e400, which is no number in the range of float64"},
		{`{"features":[NaN]}`, 400, "invalid character 'N'"},
		{`{"features":[01]}`, 400, "invalid character '1'"},
		{`{"features":[+1]}`, 400, "invalid character '+'"},
		{`{"features":[0x10]}`, 400, "invalid character 'x'"},
		{`{"features":[1,]}`, 400, "invalid character ']'"},
		{`{"features":[1]`, 400, "unexpected EOF"},
		{`{"features":[1]}}`, 400, "something follows"},
		{`{"features":[1]} {}`, 400, "something follows"},
		{`{"features":[1],"feature":[2]}`, 400, `unknown field \"feature\"`},
		{`{"features":[1],"work":"extreme"}`, 400, `work is \"extreme\", it can be light, medium or heavy`},
		{`{"features":[1],"work":3}`, 400, "cannot unmarshal number"},
		{`{"features":[1],"model":["m"]}`, 400, "cannot unmarshal array"},
		{`{"features":` + strings.Repeat("[", 4900) + strings.Repeat("]", 4900) + `}`, 400, "is [[["},
		{`{"features":[` + strings.Repeat("1,", 2000) + `1]}`, 400, "more than 10000 bytes"},
		{`{"features":[` + strings.Repeat("[1],", 1000) + `[1]]}`, 400, "more than 10000 bytes"},
		{`{"features":[1` + strings.Repeat(" ", 10_000) + `]}`, 413, "the body has more than 10000 bytes"},
	} {
		t.Run(fmt.Sprintf("%.60s", tt.body), func(t *testing.T) {
			b := &backend{}
			res, got := ask(t, b, tt.body, "Traceparent", "p")
			if res.StatusCode != tt.status || !strings.Contains(got, tt.want) || !strings.Contains(got, `"code":"INVALID_ARGUMENT"`) {
				t.Errorf("%d %s; want %d %q", res.StatusCode, got, tt.status, tt.want)
			}
			if b.rejected == nil || b.asked.Trace.Parent != "p" || server.Code(b.rejected) != codes.InvalidArgument {
				t.Errorf("it was observed as %v, %v", b.asked, b.rejected)
			}
			if res.Header.Get("X-Request-Id") != "made" {
				t.Errorf("X-Request-Id is %q", res.Header.Get("X-Request-Id"))
			}
			if len(got) > 1000 {
				t.Errorf("the error has %d bytes", len(got))
			}
		})
	}
}

// TestDepth: JSON deeper than encoding/json goes is refused and costs no stack.
func TestDepth(t *testing.T) {
	b := []byte(`{"features":` + strings.Repeat("[", 1_000_000))
	if _, err := parse(b, "", 1<<30); !errors.Is(err, frame.ErrRequest) || !strings.Contains(err.Error(), "depth") {
		t.Errorf("%v", err)
	}
}

// TestMemory: a body costs a few times its size, however it is cut into rows.
func TestMemory(t *testing.T) {
	const size = 4 << 20
	for name, unit := range map[string]string{"values": "1,", "rows": "[1],", "missing": "null,", "deep": "[[[["} {
		t.Run(name, func(t *testing.T) {
			n := size / len(unit)
			body := []byte(`{"features":[` + strings.TrimSuffix(strings.Repeat(unit, n), ",") + `]}`)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			out, err := parse(body, "", 64<<20)
			runtime.ReadMemStats(&after)
			if name != "deep" && (err != nil || len(out) < 8*n) {
				t.Errorf("%d bytes, %v", len(out), err)
			}
			// All that was ever allocated, most of it by growing.
			if spent := after.TotalAlloc - before.TotalAlloc; spent > 50*size {
				t.Errorf("%d MiB were allocated for a body of %d MiB", spent>>20, size>>20)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	b := &backend{res: &coppicev1.PredictResponse{}, trace: "0123"}
	res, _ := ask(t, b, `{"features":[1]}`, "X-Request-Id", "mine", "Traceparent", "00-p-1-01", "Tracestate", "a=b", "Content-Type", "application/json; charset=utf-8")
	if b.request.GetRequestId() != "mine" || b.asked.Trace.Parent != "00-p-1-01" || b.asked.Trace.State != "a=b" || b.asked.Protocol != "POST /predict" {
		t.Errorf("asked %+v", b.asked.Trace)
	}
	if res.Header.Get("X-Request-Id") != "mine" || res.Header.Get("X-Trace-Id") != "0123" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers %v", res.Header)
	}
	b.trace = ""
	if res, _ = ask(t, b, `{"features":[1]}`); res.Header.Get("X-Request-Id") != "made" || res.Header["X-Trace-Id"] != nil {
		t.Errorf("headers %v", res.Header)
	}
	if res, _ = ask(t, b, `{"features":[1]}`, "Content-Type", "application/x-www-form-urlencoded"); res.StatusCode != http.StatusOK {
		t.Errorf("as curl -d sends it: %d", res.StatusCode)
	}
	for _, ct := range []string{"text/plain", "application/xml", "nonsense;", "/"} {
		if res, got := ask(t, b, `{"features":[1]}`, "Content-Type", ct); res.StatusCode != http.StatusUnsupportedMediaType || !strings.Contains(got, "application/json is needed") {
			t.Errorf("%s: %d %s", ct, res.StatusCode, got)
		}
	}
}

// TestErrors: a request's error has the status of its code.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		code   string
	}{
		{frame.ErrRequest, 400, "INVALID_ARGUMENT"},
		{route.ErrUnknown, 404, "NOT_FOUND"},
		{admit.ErrFull, 429, "RESOURCE_EXHAUSTED"},
		{pool.ErrCancelled, 499, "CANCELLED"},
		{pool.ErrPoison, 500, "INTERNAL"},
		{&pool.RemoteError{Code: codes.Unimplemented, Message: "m"}, 501, "UNIMPLEMENTED"},
		{pool.ErrNoReplica, 503, "UNAVAILABLE"},
		{pool.ErrDeadline, 504, "DEADLINE_EXCEEDED"},
		{errors.New("x"), 500, "INTERNAL"},
	} {
		res, got := ask(t, &backend{err: tt.err}, `{"features":[1]}`)
		var p problem
		if err := json.Unmarshal([]byte(got), &p); err != nil || res.StatusCode != tt.status || p.Code != tt.code || p.Error != server.Message(tt.err) {
			t.Errorf("%v: %d %s", tt.err, res.StatusCode, got)
		}
		if retry := res.Header.Get("Retry-After"); (retry != "") != (tt.status == 429) {
			t.Errorf("%v: Retry-After is %q", tt.err, retry)
		}
	}
	if res, got := ask(t, &backend{raw: []byte{0xff}}, `{"features":[1]}`); res.StatusCode != http.StatusInternalServerError {
		t.Errorf("a broken answer: %d %s", res.StatusCode, got)
	}
	inf := &coppicev1.PredictResponse{Predictions: []*coppicev1.Prediction{value(math.Inf(1))}}
	if res, got := ask(t, &backend{res: inf}, `{"features":[1]}`); res.StatusCode != http.StatusInternalServerError || !strings.Contains(got, "JSON") {
		t.Errorf("an infinite answer: %d %s", res.StatusCode, got)
	}
}

func TestRoutes(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/predict", 405, "POST is"},
		{"PUT", "/predict", 405, "POST is"},
		{"GET", "/healthz", 200, `"ok"`},
		{"GET", "/readyz", 200, `"ready"`},
		{"POST", "/healthz", 404, "nothing is at POST /healthz"},
		{"GET", "/", 404, "nothing is at GET /"},
		{"GET", "/predict/", 404, "POST /predict"},
		{"GET", "/" + strings.Repeat("x", 1000), 404, "nothing is at"},
	} {
		res, got := serve(t, &backend{}, httptest.NewRequest(tt.method, tt.path, nil))
		if res.StatusCode != tt.status || !strings.Contains(got, tt.want) || len(got) > 500 {
			t.Errorf("%s %.20s: %d %s", tt.method, tt.path, res.StatusCode, got)
		}
		if allow := res.Header.Get("Allow"); (allow == "POST") != (tt.status == 405) {
			t.Errorf("%s %.20s: Allow is %q", tt.method, tt.path, allow)
		}
	}
	w := httptest.NewRecorder()
	New(&backend{}, func() (bool, string) { return false, "no replica is ready" }, 1).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != 503 || !strings.Contains(w.Body.String(), "no replica is ready") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestBrokenBody: a body that ends before its time.
func TestBrokenBody(t *testing.T) {
	b := &backend{}
	r := httptest.NewRequest(http.MethodPost, "/predict", io.MultiReader(strings.NewReader(`{"features":`), iotestErr{}))
	if res, got := serve(t, b, r); res.StatusCode != http.StatusBadRequest || b.rejected == nil {
		t.Errorf("%d %s", res.StatusCode, got)
	}
	r = httptest.NewRequest(http.MethodPost, "/predict", strings.NewReader(`{"features":[1]}`))
	r.ContentLength = math.MaxInt64 // a length that is not true is not allocated
	if res, got := serve(t, &backend{res: &coppicev1.PredictResponse{}}, r); res.StatusCode != http.StatusOK {
		t.Errorf("%d %s", res.StatusCode, got)
	}
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// FuzzParse: a body gives a good request or a typed error, whatever it is, and what it gives is what encoding/json
// reads.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"features":[1,2.5,-3e2],"work":"light"}`,
		`{"features":[[1,2],[3,null]],"model":"m","version":"01234567"}`,
		` { "features" : [ [ 1 ] , [ 2 ] ] } `,
		`{"features":[[1],[]]}`, `{"features":[[1,2],[3]]}`, `{"features":[1,[2]]}`, `{"features":[[[1]]]}`,
		`{"features":["1",true,{}]}`, `{"features":[1e400,1e-400]}`, `{"features":null}`, `{"features":[1]} x`,
		`{"features":[1],"features":[[2]]}`, `{"FEATURES":[1]}`, `{"model":"\ud800","features":[0]}`, `{"work":"heavy"}`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := parse(b, "id", 1<<20)
		if err != nil {
			if !errors.Is(err, frame.ErrRequest) && !errors.Is(err, frame.ErrTooLarge) {
				t.Fatalf("error of another kind: %v", err)
			}
		}
		want := reference(b)
		if (want == nil) != (err != nil) {
			t.Fatalf("%v; encoding/json reads %v", err, want)
		}
		if err != nil {
			return
		}
		var req coppicev1.PredictRequest
		if err := proto.Unmarshal(out, &req); err != nil {
			t.Fatal(err)
		}
		if len(req.GetInstances()) != len(want) || req.GetRequestId() != "id" {
			t.Fatalf("%v, want %v", &req, want)
		}
		for i, row := range req.GetInstances() {
			if len(row.GetValues()) != len(want[i]) {
				t.Fatalf("%v, want %v", &req, want)
			}
			for j, v := range row.GetValues() {
				if w := want[i][j]; (w == nil) != (v != v) || (w != nil && math.Float64bits(*w) != math.Float64bits(v)) {
					t.Fatalf("row %d, value %d is %v", i, j, v)
				}
			}
		}
		var p frame.Predict
		if err := p.Read(out); err != nil && !errors.Is(err, frame.ErrRequest) { // names may be too long
			t.Fatalf("it is not what the gateway reads: %v", err)
		}
	})
}

// reference reads a body by encoding/json alone; nil if it is a bad one.
func reference(b []byte) [][]*float64 {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var in struct {
		Features             json.RawMessage
		Work, Model, Version string
	}
	if dec.Decode(&in) != nil || len(in.Features) == 0 {
		return nil
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil
	}
	if in.Work != "" && in.Work != "light" && in.Work != "medium" && in.Work != "heavy" {
		return nil
	}
	var rows [][]*float64
	if json.Unmarshal(in.Features, &rows) != nil {
		var row []*float64
		if json.Unmarshal(in.Features, &row) != nil {
			return nil
		}
		rows = [][]*float64{row}
	} else {
		var each []json.RawMessage
		if json.Unmarshal(in.Features, &each) != nil {
			return nil
		}
		// A list of nothing but null is one row of missing values.
		nulls := 0
		for _, r := range each {
			if string(r) == "null" {
				nulls++
			}
		}
		switch {
		case nulls == len(each):
			rows = [][]*float64{make([]*float64, nulls)}
		case nulls > 0:
			return nil
		}
	}
	if len(rows) == 0 {
		return nil
	}
	for _, r := range rows {
		if len(r) == 0 || len(r) != len(rows[0]) {
			return nil
		}
	}
	return rows
}
