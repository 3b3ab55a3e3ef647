package frame

import (
	"errors"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that Codec falls back to
	"google.golang.org/grpc/mem"
)

// Message is an encoded protobuf message: SendMsg sends Bytes as they are, RecvMsg fills them with
// memory that belongs to the receiver.
type Message struct {
	Bytes []byte
	// pooled is what Bytes lie in when they go back to a pool once the transport has written them.
	pooled *[]byte
}

// codec passes a *Message through and leaves every other type to gRPC's own protobuf codec.
type codec struct{ proto encoding.CodecV2 }

// Codec is for grpc.ForceServerCodecV2 and grpc.ForceCodecV2: with it, streams and calls exchange
// *Message, and generated messages work as ever. Its name on the wire is "proto".
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*Message)
	if !ok {
		return c.proto.Marshal(v)
	}
	if m.pooled != nil {
		b := m.pooled
		m.pooled = nil
		return mem.BufferSlice{mem.NewBuffer(b, mem.DefaultBufferPool())}, nil
	}
	return mem.BufferSlice{mem.SliceBuffer(m.Bytes)}, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*Message)
	if !ok {
		return c.proto.Unmarshal(data, v)
	}
	if m.pooled != nil {
		return errors.New("frame: message is on its way out")
	}
	m.Bytes = data.Materialize()
	return nil
}

func (c codec) Name() string { return c.proto.Name() }
