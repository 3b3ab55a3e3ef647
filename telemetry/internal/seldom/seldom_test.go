package seldom

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestGate(t *testing.T) {
	g := Gate{Every: time.Minute}
	begin := time.Now()
	for _, step := range []struct {
		after time.Duration
		held  int64
		ok    bool
	}{
		{0, 0, true},
		{time.Second, 0, false},
		{59 * time.Second, 0, false},
		{60 * time.Second, 2, true},
		{61 * time.Second, 0, false},
		{10 * time.Minute, 1, true},
		{20 * time.Minute, 0, true},
	} {
		held, ok := g.Pass(begin.Add(step.after))
		if held != step.held || ok != step.ok {
			t.Errorf("after %v: held %d, ok %v, want %d, %v", step.after, held, ok, step.held, step.ok)
		}
	}
}

func TestGateConcurrently(t *testing.T) {
	g := Gate{Every: time.Hour}
	now := time.Now()
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				if _, ok := g.Pass(now); ok {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if passed.Load() != 1 {
		t.Errorf("%d passed, want 1", passed.Load())
	}
	if held, ok := g.Pass(now.Add(2 * time.Hour)); !ok || held != 7999 {
		t.Errorf("held %d (%v), want 7999", held, ok)
	}
}
