package server

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/coppice-mesh/coppice/balancer/admit"
	"github.com/coppice-mesh/coppice/gateway/pool"
	"github.com/coppice-mesh/coppice/gateway/route"
	"github.com/coppice-mesh/coppice/proto/frame"
)

// statuses is the one table from errors to gRPC codes.
var statuses = []struct {
	err  error
	code codes.Code
}{
	{frame.ErrMalformed, codes.InvalidArgument},
	{frame.ErrRequest, codes.InvalidArgument},
	{frame.ErrTooLarge, codes.InvalidArgument},
	{ErrRefused, codes.InvalidArgument},
	{route.ErrAmbiguous, codes.InvalidArgument},
	{route.ErrUnknown, codes.NotFound},
	{admit.ErrFull, codes.ResourceExhausted},
	{admit.ErrDeadline, codes.DeadlineExceeded},
	{pool.ErrDeadline, codes.DeadlineExceeded},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{pool.ErrCancelled, codes.Canceled},
	{context.Canceled, codes.Canceled},
	{pool.ErrNoReplica, codes.Unavailable},
	{pool.ErrStopped, codes.Unavailable},
	{pool.ErrPoison, codes.Internal},
}

// Code is the gRPC code of an error.
func Code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	var remote *pool.RemoteError
	if errors.As(err, &remote) {
		return remote.Code
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.code
		}
	}
	return codes.Internal
}

// Message is what an error says to a client. It is valid UTF-8, whatever of a request it repeats.
func Message(err error) string {
	var remote *pool.RemoteError
	if errors.As(err, &remote) {
		return strings.ToValidUTF8(remote.Message, "\uFFFD")
	}
	return strings.ToValidUTF8(err.Error(), "\uFFFD")
}

// HTTPStatus is the HTTP status of a gRPC code.
func HTTPStatus(code codes.Code) int {
	switch code {
	case codes.OK:
		return http.StatusOK
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.NotFound:
		return http.StatusNotFound
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.Canceled:
		return 499 // client closed the request, as nginx has it
	case codes.Unimplemented:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// CodeName is a code as gRPC's specification spells it, such as INVALID_ARGUMENT.
func CodeName(c codes.Code) string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return codeNames[codes.Unknown]
}

var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
	"DATA_LOSS", "UNAUTHENTICATED",
}
