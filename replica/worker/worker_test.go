package worker

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sums is a forest whose scores are easy to tell: output o of a row is the sum of its values times o+1. Leaf
// t of a row is its first value plus t.
type sums struct {
	features int
	classes  []string
	missing  bool
	infinite bool
	wide     bool    // it compares float64
	shift    float64 // what scores have more than margins
	targets  int     // 0: 1; the classes, or the scores, are shared evenly among them
	trees    int
	gate     chan struct{} // when set, every Predict takes from it first
	mu       sync.Mutex
	calls    []int // rows of each Predict
}

func (f *sums) Input() model.Input {
	if f.wide {
		return model.Float64
	}
	return model.Float32
}
func (f *sums) NumFeatures() int { return f.features }
func (f *sums) NumMargins() int  { return f.NumScores() }
func (f *sums) NumScores() int   { return max(len(f.classes), f.NumTargets()) }
func (f *sums) NumTargets() int  { return max(f.targets, 1) }
func (f *sums) NumTrees() int    { return f.trees }
func (f *sums) Classes() []string {
	return f.classes
}
func (f *sums) FeatureName(i int) string { return fmt.Sprintf("f%d", i) }
func (f *sums) TakesMissing() bool       { return f.missing }
func (f *sums) TakesInfinite() bool      { return f.infinite }

func (f *sums) Margins(dst []float64, rows []float32) error {
	wide := make([]float64, len(rows))
	for i, v := range rows {
		wide[i] = float64(v)
	}
	return f.Margins64(dst, wide)
}

func (f *sums) Margins64(dst, rows []float64) error {
	if f.gate != nil {
		<-f.gate
	}
	f.mu.Lock()
	f.calls = append(f.calls, len(rows)/f.features)
	f.mu.Unlock()
	k := f.NumMargins()
	for i := range len(rows) / f.features {
		sum := 0.0
		for _, v := range rows[i*f.features : (i+1)*f.features] {
			sum += v
		}
		for o := range k {
			dst[i*k+o] = sum * float64(o+1)
		}
	}
	return nil
}

func (f *sums) Scores(dst, margins []float64) error {
	for i, v := range margins {
		dst[i] = v + f.shift
	}
	return nil
}

func (f *sums) LabelOf(target int, _, scores []float64) int {
	n := len(scores) / f.NumTargets()
	best := target * n
	for i := best; i < (target+1)*n; i++ {
		if scores[i] > scores[best] {
			best = i
		}
	}
	return best
}

func (f *sums) Leaves(dst []int64, rows []float32) error {
	for i := range len(rows) / f.features {
		for t := range f.trees {
			dst[i*f.trees+t] = int64(rows[i*f.features]) + int64(t)
		}
	}
	return nil
}

func (f *sums) Leaves64(dst []int64, rows []float64) error {
	for i := range len(rows) / f.features {
		for t := range f.trees {
			dst[i*f.trees+t] = int64(rows[i*f.features]) + int64(t)
		}
	}
	return nil
}

// rig is a worker on a socket with one gateway's stream.
type rig struct {
	t       *testing.T
	server  *Server
	stream  grpc.ClientStream
	replies chan frame.Reply
}

func newRig(t *testing.T, cfg Config, models ...*Model) *rig {
	t.Helper()
	var table Table
	table.Set(models)
	s := New(cfg, Settings{Models: &table})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec()))
	s.Register(srv)
	s.Start()
	go func() { _ = srv.Serve(lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec())))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		coppicev1.WorkerService_Exchange_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, server: s, stream: stream, replies: make(chan frame.Reply, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(r.replies)
		chunks := frame.NewAssembler(1<<30, 1000)
		var m frame.Message
		for stream.RecvMsg(&m) == nil {
			for rest := m.Bytes; ; {
				reply, next, ok, err := frame.NextReply(rest)
				if err != nil || !ok {
					break
				}
				rest = next
				whole, complete, err := chunks.Reply(reply)
				if err != nil {
					t.Error(err)
				}
				if complete {
					r.replies <- whole
				}
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		conn.Close()
		stop, end := context.WithTimeout(context.Background(), 5*time.Second)
		defer end()
		s.Stop(stop)
		srv.Stop()
		s.Wait()
	})
	return r
}

// send puts frames into one message, so that they arrive together.
func (r *rig) send(frames ...*coppicev1.WorkFrame) {
	r.t.Helper()
	b, err := proto.Marshal(&coppicev1.ExchangeRequest{Frames: frames})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.stream.SendMsg(&frame.Message{Bytes: b}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) reply() frame.Reply {
	r.t.Helper()
	select {
	case reply, ok := <-r.replies:
		if !ok {
			r.t.Fatal("the stream ended")
		}
		return reply
	case <-time.After(10 * time.Second):
		r.t.Fatal("no reply")
	}
	panic("unreachable")
}

func request(t *testing.T, id uint64, version string, req *coppicev1.PredictRequest) *coppicev1.WorkFrame {
	t.Helper()
	b, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return &coppicev1.WorkFrame{Id: id, Payload: b, Version: version, RequestId: "q"}
}

func instances(rows ...[]float64) []*coppicev1.Instance {
	var out []*coppicev1.Instance
	for _, v := range rows {
		out = append(out, &coppicev1.Instance{Values: v})
	}
	return out
}

func response(t *testing.T, r frame.Reply) *coppicev1.PredictResponse {
	t.Helper()
	if r.Code != codes.OK {
		t.Fatalf("reply %d: %v: %s", r.ID, r.Code, r.Message)
	}
	var res coppicev1.PredictResponse
	if err := proto.Unmarshal(r.Payload, &res); err != nil {
		t.Fatal(err)
	}
	return &res
}

func float32Tensor(columns int, values ...float32) *coppicev1.Tensor {
	t := &coppicev1.Tensor{DataType: coppicev1.DataType_DATA_TYPE_FP32, Shape: []int64{int64(len(values) / columns), int64(columns)}}
	for _, v := range values {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(v))
	}
	return t
}

func doubles(v ...float64) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
	}
	return b
}

func ints(v ...int64) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, uint64(x))
	}
	return b
}

// TestAnswers reads what encode.go writes with the generated types.
func TestAnswers(t *testing.T) {
	classifier := NewModel("c", "v1", "h1", &sums{features: 2, classes: []string{"no", "yes"}, trees: 3})
	regressor := NewModel("r", "v2", "h2", &sums{features: 2, trees: 2})
	two := NewModel("two", "v3", "h3", &sums{features: 2, classes: []string{"a", "b", "", "d"}, targets: 2, shift: 1, trees: 1})
	wide := NewModel("wide", "v4", "h4", &sums{features: 1, targets: 2, shift: 1, wide: true, infinite: true, trees: 1})
	all := []coppicev1.Output{
		coppicev1.Output_OUTPUT_LABEL, coppicev1.Output_OUTPUT_PROBABILITY,
		coppicev1.Output_OUTPUT_MARGIN, coppicev1.Output_OUTPUT_LEAF,
	}
	named := func(name string, typ coppicev1.DataType, rows, columns int64, data []byte) *coppicev1.NamedTensor {
		return &coppicev1.NamedTensor{Name: name, Tensor: &coppicev1.Tensor{DataType: typ, Shape: []int64{rows, columns}, Data: data}}
	}
	f64, i64 := coppicev1.DataType_DATA_TYPE_FP64, coppicev1.DataType_DATA_TYPE_INT64
	value := 3.0
	for _, tt := range []struct {
		name    string
		version string
		req     *coppicev1.PredictRequest
		want    *coppicev1.PredictResponse
	}{
		{
			"classifier by default", "v1",
			&coppicev1.PredictRequest{Instances: instances([]float64{1, 2}, []float64{-1, -2})},
			&coppicev1.PredictResponse{Model: "c", Version: "v1", RequestId: "q", Classes: []string{"no", "yes"}, Predictions: []*coppicev1.Prediction{
				{Label: "yes", Scores: []float64{3, 6}}, {Label: "no", Scores: []float64{-3, -6}},
			}},
		},
		{
			"classifier, everything", "v1",
			&coppicev1.PredictRequest{Model: "c", Outputs: all, Instances: instances([]float64{1, 2})},
			&coppicev1.PredictResponse{Model: "c", Version: "v1", RequestId: "q", Classes: []string{"no", "yes"}, Predictions: []*coppicev1.Prediction{
				{Label: "yes", Scores: []float64{3, 6}, Margins: []float64{3, 6}, Leaves: []int64{1, 2, 3}},
			}},
		},
		{
			"classifier, tensor", "v1",
			&coppicev1.PredictRequest{Outputs: all, Tensor: float32Tensor(2, 1, 2, 300, 4)},
			&coppicev1.PredictResponse{Model: "c", Version: "v1", RequestId: "q", Classes: []string{"no", "yes"}, Tensors: []*coppicev1.NamedTensor{
				named("label", i64, 2, 1, ints(1, 1)), named("probability", f64, 2, 2, doubles(3, 6, 304, 608)),
				named("margin", f64, 2, 2, doubles(3, 6, 304, 608)), named("leaf", i64, 2, 3, ints(1, 2, 3, 300, 301, 302)),
			}},
		},
		{
			"regressor by default", "v2",
			&coppicev1.PredictRequest{Instances: instances([]float64{1, 2})},
			&coppicev1.PredictResponse{Model: "r", Version: "v2", RequestId: "q", Predictions: []*coppicev1.Prediction{{Value: &value}}},
		},
		{
			"regressor, tensor", "v2",
			&coppicev1.PredictRequest{Tensor: float32Tensor(2, 1, 2)},
			&coppicev1.PredictResponse{Model: "r", Version: "v2", RequestId: "q", Tensors: []*coppicev1.NamedTensor{named("value", f64, 1, 1, doubles(3))}},
		},
		{
			"more work, same bits", "v2",
			&coppicev1.PredictRequest{Work: coppicev1.Work_WORK_HEAVY, Instances: instances([]float64{1, 2})},
			&coppicev1.PredictResponse{Model: "r", Version: "v2", RequestId: "q", Predictions: []*coppicev1.Prediction{{Value: &value}}},
		},
		{
			"two targets with classes", "v3",
			&coppicev1.PredictRequest{Outputs: all, Instances: instances([]float64{1, 2}, []float64{-1, -2})},
			&coppicev1.PredictResponse{Model: "two", Version: "v3", RequestId: "q", Classes: []string{"a", "b", "", "d"}, Predictions: []*coppicev1.Prediction{
				{Labels: []string{"b", "d"}, Scores: []float64{4, 7, 10, 13}, Margins: []float64{3, 6, 9, 12}, Leaves: []int64{1}},
				{Labels: []string{"a", ""}, Scores: []float64{-2, -5, -8, -11}, Margins: []float64{-3, -6, -9, -12}, Leaves: []int64{-1}},
			}},
		},
		{
			"two targets with classes, tensor", "v3",
			&coppicev1.PredictRequest{Tensor: float32Tensor(2, 1, 2)},
			&coppicev1.PredictResponse{Model: "two", Version: "v3", RequestId: "q", Classes: []string{"a", "b", "", "d"}, Tensors: []*coppicev1.NamedTensor{
				named("label", i64, 1, 2, ints(1, 3)), named("probability", f64, 1, 4, doubles(4, 7, 10, 13)),
			}},
		},
		{
			"rows of float64, two values", "v4",
			&coppicev1.PredictRequest{Outputs: all[2:3], Instances: instances([]float64{1e300}, []float64{math.Inf(1)})},
			&coppicev1.PredictResponse{Model: "wide", Version: "v4", RequestId: "q", Predictions: []*coppicev1.Prediction{
				{Margins: []float64{1e300, 2e300}}, {Margins: []float64{math.Inf(1), math.Inf(1)}},
			}},
		},
		{
			"what float32 cannot tell apart", "v4",
			&coppicev1.PredictRequest{Instances: instances([]float64{1 + 1e-12})},
			&coppicev1.PredictResponse{Model: "wide", Version: "v4", RequestId: "q", Predictions: []*coppicev1.Prediction{{Values: []float64{1 + 1e-12 + 1, 2*(1+1e-12) + 1}}}},
		},
		{
			"tensor of float64, two values", "v4",
			&coppicev1.PredictRequest{Tensor: &coppicev1.Tensor{DataType: f64, Shape: []int64{1, 1}, Data: doubles(0.5)}},
			&coppicev1.PredictResponse{Model: "wide", Version: "v4", RequestId: "q", Tensors: []*coppicev1.NamedTensor{named("value", f64, 1, 2, doubles(1.5, 2))}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Config{}, classifier, regressor, two, wide)
			r.send(request(t, 7, tt.version, tt.req))
			if diff := cmp.Diff(tt.want, response(t, r.reply()), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	classifier := NewModel("c", "v1", "h1", &sums{features: 2, classes: []string{"no", "yes"}, trees: 3})
	regressor := NewModel("r", "v2", "h2", &sums{features: 2, trees: 2, missing: true})
	row := instances([]float64{1, 2})
	for _, tt := range []struct {
		name    string
		version string
		req     *coppicev1.PredictRequest
		code    codes.Code
		say     string
	}{
		{"too few values", "v1", &coppicev1.PredictRequest{Instances: instances([]float64{1})}, codes.InvalidArgument, "instance 0 has 1 values, the model has 2 features"},
		{"too many values", "v1", &coppicev1.PredictRequest{Instances: instances([]float64{1, 2}, []float64{1, 2, 3, 4})}, codes.InvalidArgument, "instance 1 has 4 values, the model has 2 features"},
		{"tensor columns", "v1", &coppicev1.PredictRequest{Tensor: float32Tensor(3, 1, 2, 3)}, codes.InvalidArgument, "tensor has 3 columns, model \"c\" has 2 features"},
		{"no rows", "v1", &coppicev1.PredictRequest{}, codes.InvalidArgument, "at least one row is needed"},
		{"NaN", "v1", &coppicev1.PredictRequest{Instances: instances([]float64{1, math.NaN()})}, codes.InvalidArgument, `row 0, feature 1 ("f1"): NaN`},
		{"infinity", "v2", &coppicev1.PredictRequest{Instances: instances([]float64{math.Inf(-1), 1})}, codes.InvalidArgument, "an infinity"},
		{"too large for float32", "v2", &coppicev1.PredictRequest{Instances: instances([]float64{1, 2}, []float64{1, 1e300})}, codes.InvalidArgument, "row 1, feature 1 (\"f1\"): the value is too large for float32"},
		{"probability of a regressor", "v2", &coppicev1.PredictRequest{Instances: row, Outputs: []coppicev1.Output{coppicev1.Output_OUTPUT_PROBABILITY}}, codes.InvalidArgument, "is a regressor"},
		{"version", "v3", &coppicev1.PredictRequest{Instances: row}, codes.NotFound, `does not serve version "v3"`},
		{"name of another", "v1", &coppicev1.PredictRequest{Model: "r", Instances: row}, codes.NotFound, `of model "r"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Config{}, classifier, regressor)
			r.send(request(t, 1, tt.version, tt.req), request(t, 2, "v2", &coppicev1.PredictRequest{Instances: row}))
			bad := r.reply()
			good := r.reply()
			if bad.ID == 2 {
				bad, good = good, bad
			}
			if bad.Code != tt.code || !strings.Contains(bad.Message, tt.say) {
				t.Errorf("got %v: %s, want %v: …%s…", bad.Code, bad.Message, tt.code, tt.say)
			}
			if got := response(t, good).GetPredictions()[0].GetValue(); got != 3 {
				t.Errorf("the request beside it got %v, want 3", got)
			}
		})
	}
}

// TestBatch sees that what arrives while the executor is busy is evaluated together, and apart from another
// model's.
func TestBatch(t *testing.T) {
	gate := make(chan struct{})
	a := &sums{features: 1, trees: 1, gate: gate}
	b := &sums{features: 1, trees: 1}
	r := newRig(t, Config{MaxBatchRows: 4}, NewModel("a", "a", "a", a), NewModel("b", "b", "b", b))
	one := func(id uint64, version string) *coppicev1.WorkFrame {
		return request(t, id, version, &coppicev1.PredictRequest{Instances: instances([]float64{float64(id)})})
	}
	r.send(one(1, "a"))
	for { // until the executor is busy with it
		if in, queued, _ := r.server.Load(); in == 1 && queued == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	r.send(one(2, "a"), one(3, "a"), one(4, "b"), one(5, "a"), one(6, "a"), one(7, "a"), one(8, "a"), one(9, "a"))
	for {
		if in, _, _ := r.server.Load(); in == 9 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(gate)
	for range 9 {
		reply := r.reply()
		if got := response(t, reply).GetPredictions()[0].GetValue(); got != float64(reply.ID) {
			t.Errorf("request %d got %v", reply.ID, got)
		}
	}
	if diff := cmp.Diff([]int{1, 2, 4, 1}, a.calls); diff != "" {
		t.Errorf("batches of model a: %s", diff)
	}
}

func TestCancelAndDeadline(t *testing.T) {
	gate := make(chan struct{})
	f := &sums{features: 1, trees: 1, gate: gate}
	r := newRig(t, Config{}, NewModel("a", "a", "a", f))
	req := &coppicev1.PredictRequest{Instances: instances([]float64{1})}
	r.send(request(t, 1, "a", req))
	late := request(t, 2, "a", req)
	late.TimeoutUs = 1000
	r.send(late, request(t, 3, "a", req), request(t, 4, "a", req), &coppicev1.WorkFrame{Id: 3, Cancel: true})
	time.Sleep(20 * time.Millisecond)
	close(gate)
	got := map[uint64]codes.Code{}
	for range 4 {
		reply := r.reply()
		got[reply.ID] = reply.Code
	}
	want := map[uint64]codes.Code{1: codes.OK, 2: codes.DeadlineExceeded, 3: codes.Canceled, 4: codes.OK}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if in, queued, answered := r.server.Load(); in != 0 || queued != 0 || answered != 4 {
		t.Errorf("load is %d in flight, %d queued, %d answered", in, queued, answered)
	}
}

// TestChunks sends a payload in chunks with a small request between them, and gets a large answer.
func TestChunks(t *testing.T) {
	r := newRig(t, Config{}, NewModel("a", "a", "a", &sums{features: 1, trees: 1}))
	values := make([]float32, 100_000)
	for i := range values {
		values[i] = float32(i)
	}
	whole := request(t, 1, "a", &coppicev1.PredictRequest{Tensor: float32Tensor(1, values...)})
	payload := whole.GetPayload()
	whole.TotalBytes = uint64(len(payload))
	for sent := 0; sent < len(payload); {
		n := min(frame.ChunkBytes, len(payload)-sent)
		whole.Payload, whole.More = payload[sent:sent+n], sent+n < len(payload)
		r.send(whole)
		if sent == 0 {
			r.send(request(t, 2, "a", &coppicev1.PredictRequest{Instances: instances([]float64{5})}))
			if reply := r.reply(); reply.ID != 2 {
				t.Fatalf("reply to %d came first", reply.ID)
			}
		}
		whole = &coppicev1.WorkFrame{Id: 1}
		sent += n
	}
	res := response(t, r.reply())
	data := res.GetTensors()[0].GetTensor().GetData()
	if len(data) != 8*len(values) {
		t.Fatalf("answer has %d bytes", len(data))
	}
	for i, v := range values {
		if got := math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:])); got != float64(v) {
			t.Fatalf("row %d: %v", i, got)
		}
	}
}

func TestAnswerTooLarge(t *testing.T) {
	r := newRig(t, Config{MaxMessageBytes: 64 << 10}, NewModel("a", "a", "a", &sums{features: 1, trees: 1000}))
	req := &coppicev1.PredictRequest{Tensor: float32Tensor(1, make([]float32, 100)...), Outputs: []coppicev1.Output{coppicev1.Output_OUTPUT_LEAF}}
	r.send(request(t, 1, "a", req))
	if reply := r.reply(); reply.Code != codes.InvalidArgument || !strings.Contains(reply.Message, "send at most 8 rows") {
		t.Errorf("got %v: %s", reply.Code, reply.Message)
	}
}

func TestQueueFull(t *testing.T) {
	gate := make(chan struct{})
	r := newRig(t, Config{MaxQueued: 2}, NewModel("a", "a", "a", &sums{features: 1, trees: 1, gate: gate}))
	req := &coppicev1.PredictRequest{Instances: instances([]float64{1})}
	r.send(request(t, 1, "a", req))
	for {
		if in, queued, _ := r.server.Load(); in == 1 && queued == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	r.send(request(t, 2, "a", req), request(t, 3, "a", req), request(t, 4, "a", req))
	if reply := r.reply(); reply.ID != 4 || reply.Code != codes.ResourceExhausted {
		t.Errorf("reply %d: %v", reply.ID, reply.Code)
	}
	close(gate)
	for range 3 {
		response(t, r.reply())
	}
}

// TestStop sees that accepted requests are answered before the stream ends, and new ones refused.
func TestStop(t *testing.T) {
	gate := make(chan struct{})
	r := newRig(t, Config{}, NewModel("a", "a", "a", &sums{features: 1, trees: 1, gate: gate}))
	req := &coppicev1.PredictRequest{Instances: instances([]float64{1})}
	r.send(request(t, 1, "a", req), request(t, 2, "a", req))
	for {
		if in, _, _ := r.server.Load(); in == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	stopped := make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		r.server.Stop(ctx)
		close(stopped)
	}()
	for !r.server.refusing.Load() {
		time.Sleep(time.Millisecond)
	}
	r.send(request(t, 3, "a", req))
	if reply := r.reply(); reply.ID != 3 || reply.Code != codes.Unavailable {
		t.Fatalf("reply %d: %v", reply.ID, reply.Code)
	}
	close(gate)
	for range 2 {
		response(t, r.reply())
	}
	<-stopped
	if _, ok := <-r.replies; ok {
		t.Error("the stream goes on")
	}
}

// TestStopMeetsTheLastAnswer stops workers just when they answer. What was accepted before is answered before the
// stream ends, and what comes too late is refused, or never read.
func TestStopMeetsTheLastAnswer(t *testing.T) {
	payload, err := proto.Marshal(&coppicev1.ExchangeRequest{Frames: []*coppicev1.WorkFrame{
		request(t, 1, "a", &coppicev1.PredictRequest{Instances: instances([]float64{1})}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	var table Table
	table.Set([]*Model{NewModel("a", "a", "a", &sums{features: 1, trees: 1})})
	answered := 0
	for i := range 1000 {
		var ok atomic.Bool
		s := New(Config{}, Settings{Models: &table, Observer: observerFunc(func(r *Record) { ok.Store(r.Code == codes.OK) })})
		s.Start()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		p := &pipe{ctx: ctx, server: s, in: [][]byte{payload}, endless: true}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = s.exchange(p)
		}()
		for began := time.Now(); time.Since(began) < time.Duration(i%50)*time.Microsecond; {
			runtime.Gosched()
		}
		s.Stop(ctx)
		<-ended
		cancel()
		s.Wait()
		if ok.Load() {
			answered++
			if p.replies == 0 {
				t.Fatalf("worker %d ended without the answer to what it had accepted", i)
			}
		}
	}
	if answered == 0 {
		t.Error("no worker was stopped as late as its answer")
	}
}
