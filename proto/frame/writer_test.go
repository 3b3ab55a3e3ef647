package frame

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
)

// TestCoalescing: what comes while a message is being written goes into the next one, whole and in order.
func TestCoalescing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	writing, goOn := make(chan struct{}), make(chan struct{})
	var messages [][]byte
	w := NewWriter(func(m *Message) error {
		messages = append(messages, bytes.Clone(m.Bytes))
		writing <- struct{}{}
		<-goOn
		return nil
	}, false)
	var waits []int
	w.OnSent = func(n int) { waits = append(waits, n) }
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	send := func(id uint64) {
		if err := w.Request(&Request{ID: id, Payload: []byte("xyz")}); err != nil {
			t.Error(err)
		}
	}
	send(1)
	<-writing
	for id := uint64(2); id <= 100; id++ {
		send(id)
	}
	if w.Waiting() == 0 {
		t.Error("nothing waits while a message is being written")
	}
	goOn <- struct{}{}
	<-writing
	w.Finish()
	goOn <- struct{}{}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if len(messages) != 2 {
		t.Fatalf("%d messages, want 2", len(messages))
	}
	for i, r := range requests(t, messages...) {
		if r.ID != uint64(i+1) {
			t.Fatalf("frame %d has id %d", i, r.ID)
		}
	}
	if len(waits) != 2 || waits[0] == 0 || waits[1] != 0 {
		t.Errorf("OnSent was told of %v waiting bytes", waits)
	}
	if err := w.Request(&Request{ID: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Finish: %v", err)
	}
	if err := w.Reply(&Reply{ID: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Finish: %v", err)
	}
}

// TestSegments: a backlog goes in messages of bounded size.
func TestSegments(t *testing.T) {
	const n = 5000
	messages := run(t, false, func(w *Writer) {
		for id := range uint64(n) {
			if err := w.Reply(&Reply{ID: id, Payload: make([]byte, 1000)}); err != nil {
				t.Fatal(err)
			}
		}
	})
	for i, m := range messages {
		if len(m) > 1<<20 {
			t.Errorf("message %d has %d bytes", i, len(m))
		}
	}
	got := replies(t, messages...)
	if len(got) != n {
		t.Fatalf("%d replies, want %d", len(got), n)
	}
	if len(messages) > n/50 {
		t.Errorf("%d messages for %d replies", len(messages), n)
	}
}

// TestInterleaving: large payloads go in turns, and the small ones pass them.
func TestInterleaving(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	payloads := map[uint64][]byte{
		1: make([]byte, 10*ChunkBytes),
		2: make([]byte, 3*ChunkBytes+17),
		3: make([]byte, ChunkBytes+1),
		4: make([]byte, ChunkBytes), // goes whole
		5: []byte("small"),
	}
	for _, p := range payloads {
		for i := range p {
			p[i] = byte(random.Uint32())
		}
	}
	messages := run(t, true, func(w *Writer) {
		for id := uint64(1); id <= 5; id++ {
			if err := w.Request(&Request{ID: id, Payload: payloads[id], Version: []byte("v"), Timeout: time.Second}); err != nil {
				t.Fatal(err)
			}
		}
	})
	a := NewAssembler(1<<30, 10)
	var order []uint64
	for _, m := range messages {
		large := 0
		for _, r := range requests(t, m) {
			if len(r.Payload) > ChunkBytes {
				t.Errorf("a chunk has %d bytes", len(r.Payload))
			}
			if r.More || r.Total > 0 {
				large++
			}
			whole, done, err := a.Request(r)
			if err != nil {
				t.Fatal(err)
			}
			if !done {
				continue
			}
			order = append(order, whole.ID)
			want := Request{ID: whole.ID, Payload: payloads[whole.ID], Version: []byte("v"), Timeout: time.Second}
			if d := cmp.Diff(want, whole); d != "" {
				t.Errorf("request %d: %.300s", whole.ID, d)
			}
		}
		if large > 1 {
			t.Errorf("a message has %d chunks", large)
		}
	}
	if d := cmp.Diff([]uint64{4, 5, 3, 2, 1}, order); d != "" {
		t.Error("order of completion:", d)
	}
	if a.Open() != 0 {
		t.Errorf("%d payloads are open", a.Open())
	}
}

// TestLargeReply: the load report comes with the last chunk.
func TestLargeReply(t *testing.T) {
	want := Reply{ID: 7, Payload: bytes.Repeat([]byte("0123456789abcdef"), ChunkBytes/8), Load: Load{InFlight: 4}}
	a := NewAssembler(1<<20, 1)
	var got []Reply
	for _, r := range replies(t, run(t, true, func(w *Writer) { _ = w.Reply(&want) })...) {
		whole, done, err := a.Reply(r)
		if err != nil {
			t.Fatal(err)
		}
		if done {
			got = append(got, whole)
		}
	}
	if d := cmp.Diff([]Reply{want}, got); d != "" {
		t.Errorf("%.500s", d)
	}
	if one := replies(t, run(t, false, func(w *Writer) { _ = w.Reply(&want) })...); len(one) != 1 || one[0].More {
		t.Errorf("a Writer without chunks sent %d frames", len(one))
	}
}

// TestCancelChunks: after Cancel no chunk of the payload goes out.
func TestCancelChunks(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var w *Writer
	var messages [][]byte
	w = NewWriter(func(m *Message) error {
		messages = append(messages, bytes.Clone(m.Bytes))
		if len(messages) == 2 {
			if !w.Cancel(1) {
				t.Error("payload 1 had nothing left to be sent")
			}
			if w.Cancel(1) || w.Cancel(99) {
				t.Error("what was not there was cancelled")
			}
			if err := w.Request(&Request{ID: 1, Cancel: true}); err != nil {
				t.Error(err)
			}
			w.Finish()
		}
		return nil
	}, true)
	for id := uint64(1); id <= 2; id++ {
		if err := w.Request(&Request{ID: id, Payload: make([]byte, 4*ChunkBytes)}); err != nil {
			t.Fatal(err)
		}
	}
	if w.Waiting() != 8*ChunkBytes {
		t.Errorf("%d bytes wait", w.Waiting())
	}
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range requests(t, messages...) {
		if r.Cancel {
			got = append(got, fmt.Sprint("cancel ", r.ID))
		} else {
			got = append(got, fmt.Sprint(r.ID))
		}
	}
	if d := cmp.Diff([]string{"1", "2", "cancel 1", "2", "2", "2"}, got); d != "" {
		t.Error(d)
	}
	if w.Waiting() != 0 {
		t.Errorf("%d bytes wait", w.Waiting())
	}
}

// TestLongHeader: a first chunk takes all that a request may carry along.
func TestLongHeader(t *testing.T) {
	want := Request{ID: 1, Payload: make([]byte, 2*ChunkBytes), Tracestate: bytes.Repeat([]byte("s"), 4096), RequestID: bytes.Repeat([]byte("r"), 128)}
	frames := requests(t, run(t, true, func(w *Writer) {
		_ = w.Request(&Request{ID: 2, Payload: make([]byte, 100)})
		_ = w.Request(&want)
	})...)
	a := NewAssembler(1<<20, 1)
	for _, f := range frames {
		if whole, done, err := a.Request(f); err != nil || (done && whole.ID == 1 && !cmp.Equal(whole, want)) {
			t.Errorf("frame %d: %v", f.ID, err)
		}
	}
	if len(frames) != 3 || a.Open() != 0 {
		t.Errorf("%d frames, %d payloads open", len(frames), a.Open())
	}
}

func TestRunEnds(t *testing.T) {
	broken := errors.New("broken")
	w := NewWriter(func(*Message) error { return broken }, false)
	if err := w.Request(&Request{ID: 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Run: %v", err)
	}
	if err := w.Request(&Request{ID: 2}); !errors.Is(err, ErrClosed) {
		t.Errorf("after the stream broke: %v", err)
	}
	if err := w.Request(&Request{ID: 2, Payload: make([]byte, 2*ChunkBytes)}); !errors.Is(err, ErrClosed) {
		t.Errorf("after the stream broke: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	w = NewWriter(func(*Message) error { t.Error("sent"); return nil }, true)
	if err := w.Run(ctx); !errors.Is(err, broken) {
		t.Errorf("Run: %v", err)
	}
	if err := w.Reply(&Reply{Payload: make([]byte, 2*ChunkBytes)}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Run: %v", err)
	}
}

// TestManySenders: every frame of many goroutines arrives once, whole, and in each goroutine's order.
func TestManySenders(t *testing.T) {
	const senders, each = 8, 500
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a := NewAssembler(1<<20, 1000)
	next := make([]uint64, senders)
	large := 0
	w := NewWriter(func(m *Message) error {
		for _, r := range replies(t, m.Bytes) {
			whole, done, err := a.Reply(r)
			if err != nil {
				return err
			}
			if !done {
				continue
			}
			s, i := whole.ID>>32, whole.ID&0xffffffff
			for _, b := range whole.Payload {
				if b != byte(s) {
					return fmt.Errorf("payload of sender %d holds %d", s, b)
				}
			}
			if len(whole.Payload) > ChunkBytes {
				large++ // these are passed by the small ones
				continue
			}
			if i < next[s] {
				return fmt.Errorf("sender %d: %d came after %d", s, i, next[s])
			}
			next[s] = i
		}
		return nil
	}, true)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	var wg sync.WaitGroup
	for s := range uint64(senders) {
		wg.Go(func() {
			for i := range uint64(each) {
				r := Reply{ID: s<<32 | i, Payload: bytes.Repeat([]byte{byte(s)}, 10)}
				if i%100 == 50 {
					r.Payload = bytes.Repeat([]byte{byte(s)}, 3*ChunkBytes)
				}
				if i%7 == 3 {
					r = Reply{ID: r.ID, Code: codes.Internal, Message: "x"}
				}
				if err := w.Reply(&r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	w.Finish()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for s, n := range next {
		if n != each-1 {
			t.Errorf("sender %d: the last was %d", s, n)
		}
	}
	if want := senders * 4; large < want {
		t.Errorf("%d large payloads, want at least %d", large, want)
	}
}
