package frame

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMalformed is wrapped by every error about bytes that are not what they should be.
var ErrMalformed = errors.New("malformed message")

// MaxTimeout is the longest time that a frame can ask for; more is taken as this.
const MaxTimeout = 24 * time.Hour

// framesField is the number of the repeated frames in all four stream messages.
const framesField = 1

// Request is a PredictFrame or a WorkFrame. Its byte slices lie in the message that it was read from.
type Request struct {
	ID          uint64
	Payload     []byte // an encoded PredictRequest or a chunk of one; nil: this frame carries none
	Cancel      bool
	Timeout     time.Duration // 0: not given
	Traceparent []byte
	Tracestate  []byte
	More        bool
	Version     []byte
	RequestID   []byte
	Total       uint64 // size of the whole payload when it comes in chunks
}

// NextRequest reads the first frame of a message and returns what follows it. At the end of the message
// ok is false.
func NextRequest(msg []byte) (r Request, rest []byte, ok bool, err error) {
	body, rest, ok, err := nextFrame(msg)
	if !ok || err != nil {
		return r, nil, false, err
	}
	for len(body) > 0 {
		num, typ, n := consumeTag(body)
		if n < 0 {
			return r, nil, false, malformed("frame", protowire.ParseError(n))
		}
		body = body[n:]
		switch {
		case typ == protowire.VarintType && num <= 10:
			v, n := protowire.ConsumeVarint(body)
			if n < 0 {
				return r, nil, false, malformed("frame", protowire.ParseError(n))
			}
			body = body[n:]
			switch num {
			case 1:
				r.ID = v
			case 3:
				r.Cancel = v != 0
			case 4:
				r.Timeout = min(time.Duration(min(v, uint64(MaxTimeout/time.Microsecond)))*time.Microsecond, MaxTimeout)
			case 7:
				r.More = v != 0
			case 10:
				r.Total = v
			}
		case typ == protowire.BytesType && num <= 10:
			v, n := protowire.ConsumeBytes(body)
			if n < 0 {
				return r, nil, false, malformed("frame", protowire.ParseError(n))
			}
			body = body[n:]
			switch num {
			case 2:
				if r.Payload != nil {
					return r, nil, false, fmt.Errorf("%w: frame %d has two payloads", ErrMalformed, r.ID)
				}
				r.Payload = v
			case 5:
				r.Traceparent = v
			case 6:
				r.Tracestate = v
			case 8:
				r.Version = v
			case 9:
				r.RequestID = v
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, body)
			if n < 0 {
				return r, nil, false, malformed("frame", protowire.ParseError(n))
			}
			body = body[n:]
		}
	}
	return r, rest, true, nil
}

// nextFrame takes the first element of the repeated field of frames.
func nextFrame(msg []byte) (body, rest []byte, ok bool, err error) {
	for len(msg) > 0 {
		num, typ, n := consumeTag(msg)
		if n < 0 {
			return nil, nil, false, malformed("message", protowire.ParseError(n))
		}
		msg = msg[n:]
		if num == framesField && typ == protowire.BytesType {
			body, n := protowire.ConsumeBytes(msg)
			if n < 0 {
				return nil, nil, false, malformed("message", protowire.ParseError(n))
			}
			return body, msg[n:], true, nil
		}
		n = protowire.ConsumeFieldValue(num, typ, msg)
		if n < 0 {
			return nil, nil, false, malformed("message", protowire.ParseError(n))
		}
		msg = msg[n:]
	}
	return nil, nil, false, nil
}

func malformed(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrMalformed, what, err)
}

// size is the encoded length of the frame without its tag and length.
func (r *Request) size() int {
	n := sizeVarint(1, r.ID) + sizeBool(3, r.Cancel) + sizeVarint(4, micros(r.Timeout)) +
		sizeBytes(5, r.Traceparent) + sizeBytes(6, r.Tracestate) + sizeBool(7, r.More) +
		sizeBytes(8, r.Version) + sizeBytes(9, r.RequestID) + sizeVarint(10, r.Total)
	if r.Payload != nil {
		n += protowire.SizeTag(2) + protowire.SizeBytes(len(r.Payload))
	}
	return n
}

func (r *Request) append(b []byte) []byte {
	b = protowire.AppendTag(b, framesField, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(r.size()))
	b = appendVarint(b, 1, r.ID)
	b = appendBool(b, 3, r.Cancel)
	b = appendVarint(b, 4, micros(r.Timeout))
	b = appendBytes(b, 5, r.Traceparent)
	b = appendBytes(b, 6, r.Tracestate)
	b = appendBool(b, 7, r.More)
	b = appendBytes(b, 8, r.Version)
	b = appendBytes(b, 9, r.RequestID)
	b = appendVarint(b, 10, r.Total)
	if r.Payload != nil {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendBytes(b, r.Payload)
	}
	return b
}

// micros rounds up: a deadline that is near must not become "none".
func micros(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((d + time.Microsecond - 1) / time.Microsecond)
}

func sizeVarint(num protowire.Number, v uint64) int {
	if v == 0 {
		return 0
	}
	return protowire.SizeTag(num) + protowire.SizeVarint(v)
}

func appendVarint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func sizeBool(num protowire.Number, v bool) int {
	if !v {
		return 0
	}
	return protowire.SizeTag(num) + 1
}

func appendBool(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), 1)
}

func sizeBytes(num protowire.Number, v []byte) int {
	if len(v) == 0 {
		return 0
	}
	return protowire.SizeTag(num) + protowire.SizeBytes(len(v))
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// consumeTag is protowire's, but for numbers over protobuf's largest, which protowire takes.
func consumeTag(b []byte) (protowire.Number, protowire.Type, int) {
	num, typ, n := protowire.ConsumeTag(b)
	if num > protowire.MaxValidNumber {
		n = badNumber
	}
	return num, typ, n
}

// badNumber is protowire's code for a field number that cannot be.
var badNumber = func() int {
	_, _, n := protowire.ConsumeTag([]byte{0})
	return n
}()
