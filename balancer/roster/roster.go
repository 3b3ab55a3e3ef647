// Package roster hands the newest view of the pool to every gateway and knows which of them act on it.
//
// A gateway that is slow holds nobody up: views are whole, so it skips those that it had no time for and gets
// the newest one.
package roster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// MaxGateways bounds the gateways that watch at the same time.
const MaxGateways = 1024

// Errors of Subscribe and Next.
var (
	// ErrTooMany says that MaxGateways watch already.
	ErrTooMany = errors.New("roster: too many gateways")
	// ErrReplaced ends a subscription when the same gateway has subscribed again.
	ErrReplaced = errors.New("roster: the gateway subscribed again")
)

// Roster holds the newest view. Its methods may be called concurrently; those that block say so.
type Roster struct {
	mu         sync.Mutex
	generation uint64
	view       *coppicev1.WatchResponse // nil until the first Publish
	gateways   map[string]*Subscription
	changed    chan struct{} // closed and replaced when anything above or below changes
}

// New makes an empty roster. The first view will have the generation after this one.
func New(generation uint64) *Roster {
	return &Roster{generation: generation, gateways: make(map[string]*Subscription), changed: make(chan struct{})}
}

// wake tells all who wait. r.mu is held.
func (r *Roster) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Publish makes a view the newest and returns its generation. A view that says what the newest says already
// is not published again. The roster keeps the view; the caller must not change it any more.
func (r *Roster) Publish(view *coppicev1.WatchResponse) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	view.Generation = r.generation
	if r.view != nil && proto.Equal(view, r.view) {
		return r.generation
	}
	r.generation++
	view.Generation = r.generation
	r.view = view
	r.wake()
	return r.generation
}

// Generation is that of the newest view.
func (r *Roster) Generation() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation
}

// WaitAcknowledged blocks until every gateway that watches acts on this generation or a newer one, or until
// ctx is done. A gateway that stops watching is no longer waited for.
func (r *Roster) WaitAcknowledged(ctx context.Context, generation uint64) error {
	for {
		r.mu.Lock()
		var missing []string
		for id, s := range r.gateways {
			if s.acknowledged < generation {
				missing = append(missing, id)
			}
		}
		changed := r.changed
		r.mu.Unlock()
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			slices.Sort(missing)
			return fmt.Errorf("roster: generation %d is not acknowledged by %s: %w",
				generation, strings.Join(missing, ", "), context.Cause(ctx))
		}
	}
}

// Gateway is a gateway that watches.
type Gateway struct {
	ID           string
	Acknowledged uint64
	// Report is the newest one, nil if there was none.
	Report *coppicev1.GatewayReport
}

// Gateways lists the gateways that watch, by their ids.
func (r *Roster) Gateways() []Gateway {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Gateway, 0, len(r.gateways))
	for id, s := range r.gateways {
		list = append(list, Gateway{ID: id, Acknowledged: s.acknowledged, Report: s.report})
	}
	slices.SortFunc(list, func(a, b Gateway) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Subscription is one gateway's watch.
type Subscription struct {
	roster *Roster
	id     string

	// All guarded by roster.mu.
	sent         uint64
	acknowledged uint64
	report       *coppicev1.GatewayReport
	replaced     bool
}

// Subscribe begins a watch. A watch of the same gateway that is still open ends with ErrReplaced: the gateway
// has lost it and the balancer has not noticed yet.
func (r *Roster) Subscribe(gateway string) (*Subscription, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.gateways[gateway]
	if old == nil && len(r.gateways) >= MaxGateways {
		return nil, fmt.Errorf("%w: %d", ErrTooMany, MaxGateways)
	}
	if old != nil {
		old.replaced = true
	}
	s := &Subscription{roster: r, id: gateway}
	r.gateways[gateway] = s
	r.wake()
	return s, nil
}

// Next blocks until there is a view that is newer than the one that it gave last, and gives the newest. It
// ends with ErrReplaced or with the context's error. The view must not be changed.
func (s *Subscription) Next(ctx context.Context) (*coppicev1.WatchResponse, error) {
	r := s.roster
	for {
		r.mu.Lock()
		view, changed, replaced := r.view, r.changed, s.replaced
		if view != nil && view.Generation <= s.sent {
			view = nil
		}
		if view != nil {
			s.sent = view.Generation
		}
		r.mu.Unlock()
		switch {
		case replaced:
			return nil, ErrReplaced
		case view != nil:
			return view, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Acknowledge says that the gateway acts on this generation. One that was not sent counts as the newest that
// was.
func (s *Subscription) Acknowledge(generation uint64) {
	r := s.roster
	r.mu.Lock()
	defer r.mu.Unlock()
	generation = min(generation, s.sent)
	if generation > s.acknowledged {
		s.acknowledged = generation
		r.wake()
	}
}

// Report takes what the gateway says of itself.
func (s *Subscription) Report(report *coppicev1.GatewayReport) {
	s.roster.mu.Lock()
	defer s.roster.mu.Unlock()
	s.report = report
}

// Close ends the watch.
func (s *Subscription) Close() {
	r := s.roster
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gateways[s.id] == s {
		delete(r.gateways, s.id)
		r.wake()
	}
}
