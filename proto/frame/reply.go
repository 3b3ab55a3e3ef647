package frame

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
)

// Reply is a PredictReply or a WorkReply. Its byte slices lie in the message that it was read from.
type Reply struct {
	ID      uint64
	Payload []byte // an encoded PredictResponse or a chunk of one
	// Code is codes.OK for a reply with a payload, and otherwise why there is none.
	Code    codes.Code
	Message string
	More    bool
	Load    Load
	Total   uint64 // size of the whole payload when it comes in chunks
}

// Load is a LoadReport.
type Load struct {
	InFlight uint32
	Queued   uint32
	Service  time.Duration
}

// NextReply reads the first reply of a message and returns what follows it. At the end of the message ok
// is false.
func NextReply(msg []byte) (r Reply, rest []byte, ok bool, err error) {
	body, rest, ok, err := nextFrame(msg)
	if !ok || err != nil {
		return r, nil, false, err
	}
	for len(body) > 0 {
		num, typ, n := consumeTag(body)
		if n < 0 {
			return r, nil, false, malformed("reply", protowire.ParseError(n))
		}
		body = body[n:]
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(body)
			if n < 0 {
				return r, nil, false, malformed("reply", protowire.ParseError(n))
			}
			body = body[n:]
			switch num {
			case 1:
				r.ID = v
			case 4:
				r.More = v != 0
			case 6:
				r.Total = v
			}
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(body)
			if n < 0 {
				return r, nil, false, malformed("reply", protowire.ParseError(n))
			}
			body = body[n:]
			switch num {
			case 2:
				if r.Payload != nil {
					return r, nil, false, fmt.Errorf("%w: reply %d has two payloads", ErrMalformed, r.ID)
				}
				r.Payload = v
			case 3:
				if err := r.parseError(v); err != nil {
					return r, nil, false, err
				}
			case 5:
				if err := r.Load.parse(v); err != nil {
					return r, nil, false, err
				}
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, body)
			if n < 0 {
				return r, nil, false, malformed("reply", protowire.ParseError(n))
			}
			body = body[n:]
		}
	}
	return r, rest, true, nil
}

func (r *Reply) parseError(b []byte) error {
	r.Code = codes.Unknown // an error without a code is still one
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return malformed("error", protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return malformed("error", protowire.ParseError(n))
			}
			b = b[n:]
			if v != 0 && v <= uint64(codes.Unauthenticated) {
				r.Code = codes.Code(v)
			}
		case num == 2 && typ == protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return malformed("error", protowire.ParseError(n))
			}
			b = b[n:]
			r.Message = string(v)
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return malformed("error", protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	return nil
}

func (l *Load) parse(b []byte) error {
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return malformed("load report", protowire.ParseError(n))
		}
		b = b[n:]
		if typ != protowire.VarintType {
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return malformed("load report", protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return malformed("load report", protowire.ParseError(n))
		}
		b = b[n:]
		switch num {
		case 1:
			l.InFlight = uint32(v)
		case 2:
			l.Queued = uint32(v)
		case 3:
			l.Service = time.Duration(min(v, uint64(MaxTimeout)))
		}
	}
	return nil
}

func (r *Reply) errorSize() int {
	return sizeVarint(1, uint64(r.Code)) + sizeString(2, r.Message)
}

func (l *Load) size() int {
	return sizeVarint(1, uint64(l.InFlight)) + sizeVarint(2, uint64(l.Queued)) + sizeVarint(3, uint64(l.Service))
}

func (r *Reply) size() int {
	n := sizeVarint(1, r.ID) + sizeBool(4, r.More) + sizeVarint(6, r.Total)
	if r.Payload != nil {
		n += protowire.SizeTag(2) + protowire.SizeBytes(len(r.Payload))
	}
	if r.Code != codes.OK {
		n += protowire.SizeTag(3) + protowire.SizeBytes(r.errorSize())
	}
	if r.Load != (Load{}) {
		n += protowire.SizeTag(5) + protowire.SizeBytes(r.Load.size())
	}
	return n
}

func (r *Reply) append(b []byte) []byte {
	b = protowire.AppendTag(b, framesField, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(r.size()))
	b = appendVarint(b, 1, r.ID)
	if r.Payload != nil {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendBytes(b, r.Payload)
	}
	if r.Code != codes.OK {
		b = protowire.AppendTag(b, 3, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(r.errorSize()))
		b = appendVarint(b, 1, uint64(r.Code))
		if r.Message != "" {
			b = protowire.AppendTag(b, 2, protowire.BytesType)
			b = protowire.AppendString(b, r.Message)
		}
	}
	b = appendBool(b, 4, r.More)
	if r.Load != (Load{}) {
		b = protowire.AppendTag(b, 5, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(r.Load.size()))
		b = appendVarint(b, 1, uint64(r.Load.InFlight))
		b = appendVarint(b, 2, uint64(r.Load.Queued))
		b = appendVarint(b, 3, uint64(r.Load.Service))
	}
	b = appendVarint(b, 6, r.Total)
	return b
}

func sizeString(num protowire.Number, v string) int {
	if v == "" {
		return 0
	}
	return protowire.SizeTag(num) + protowire.SizeBytes(len(v))
}
