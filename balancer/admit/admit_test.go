package admit

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestAdmit(t *testing.T) {
	g := New(Config{Requests: 2, Bytes: 100})
	steps := []struct {
		bytes   int64
		left    time.Duration
		release int64 // when not 0, instead
		want    error
	}{
		{bytes: 60, left: time.Second},
		{bytes: 41, left: time.Second, want: ErrFull},
		{bytes: 10, left: 0, want: ErrDeadline},
		{bytes: 10, left: -time.Second, want: ErrDeadline},
		{bytes: 40, left: 1},
		{bytes: 0, left: time.Second, want: ErrFull},
		{release: 60},
		{bytes: 61, left: time.Second, want: ErrFull},
		{bytes: 60, left: time.Second},
	}
	for i, s := range steps {
		if s.release != 0 {
			g.Release(s.release)
			continue
		}
		if err := g.Admit(s.bytes, s.left); !errors.Is(err, s.want) {
			t.Errorf("step %d: %v, want %v", i, err, s.want)
		}
	}
	if g.Requests() != 2 || g.Bytes() != 100 {
		t.Errorf("%d requests with %d bytes are in", g.Requests(), g.Bytes())
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{Requests: -1}, {Bytes: -1}} {
		if c.Validate() == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
	g := New(Config{})
	if g.maxRequests != DefaultRequests || g.maxBytes != DefaultBytes {
		t.Errorf("defaults are %d and %d", g.maxRequests, g.maxBytes)
	}
}

func TestConcurrent(t *testing.T) {
	g := New(Config{Requests: 5, Bytes: 1000})
	var in, most, refused atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 2000 {
				if g.Admit(100, time.Second) != nil {
					refused.Add(1)
					continue
				}
				n := in.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				in.Add(-1)
				g.Release(100)
			}
		})
	}
	wg.Wait()
	if most.Load() > 5 {
		t.Errorf("%d were in at once", most.Load())
	}
	if g.Requests() != 0 || g.Bytes() != 0 {
		t.Errorf("%d requests with %d bytes stayed in", g.Requests(), g.Bytes())
	}
}

func TestNoAllocation(t *testing.T) {
	g := New(Config{Requests: 1})
	got := testing.AllocsPerRun(100, func() {
		if err := g.Admit(1, time.Second); err != nil {
			t.Fatal(err)
		}
		if err := g.Admit(1, time.Second); !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		g.Release(1)
	})
	if got != 0 {
		t.Errorf("%v allocations", got)
	}
}
