package frame

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// twice tells whether a field comes more than once in a message that is well-formed.
func twice(b []byte, field protowire.Number, typ protowire.Type) bool {
	n := 0
	fields(b, func(num protowire.Number, t protowire.Type, _ []byte) {
		if num == field && t == typ {
			n++
		}
	})
	return n > 1
}

// fields calls f with each field and its value as encoded, of a length-delimited one only what is in it.
func fields(b []byte, f func(protowire.Number, protowire.Type, []byte)) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			return
		}
		v := b[:size]
		if typ == protowire.BytesType {
			v, _ = protowire.ConsumeBytes(v)
		}
		f(num, typ, v)
		b = b[size:]
	}
}

// twoPayloads tells whether one of a message's frames has more than one payload, which is refused.
func twoPayloads(msg []byte) (yes bool) {
	fields(msg, func(num protowire.Number, typ protowire.Type, v []byte) {
		yes = yes || (num == framesField && typ == protowire.BytesType && twice(v, 2, protowire.BytesType))
	})
	return yes
}

func FuzzRequest(f *testing.F) {
	for _, r := range someRequests {
		f.Add(marshal(f, &coppicev1.ExchangeRequest{Frames: []*coppicev1.WorkFrame{workFrame(r), workFrame(r)}}))
	}
	f.Add([]byte{0x0a, 6, 0x12, 1, 1, 0x12, 1, 2})
	f.Add([]byte{0x0a, 11, 0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0x78, 1, 0x0a, 4, 0x7b, 0x08, 1, 0x7c})
	f.Fuzz(func(t *testing.T, msg []byte) {
		var want coppicev1.ExchangeRequest
		protoErr := proto.Unmarshal(msg, &want)
		var got []Request
		var err error
		for rest := msg; ; {
			var ok bool
			var r Request
			if r, rest, ok, err = NextRequest(rest); err != nil || !ok {
				break
			}
			got = append(got, r)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error of another kind: %v", err)
			}
			if protoErr == nil && !twoPayloads(msg) {
				t.Fatalf("refused what protobuf takes: %v", err)
			}
			return
		}
		if protoErr != nil {
			for _, r := range got {
				if !utf8.Valid(r.Traceparent) || !utf8.Valid(r.Tracestate) || !utf8.Valid(r.Version) || !utf8.Valid(r.RequestID) {
					return // not looked at here: whoever uses them does
				}
			}
			if hidesText(msg) {
				return
			}
			t.Fatalf("took what protobuf refuses: %v", protoErr)
		}
		if len(got) != len(want.GetFrames()) {
			t.Fatalf("%d frames, protobuf has %d", len(got), len(want.GetFrames()))
		}
		a := NewAssembler(1<<16, 4)
		for i, r := range got {
			w := want.GetFrames()[i]
			us := min(w.GetTimeoutUs(), uint64(MaxTimeout/time.Microsecond))
			if r.ID != w.GetId() || r.Cancel != w.GetCancel() || r.More != w.GetMore() || r.Total != w.GetTotalBytes() ||
				r.Timeout != time.Duration(us)*time.Microsecond || !bytes.Equal(r.Payload, w.GetPayload()) ||
				string(r.Traceparent) != w.GetTraceparent() || string(r.Tracestate) != w.GetTracestate() ||
				string(r.Version) != w.GetVersion() || string(r.RequestID) != w.GetRequestId() {
				t.Fatalf("frame %d is %+v, protobuf has %v", i, r, w)
			}
			whole, done, err := a.Request(r)
			if done && (err != nil || len(whole.Payload) > 1<<16 || whole.ID != r.ID) {
				t.Fatalf("assembled %d bytes, %v", len(whole.Payload), err)
			}
		}
		// What was read is written so that it reads the same.
		var written []byte
		for i := range got {
			written = got[i].append(written)
		}
		again := requests(t, written)
		for i := range again {
			if !cmp.Equal(normal(again[i]), normal(got[i])) {
				t.Fatalf("written and read: %s", cmp.Diff(normal(got[i]), normal(again[i])))
			}
		}
		if len(again) != len(got) {
			t.Fatalf("%d frames were written, %d read", len(got), len(again))
		}
	})
}

// normal makes no difference between empty and none, which are one on the wire but for a payload.
func normal(r Request) Request {
	for _, b := range []*[]byte{&r.Traceparent, &r.Tracestate, &r.Version, &r.RequestID} {
		if len(*b) == 0 {
			*b = nil
		}
	}
	return r
}

// hidesText tells whether a text field of a frame that is not UTF-8 is followed by one that is.
func hidesText(msg []byte) (yes bool) {
	fields(msg, func(num protowire.Number, typ protowire.Type, v []byte) {
		if num != framesField || typ != protowire.BytesType {
			return
		}
		fields(v, func(num protowire.Number, typ protowire.Type, v []byte) {
			if typ == protowire.BytesType && slices.Contains([]protowire.Number{5, 6, 8, 9}, num) && !utf8.Valid(v) {
				yes = true
			}
		})
	})
	return yes
}

func FuzzReply(f *testing.F) {
	for _, r := range someReplies {
		f.Add(marshal(f, &coppicev1.ExchangeResponse{Replies: []*coppicev1.WorkReply{workReply(r), workReply(r)}}))
	}
	f.Add([]byte{0x0a, 6, 0x12, 1, 1, 0x12, 1, 2})
	f.Add([]byte{0x0a, 8, 0x1a, 6, 0x08, 14, 0x12, 2, 0xff, 0xff})
	f.Add([]byte{0x0a, 4, 0x1a, 0, 0x1a, 0})
	f.Fuzz(func(t *testing.T, msg []byte) {
		var want coppicev1.ExchangeResponse
		protoErr := proto.Unmarshal(msg, &want)
		var got []Reply
		var err error
		for rest := msg; ; {
			var ok bool
			var r Reply
			if r, rest, ok, err = NextReply(rest); err != nil || !ok {
				break
			}
			got = append(got, r)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error of another kind: %v", err)
			}
			if protoErr == nil && !twoPayloads(msg) {
				t.Fatalf("refused what protobuf takes: %v", err)
			}
			return
		}
		if protoErr != nil {
			if bytes.ContainsFunc(msg, func(r rune) bool { return r == utf8.RuneError }) {
				return // an error's text that is not UTF-8 is repaired when it is sent on
			}
			t.Fatalf("took what protobuf refuses: %v", protoErr)
		}
		if len(got) != len(want.GetReplies()) {
			t.Fatalf("%d replies, protobuf has %d", len(got), len(want.GetReplies()))
		}
		for i, r := range got {
			w := want.GetReplies()[i]
			if r.ID != w.GetId() || r.More != w.GetMore() || r.Total != w.GetTotalBytes() || !bytes.Equal(r.Payload, w.GetPayload()) {
				t.Fatalf("reply %d is %+v, protobuf has %v", i, r, w)
			}
			if (r.Code != codes.OK) != (w.GetError() != nil) {
				t.Fatalf("reply %d has code %v, protobuf has %v", i, r.Code, w.GetError())
			}
			if e := w.GetError(); e != nil && (r.Message != e.GetMessage() || (e.GetCode() > 0 && e.GetCode() < 17 && codes.Code(e.GetCode()) != r.Code && !manyErrors(msg))) {
				t.Fatalf("reply %d has %v %q, protobuf has %v", i, r.Code, r.Message, e)
			}
			l := w.GetLoad()
			if r.Load.InFlight != l.GetInFlight() || r.Load.Queued != l.GetQueued() || r.Load.Service != time.Duration(min(l.GetServiceNs(), uint64(MaxTimeout))) {
				t.Fatalf("reply %d has %+v, protobuf has %v", i, r.Load, l)
			}
		}
		var written []byte
		for i := range got {
			written = got[i].append(written)
		}
		again := replies(t, written)
		if !cmp.Equal(again, got) {
			t.Fatalf("written and read: %s", cmp.Diff(got, again))
		}
	})
}

// manyErrors tells whether a reply's error, or its code, comes in several parts, which protobuf merges. Here
// the last that makes sense counts.
func manyErrors(msg []byte) (yes bool) {
	fields(msg, func(_ protowire.Number, _ protowire.Type, v []byte) {
		yes = yes || twice(v, 3, protowire.BytesType)
		fields(v, func(num protowire.Number, typ protowire.Type, v []byte) {
			if num != 3 || typ != protowire.BytesType {
				return
			}
			fields(v, func(num protowire.Number, typ protowire.Type, v []byte) {
				if num == 1 && typ == protowire.VarintType {
					c, _ := protowire.ConsumeVarint(v)
					yes = yes || c > math.MaxInt32 || twice(v, 1, protowire.VarintType)
				}
			})
		})
	})
	return yes
}

// sensible is what PredictRequests have to be, said of the generated type.
func sensible(r *coppicev1.PredictRequest) bool {
	if len(r.GetModel()) > MaxNameBytes || len(r.GetVersion()) > MaxIDBytes || len(r.GetRequestId()) > MaxIDBytes {
		return false
	}
	for _, o := range r.GetOutputs() {
		if o < coppicev1.Output_OUTPUT_LABEL || o > coppicev1.Output_OUTPUT_LEAF {
			return false
		}
	}
	if r.GetWork() < 0 || r.GetWork() > coppicev1.Work_WORK_HEAVY {
		return false
	}
	if (r.GetTensor() == nil) == (len(r.GetInstances()) == 0) {
		return false
	}
	if t := r.GetTensor(); t != nil {
		size := map[coppicev1.DataType]int64{coppicev1.DataType_DATA_TYPE_FP32: 4, coppicev1.DataType_DATA_TYPE_FP64: 8}[t.GetDataType()]
		if size == 0 || len(t.GetShape()) != 2 {
			return false
		}
		rows, columns, n := t.GetShape()[0], t.GetShape()[1], int64(len(t.GetData()))
		return rows > 0 && columns > 0 && n > 0 && rows <= n && columns <= n && rows*columns <= n && rows*columns*size == n
	}
	return true
}

// odd tells whether a request is one that protobuf takes and Read does not, whatever it means: the tensor in
// parts, or something that makes no sense and is followed by another that does.
func odd(b []byte) (yes bool) {
	yes = twice(b, 4, protowire.BytesType) || twice(b, 6, protowire.VarintType)
	fields(b, func(num protowire.Number, typ protowire.Type, v []byte) {
		if typ == protowire.BytesType && (num == 1 || num == 2 || num == 7) {
			yes = yes || len(v) > MaxIDBytes
		}
	})
	return yes
}

func FuzzPredict(f *testing.F) {
	nan := math.NaN()
	for _, r := range []*coppicev1.PredictRequest{
		{},
		{Model: "demo", Instances: instances([]float64{1, 2}, []float64{nan, math.Inf(-1)})},
		{Model: "demo", Version: "0123456789abcdef", Instances: instances([]float64{1}, []float64{2, 3}), Outputs: []coppicev1.Output{1, 2, 3, 4, 1}, Work: 3, RequestId: "id"},
		{Tensor: fp32([]int64{2, 3}, 24)},
		{Tensor: &coppicev1.Tensor{DataType: coppicev1.DataType_DATA_TYPE_FP64, Shape: []int64{1, 2}, Data: make([]byte, 16)}, Work: 1},
		{Tensor: fp32([]int64{1 << 40, 20}, 80)},
		{Tensor: fp32([]int64{-1, -4}, 16)},
		{Tensor: &coppicev1.Tensor{}},
		{Instances: instances(nil)},
		{Outputs: []coppicev1.Output{-1}, Instances: instances([]float64{1})},
	} {
		f.Add(marshal(f, r))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		var req coppicev1.PredictRequest
		protoErr := proto.Unmarshal(msg, &req)
		var p Predict
		err := p.Read(msg)
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrRequest) {
			t.Fatalf("error of another kind: %v", err)
		}
		if protoErr != nil {
			if err != nil {
				return
			}
			// Instances are looked at when their rows are read.
			columns := 0
			fields(msg, func(num protowire.Number, typ protowire.Type, v []byte) {
				if num == 3 && typ == protowire.BytesType {
					columns = max(columns, len(v)/8)
				}
			})
			for c := range columns + 1 {
				if _, _, err := AppendInstances[float32](nil, &p, c); err == nil {
					t.Fatalf("took what protobuf refuses: %v", protoErr)
				}
			}
			return
		}
		if want := sensible(&req); want != (err == nil) && !odd(msg) {
			t.Fatalf("%v, but it is sensible: %v: %v", err, want, &req)
		}
		canonical := marshal(t, &req)
		var c Predict
		if cErr := c.Read(canonical); (cErr == nil) != sensible(&req) {
			t.Fatalf("encoded anew: %v, but it is sensible: %v: %v", cErr, sensible(&req), &req)
		}
		if err != nil {
			return
		}
		var outputs []coppicev1.Output
		for _, o := range req.GetOutputs() {
			if !slices.Contains(outputs, o) {
				outputs = append(outputs, o)
			}
		}
		if string(p.Model) != req.GetModel() || string(p.Version) != req.GetVersion() || string(p.RequestID) != req.GetRequestId() ||
			p.Work != req.GetWork() || !slices.Equal(p.Outputs[:p.NumOut], outputs) {
			t.Fatalf("%+v, protobuf has %v", &p, &req)
		}
		if w := req.GetTensor(); w != nil {
			x := p.Tensor
			if x == nil || x.Type != w.GetDataType() || int64(x.Rows) != w.GetShape()[0] || int64(x.Columns) != w.GetShape()[1] || !bytes.Equal(x.Data, w.GetData()) || p.Rows != x.Rows {
				t.Fatalf("%+v, protobuf has %v", x, w)
			}
			rows, over := AppendTensor[float32](nil, x)
			if len(rows) != x.Rows*x.Columns || over >= len(rows) {
				t.Fatalf("%d values of [%d, %d], overflow at %d", len(rows), x.Rows, x.Columns, over)
			}
			return
		}
		if p.Tensor != nil || p.Rows != len(req.GetInstances()) {
			t.Fatalf("%d rows, tensor %v; protobuf has %v", p.Rows, p.Tensor, &req)
		}
		columns := len(req.GetInstances()[0].GetValues())
		var want []float32
		even, overflow := true, -1
		for _, r := range req.GetInstances() {
			even = even && len(r.GetValues()) == columns
			for _, v := range r.GetValues() {
				if math.IsInf(float64(float32(v)), 0) && !math.IsInf(v, 0) && overflow < 0 {
					overflow = len(want)
				}
				want = append(want, float32(v))
			}
		}
		rows, over, err := AppendInstances[float32](nil, &p, columns)
		if (err == nil) != even {
			t.Fatalf("%v, but all rows are as long: %v: %v", err, even, &req)
		}
		if err != nil {
			return
		}
		if over != overflow || !slices.EqualFunc(rows, want, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
			t.Fatalf("%v, overflow at %d; want %v, %d", rows, over, want, overflow)
		}
	})
}
