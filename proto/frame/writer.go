package frame

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc/mem"
)

// ChunkBytes is the size above which a payload is sent in chunks of this size, so that a large one does
// not hold up the small ones behind it.
const ChunkBytes = 64 << 10

// segmentBytes is about how large a message gets before the next one is begun.
const segmentBytes = 128 << 10

// ErrClosed is returned for what is sent after the stream ended.
var ErrClosed = errors.New("stream closed")

// Writer collects the frames that many goroutines send and hands them to one stream in few messages:
// whatever came while the last message was being written goes into the next. Sending never blocks; whoever
// sends bounds what it has outstanding. A Writer sends either requests or replies, and has to be run.
type Writer struct {
	// OnSent, if set before Run, is called after each message with the bytes that still wait.
	OnSent func(waiting int)

	send  func(*Message) error
	chunk bool

	mu      sync.Mutex
	ready   []*[]byte // encoded frames, in segments
	large   []*large  // payloads that go in chunks, round robin
	waiting int       // bytes that wait in both
	closed  bool

	wake chan struct{}
}

// large is a payload on its way in chunks.
type large struct {
	id      uint64
	payload []byte
	sent    int
	frame   func(b []byte, chunk []byte, first, more bool) []byte
}

// NewWriter makes a Writer for a stream's SendMsg. With chunk, payloads over ChunkBytes go in chunks.
func NewWriter(send func(*Message) error, chunk bool) *Writer {
	return &Writer{send: send, chunk: chunk, wake: make(chan struct{}, 1)}
}

// Request sends a request's frame. Its slices are copied before Request returns, but for a payload over
// ChunkBytes of a Writer that sends chunks: that one must stay as it is until it was sent.
func (w *Writer) Request(r *Request) error {
	if w.chunk && len(r.Payload) > ChunkBytes {
		head := *r
		return w.enqueueLarge(r.ID, r.Payload, func(b, chunk []byte, first, more bool) []byte {
			f := Request{ID: head.ID, Payload: chunk, More: more}
			if first {
				f = head
				f.Payload, f.More, f.Total = chunk, more, uint64(len(head.Payload))
			}
			return f.append(b)
		})
	}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	seg := w.segment(r.size())
	before := len(*seg)
	*seg = r.append(*seg)
	w.waiting += len(*seg) - before
	w.mu.Unlock()
	w.signal()
	return nil
}

// Reply sends a reply, as Request sends a request.
func (w *Writer) Reply(r *Reply) error {
	if !utf8.ValidString(r.Message) {
		// A receiver would refuse the whole message, with everybody's replies.
		clean := *r
		clean.Message = strings.ToValidUTF8(r.Message, "\uFFFD")
		r = &clean
	}
	if w.chunk && len(r.Payload) > ChunkBytes {
		head := *r
		return w.enqueueLarge(r.ID, r.Payload, func(b, chunk []byte, first, more bool) []byte {
			f := Reply{ID: head.ID, Payload: chunk, More: more}
			if first {
				f.Total = uint64(len(head.Payload))
			}
			if !more {
				f.Load = head.Load
			}
			return f.append(b)
		})
	}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	seg := w.segment(r.size())
	before := len(*seg)
	*seg = r.append(*seg)
	w.waiting += len(*seg) - before
	w.mu.Unlock()
	w.signal()
	return nil
}

// Cancel drops the rest of a payload that is being sent in chunks and tells whether some of it was still
// to be sent.
func (w *Writer) Cancel(id uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, l := range w.large {
		if l.id == id {
			w.large = append(w.large[:i], w.large[i+1:]...)
			w.waiting -= len(l.payload) - l.sent
			return true
		}
	}
	return false
}

// Waiting is the number of bytes that have not been handed to the stream.
func (w *Writer) Waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting
}

func (w *Writer) enqueueLarge(id uint64, payload []byte, frame func(b, chunk []byte, first, more bool) []byte) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	w.large = append(w.large, &large{id: id, payload: payload, frame: frame})
	w.waiting += len(payload)
	w.mu.Unlock()
	w.signal()
	return nil
}

// segment is the buffer for a frame of about this size. The caller holds mu.
func (w *Writer) segment(size int) *[]byte {
	size += 16 // tag and length
	if n := len(w.ready); n > 0 && len(*w.ready[n-1])+size <= cap(*w.ready[n-1]) {
		return w.ready[n-1]
	}
	want := max(size, 4<<10)
	if len(w.ready) > 0 {
		want = max(size, segmentBytes) // there is a backlog: let more fit
	}
	seg := mem.DefaultBufferPool().Get(want)
	*seg = (*seg)[:0]
	w.ready = append(w.ready, seg)
	return seg
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run sends until ctx is done or the stream breaks, and returns why. What was not sent is dropped.
func (w *Writer) Run(ctx context.Context) error {
	defer w.close()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.wake:
		}
		// Whoever is about to send gets the chance first: fewer, larger messages save more than this delays.
		runtime.Gosched()
		for {
			m := w.take()
			if m == nil {
				break
			}
			if err := w.send(m); err != nil {
				return err
			}
			if w.OnSent != nil {
				w.OnSent(w.Waiting())
			}
		}
		if w.finished() {
			return nil
		}
	}
}

// take makes the next message: a segment of whole frames and, behind it, one chunk of a large payload; the
// next message has the next payload's.
func (w *Writer) take() *Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	var seg *[]byte
	if len(w.ready) > 0 {
		seg = w.ready[0]
		w.ready[0] = nil
		w.ready = w.ready[1:]
		if len(w.ready) == 0 {
			w.ready = nil
		}
		w.waiting -= len(*seg)
	}
	if len(w.large) > 0 {
		l := w.large[0]
		w.large = w.large[1:]
		chunk := l.payload[l.sent:min(len(l.payload), l.sent+ChunkBytes)]
		first := l.sent == 0
		l.sent += len(chunk)
		more := l.sent < len(l.payload)
		w.waiting -= len(chunk)
		if more {
			w.large = append(w.large, l)
		}
		if need := len(chunk) + 512; seg == nil || len(*seg)+need > cap(*seg) {
			grown := mem.DefaultBufferPool().Get(need + sizeOf(seg))
			*grown = (*grown)[:0]
			if seg != nil {
				*grown = append(*grown, *seg...)
				mem.DefaultBufferPool().Put(seg)
			}
			seg = grown
		}
		*seg = l.frame(*seg, chunk, first, more)
	}
	if seg == nil {
		return nil
	}
	return &Message{Bytes: *seg, pooled: seg}
}

func sizeOf(seg *[]byte) int {
	if seg == nil {
		return 0
	}
	return len(*seg)
}

// Finish makes Run return nil once everything that waits has been sent. Nothing can be sent after it.
func (w *Writer) Finish() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.signal()
}

func (w *Writer) finished() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed && len(w.ready) == 0 && len(w.large) == 0
}

func (w *Writer) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
}
