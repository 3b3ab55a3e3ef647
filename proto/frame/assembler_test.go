package frame

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAssembler(t *testing.T) {
	const limit = 100
	bytesOf := func(n int) []byte { return bytes.Repeat([]byte{'x'}, n) }
	type step struct {
		r    Request
		done bool
		err  error
	}
	tests := map[string][]step{
		"whole":                {{Request{ID: 1, Payload: bytesOf(limit)}, true, nil}},
		"none":                 {{Request{ID: 1}, true, nil}},
		"whole, too large":     {{Request{ID: 1, Payload: bytesOf(limit + 1)}, false, ErrTooLarge}, {Request{ID: 1, Payload: bytesOf(1)}, true, nil}},
		"whole, other total":   {{Request{ID: 1, Payload: bytesOf(5), Total: 6}, false, ErrMalformed}, {Request{ID: 1, Payload: bytesOf(1)}, true, nil}},
		"two chunks":           {{Request{ID: 1, Payload: bytesOf(60), More: true, Total: 100}, false, nil}, {Request{ID: 1, Payload: bytesOf(40)}, true, nil}},
		"announced too large":  {{Request{ID: 1, Payload: bytesOf(1), More: true, Total: limit + 1}, false, ErrTooLarge}, {Request{ID: 1, Payload: bytesOf(40), More: true}, false, nil}, {Request{ID: 1, Payload: bytesOf(60)}, false, nil}, {Request{ID: 1, Payload: bytesOf(1)}, true, nil}},
		"announced 2^64":       {{Request{ID: 1, Payload: bytesOf(1), More: true, Total: math.MaxUint64}, false, ErrTooLarge}},
		"no total":             {{Request{ID: 1, Payload: bytesOf(9), More: true}, false, ErrMalformed}, {Request{ID: 1, Payload: bytesOf(9)}, false, nil}},
		"total is first chunk": {{Request{ID: 1, Payload: bytesOf(9), More: true, Total: 9}, false, ErrMalformed}},
		"more than announced":  {{Request{ID: 1, Payload: bytesOf(9), More: true, Total: 12}, false, nil}, {Request{ID: 1, Payload: bytesOf(9), More: true}, false, ErrMalformed}, {Request{ID: 1, Payload: bytesOf(9)}, false, nil}, {Request{ID: 1, Payload: bytesOf(9)}, true, nil}},
		"less than announced":  {{Request{ID: 1, Payload: bytesOf(9), More: true, Total: 12}, false, nil}, {Request{ID: 1, Payload: bytesOf(2)}, false, ErrMalformed}, {Request{ID: 1, Payload: bytesOf(3)}, true, nil}},
		"all and still more":   {{Request{ID: 1, Payload: bytesOf(9), More: true, Total: 12}, false, nil}, {Request{ID: 1, Payload: bytesOf(3), More: true}, false, ErrMalformed}},
		"empty chunks":         {{Request{ID: 1, More: true, Total: 2}, false, nil}, {Request{ID: 1, More: true}, false, nil}, {Request{ID: 1, Payload: bytesOf(2)}, true, nil}},
		"one too many": {
			{Request{ID: 1, Payload: bytesOf(1), More: true, Total: 2}, false, nil},
			{Request{ID: 2, Payload: bytesOf(1), More: true, Total: 2}, false, nil},
			{Request{ID: 3, Payload: bytesOf(1), More: true, Total: 2}, false, ErrTooLarge},
			{Request{ID: 3, Payload: bytesOf(1)}, false, nil},
			{Request{ID: 4, Payload: bytesOf(1)}, true, nil},
			{Request{ID: 2, Payload: bytesOf(1)}, true, nil},
			{Request{ID: 3, Payload: bytesOf(1), More: true, Total: 2}, false, nil},
			{Request{ID: 3, Payload: bytesOf(1)}, true, nil},
			{Request{ID: 1, Payload: bytesOf(1)}, true, nil},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			a := NewAssembler(limit, 2)
			for i, s := range steps {
				whole, done, err := a.Request(s.r)
				if done != s.done || !errors.Is(err, s.err) || whole.ID != s.r.ID {
					t.Errorf("step %d: id %d, done %v, %v; want %v, %v", i, whole.ID, done, err, s.done, s.err)
				}
			}
		})
	}
}

// TestAssemblerBounds: peers that never end a payload are bounded in what they can keep.
func TestAssemblerBounds(t *testing.T) {
	a := NewAssembler(1<<30, 10)
	for id := range uint64(1000) {
		_, done, err := a.Request(Request{ID: id, Payload: []byte{1}, More: true, Total: 1 << 30})
		if done || (err == nil) != (id < 10) {
			t.Fatalf("payload %d: %v, %v", id, done, err)
		}
	}
	if a.Open() > 20 {
		t.Errorf("%d payloads are kept", a.Open())
	}
	kept := 0
	for _, p := range a.parts {
		kept += cap(p.buf)
	}
	if kept > 10*firstAllocation {
		t.Errorf("%d bytes were allocated on the peer's word", kept)
	}
	for id := range uint64(1000) {
		a.Drop(id)
	}
	if a.Open() != 0 {
		t.Errorf("%d payloads are open after all were dropped", a.Open())
	}
}

// TestAssemblerKeepsNoMessage: what is kept of a first chunk does not lie in the message that it came in.
func TestAssemblerKeepsNoMessage(t *testing.T) {
	msg := []byte("versionidtraceparenttracestatepp")
	a := NewAssembler(10, 1)
	_, _, err := a.Request(Request{
		ID: 1, Version: msg[:7], RequestID: msg[7:9], Traceparent: msg[9:20], Tracestate: msg[20:30], Payload: msg[30:], More: true, Total: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	clear(msg)
	got, done, err := a.Request(Request{ID: 1, Payload: []byte("q")})
	want := Request{
		ID: 1, Version: []byte("version"), RequestID: []byte("id"), Traceparent: []byte("traceparent"), Tracestate: []byte("tracestate"), Payload: []byte("ppq"),
	}
	if err != nil || !done || !cmp.Equal(want, got) {
		t.Errorf("done %v, %v: %s", done, err, cmp.Diff(want, got))
	}
}
