package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// pipe is the worker's end of a stream, without a network. What the gateway sends lies ready; when that is read,
// the stream stays open until every answer is out.
type pipe struct {
	grpc.ServerStream

	ctx     context.Context
	server  *Server
	in      [][]byte
	before  uint64 // answers of earlier streams
	endless bool   // the gateway does not end the stream

	mu      sync.Mutex
	out     [][]byte
	replies uint64 // whole ones
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) RecvMsg(m any) error {
	if len(p.in) == 0 && p.endless {
		<-p.ctx.Done()
	}
	if len(p.in) == 0 {
		for p.ctx.Err() == nil {
			_, _, answered := p.server.Load()
			p.mu.Lock()
			out := p.replies
			p.mu.Unlock()
			if p.server.inFlight.Load() == 0 && out == answered-p.before {
				return io.EOF
			}
			time.Sleep(10 * time.Microsecond)
		}
		return p.ctx.Err()
	}
	m.(*frame.Message).Bytes = bytes.Clone(p.in[0])
	p.in = p.in[1:]
	return nil
}

func (p *pipe) SendMsg(m any) error {
	data, err := frame.Codec().Marshal(m)
	if err != nil {
		return err
	}
	b := data.Materialize()
	data.Free()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = append(p.out, b)
	for rest := b; ; {
		r, next, ok, err := frame.NextReply(rest)
		if err != nil || !ok {
			return err
		}
		if rest = next; !r.More {
			p.replies++
		}
	}
}

// messages cuts a fuzzer's bytes into messages, each behind its length in two bytes.
func messages(b []byte) [][]byte {
	var out [][]byte
	for len(b) >= 2 {
		n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
		out, b = append(out, b[2:2+n]), b[2+n:]
	}
	return out
}

func joined(msgs ...[]byte) []byte {
	var b []byte
	for _, m := range msgs {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

// FuzzExchange feeds a worker what a gateway could never mean. Whatever it is, the worker lives on, all of its
// replies are what the .proto file says, nothing stays in flight, and the next gateway is answered to the bit.
func FuzzExchange(f *testing.F) {
	message := func(frames ...*coppicev1.WorkFrame) []byte {
		b, err := proto.Marshal(&coppicev1.ExchangeRequest{Frames: frames})
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	predict := func(req *coppicev1.PredictRequest) []byte {
		b, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	two := predict(&coppicev1.PredictRequest{Model: "r", Instances: instances([]float64{1, 2}, []float64{3, 4})})
	all := []coppicev1.Output{coppicev1.Output_OUTPUT_LABEL, coppicev1.Output_OUTPUT_PROBABILITY, coppicev1.Output_OUTPUT_MARGIN, coppicev1.Output_OUTPUT_LEAF}
	tensor := predict(&coppicev1.PredictRequest{Model: "c", Tensor: float32Tensor(2, 1, 2, 3, 4), Outputs: all, Work: coppicev1.Work_WORK_MEDIUM})
	huge := predict(&coppicev1.PredictRequest{Tensor: &coppicev1.Tensor{DataType: coppicev1.DataType_DATA_TYPE_FP64, Shape: []int64{1 << 40, 20}, Data: make([]byte, 8)}})
	ragged := predict(&coppicev1.PredictRequest{Instances: instances([]float64{1, 2}, []float64{3})})
	wide := predict(&coppicev1.PredictRequest{Instances: instances([]float64{1e300, 2})})
	request := func(id uint64, payload []byte) *coppicev1.WorkFrame {
		return &coppicev1.WorkFrame{Id: id, Payload: payload, Version: "v", RequestId: "q", TimeoutUs: 1e6}
	}
	for _, seed := range [][]byte{
		nil,
		joined(message(request(1, two), request(2, tensor))),
		joined(message(request(1, two)), message(request(1, two), request(1, tensor))),
		joined(message(request(1, two), &coppicev1.WorkFrame{Id: 1, Cancel: true}, &coppicev1.WorkFrame{Id: 9, Cancel: true})),
		joined(message(request(1, huge), request(2, ragged), request(3, wide), request(4, nil), request(5, []byte{0xff}))),
		joined(message(&coppicev1.WorkFrame{Id: 1, Payload: two[:5], More: true, TotalBytes: uint64(len(two)), Version: "v"}), message(&coppicev1.WorkFrame{Id: 1, Payload: two[5:]})),
		joined(message(&coppicev1.WorkFrame{Id: 1, Payload: two, More: true, TotalBytes: 1 << 60, Version: "v"}, &coppicev1.WorkFrame{Id: 1, Payload: two, More: true})),
		joined(message(&coppicev1.WorkFrame{Id: 1, Payload: two, Version: "none", TimeoutUs: 1 << 63})),
		joined(bytes.Repeat(message(request(3, two)), 30)),
		joined([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}),
	} {
		f.Add(seed)
	}
	// A request whose strings are not UTF-8.
	f.Add(joined([]byte("\x0a\x09\x42\x01v\x4a\x04\xff\xfe\xfd\xfc"), message(request(1, two))))
	bad := message(request(1, two))
	f.Add(joined(bytes.Replace(bad, []byte("\x01q"), []byte("\x01\xff"), 1)))

	want, err := proto.Marshal(&coppicev1.PredictResponse{
		Model: "r", Version: "v", RequestId: "q",
		Predictions: []*coppicev1.Prediction{{Value: proto.Float64(3)}, {Value: proto.Float64(7)}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var table Table
		table.Set([]*Model{
			NewModel("r", "v", "r", &sums{features: 2, trees: 2}),
			NewModel("c", "v", "c", &sums{features: 2, trees: 3, classes: []string{"x", "y", "z"}, missing: true}),
		})
		var seen atomic.Uint64
		s := New(Config{MaxQueued: 8, MaxBatchRows: 16, MaxMessageBytes: 1 << 16}, Settings{Models: &table, Observer: observerFunc(func(r *Record) {
			if r.Arrived.IsZero() || r.Done.Before(r.Arrived) || r.Rows < 0 {
				t.Errorf("record of a request is %+v", r)
			}
			seen.Add(1)
		})})
		s.Start()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		hostile := &pipe{ctx: ctx, server: s, in: messages(data)}
		_ = s.exchange(hostile)
		chunks := frame.NewAssembler(1<<20, 1000)
		for _, b := range hostile.out {
			var res coppicev1.ExchangeResponse
			if err := proto.Unmarshal(b, &res); err != nil {
				t.Errorf("a message to the gateway: %v", err)
			}
			for rest := b; ; {
				r, next, ok, err := frame.NextReply(rest)
				if err != nil {
					t.Error(err)
				}
				if rest = next; !ok {
					break
				}
				whole, done, err := chunks.Reply(r)
				if err != nil {
					t.Errorf("reply %d: %v", r.ID, err)
				}
				var res coppicev1.PredictResponse
				if err := proto.Unmarshal(whole.Payload, &res); err != nil {
					t.Errorf("answer %d: %v", r.ID, err)
				}
				if rows := len(res.GetPredictions()) + len(res.GetTensors()); done && (whole.Code == codes.OK) != (rows > 0) {
					t.Errorf("answer %d: %v with %d predictions or tensors", r.ID, whole.Code, rows)
				}
			}
		}
		// An error ends a stream before its answers are out.
		for s.inFlight.Load() > 0 {
			if ctx.Err() != nil {
				t.Fatal("a request is in flight for ever")
			}
			time.Sleep(10 * time.Microsecond)
		}

		good := &pipe{ctx: ctx, server: s, in: [][]byte{message(&coppicev1.WorkFrame{Id: 5, Payload: two, Version: "v", RequestId: "q"})}}
		_, _, good.before = s.Load()
		if err := s.exchange(good); err != nil {
			t.Errorf("the next gateway's stream: %v", err)
		}
		if len(good.out) != 1 {
			t.Fatalf("the next gateway got %d messages", len(good.out))
		}
		r, _, _, err := frame.NextReply(good.out[0])
		if err != nil || r.Code != codes.OK || r.ID != 5 {
			t.Fatalf("the next gateway got %+v, %v", r, err)
		}
		var got, answer coppicev1.PredictResponse
		if err := proto.Unmarshal(r.Payload, &got); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(want, &answer); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&got, &answer) {
			t.Errorf("the next gateway got %v, want %v", &got, &answer)
		}
		s.Stop(ctx)
		s.Wait()
		if _, _, answered := s.Load(); answered != seen.Load() {
			t.Errorf("%d answers, the observer saw %d", answered, seen.Load())
		}
	})
}

type observerFunc func(*Record)

func (f observerFunc) Answered(r *Record) { f(r) }
