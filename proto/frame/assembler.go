package frame

import (
	"bytes"
	"errors"
	"fmt"
)

// firstAllocation bounds what a peer's claim of a size alone makes us allocate.
const firstAllocation = 1 << 20

// Assembler joins the chunks of payloads that arrive interleaved on one stream. It is not safe for use by
// several goroutines. The zero Assembler takes no payload; see NewAssembler.
type Assembler struct {
	maxPayload int
	maxOpen    int
	parts      map[uint64]*part
}

type part struct {
	buf   []byte
	total int
	first Request // of the first chunk, which alone has the rest of the frame
	// refused: the payload has had its error, and the chunks that are still on their way are dropped.
	refused bool
}

// NewAssembler makes an Assembler of payloads of at most maxPayload bytes, at most maxOpen of them at a
// time.
func NewAssembler(maxPayload, maxOpen int) *Assembler {
	return &Assembler{maxPayload: maxPayload, maxOpen: maxOpen, parts: map[uint64]*part{}}
}

// ErrTooLarge is wrapped by the error of a payload that is over the limit.
var ErrTooLarge = errors.New("payload too large")

// Request takes a frame with a payload and returns the whole request once its last chunk is there. An
// error ends that request, once: what else comes of it is dropped, and the assembler goes on with the others.
func (a *Assembler) Request(r Request) (whole Request, done bool, err error) {
	payload, first, done, err := a.add(r.ID, r.Payload, r.More, r.Total, r)
	if !done || err != nil {
		return Request{ID: r.ID}, false, err
	}
	first.Payload, first.More, first.Total = payload, false, 0
	return first, true, nil
}

// Reply does for replies what Request does for requests.
func (a *Assembler) Reply(r Reply) (whole Reply, done bool, err error) {
	payload, _, done, err := a.add(r.ID, r.Payload, r.More, r.Total, Request{})
	if !done || err != nil {
		return Reply{ID: r.ID}, false, err
	}
	r.Payload, r.Total = payload, 0
	return r, true, nil
}

// Drop forgets the chunks of a payload that will not be completed.
func (a *Assembler) Drop(id uint64) { delete(a.parts, id) }

// Open is the number of payloads that are not complete, those included whose last chunks are to be dropped.
func (a *Assembler) Open() int { return len(a.parts) }

func (a *Assembler) add(id uint64, chunk []byte, more bool, total uint64, first Request) ([]byte, Request, bool, error) {
	p := a.parts[id]
	if p == nil {
		if !more && len(chunk) <= a.maxPayload && (total == 0 || total == uint64(len(chunk))) {
			return chunk, first, true, nil
		}
		var err error
		if p, err = a.begin(id, len(chunk), more, total, first); err != nil {
			return nil, first, false, err
		}
	}
	if p.refused {
		if !more {
			delete(a.parts, id)
		}
		return nil, first, false, nil
	}
	p.buf = append(p.buf, chunk...)
	if len(p.buf) > p.total || more == (len(p.buf) == p.total) {
		got := len(p.buf)
		a.refuse(id, more)
		return nil, first, false, fmt.Errorf("%w: %d bytes were announced in chunks, %d came", ErrMalformed, p.total, got)
	}
	if more {
		return nil, first, false, nil
	}
	delete(a.parts, id)
	return p.buf, p.first, true, nil
}

// begin makes room for a payload whose first chunk has this size.
func (a *Assembler) begin(id uint64, chunk int, more bool, total uint64, first Request) (*part, error) {
	var err error
	switch {
	case chunk > a.maxPayload || total > uint64(a.maxPayload):
		err = fmt.Errorf("%w: %d bytes, at most %d are taken", ErrTooLarge, max(total, uint64(chunk)), a.maxPayload)
	case !more:
		err = fmt.Errorf("%w: %d bytes are announced, %d came", ErrMalformed, total, chunk)
	case total <= uint64(chunk):
		err = fmt.Errorf("%w: %d bytes are announced, %d came and more follow", ErrMalformed, total, chunk)
	case len(a.parts) >= a.maxOpen:
		err = fmt.Errorf("%w: more than %d payloads at once in chunks", ErrTooLarge, a.maxOpen)
	}
	if err != nil {
		a.refuse(id, more)
		return nil, err
	}
	p := &part{buf: make([]byte, 0, min(int(total), firstAllocation)), total: int(total), first: first.clone()}
	a.parts[id] = p
	return p, nil
}

// refuse remembers that the chunks to come of a payload are to be dropped. A peer that has more of these than
// it may have payloads gets an error for every chunk instead.
func (a *Assembler) refuse(id uint64, more bool) {
	delete(a.parts, id)
	if more && len(a.parts) < 2*a.maxOpen {
		a.parts[id] = &part{refused: true}
	}
}

// clone is the frame without its payload, and without the message that it was read from.
func (r Request) clone() Request {
	r.Payload = nil
	r.Traceparent, r.Tracestate = bytes.Clone(r.Traceparent), bytes.Clone(r.Tracestate)
	r.Version, r.RequestID = bytes.Clone(r.Version), bytes.Clone(r.RequestID)
	return r
}
