package frame

import (
	"context"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// benchRequest is what most requests are: a row of 20 features, as a tensor.
func benchRequest(b *testing.B) []byte {
	return marshal(b, &coppicev1.PredictRequest{Model: "demo", Tensor: fp32([]int64{1, 20}, 80)})
}

// BenchmarkEnvelope reads a request as the gateway does, beside protobuf's generated code.
func BenchmarkEnvelope(b *testing.B) {
	msg := benchRequest(b)
	b.Run("frame", func(b *testing.B) {
		b.ReportAllocs()
		var p Predict
		for b.Loop() {
			if err := p.Read(msg); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var r coppicev1.PredictRequest
			if err := proto.Unmarshal(msg, &r); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkFrames reads a message of 64 requests, beside protobuf's generated code.
func BenchmarkFrames(b *testing.B) {
	payload := benchRequest(b)
	var m coppicev1.ExchangeRequest
	for id := range uint64(64) {
		m.Frames = append(m.Frames, &coppicev1.WorkFrame{Id: id, Payload: payload, TimeoutUs: 1e7, Version: "0123456789abcdef", RequestId: "0123456789abcdef"})
	}
	msg := marshal(b, &m)
	b.Run("frame", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			for rest := msg; ; n++ {
				var ok bool
				var err error
				if _, rest, ok, err = NextRequest(rest); err != nil {
					b.Fatal(err)
				}
				if !ok {
					break
				}
			}
			if n != 64 {
				b.Fatal(n)
			}
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var r coppicev1.ExchangeRequest
			if err := proto.Unmarshal(msg, &r); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkWriter sends requests from one goroutine to a stream that takes them at once.
func BenchmarkWriter(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	sent := 0
	w := NewWriter(func(m *Message) error {
		sent++
		if m.pooled != nil {
			mem.DefaultBufferPool().Put(m.pooled)
		}
		return nil
	}, true)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	r := Request{Payload: benchRequest(b), Timeout: 1e9, Version: []byte("0123456789abcdef"), RequestID: []byte("0123456789abcdef")}
	b.ReportAllocs()
	for b.Loop() {
		r.ID++
		if err := w.Request(&r); err != nil {
			b.Fatal(err)
		}
	}
	w.Finish()
	<-ended
	cancel()
	b.ReportMetric(float64(r.ID)/float64(max(sent, 1)), "frames/message")
}
