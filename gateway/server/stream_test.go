package server_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/coppice-mesh/coppice/gateway/internal/fakes"
	"github.com/coppice-mesh/coppice/gateway/server"
	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// TestStream: each request is answered once, by its id, with its own answer, and the stream ends behind the last.
func TestStream(t *testing.T) {
	const n = 3000 // more than the window
	r := newRig(t, server.Config{StreamWindow: 100}, fakes.Sum)
	st := openStream(t, r)
	go func() {
		for id := uint64(1); id <= n; id += 10 {
			var m coppicev1.PredictStreamRequest
			for i := range uint64(10) {
				m.Frames = append(m.Frames, &coppicev1.PredictFrame{Id: id + i, Request: request(float64(id+i), 0.5)})
			}
			if st.Send(&m) != nil {
				return
			}
		}
		_ = st.CloseSend()
	}()
	got, err := st.rest()
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if len(got) != n {
		t.Errorf("%d answers", len(got))
	}
	for id, answers := range got {
		if len(answers) != 1 || answers[0].GetError() != nil || answers[0].GetResponse().GetPredictions()[0].GetValue() != float64(id)+0.5 {
			t.Errorf("answers to %d: %v", id, answers)
		}
	}
}

// TestHalfClose: the stream stays open for what is not answered when the client closes its side.
func TestHalfClose(t *testing.T) {
	jobs := make(chan *fakes.Job, 10)
	r := newRig(t, server.Config{}, func(j *fakes.Job) { jobs <- j })
	st := openStream(t, r)
	st.send(t, &coppicev1.PredictFrame{Id: 1, Request: request(1, 2)}, &coppicev1.PredictFrame{Id: 2, Request: request(3, 4)})
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	a, b := <-jobs, <-jobs
	fakes.Sum(b)
	if got := st.answer(t); got.GetId() != 2 {
		t.Errorf("%v", got)
	}
	fakes.Sum(a)
	if got := st.answer(t); got.GetId() != 1 {
		t.Errorf("%v", got)
	}
	if _, err := st.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	empty := openStream(t, r)
	if err := empty.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if got, err := empty.rest(); !errors.Is(err, io.EOF) || len(got) != 0 {
		t.Errorf("a stream without requests: %v, %v", got, err)
	}
}

// TestDuplicateID: an id that is in use is refused, and free again once it is answered.
func TestDuplicateID(t *testing.T) {
	jobs := make(chan *fakes.Job, 10)
	r := newRig(t, server.Config{}, func(j *fakes.Job) { jobs <- j })
	st := openStream(t, r)
	st.send(t, &coppicev1.PredictFrame{Id: 7, Request: request(1, 2)}, &coppicev1.PredictFrame{Id: 7, Request: request(3, 4)})
	if a := st.answer(t); a.GetId() != 7 || codes.Code(a.GetError().GetCode()) != codes.InvalidArgument || !strings.Contains(a.GetError().GetMessage(), "id 7 is in use") {
		t.Errorf("%v", a)
	}
	fakes.Sum(<-jobs)
	if a := st.answer(t); a.GetId() != 7 || a.GetResponse().GetPredictions()[0].GetValue() != 3 {
		t.Errorf("%v", a)
	}
	for range 100 {
		st.send(t, &coppicev1.PredictFrame{Id: 7, Request: request(3, 4)})
		fakes.Sum(<-jobs)
		if a := st.answer(t); a.GetId() != 7 || a.GetError() != nil {
			t.Fatalf("%v", a)
		}
	}
}

// TestCancelOnStream: a request that is cancelled is answered with CANCELLED; cancelling anything else does nothing.
func TestCancelOnStream(t *testing.T) {
	jobs := make(chan *fakes.Job, 10)
	r := newRig(t, server.Config{}, func(j *fakes.Job) { jobs <- j })
	st := openStream(t, r)
	st.send(t, &coppicev1.PredictFrame{Id: 1, Request: request(1, 2)}, &coppicev1.PredictFrame{Id: 2, Request: request(1, 2)})
	a, b := <-jobs, <-jobs
	st.send(t, &coppicev1.PredictFrame{Id: 1, Cancel: true}, &coppicev1.PredictFrame{Id: 1, Cancel: true}, &coppicev1.PredictFrame{Id: 99, Cancel: true})
	if got := st.answer(t); got.GetId() != 1 || codes.Code(got.GetError().GetCode()) != codes.Canceled {
		t.Errorf("%v", got)
	}
	select {
	case <-a.Cancelled:
	case <-time.After(20 * time.Second):
		t.Error("the replica was not told")
	}
	fakes.Sum(b)
	if got := st.answer(t); got.GetId() != 2 || got.GetError() != nil {
		t.Errorf("%v", got)
	}
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if more, err := st.rest(); len(more) != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%v, %v", more, err)
	}
}

// TestClientGoes: what a client asked for and went away from is cancelled.
func TestClientGoes(t *testing.T) {
	jobs := make(chan *fakes.Job, 100)
	r := newRig(t, server.Config{DefaultTimeout: time.Minute}, func(j *fakes.Job) { jobs <- j })
	st := openStream(t, r)
	for id := range uint64(50) {
		st.send(t, &coppicev1.PredictFrame{Id: id, Request: request(1, 2)})
	}
	var held []*fakes.Job
	for range 50 {
		held = append(held, <-jobs)
	}
	st.cancel()
	for _, j := range held {
		select {
		case <-j.Cancelled:
		case <-time.After(20 * time.Second):
			t.Fatal("the replica was not told")
		}
	}
	fakes.Eventually(t, "nothing is in flight", func() bool { n, _ := r.pool.Load(); return n == 0 })
}

// TestMalformedFrame: it ends its stream with a clear status, and the others go on.
func TestMalformedFrame(t *testing.T) {
	r := newRig(t, server.Config{}, fakes.Sum)
	other := openStream(t, r)
	for name, b := range map[string][]byte{
		"cut off":      {0x0a, 9, 1},
		"field 0":      {0x0a, 2, 0x02, 0},
		"two payloads": {0x0a, 4, 0x12, 0, 0x12, 0},
		"wire type 7":  {0x0a, 1, 0x0f},
	} {
		t.Run(name, func(t *testing.T) {
			st, err := r.conn.NewStream(ctx(t), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, coppicev1.PredictService_PredictStream_FullMethodName, grpc.ForceCodecV2(frame.Codec()))
			if err != nil {
				t.Fatal(err)
			}
			if err := st.SendMsg(&frame.Message{Bytes: b}); err != nil {
				t.Fatal(err)
			}
			var m frame.Message
			err = st.RecvMsg(&m)
			if s := status.Convert(err); s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), "malformed") {
				t.Errorf("%v", err)
			}
			other.send(t, &coppicev1.PredictFrame{Id: 1, Request: request(1, 2)})
			if a := other.answer(t); a.GetError() != nil {
				t.Errorf("another stream: %v", a)
			}
		})
	}
}

// TestClientDoesNotRead: what the gateway keeps for a client that takes no answers is bounded, whether these are
// answers or refusals.
func TestClientDoesNotRead(t *testing.T) {
	large := make([]byte, 0, 100_000)
	large = protowire.AppendBytes(protowire.AppendTag(large, 15, protowire.BytesType), make([]byte, 90_000))
	for name, req := range map[string]*coppicev1.PredictRequest{
		"answers":  request(1, 2),
		"refusals": {Model: strings.Repeat("unknown", 30), Instances: request(1).GetInstances()},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, server.Config{StreamWindow: 64}, func(j *fakes.Job) { j.Answer(large) })
			st := openStream(t, r)
			var m coppicev1.PredictStreamRequest
			for range 50 {
				m.Frames = append(m.Frames, &coppicev1.PredictFrame{Request: req})
			}
			var sent atomic.Int64
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				id := uint64(0)
				for {
					for _, f := range m.GetFrames() {
						id++
						f.Id = id
					}
					if st.Send(&m) != nil {
						return
					}
					sent.Add(int64(len(m.GetFrames())))
				}
			}()
			// The gateway stops reading, so that Send blocks at some time.
			last, since := int64(-1), time.Now()
			deadline := time.Now().Add(30 * time.Second)
			for time.Since(since) < 500*time.Millisecond {
				if n := sent.Load(); n != last {
					last, since = n, time.Now()
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d requests were taken of a client that reads nothing, and there is no end", last)
				}
				time.Sleep(5 * time.Millisecond)
			}
			runtime.GC()
			var mem runtime.MemStats
			runtime.ReadMemStats(&mem)
			if mem.HeapAlloc > 200<<20 {
				t.Errorf("%d MiB are in use for %d requests", mem.HeapAlloc>>20, last)
			}
			st.cancel()
			<-ended
			fakes.Eventually(t, "nothing is in flight", func() bool { n, _ := r.pool.Load(); return n == 0 })
		})
	}
}

// TestSmallRequestKeepsNoMessage: a request does not hold on to all that came in its message.
func TestSmallRequestKeepsNoMessage(t *testing.T) {
	r := newRig(t, server.Config{StreamWindow: 100, DefaultTimeout: time.Minute}, never)
	c, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	st, err := r.conn.NewStream(c, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, coppicev1.PredictService_PredictStream_FullMethodName, grpc.ForceCodecV2(frame.Codec()))
	if err != nil {
		t.Fatal(err)
	}
	const padding, n = 2 << 20, 60
	for id := range uint64(n) {
		msg := protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), make([]byte, padding))
		msg = append(msg, marshal(t, &coppicev1.PredictStreamRequest{Frames: []*coppicev1.PredictFrame{{Id: id + 1, Request: request(1, 2)}}})...)
		if err := st.SendMsg(&frame.Message{Bytes: msg}); err != nil {
			t.Fatal(err)
		}
	}
	fakes.Eventually(t, "all requests are in flight", func() bool { k, _ := r.pool.Load(); return k == n })
	fakes.Eventually(t, "their messages are forgotten", func() bool {
		runtime.GC()
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		return mem.HeapAlloc < n*padding/2
	})
}

// TestRefuseEndsStreams: when the gateway stops, streams end behind the answers to what was asked.
func TestRefuseEndsStreams(t *testing.T) {
	jobs := make(chan *fakes.Job, 10)
	r := newRig(t, server.Config{}, func(j *fakes.Job) { jobs <- j })
	idle, busy, closed := openStream(t, r), openStream(t, r), openStream(t, r)
	idle.send(t, &coppicev1.PredictFrame{Id: 1, Request: request(1, 2)})
	fakes.Sum(<-jobs)
	idle.answer(t)
	busy.send(t, &coppicev1.PredictFrame{Id: 1, Request: request(1, 2)})
	first := <-jobs
	closed.send(t, &coppicev1.PredictFrame{Id: 1, Request: request(1, 2)})
	second := <-jobs
	if err := closed.CloseSend(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // so that the half-close comes before Refuse; if not, the status is another

	r.server.Refuse()
	if got, err := idle.rest(); len(got) != 0 || status.Code(err) != codes.Unavailable {
		t.Errorf("the idle one: %v, %v", got, err)
	}
	busy.send(t, &coppicev1.PredictFrame{Id: 2, Request: request(1, 2)})
	if a := busy.answer(t); a.GetId() != 2 || codes.Code(a.GetError().GetCode()) != codes.Unavailable {
		t.Errorf("a new request: %v", a)
	}
	fakes.Sum(first)
	if got, err := busy.rest(); len(got) != 1 || got[1][0].GetError() != nil || status.Code(err) != codes.Unavailable {
		t.Errorf("the busy one: %v, %v", got, err)
	}
	fakes.Sum(second)
	if got, err := closed.rest(); len(got) != 1 || got[1][0].GetError() != nil || (!errors.Is(err, io.EOF) && status.Code(err) != codes.Unavailable) {
		t.Errorf("the one that the client had closed: %v, %v", got, err)
	}
	if got, err := openStream(t, r).rest(); len(got) != 0 || status.Code(err) != codes.Unavailable {
		t.Errorf("a new one: %v, %v", got, err)
	}
}
