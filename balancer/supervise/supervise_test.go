package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	"github.com/coppice-mesh/coppice/balancer/roster"
	"github.com/coppice-mesh/coppice/balancer/supervise/journal"
	"github.com/coppice-mesh/coppice/balancer/supervise/process"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// TestStates: the life of a replica, every event in every state.
func TestStates(t *testing.T) {
	const want = `
		starting: loaded=ready    partial=starting late=starting leave=draining gone=exited
		ready:    loaded=ready    partial=starting late=suspect  leave=draining gone=exited
		suspect:  loaded=ready    partial=starting late=suspect  leave=draining gone=exited
		draining: loaded=draining partial=draining late=draining leave=draining gone=exited
		exited:   loaded=exited   partial=exited   late=exited   leave=exited   gone=exited
	`
	var got []string
	for _, s := range States() {
		got = append(got, s.String()+":")
		for e := loaded; e <= gone; e++ {
			got = append(got, fmt.Sprintf("%v=%v", e, s.after(e)))
		}
		if name := coppicev1.ReplicaState_name[int32(s.Proto())]; !strings.EqualFold(name, "REPLICA_STATE_"+s.String()) {
			t.Errorf("%v is %s on the wire", s, name)
		}
	}
	if g := strings.Join(got, " "); g != strings.Join(strings.Fields(want), " ") {
		t.Errorf("got %s", g)
	}
	if s := State(9).String(); s != "state 9" {
		t.Error(s)
	}
}

// unstarted makes a supervisor whose loop does not run. Its members are the test's.
func unstarted() *Supervisor {
	return New(Config{MaxJoined: 3}, Settings{
		Spawner: nothing{}, Journal: nothing{}, Roster: roster.New(0), JoinToken: joinToken,
		Models: []*coppicev1.ServedModel{{Sha256: model}}, Logger: slog.New(slog.DiscardHandler), Jitter: func() float64 { return 1 },
	})
}

// nothing is a spawner without processes and a journal without a disk.
type nothing struct{}

func (nothing) Spawn(context.Context, Spec, func(process.Identity)) (Worker, error) {
	return nil, errors.New("no processes here")
}
func (nothing) Adopt(process.Identity, Spec) (Worker, error) { return nil, process.ErrGone }
func (nothing) Save(journal.Record) error                    { return nil }

func TestJoinRefused(t *testing.T) {
	long := strings.Repeat("x", maxName+1)
	tests := []struct {
		name  string
		hello *coppicev1.ReplicaHello
		want  error
		text  string
	}{
		{"nothing", nil, ErrHello, "no hello"},
		{"no address", &coppicev1.ReplicaHello{Token: joinToken}, ErrHello, `address ""`},
		{"no port", &coppicev1.ReplicaHello{Token: joinToken, Address: "host"}, ErrHello, `address "host"`},
		{"no path", &coppicev1.ReplicaHello{Token: joinToken, Address: "unix:"}, ErrHello, `address "unix:"`},
		{"long token", &coppicev1.ReplicaHello{Token: long, Address: "h:1"}, ErrHello, "token has 1025 bytes"},
		{"long host", &coppicev1.ReplicaHello{Token: joinToken, Host: long, Address: "h:1"}, ErrHello, "host has 1025 bytes"},
		{"no token", &coppicev1.ReplicaHello{Address: "h:1"}, ErrToken, ""},
		{"another token", &coppicev1.ReplicaHello{Token: "another", Address: "h:1"}, ErrToken, ""},
		{"token of the pool", &coppicev1.ReplicaHello{Token: joinToken, Address: "h:1", Spawned: true, Replica: "r0", Incarnation: "i0"}, ErrToken, "r0"},
		{"another incarnation", &coppicev1.ReplicaHello{Token: "secret", Address: "h:1", Spawned: true, Replica: "r0", Incarnation: "i1"}, ErrToken, "i1"},
		{"another slot", &coppicev1.ReplicaHello{Token: "secret", Address: "h:1", Spawned: true, Replica: "r1", Incarnation: "i0"}, ErrToken, "r1"},
		{"no secret", &coppicev1.ReplicaHello{Address: "h:1", Spawned: true, Replica: "r2", Incarnation: "i2"}, ErrToken, "r2"},
		{"secret by hand", &coppicev1.ReplicaHello{Token: "secret", Address: "h:1"}, ErrToken, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := unstarted()
			m := newMember("r0", "i0", time.Now())
			m.spawned, m.secret = true, "secret"
			s.members["r0"] = m
			hand := newMember("r2", "i2", time.Now())
			s.members["r2"] = hand
			if _, err := s.Join(tt.hello); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v, want %v with %q", err, tt.want, tt.text)
			}
			if m.joined || m.session != nil {
				t.Error("it joined all the same")
			}
		})
	}
}

func TestTooMany(t *testing.T) {
	s := unstarted()
	hello := func(n int) *coppicev1.ReplicaHello {
		return &coppicev1.ReplicaHello{Token: joinToken, Address: fmt.Sprintf("h:%d", n)}
	}
	for n := range 3 {
		if _, err := s.Join(hello(n)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Join(hello(3)); !errors.Is(err, ErrTooMany) {
		t.Errorf("error %v", err)
	}
	if c, err := s.Join(hello(1)); err != nil || c.Replica() != "r1" {
		t.Errorf("one that was there already: %v", err)
	}
}

// TestSession: what a replica is told, and when its session is over.
func TestSession(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s := unstarted()
	hello := &coppicev1.ReplicaHello{Token: joinToken, Address: "h:1"}
	first, err := s.Join(hello)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := first.Next(ctx)
	if err != nil || resp.GetWelcome().GetReplica() != "r0" || resp.GetWelcome().GetLease().AsDuration() != DefaultLease ||
		resp.GetWelcome().GetModels()[0].GetSha256() != model {
		t.Errorf("welcome %v, %v", resp, err)
	}
	second, err := s.Join(hello)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Next(ctx); !errors.Is(err, ErrReplaced) {
		t.Errorf("the session before ends with %v", err)
	}
	// What the session before says or does means nothing any more.
	first.Heartbeat(&coppicev1.Heartbeat{Models: []string{model}})
	first.Leave()
	first.Close()
	if m := s.Members()[0]; m.State != Starting || m.Replica != "r0" {
		t.Errorf("member %+v", m)
	}
	second.Heartbeat(&coppicev1.Heartbeat{Models: []string{"another"}})
	if m := s.Members()[0]; m.State != Starting {
		t.Errorf("without its model it is %v", m.State)
	}
	second.Heartbeat(&coppicev1.Heartbeat{Models: []string{"another", model}, InFlight: 4})
	if m := s.Members()[0]; m.State != Ready || m.Heartbeat.GetInFlight() != 4 {
		t.Errorf("member %+v", m)
	}
	second.Close()
	if m := s.Members()[0]; m.State != Suspect {
		t.Errorf("without a stream it is %v", m.State)
	}
}

// TestHeldUp: a balancer that did not run for a while does not blame its replicas.
func TestHeldUp(t *testing.T) {
	s := unstarted()
	c, err := s.Join(&coppicev1.ReplicaHello{Token: joinToken, Address: "h:1"})
	if err != nil {
		t.Fatal(err)
	}
	c.Heartbeat(&coppicev1.Heartbeat{Models: []string{model}})
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ticked = now
	for _, step := range []struct {
		pass time.Duration
		want State
	}{{time.Minute, Ready}, {time.Hour, Ready}} {
		now = now.Add(step.pass)
		s.look(now)
		if m := s.members["r0"]; m == nil || m.state != step.want {
			t.Fatalf("after %v of sleep: %+v", step.pass, m)
		}
	}
	// Awake, it counts.
	for range 50 {
		now = now.Add(tickEvery)
		s.look(now)
	}
	if m := s.members["r0"]; m.state != Suspect {
		t.Errorf("after a second of silence: %v", m.state)
	}
}

func TestBackoff(t *testing.T) {
	for _, jitter := range []float64{0, 0.5, 1} {
		s := unstarted()
		s.Jitter = func() float64 { return jitter }
		before := time.Duration(-1)
		for failures := range 100 {
			d := s.backoff(failures)
			if failures < 2 && d != 0 {
				t.Errorf("%d failures wait %v", failures, d)
			}
			if d < before && before < DefaultBackoffMax*8/10 {
				t.Errorf("%d failures wait %v, less than %v", failures, d, before)
			}
			if d > DefaultBackoffMax*12/10 {
				t.Errorf("%d failures wait %v", failures, d)
			}
			before = d
		}
	}
}

func TestConfig(t *testing.T) {
	bad := []Config{
		{Lease: -1},
		{SuspectAfter: time.Second, Lease: time.Second},
		{BackoffMin: time.Minute, BackoffMax: time.Second},
		{MaxJoined: -1},
	}
	for _, c := range bad {
		if c.Validate() == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	for _, c := range []Config{{}, {Lease: 200 * time.Millisecond}, {BackoffMin: time.Minute}} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestOwns(t *testing.T) {
	s := unstarted()
	m := newMember("r0", "i0", time.Now())
	m.spawned, m.secret = true, "secret"
	s.members["r0"] = m
	for token, want := range map[string]bool{joinToken: true, "secret": true, "": false, "other": false} {
		if s.Owns(token) != want {
			t.Errorf("Owns(%q) is %v", token, !want)
		}
	}
}

func TestShutdownWithoutStart(t *testing.T) {
	s := unstarted()
	s.SetScale(autoscale.State{Desired: 2})
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if s.Scale().Desired != 2 {
		t.Errorf("scale %+v", s.Scale())
	}
}
