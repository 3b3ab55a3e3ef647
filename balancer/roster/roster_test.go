package roster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func view(ids ...string) *coppicev1.WatchResponse {
	v := &coppicev1.WatchResponse{}
	for _, id := range ids {
		v.Endpoints = append(v.Endpoints, &coppicev1.Endpoint{Replica: id})
	}
	return v
}

func subscribe(t *testing.T, r *Roster, id string) *Subscription {
	t.Helper()
	s, err := r.Subscribe(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestNewestWins(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r := New(100)
	s := subscribe(t, r, "g")
	r.Publish(view("r0"))
	r.Publish(view("r0", "r1"))
	if g := r.Publish(view("r1")); g != 103 {
		t.Errorf("generation %d, want 103", g)
	}
	if g := r.Publish(view("r1")); g != 103 || r.Generation() != 103 {
		t.Errorf("the same view again has generation %d", g)
	}
	v, err := s.Next(ctx)
	if err != nil || v.GetGeneration() != 103 || v.GetEndpoints()[0].GetReplica() != "r1" {
		t.Errorf("%v, %v", v, err)
	}
}

// TestNextWaits: there is nothing before the first view and nothing new after the newest.
func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(0)
		s, err := r.Subscribe("g")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if v, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, %v", v, err)
			}
			cancel()
			go func() {
				time.Sleep(time.Minute)
				r.Publish(view(fmt.Sprint(time.Now())))
			}()
			if _, err := s.Next(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestWaitAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(0)
		g := r.Publish(view("r0"))
		if err := r.WaitAcknowledged(t.Context(), g); err != nil {
			t.Errorf("without gateways: %v", err)
		}
		a, _ := r.Subscribe("a")
		b, _ := r.Subscribe("b")
		for _, s := range []*Subscription{a, b} {
			if _, err := s.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error, 1)
		go func() { done <- r.WaitAcknowledged(t.Context(), g) }()
		waiting := func(why string) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("%s: returned %v", why, err)
			default:
			}
		}
		waiting("nobody has acknowledged")
		a.Acknowledge(g)
		waiting("one has")
		b.Acknowledge(g - 1)
		waiting("the other acknowledged what was before")
		b.Close()
		if err := <-done; err != nil {
			t.Errorf("all that still watch have: %v", err)
		}

		// Nobody acknowledges what was not sent.
		g = r.Publish(view("r1"))
		a.Acknowledge(g + 5)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := r.WaitAcknowledged(ctx, g)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "by a:") {
			t.Errorf("error %v", err)
		}
	})
}

func TestReplaced(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r := New(0)
	old := subscribe(t, r, "g")
	now := subscribe(t, r, "g")
	if _, err := old.Next(ctx); !errors.Is(err, ErrReplaced) {
		t.Errorf("error %v", err)
	}
	old.Close()
	now.Report(&coppicev1.GatewayReport{InFlight: 3})
	if gs := r.Gateways(); len(gs) != 1 || gs[0].ID != "g" || gs[0].Report.GetInFlight() != 3 {
		t.Errorf("gateways %+v", gs)
	}
}

func TestTooMany(t *testing.T) {
	r := New(0)
	for i := range MaxGateways {
		subscribe(t, r, fmt.Sprint(i))
	}
	if _, err := r.Subscribe("one more"); !errors.Is(err, ErrTooMany) {
		t.Errorf("error %v", err)
	}
	subscribe(t, r, "7")
}

func TestConcurrent(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r := New(0)
	const last = 500
	var wg sync.WaitGroup
	for i := range 4 {
		s := subscribe(t, r, fmt.Sprint(i))
		wg.Go(func() {
			for before := uint64(0); before < last; {
				v, err := s.Next(ctx)
				if err != nil || v.GetGeneration() <= before {
					t.Errorf("after %d came %v, %v", before, v.GetGeneration(), err)
					return
				}
				before = v.GetGeneration()
				s.Acknowledge(before)
			}
		})
	}
	for i := range last {
		r.Publish(view(fmt.Sprint(i)))
	}
	if err := r.WaitAcknowledged(ctx, last); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
