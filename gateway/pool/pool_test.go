package pool_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/coppice-mesh/coppice/balancer/admit"
	"github.com/coppice-mesh/coppice/gateway/internal/fakes"
	"github.com/coppice-mesh/coppice/gateway/pool"
	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start makes a running pool that ends with the test.
func start(t testing.TB, cfg pool.Config) *pool.Pool {
	t.Helper()
	p := pool.New(cfg, pool.Settings{Logger: slog.New(slog.DiscardHandler)})
	p.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		p.Shutdown(ctx)
	})
	return p
}

// serve puts replicas in the pool and waits until they are connected.
func serve(t testing.TB, p *pool.Pool, replicas ...*fakes.Replica) {
	t.Helper()
	p.Update(endpoints(replicas...))
	fakes.Eventually(t, "all replicas are ready", func() bool { return p.Ready() == len(replicas) })
}

func endpoints(replicas ...*fakes.Replica) (list []*coppicev1.Endpoint) {
	for i, r := range replicas {
		list = append(list, r.Endpoint(fmt.Sprintf("r%d", i)))
	}
	return list
}

// call is a Call with the means to wait for its end.
type call struct {
	pool.Call
	ended chan struct{}
	times atomic.Int32
}

func newCall(payload string, timeout time.Duration) *call {
	c := &call{ended: make(chan struct{})}
	c.Payload, c.Version, c.Cost, c.Deadline = []byte(payload), "v1", 1, time.Now().Add(timeout)
	c.Done = func(*pool.Call) {
		if c.times.Add(1) == 1 {
			close(c.ended)
		}
	}
	return c
}

func (c *call) wait(t testing.TB) {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("a call did not end in 30 s")
	}
}

// begin starts a call and returns at once.
func begin(p *pool.Pool, payload string, timeout time.Duration) *call {
	c := newCall(payload, timeout)
	p.Do(&c.Call)
	return c
}

// do runs a call to its end.
func do(t testing.TB, p *pool.Pool, payload string, timeout time.Duration) *call {
	t.Helper()
	c := begin(p, payload, timeout)
	c.wait(t)
	return c
}

func (c *call) wantReply(t testing.TB, want string) {
	t.Helper()
	if c.Err != nil || string(c.Reply) != want {
		t.Errorf("answer %q, %v; want %q", c.Reply, c.Err, want)
	}
}

func (c *call) wantErr(t testing.TB, want error) {
	t.Helper()
	if !errors.Is(c.Err, want) || c.Reply != nil {
		t.Errorf("answer %q, %v; want %v", c.Reply, c.Err, want)
	}
}

// echo answers with the payload.
func echo(j *fakes.Job) { j.Answer(append([]byte("re: "), j.Payload...)) }

// hold keeps jobs until the test takes them.
func hold(n int) (func(*fakes.Job), chan *fakes.Job) {
	jobs := make(chan *fakes.Job, n)
	return func(j *fakes.Job) { jobs <- j }, jobs
}

func take(t testing.TB, jobs chan *fakes.Job) *fakes.Job {
	t.Helper()
	select {
	case j := <-jobs:
		return j
	case <-time.After(20 * time.Second):
		t.Fatal("no request came in 20 s")
		return nil
	}
}

func TestAnswer(t *testing.T) {
	seen := make(chan *fakes.Job, 1)
	p := start(t, pool.Config{})
	serve(t, p, fakes.StartReplica(t, func(j *fakes.Job) { seen <- j; echo(j) }))
	c := newCall("hello", 5*time.Second)
	c.RequestID, c.Traceparent, c.Tracestate = []byte("id"), []byte("parent"), []byte("state")
	p.Do(&c.Call)
	c.wait(t)
	c.wantReply(t, "re: hello")
	j := <-seen
	if string(j.Version) != "v1" || string(j.RequestID) != "id" || string(j.Traceparent) != "parent" || string(j.Tracestate) != "state" {
		t.Errorf("the replica got %+v", j.Request)
	}
	if j.Timeout <= 4*time.Second || j.Timeout > 5*time.Second {
		t.Errorf("the replica was given %v", j.Timeout)
	}
	a := c.Attempts()
	if len(a) != 1 || a[0].Replica != "r0" || a[0].Why != "" || a[0].Ended.Before(a[0].Sent) || c.Admitted.Before(c.Arrived) || c.Ended.Before(a[0].Ended) {
		t.Errorf("attempts %+v, arrived %v, admitted %v, ended %v", a, c.Arrived, c.Admitted, c.Ended)
	}
	if inFlight, waiting := p.Load(); inFlight != 0 || waiting != 0 {
		t.Errorf("%d in flight, %d waiting", inFlight, waiting)
	}
}

func TestRemoteError(t *testing.T) {
	p := start(t, pool.Config{})
	serve(t, p, fakes.StartReplica(t, func(j *fakes.Job) { j.Refuse(codes.InvalidArgument, "no such column") }))
	c := do(t, p, "x", 5*time.Second)
	var remote *pool.RemoteError
	if !errors.As(c.Err, &remote) || remote.Code != codes.InvalidArgument || remote.Message != "no such column" {
		t.Errorf("%v", c.Err)
	}
}

// TestNoContent: a reply with neither an answer nor an error is no answer.
func TestNoContent(t *testing.T) {
	p := start(t, pool.Config{})
	serve(t, p, fakes.StartReplica(t, func(j *fakes.Job) { j.Send(frame.Reply{}) }))
	do(t, p, "x", 5*time.Second).wantErr(t, pool.ErrAnswer)
}

// TestReplay: what was in flight on a stream that died is answered by another replica.
func TestReplay(t *testing.T) {
	handle, jobs := hold(10)
	p := start(t, pool.Config{})
	dies := fakes.StartReplica(t, handle)
	serve(t, p, dies)
	c := begin(p, "x", 10*time.Second)
	take(t, jobs)
	serve(t, p, dies, fakes.StartReplica(t, echo))
	dies.Stop()
	c.wait(t)
	c.wantReply(t, "re: x")
	a := c.Attempts()
	if len(a) != 2 || a[0].Replica != "r0" || a[0].Why != "died" || a[1].Replica != "r1" || c.Deaths() != 1 || p.Replays() != 1 {
		t.Errorf("attempts %+v, %d deaths, %d replays", a, c.Deaths(), p.Replays())
	}
}

// TestReplayAfterReconnect: with one replica alone, what its connection lost is sent again over a new one.
func TestReplayAfterReconnect(t *testing.T) {
	handle, jobs := hold(10)
	p := start(t, pool.Config{})
	r := fakes.StartReplica(t, handle)
	serve(t, p, r)
	c := begin(p, "x", 10*time.Second)
	take(t, jobs)
	r.Break()
	echo(take(t, jobs))
	c.wait(t)
	c.wantReply(t, "re: x")
}

// TestPoison: a request that two replicas died with is not tried a third time, and its error names it.
func TestPoison(t *testing.T) {
	handle, jobs := hold(10)
	p := start(t, pool.Config{})
	rs := []*fakes.Replica{fakes.StartReplica(t, handle), fakes.StartReplica(t, handle), fakes.StartReplica(t, handle)}
	serve(t, p, rs...)
	c := begin(p, "poison", 20*time.Second)
	for range 2 {
		take(t, jobs)
		for _, r := range rs {
			if r.Came() > 0 && r != nil {
				r.Stop()
			}
		}
	}
	c.wait(t)
	c.wantErr(t, pool.ErrPoison)
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte("poison"))); !strings.Contains(c.Err.Error(), want) {
		t.Errorf("%v does not hold %s", c.Err, want)
	}
	if n := rs[0].Came() + rs[1].Came() + rs[2].Came(); n != 2 || len(c.Attempts()) != 2 {
		t.Errorf("%d replicas got it, attempts %+v", n, c.Attempts())
	}
}

// TestPoisonAmongOthers: of all requests that were in flight with one that kills replicas, only that one fails, and
// it kills two.
func TestPoisonAmongOthers(t *testing.T) {
	for round := range 5 {
		p := start(t, pool.Config{})
		var rs []*fakes.Replica
		var killed atomic.Int32
		var background sync.WaitGroup
		for i := range 4 {
			var dead atomic.Bool
			rs = append(rs, fakes.StartReplica(t, func(j *fakes.Job) {
				if string(j.Payload) == "poison" {
					killed.Add(1)
					dead.Store(true)
					background.Go(func() { rs[i].Stop() })
					return
				}
				background.Go(func() {
					time.Sleep(2 * time.Millisecond)
					if !dead.Load() {
						echo(j)
					}
				})
			}))
		}
		serve(t, p, rs...)
		var innocent []*call
		for range 100 {
			innocent = append(innocent, begin(p, "innocent", 20*time.Second))
		}
		poison := begin(p, "poison", 20*time.Second)
		for range 100 {
			innocent = append(innocent, begin(p, "innocent", 20*time.Second))
		}
		poison.wait(t)
		poison.wantErr(t, pool.ErrPoison)
		deaths := 0
		for _, c := range innocent {
			c.wait(t)
			c.wantReply(t, "re: innocent")
			deaths += c.Deaths()
		}
		background.Wait()
		if killed.Load() != 2 || deaths < 20 {
			t.Errorf("round %d: it killed %d replicas, which died with %d other requests", round, killed.Load(), deaths)
		}
	}
}

// TestTurns: requests that a replica died with go to another one by one, but none waits long for its turn.
func TestTurns(t *testing.T) {
	handle, jobs := hold(100)
	p := start(t, pool.Config{})
	dies, slow := fakes.StartReplica(t, handle), fakes.StartReplica(t, handle)
	serve(t, p, dies)
	var calls []*call
	for range 10 {
		calls = append(calls, begin(p, "x", 2*time.Second))
	}
	for range calls {
		take(t, jobs)
	}
	serve(t, p, dies, slow)
	dies.Stop()
	first := take(t, jobs)
	time.Sleep(50 * time.Millisecond)
	if n := slow.Came(); n != 1 {
		t.Errorf("%d went to the other replica at once", n)
	}
	echo(first)
	take(t, jobs) // has the next turn, and keeps it
	for range len(calls) - 2 {
		echo(take(t, jobs))
	}
	answered := 0
	for _, c := range calls {
		c.wait(t)
		if c.Err == nil {
			answered++
		}
	}
	if answered != len(calls)-1 {
		t.Errorf("%d were answered", answered)
	}
}

// TestRefused: a replica that is stopping has not looked at the request; that is no death.
func TestRefused(t *testing.T) {
	p := start(t, pool.Config{})
	stopping := fakes.StartReplica(t, func(j *fakes.Job) { j.Refuse(codes.Unavailable, "stopping") })
	serve(t, p, stopping)
	c := begin(p, "x", 10*time.Second)
	fakes.Eventually(t, "it was refused and waits", func() bool { _, n := p.Load(); return n == 1 })
	if stopping.Came() != 1 {
		t.Errorf("a replica that refused was asked %d times", stopping.Came())
	}
	serve(t, p, stopping, fakes.StartReplica(t, echo))
	c.wait(t)
	c.wantReply(t, "re: x")
	if a := c.Attempts(); len(a) != 2 || a[0].Why != "refused" || c.Deaths() != 0 || p.Replays() != 0 {
		t.Errorf("attempts %+v, %d deaths, %d replays", a, c.Deaths(), p.Replays())
	}
}

// TestStreamEndsInOrder: a replica that ends its stream has not evaluated what it did not answer, however often.
func TestStreamEndsInOrder(t *testing.T) {
	handle, jobs := hold(10)
	p := start(t, pool.Config{})
	rs := []*fakes.Replica{fakes.StartReplica(t, handle), fakes.StartReplica(t, handle), fakes.StartReplica(t, handle)}
	serve(t, p, rs...)
	c := begin(p, "x", 20*time.Second)
	for range 2 {
		take(t, jobs)
		for _, r := range rs {
			if r.Came() == 1 {
				r.End()
			}
		}
	}
	echo(take(t, jobs))
	c.wait(t)
	c.wantReply(t, "re: x")
	if c.Deaths() != 0 || len(c.Attempts()) != 3 {
		t.Errorf("%d deaths, attempts %+v", c.Deaths(), c.Attempts())
	}
}

// TestAttemptsAreBounded: a pool that only refuses ends in an error.
func TestAttemptsAreBounded(t *testing.T) {
	p := start(t, pool.Config{})
	var rs []*fakes.Replica
	for range 12 {
		rs = append(rs, fakes.StartReplica(t, func(j *fakes.Job) { j.Refuse(codes.Unavailable, "stopping") }))
	}
	serve(t, p, rs...)
	c := do(t, p, "x", 20*time.Second)
	c.wantErr(t, pool.ErrNoReplica)
	if n := len(c.Attempts()); n != 8 {
		t.Errorf("%d attempts", n)
	}
}

// TestDrain: when Update has returned, nothing new goes to a replica that drains, and what it has is answered.
func TestDrain(t *testing.T) {
	for _, how := range []string{"draining", "gone"} {
		t.Run(how, func(t *testing.T) {
			handle, jobs := hold(10)
			p := start(t, pool.Config{})
			drains, stays := fakes.StartReplica(t, handle), fakes.StartReplica(t, echo)
			serve(t, p, drains)
			held := begin(p, "held", 20*time.Second)
			j := take(t, jobs)

			// Calls come all the time while it begins to drain.
			var came atomic.Int64
			var wg sync.WaitGroup
			stop := make(chan struct{})
			p.Update(endpoints(drains, stays))
			for range 2 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							c := begin(p, "y", 20*time.Second)
							came.Add(1)
							select {
							case k := <-jobs:
								echo(k)
							case <-c.ended:
							}
							select {
							case k := <-jobs:
								echo(k)
								c.wait(t)
							case <-c.ended:
							}
							c.wantReply(t, "re: y")
						}
					}
				})
			}
			fakes.Eventually(t, "both replicas work", func() bool { return drains.Came() > 20 && stays.Came() > 20 })
			list := endpoints(drains, stays)
			if how == "gone" {
				list = list[1:]
			} else {
				list[0].State = coppicev1.ReplicaState_REPLICA_STATE_DRAINING
			}
			p.Update(list)
			// All that is sent from now on goes behind this one's frame on the wire.
			marker := begin(p, "marker", 20*time.Second)
			marker.wait(t)
			if marker.Attempts()[0].Replica != "r1" {
				t.Error("a request went to a replica that drains")
			}
			before := came.Load()
			fakes.Eventually(t, "more calls came", func() bool { return came.Load() > before+200 })
			settled := drains.Came()
			fakes.Eventually(t, "more calls came", func() bool { return came.Load() > before+400 })
			if n := drains.Came(); n != settled {
				t.Errorf("%d requests went to a replica that drains", n-settled)
			}
			close(stop)
			wg.Wait()
			select {
			case <-held.ended:
				t.Errorf("the request that it had has ended: %v", held.Err)
			default:
			}
			echo(j)
			held.wait(t)
			held.wantReply(t, "re: held")
		})
	}
}

// TestDrainIsInForce: each call that begins after Update has returned goes elsewhere.
func TestDrainIsInForce(t *testing.T) {
	p := start(t, pool.Config{})
	a, b := fakes.StartReplica(t, echo), fakes.StartReplica(t, echo)
	serve(t, p, a, b)
	for i := range 100 {
		list := endpoints(a, b)
		list[i%2].State = coppicev1.ReplicaState_REPLICA_STATE_DRAINING
		p.Update(list)
		var calls []*call
		for range 10 {
			calls = append(calls, begin(p, "x", 10*time.Second))
		}
		for _, c := range calls {
			c.wait(t)
			c.wantReply(t, "re: x")
			if got, want := c.Attempts()[0].Replica, fmt.Sprintf("r%d", 1-i%2); got != want {
				t.Fatalf("round %d: went to %s, want %s", i, got, want)
			}
		}
	}
}

// TestSuspect: a suspect replica is used only when there is no other.
func TestSuspect(t *testing.T) {
	p := start(t, pool.Config{})
	a, b := fakes.StartReplica(t, echo), fakes.StartReplica(t, echo)
	serve(t, p, a, b)
	list := endpoints(a, b)
	list[0].State = coppicev1.ReplicaState_REPLICA_STATE_SUSPECT
	p.Update(list)
	for range 50 {
		do(t, p, "x", 10*time.Second).wantReply(t, "re: x")
	}
	if a.Came() != 0 || b.Came() != 50 {
		t.Errorf("the suspect one got %d, the other %d", a.Came(), b.Came())
	}
	p.Update(list[:1])
	do(t, p, "x", 10*time.Second).wantReply(t, "re: x")
}

// TestWaits: a request waits for a replica, and not for ever.
func TestWaits(t *testing.T) {
	p := start(t, pool.Config{MaxWait: 300 * time.Millisecond})
	early := begin(p, "x", 10*time.Second)
	p.Update(endpoints(fakes.StartReplica(t, echo)))
	early.wait(t)
	early.wantReply(t, "re: x")

	p.Update(nil)
	fakes.Eventually(t, "the pool is empty", func() bool { return p.Ready() == 0 })
	late := do(t, p, "x", 10*time.Second)
	late.wantErr(t, pool.ErrNoReplica)
	if d := late.Ended.Sub(late.Arrived); d < 300*time.Millisecond {
		t.Errorf("it waited %v", d)
	}
	do(t, p, "x", 50*time.Millisecond).wantErr(t, pool.ErrDeadline)
	cancelled := begin(p, "x", 10*time.Second)
	p.Cancel(&cancelled.Call)
	cancelled.wait(t)
	cancelled.wantErr(t, pool.ErrCancelled)
	if inFlight, waiting := p.Load(); inFlight != 0 || waiting != 0 {
		t.Errorf("%d in flight, %d waiting", inFlight, waiting)
	}
}

// TestDeadline: a replica that never answers costs its requests their deadlines, and is told.
func TestDeadline(t *testing.T) {
	handle, jobs := hold(10)
	p := start(t, pool.Config{})
	serve(t, p, fakes.StartReplica(t, handle))
	c := begin(p, "x", 100*time.Millisecond)
	j := take(t, jobs)
	c.wait(t)
	c.wantErr(t, pool.ErrDeadline)
	if d := c.Ended.Sub(c.Deadline); d < 0 || d > 5*time.Second {
		t.Errorf("it ended %v after its deadline", d)
	}
	waitClosed(t, "cancelled at the replica", j.Cancelled)
	j.Answer([]byte("late")) // nobody waits for it
	do(t, p, "x", -time.Second).wantErr(t, admit.ErrDeadline)
	next := begin(p, "y", 5*time.Second)
	echo(take(t, jobs))
	next.wait(t)
	next.wantReply(t, "re: y")
	if c.times.Load() != 1 {
		t.Errorf("a call ended %d times", c.times.Load())
	}
}

func waitClosed(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatalf("not %s in 20 s", what)
	}
}

func TestCancel(t *testing.T) {
	handle, jobs := hold(10)
	p := start(t, pool.Config{})
	serve(t, p, fakes.StartReplica(t, handle))
	c := begin(p, "x", 10*time.Second)
	j := take(t, jobs)
	p.Cancel(&c.Call)
	p.Cancel(&c.Call)
	c.wait(t)
	c.wantErr(t, pool.ErrCancelled)
	waitClosed(t, "cancelled at the replica", j.Cancelled)
	if c.times.Load() != 1 {
		t.Errorf("it ended %d times", c.times.Load())
	}
}

func TestFullGate(t *testing.T) {
	handle, jobs := hold(10)
	p := start(t, pool.Config{Admit: admit.Config{Requests: 2, Bytes: 100}})
	serve(t, p, fakes.StartReplica(t, handle))
	a, b := begin(p, "a", 10*time.Second), begin(p, "b", 10*time.Second)
	do(t, p, "c", 10*time.Second).wantErr(t, admit.ErrFull)
	ja, jb := take(t, jobs), take(t, jobs)
	echo(ja)
	a.wait(t)
	do(t, p, strings.Repeat("x", 100), 10*time.Second).wantErr(t, admit.ErrFull)
	d := begin(p, "d", 10*time.Second)
	echo(jb)
	echo(take(t, jobs))
	for _, c := range []*call{b, d} {
		c.wait(t)
		if c.Err != nil {
			t.Error(c.Err)
		}
	}
}

// TestLarge: payloads and answers over a chunk come whole, and small ones pass them.
func TestLarge(t *testing.T) {
	p := start(t, pool.Config{})
	serve(t, p, fakes.StartReplica(t, echo), fakes.StartReplica(t, echo))
	var calls []*call
	for i := range 20 {
		calls = append(calls, begin(p, strings.Repeat(string(rune('a'+i)), 1+i*100_000), 20*time.Second))
	}
	for _, c := range calls {
		c.wait(t)
		if want := append([]byte("re: "), c.Payload...); c.Err != nil || !bytes.Equal(c.Reply, want) {
			t.Errorf("answer of %d bytes, %v; want %d", len(c.Reply), c.Err, len(want))
		}
	}
}

// TestAnswerTooLarge: it fails its own request, on the first replica, and no other.
func TestAnswerTooLarge(t *testing.T) {
	handle, jobs := hold(10)
	p := start(t, pool.Config{MaxMessageBytes: 200_000})
	serve(t, p, fakes.StartReplica(t, handle))
	large, other := begin(p, "large", 10*time.Second), begin(p, "other", 10*time.Second)
	a, b := take(t, jobs), take(t, jobs)
	if string(a.Payload) != "large" {
		a, b = b, a
	}
	a.Answer(make([]byte, 400_000))
	large.wait(t)
	large.wantErr(t, frame.ErrTooLarge)
	if n := len(large.Attempts()); n != 1 {
		t.Errorf("%d attempts", n)
	}
	echo(b)
	other.wait(t)
	other.wantReply(t, "re: other")
	next := begin(p, "next", 10*time.Second)
	take(t, jobs).Answer(make([]byte, 150_000))
	next.wait(t)
	if next.Err != nil || len(next.Reply) != 150_000 {
		t.Errorf("%d bytes, %v", len(next.Reply), next.Err)
	}
	if p.Replays() != 0 {
		t.Errorf("%d replays", p.Replays())
	}
}

// TestReplicaReadsNothing: what is kept for a replica that takes nothing is bounded, whatever became of the requests.
func TestReplicaReadsNothing(t *testing.T) {
	stop := make(chan struct{})
	p := start(t, pool.Config{MaxMessageBytes: 1 << 20})
	stuck := fakes.StartReplica(t, func(*fakes.Job) { <-stop })
	t.Cleanup(func() { close(stop) })
	serve(t, p, stuck)
	payload := strings.Repeat("x", 60_000) // not in chunks
	var refused *call
	for range 4000 {
		c := begin(p, payload, 10*time.Second)
		select {
		case <-c.ended:
			refused = c
		default:
			p.Cancel(&c.Call)
			c.wait(t)
		}
		if refused != nil {
			break
		}
	}
	if refused == nil {
		t.Fatal("240 MB were taken for a replica that reads nothing")
	}
	refused.wantErr(t, admit.ErrFull)
	// Another replica is not held up by it.
	serve(t, p, stuck, fakes.StartReplica(t, echo))
	for range 100 {
		c := do(t, p, payload, 10*time.Second)
		if c.Err != nil || len(c.Reply) != len(payload)+4 {
			t.Fatalf("%d bytes, %v", len(c.Reply), c.Err)
		}
	}
}

// TestShutdown: calls in flight are waited for; those that stay are ended; none begins after it.
func TestShutdown(t *testing.T) {
	t.Run("waits", func(t *testing.T) {
		handle, jobs := hold(10)
		p := start(t, pool.Config{})
		serve(t, p, fakes.StartReplica(t, handle))
		c := begin(p, "x", 10*time.Second)
		j := take(t, jobs)
		down := make(chan struct{})
		go func() {
			defer close(down)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			p.Shutdown(ctx)
		}()
		select {
		case <-down:
			t.Error("it did not wait for a call")
		case <-time.After(50 * time.Millisecond):
		}
		echo(j)
		waitClosed(t, "shut down", down)
		c.wait(t)
		c.wantReply(t, "re: x")
		do(t, p, "y", 10*time.Second).wantErr(t, pool.ErrStopped)
		p.Update(endpoints(fakes.StartReplica(t, echo)))
		do(t, p, "y", 10*time.Second).wantErr(t, pool.ErrStopped)
	})
	t.Run("not for ever", func(t *testing.T) {
		handle, jobs := hold(10)
		p := start(t, pool.Config{})
		serve(t, p, fakes.StartReplica(t, handle), fakes.StartReplica(t, handle), fakes.StartReplica(t, handle))
		var calls []*call
		for range 5 {
			calls = append(calls, begin(p, "x", 10*time.Second))
		}
		for range calls {
			take(t, jobs)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		p.Shutdown(ctx)
		for _, c := range calls {
			c.wait(t)
			c.wantErr(t, pool.ErrStopped)
			if c.Deaths() != 0 {
				t.Errorf("%d deaths", c.Deaths())
			}
		}
	})
	t.Run("without Start", func(t *testing.T) {
		p := pool.New(pool.Config{}, pool.Settings{Logger: slog.New(slog.DiscardHandler)})
		p.Shutdown(t.Context())
		p.Shutdown(t.Context())
	})
}

// TestBadAddress: a replica that cannot be reached is not in the way.
func TestBadAddress(t *testing.T) {
	p := start(t, pool.Config{})
	good := fakes.StartReplica(t, echo)
	list := endpoints(good)
	list = append(list,
		&coppicev1.Endpoint{Replica: "r1", Incarnation: "x", Address: "127.0.0.1:1", State: coppicev1.ReplicaState_REPLICA_STATE_READY},
		&coppicev1.Endpoint{Replica: "r2", Incarnation: "x", Address: "\x00nowhere://", State: coppicev1.ReplicaState_REPLICA_STATE_READY},
		&coppicev1.Endpoint{Replica: "r3", Incarnation: "x", State: coppicev1.ReplicaState_REPLICA_STATE_READY},
	)
	p.Update(list)
	for range 20 {
		do(t, p, "x", 10*time.Second).wantReply(t, "re: x")
	}
}

// TestStorm: 20 000 calls, of which some are cancelled, some large and some short of time, on replicas whose
// connections break all the time. Each ends once, with its own answer or an error that fits.
func TestStorm(t *testing.T) {
	const calls, callers = 20_000, 32
	p := start(t, pool.Config{Admit: admit.Config{Requests: 4096}})
	var rs []*fakes.Replica
	for i := range 4 {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		var held []*fakes.Job
		var mu sync.Mutex // the streams before and after a break may overlap
		rs = append(rs, fakes.StartReplica(t, func(j *fakes.Job) {
			mu.Lock()
			defer mu.Unlock()
			switch n := random.IntN(100); {
			case n < 5:
				held = append(held, j) // answered later, or never
			case n < 7:
				j.Refuse(codes.Unavailable, "stopping")
			default:
				echo(j)
			}
			if len(held) > 4 {
				echo(held[0])
				held = held[1:]
			}
		}))
	}
	serve(t, p, rs...)
	stop := make(chan struct{})
	var breaking sync.WaitGroup
	breaking.Go(func() {
		random := rand.New(rand.NewPCG(7, 7))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(5+random.IntN(20)) * time.Millisecond):
			}
			r := rs[random.IntN(len(rs))]
			if random.IntN(4) == 0 {
				r.End()
			} else {
				r.Break()
			}
			if random.IntN(4) == 0 { // and now and then one leaves the pool and comes back
				p.Update(endpoints(rs[:3]...))
				p.Update(endpoints(rs...))
			}
		}
	})
	var good, late, poison, cancelled, refused atomic.Int64
	var all [calls]*call
	var wg sync.WaitGroup
	for g := range callers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 3))
			for i := g; i < calls; i += callers {
				size := 8 + random.IntN(200)
				if random.IntN(200) == 0 {
					size = frame.ChunkBytes + random.IntN(300_000)
				}
				payload := make([]byte, size)
				binary.LittleEndian.PutUint64(payload, uint64(i))
				timeout := 10 * time.Second
				if random.IntN(20) == 0 {
					timeout = 20 * time.Millisecond
				}
				c := newCall(string(payload), timeout)
				all[i] = c
				p.Do(&c.Call)
				if random.IntN(50) == 0 {
					p.Cancel(&c.Call)
				} else if random.IntN(50) == 0 {
					go p.Cancel(&c.Call)
				}
				if random.IntN(4) != 0 {
					c.wait(t)
				}
			}
		})
	}
	wg.Wait()
	for _, c := range all {
		c.wait(t)
	}
	close(stop)
	breaking.Wait()
	for i, c := range all {
		if n := c.times.Load(); n != 1 {
			t.Fatalf("call %d ended %d times", i, n)
		}
		switch {
		case c.Err == nil:
			good.Add(1)
			if want := append([]byte("re: "), c.Payload...); !bytes.Equal(c.Reply, want) {
				t.Fatalf("call %d has a wrong answer of %d bytes, want %d", i, len(c.Reply), len(want))
			}
		case errors.Is(c.Err, pool.ErrDeadline):
			late.Add(1)
		case errors.Is(c.Err, pool.ErrPoison):
			poison.Add(1)
			if c.Deaths() != 2 {
				t.Errorf("call %d: %v after %d deaths", i, c.Err, c.Deaths())
			}
		case errors.Is(c.Err, pool.ErrCancelled):
			cancelled.Add(1)
		case errors.Is(c.Err, pool.ErrNoReplica):
			refused.Add(1)
		default:
			t.Fatalf("call %d: %v", i, c.Err)
		}
	}
	t.Logf("%d good, %d late, %d in flight on two connections that broke, %d cancelled, %d refused by all; %d replays",
		good.Load(), late.Load(), poison.Load(), cancelled.Load(), refused.Load(), p.Replays())
	if good.Load() < calls*8/10 {
		t.Errorf("only %d of %d calls were answered", good.Load(), calls)
	}
	if p.Replays() == 0 || cancelled.Load() == 0 {
		t.Error("the storm was none")
	}
	if inFlight, waiting := p.Load(); inFlight != 0 || waiting != 0 {
		t.Errorf("%d in flight, %d waiting", inFlight, waiting)
	}
}
