package autoscale

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fixed wants what it says.
type fixed int

func (fixed) Name() string { return "fixed" }

func (f fixed) Want(_ time.Time, _ Signals, s State) (int, string) {
	return s.Desired + int(f), "test"
}

func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before := now.Add(-time.Hour)
	tests := []struct {
		name   string
		bounds Bounds
		step   fixed
		state  State
		want   State
		reason string
	}{
		{"begins at the minimum", Bounds{2, 4, 8}, 0, State{}, State{Desired: 2, Changed: now}, "test"},
		{"begins with what the machine can", Bounds{6, 9, 4}, 0, State{}, State{Desired: 4, Changed: now}, "test"},
		{"up", Bounds{1, 4, 8}, 1, State{Desired: 1, Changed: before}, State{Desired: 2, Changed: now}, "test: 1 -> 2"},
		{"down", Bounds{1, 4, 8}, -1, State{Desired: 3, Changed: before}, State{Desired: 2, Changed: now}, "test: 3 -> 2"},
		{"keeps", Bounds{1, 4, 8}, 0, State{Desired: 3, Changed: before}, State{Desired: 3, Changed: before}, "test"},
		{"maximum", Bounds{1, 4, 8}, 1, State{Desired: 4, Changed: before}, State{Desired: 4, Changed: before}, "test: at the maximum of 4"},
		{"minimum", Bounds{1, 4, 8}, -1, State{Desired: 1, Changed: before}, State{Desired: 1, Changed: before}, "test: at the minimum of 1"},
		{"machine", Bounds{1, 40, 8}, 1, State{Desired: 8, Changed: before}, State{Desired: 8, Changed: before}, "test: machine full at 8"},
		{"machine is the maximum", Bounds{1, 4, 4}, 1, State{Desired: 4, Changed: before}, State{Desired: 4, Changed: before}, "test: machine full at 4"},
		{"a smaller machine than before", Bounds{1, 40, 2}, 0, State{Desired: 8, Changed: before}, State{Desired: 2, Changed: now}, "test: 8 -> 2"},
		{"fixed", Bounds{3, 3, 8}, 1, State{Desired: 3, Changed: before}, State{Desired: 3, Changed: before}, "fixed at 3"},
		{"fixed after a pin", Bounds{3, 3, 8}, 1, State{Desired: 5, Changed: before}, State{Desired: 3, Changed: now}, "fixed at 3: 5 -> 3"},
		{"pinned", Bounds{1, 4, 8}, 1, State{Desired: 1, Pinned: 3, Changed: before}, State{Desired: 3, Pinned: 3, Changed: now}, "pinned to 3: 1 -> 3"},
		{"stays pinned", Bounds{1, 4, 8}, 1, State{Desired: 3, Pinned: 3, Changed: before}, State{Desired: 3, Pinned: 3, Changed: before}, "pinned to 3"},
		{"pinned over the machine", Bounds{1, 40, 2}, 0, State{Desired: 2, Pinned: 9, Changed: before}, State{Desired: 2, Pinned: 9, Changed: before}, "pinned to 9: machine full at 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, next := Scaler{tt.step, tt.bounds}.Decide(now, Signals{}, tt.state)
			if diff := cmp.Diff(tt.want, next); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
			if d.Desired != next.Desired || d.Reason != tt.reason {
				t.Errorf("decision %+v, want reason %q", d, tt.reason)
			}
		})
	}
}

// TestWithinBounds: whatever a law wants, the size is one that is allowed, and the reason says something.
func TestWithinBounds(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for lo := 1; lo < 5; lo++ {
		for hi := lo; hi < 6; hi++ {
			for machine := 1; machine < 7; machine++ {
				for step := fixed(-3); step < 4; step++ {
					var st State
					s := Scaler{step, Bounds{lo, hi, machine}}
					for range 10 {
						now = now.Add(time.Second)
						d, next := s.Decide(now, Signals{}, st)
						if d.Desired > hi || d.Desired > machine || d.Desired < min(lo, machine) || strings.TrimSpace(d.Reason) == "" {
							t.Fatalf("%+v in %+v of %+v", d, s.Bounds, st)
						}
						again, _ := s.Decide(now, Signals{}, st)
						if again != d {
							t.Fatalf("the same question got %+v and %+v", d, again)
						}
						st = next
					}
				}
			}
		}
	}
}
