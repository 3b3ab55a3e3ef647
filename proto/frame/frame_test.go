package frame

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run lets a Writer send what send puts into it, and returns the messages.
func run(t *testing.T, chunk bool, send func(*Writer)) [][]byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out [][]byte
	w := NewWriter(func(m *Message) error { out = append(out, bytes.Clone(m.Bytes)); return nil }, chunk)
	send(w)
	w.Finish()
	if err := w.Run(ctx); err != nil {
		t.Fatalf("Run: %v", err)
	}
	if w.Waiting() != 0 {
		t.Errorf("%d bytes wait after Finish", w.Waiting())
	}
	return out
}

// requests reads all frames of messages.
func requests(t *testing.T, messages ...[]byte) []Request {
	t.Helper()
	var all []Request
	for _, m := range messages {
		for {
			r, rest, ok, err := NextRequest(m)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			all, m = append(all, r), rest
		}
	}
	return all
}

func replies(t *testing.T, messages ...[]byte) []Reply {
	t.Helper()
	var all []Reply
	for _, m := range messages {
		for {
			r, rest, ok, err := NextReply(m)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			all, m = append(all, r), rest
		}
	}
	return all
}

var someRequests = []Request{
	{},
	{ID: 1, Cancel: true},
	{ID: math.MaxUint64, Payload: []byte{}},
	{
		ID: 300, Payload: []byte("payload"), Timeout: 1500 * time.Millisecond,
		Traceparent: []byte("00-0123-45-01"), Tracestate: []byte("a=b"), Version: []byte("0123456789abcdef"), RequestID: []byte("ß"),
	},
	{ID: 4, Payload: []byte{1}, More: true, Total: 1 << 40},
	{ID: 5, Timeout: MaxTimeout},
}

var someReplies = []Reply{
	{},
	{ID: 1, Payload: []byte{}},
	{ID: math.MaxUint64, Payload: []byte("answer"), Load: Load{InFlight: 3, Queued: 2, Service: 17 * time.Microsecond}},
	{ID: 2, Code: codes.Internal, Message: "no"},
	{ID: 3, Code: codes.Unavailable},
	{ID: 4, Payload: []byte{7}, More: true, Total: 99},
	{ID: 5, Load: Load{InFlight: math.MaxUint32}},
}

// workFrame is the generated form of a request.
func workFrame(r Request) *coppicev1.WorkFrame {
	return &coppicev1.WorkFrame{
		Id: r.ID, Payload: r.Payload, Cancel: r.Cancel, TimeoutUs: uint64(r.Timeout / time.Microsecond),
		Traceparent: string(r.Traceparent), Tracestate: string(r.Tracestate), More: r.More,
		Version: string(r.Version), RequestId: string(r.RequestID), TotalBytes: r.Total,
	}
}

func workReply(r Reply) *coppicev1.WorkReply {
	m := &coppicev1.WorkReply{Id: r.ID, Payload: r.Payload, More: r.More, TotalBytes: r.Total}
	if r.Code != codes.OK {
		m.Error = &coppicev1.Error{Code: int32(r.Code), Message: r.Message}
	}
	if r.Load != (Load{}) {
		m.Load = &coppicev1.LoadReport{InFlight: r.Load.InFlight, Queued: r.Load.Queued, ServiceNs: uint64(r.Load.Service)}
	}
	return m
}

// TestRequestsAsGenerated: what the Writer sends is what the generated types read, and the other way round.
func TestRequestsAsGenerated(t *testing.T) {
	messages := run(t, true, func(w *Writer) {
		for _, r := range someRequests {
			if err := w.Request(&r); err != nil {
				t.Fatal(err)
			}
		}
	})
	var got, want coppicev1.ExchangeRequest
	for _, r := range someRequests {
		want.Frames = append(want.Frames, workFrame(r))
	}
	for _, m := range messages {
		if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(m, &got); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(&want, &got, protocmp.Transform()); d != "" {
		t.Error("written:", d)
	}
	b, err := proto.Marshal(&want)
	if err != nil {
		t.Fatal(err)
	}
	back := requests(t, b)
	// The generated type writes no empty payload, so that it comes back as none.
	expect := append([]Request(nil), someRequests...)
	expect[2].Payload = nil
	if d := cmp.Diff(expect, back); d != "" {
		t.Error("read:", d)
	}
	if d := cmp.Diff(someRequests, requests(t, messages...)); d != "" {
		t.Error("own round trip:", d)
	}
}

func TestRepliesAsGenerated(t *testing.T) {
	messages := run(t, true, func(w *Writer) {
		for _, r := range someReplies {
			if err := w.Reply(&r); err != nil {
				t.Fatal(err)
			}
		}
	})
	var got, want coppicev1.ExchangeResponse
	for _, r := range someReplies {
		want.Replies = append(want.Replies, workReply(r))
	}
	for _, m := range messages {
		if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(m, &got); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(&want, &got, protocmp.Transform()); d != "" {
		t.Error("written:", d)
	}
	b, err := proto.Marshal(&want)
	if err != nil {
		t.Fatal(err)
	}
	expect := append([]Reply(nil), someReplies...)
	expect[1].Payload = nil
	if d := cmp.Diff(expect, replies(t, b)); d != "" {
		t.Error("read:", d)
	}
	if d := cmp.Diff(someReplies, replies(t, messages...)); d != "" {
		t.Error("own round trip:", d)
	}
}

// TestClientsFrames: frames of PredictStream have the same numbers, so that a request is passed on as it came.
func TestClientsFrames(t *testing.T) {
	req := &coppicev1.PredictRequest{Model: "demo", Instances: []*coppicev1.Instance{{Values: []float64{1, 2}}}}
	payload, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(&coppicev1.PredictStreamRequest{Frames: []*coppicev1.PredictFrame{{Id: 9, Request: req, TimeoutUs: 7, Traceparent: "t"}}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Request{{ID: 9, Payload: payload, Timeout: 7 * time.Microsecond, Traceparent: []byte("t")}}, requests(t, b)); d != "" {
		t.Error(d)
	}
	res := &coppicev1.PredictResponse{Model: "demo", Classes: []string{"a"}}
	if payload, err = proto.Marshal(res); err != nil {
		t.Fatal(err)
	}
	messages := run(t, false, func(w *Writer) {
		_ = w.Reply(&Reply{ID: 9, Payload: payload})
		_ = w.Reply(&Reply{ID: 10, Code: codes.NotFound, Message: "no such \xff model"})
	})
	var got coppicev1.PredictStreamResponse
	if err := proto.Unmarshal(messages[0], &got); err != nil {
		t.Fatal(err)
	}
	want := &coppicev1.PredictStreamResponse{Replies: []*coppicev1.PredictReply{
		{Id: 9, Response: res},
		{Id: 10, Error: &coppicev1.Error{Code: int32(codes.NotFound), Message: "no such \uFFFD model"}},
	}}
	if d := cmp.Diff(want, &got, protocmp.Transform()); d != "" {
		t.Error(d)
	}
}

// TestTimeouts: a deadline that is near does not become none, and a far one not a near one.
func TestTimeouts(t *testing.T) {
	for _, tt := range []struct{ sent, want time.Duration }{
		{0, 0},
		{-time.Second, 0},
		{1, time.Microsecond},
		{time.Microsecond, time.Microsecond},
		{time.Microsecond + 1, 2 * time.Microsecond},
		{MaxTimeout, MaxTimeout},
		{math.MaxInt64 - 1000, MaxTimeout},
	} {
		got := requests(t, run(t, false, func(w *Writer) { _ = w.Request(&Request{Timeout: tt.sent}) })...)[0].Timeout
		if got != tt.want {
			t.Errorf("%v came as %v, want %v", tt.sent, got, tt.want)
		}
	}
	b, err := proto.Marshal(&coppicev1.ExchangeRequest{Frames: []*coppicev1.WorkFrame{{TimeoutUs: math.MaxUint64}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := requests(t, b)[0].Timeout; got != MaxTimeout {
		t.Errorf("the longest timeout came as %v, want %v", got, MaxTimeout)
	}
}

func TestMalformed(t *testing.T) {
	frame := func(body ...byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), body)
	}
	tests := map[string][]byte{
		"tag alone":           {0x0a},
		"frame cut off":       {0x0a, 5, 1},
		"field number 0":      {0x02, 0},
		"field number 2^29":   {0x80, 0x80, 0x80, 0x80, 0x10, 0},
		"varint too long":     frame(append([]byte{0x08}, bytes.Repeat([]byte{0xff}, 11)...)...),
		"payload cut off":     frame(0x12, 9, 1),
		"two payloads":        frame(0x12, 1, 1, 0x12, 1, 2),
		"group without end":   frame(0x7b),
		"end without group":   frame(0x7c),
		"unknown cut off":     frame(0x7d, 1, 2),
		"unknown outside":     {0x7d, 1},
		"wire type 7":         frame(0x0f, 1),
		"length of 2^63":      {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"error cut off":       frame(0x1a, 2, 0x12, 9),
		"error's tag alone":   frame(0x1a, 1, 0x08),
		"load report cut off": frame(0x2a, 1, 0x08),
	}
	for name, b := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, ok, err := NextReply(b)
			if ok || !errors.Is(err, ErrMalformed) {
				t.Errorf("reply: ok %v, %v", ok, err)
			}
			_, _, ok, err = NextRequest(b)
			if strings.HasPrefix(name, "error") || strings.HasPrefix(name, "load") {
				if !ok || err != nil { // these are opaque fields of a request
					t.Errorf("request: ok %v, %v", ok, err)
				}
			} else if ok || !errors.Is(err, ErrMalformed) {
				t.Errorf("request: ok %v, %v", ok, err)
			}
		})
	}
}

// TestUnknownFields are skipped, as protobuf asks.
func TestUnknownFields(t *testing.T) {
	var body []byte
	body = protowire.AppendVarint(protowire.AppendTag(body, 200, protowire.VarintType), 1)
	body = protowire.AppendVarint(protowire.AppendTag(body, 1, protowire.VarintType), 8)
	body = protowire.AppendFixed32(protowire.AppendTag(body, 2, protowire.Fixed32Type), 1)
	body = protowire.AppendBytes(protowire.AppendTag(body, 201, protowire.BytesType), []byte("x"))
	body = protowire.AppendTag(protowire.AppendTag(body, 202, protowire.StartGroupType), 202, protowire.EndGroupType)
	msg := protowire.AppendVarint(protowire.AppendTag(nil, 77, protowire.VarintType), 5)
	msg = protowire.AppendBytes(protowire.AppendTag(msg, 1, protowire.BytesType), body)
	if d := cmp.Diff([]Request{{ID: 8}}, requests(t, msg)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Reply{{ID: 8}}, replies(t, msg)); d != "" {
		t.Error(d)
	}
}

// TestErrorWithoutCode: a reply with an error never passes for an answer.
func TestErrorWithoutCode(t *testing.T) {
	for _, code := range []int32{0, -1, 17, math.MaxInt32} {
		b, err := proto.Marshal(&coppicev1.ExchangeResponse{Replies: []*coppicev1.WorkReply{{Id: 1, Error: &coppicev1.Error{Code: code, Message: "m"}}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := replies(t, b)[0]; got.Code != codes.Unknown || got.Message != "m" {
			t.Errorf("code %d: %v %q", code, got.Code, got.Message)
		}
	}
}

func TestCodec(t *testing.T) {
	c := Codec()
	if c.Name() != "proto" {
		t.Errorf("name is %q", c.Name())
	}
	want := &coppicev1.PredictRequest{Model: "m"}
	plain, err := c.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var m Message
	if err := c.Unmarshal(plain, &m); err != nil {
		t.Fatal(err)
	}
	again, err := c.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	var got coppicev1.PredictRequest
	if err := c.Unmarshal(again, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, &got, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	buf := []byte{1}
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer{}}, &Message{pooled: &buf}); err == nil {
		t.Error("a message that is on its way out was filled")
	}
}
