// Package frame is the wire form of Coppice's two multiplexed streams, PredictStream between a client and
// a gateway and Exchange between a gateway and a replica, below the generated types: the same bytes, read
// and written without building messages, so that a gateway passes a request on as it came.
//
//   - codec.go   hands encoded messages to gRPC and takes them from it
//   - request.go, reply.go   one frame of a message
//   - writer.go  collects what many goroutines send into few messages, and cuts large payloads into chunks
//   - assembler.go   joins the chunks again
//   - predict.go reads a PredictRequest: its envelope, and its rows for whoever needs them
//
// Everything here takes bytes of a peer: sizes are checked before anything is allocated, unknown fields
// are skipped as protobuf asks, and what is malformed gives an error that wraps ErrMalformed.
package frame
