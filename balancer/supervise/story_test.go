package supervise

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	"github.com/coppice-mesh/coppice/balancer/roster"
	"github.com/coppice-mesh/coppice/balancer/supervise/journal"
	"github.com/coppice-mesh/coppice/balancer/supervise/process"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

var rewrite = flag.Bool("rewrite", false, "write what came out into the stories of testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStories runs the files of testdata. A file is a list of steps: lines of commands, a line of dashes, and
// what came out, up to an empty line. Time is virtual; world.do has the commands.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.end()
				var out bytes.Buffer
				steps := strings.Split(strings.TrimRight(string(b), "\n"), "\n\n")
				for i, step := range steps {
					commands, want, _ := strings.Cut(step, "\n----\n")
					commands = strings.TrimSuffix(commands, "\n----")
					if i > 0 {
						out.WriteString("\n")
					}
					var got []string
					for line := range strings.Lines(commands) {
						line = strings.TrimSpace(line)
						if line != "" && !strings.HasPrefix(line, "#") {
							got = append(got, w.do(line)...)
						}
					}
					result := strings.Join(got, "\n")
					if !*rewrite && result != want {
						t.Errorf("%s: after\n%s\ngot\n%s\nwant\n%s", file, commands, result, want)
					}
					out.WriteString(commands + "\n----\n")
					if result != "" {
						out.WriteString(result + "\n")
					}
				}
				if *rewrite {
					if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

const (
	model     = "model"
	joinToken = "join token"
)

// world is everything around a supervisor: processes, disk, gateways.
type world struct {
	t *testing.T

	mu      sync.Mutex
	log     []entry
	mode    string           // what becomes of processes that are launched
	pids    map[string]int   // the last one of a slot or of one that joins by hand
	workers map[int]*fake    // by pid
	names   map[string]*fake // by slot, or by name for those that join by hand
	record  journal.Record

	sup      *Supervisor
	roster   *roster.Roster
	balancer context.Context // done when the balancer is dead
	die      context.CancelFunc
	old      []*Supervisor
	wg       sync.WaitGroup
	gateways map[string]*gateway
}

// entry is a line of the log. What happens at the same time has no order.
type entry struct {
	at   time.Time
	text string
}

type gateway struct {
	sub    *roster.Subscription
	cancel context.CancelFunc
	ack    bool
	view   *coppicev1.WatchResponse
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, mode: "ok", pids: make(map[string]int), workers: make(map[int]*fake), names: make(map[string]*fake), gateways: make(map[string]*gateway),
	}
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, entry{time.Now(), fmt.Sprintf(format, args...)})
}

// next gives a process id: the hundreds are the slot's. w.mu is held.
func (w *world) next(name string) int {
	if w.pids[name] == 0 {
		w.pids[name] = 100 * (number(name) + 1)
		if number(name) < 0 {
			w.pids[name] = 10000 + 100*len(w.pids)
		}
	}
	w.pids[name]++
	return w.pids[name]
}

// fake is a replica's process.
type fake struct {
	w     *world
	name  string
	spec  Spec
	hello *coppicev1.ReplicaHello
	ctx   context.Context // done when the process has ended
	exit  context.CancelCauseFunc

	mu      sync.Mutex
	frozen  bool
	cut     bool
	leaving bool
	load    uint64
	deaf    bool // does not stop when it is told to
	loading bool // its models are not there yet
}

func (f *fake) Address() string         { return f.hello.GetAddress() }
func (f *fake) Exited() <-chan struct{} { return f.ctx.Done() }
func (f *fake) Err() error              { return context.Cause(f.ctx) }

func (f *fake) Terminate() error {
	f.w.note("%s asked to end", f.name)
	return nil
}

func (f *fake) Kill() error {
	f.w.note("%s killed", f.name)
	f.exit(errors.New("killed"))
	return nil
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) is(field *bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *field
}

// run joins, again and again, until the process ends.
func (f *fake) run() {
	for f.ctx.Err() == nil {
		f.w.mu.Lock()
		sup, balancer := f.w.sup, f.w.balancer
		f.w.mu.Unlock()
		if balancer.Err() == nil && !f.is(&f.cut) && !f.is(&f.frozen) {
			session, err := sup.Join(f.hello)
			if err == nil {
				f.member(balancer, session)
				session.Close()
			} else if errors.Is(err, ErrToken) {
				f.w.note("%s refused", f.name)
				f.exit(errors.New("refused"))
			}
		}
		select {
		case <-f.ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (f *fake) member(balancer context.Context, session *Session) {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	defer context.AfterFunc(balancer, cancel)()
	beat := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.frozen {
			return
		}
		b := &coppicev1.Heartbeat{Models: []string{model}, InFlight: f.load}
		if f.loading {
			b.Models = nil
		}
		session.Heartbeat(b)
		if f.leaving {
			f.leaving = false
			session.Leave()
		}
		if f.cut {
			cancel()
		}
	}
	beat()
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				beat()
			}
		}
	}()
	defer func() { <-beats }()
	defer cancel()
	for {
		resp, err := session.Next(ctx)
		if err != nil {
			return
		}
		if resp.GetDrain() != nil {
			f.w.note("%s told to drain within %v", f.name, resp.GetDrain().GetTimeout().AsDuration())
		}
		if resp.GetStop() {
			f.w.note("%s told to stop", f.name)
			if !f.is(&f.deaf) {
				f.exit(errors.New("stopped"))
				return
			}
		}
	}
}

func (w *world) newFake(name string, hello *coppicev1.ReplicaHello, spec Spec) *fake {
	f := &fake{w: w, name: name, hello: hello, spec: spec}
	f.ctx, f.exit = context.WithCancelCause(context.Background())
	return f
}

// Spawn launches a fake.
func (w *world) Spawn(ctx context.Context, spec Spec, started func(process.Identity)) (Worker, error) {
	w.mu.Lock()
	mode := w.mode
	pid := w.next(spec.Replica)
	f := w.newFake(fmt.Sprintf("%s/%d", spec.Replica, pid), &coppicev1.ReplicaHello{
		Token: spec.Secret, Replica: spec.Replica, Incarnation: spec.Incarnation, Address: "unix:/" + spec.Replica, Pid: int64(pid), Spawned: true,
	}, spec)
	f.loading = mode == "loading"
	w.workers[pid] = f
	w.names[spec.Replica] = f
	known := slices.ContainsFunc(w.record.Members, func(m journal.Member) bool { return m.Incarnation == spec.Incarnation })
	w.mu.Unlock()
	if !known {
		w.note("%s launched before that was written", f.name)
	}
	w.note("%s launched at %s", f.name, clock())
	started(process.Identity{PID: pid, Start: "s"})
	switch mode {
	case "fail":
		f.exit(errors.New("exit status 1"))
		return nil, errors.New("exit status 1")
	case "hang":
		<-ctx.Done()
		f.exit(ctx.Err())
		return nil, ctx.Err()
	case "mute":
		return f, nil
	}
	select {
	case <-time.After(7 * time.Millisecond):
	case <-ctx.Done():
		f.exit(ctx.Err())
		return nil, ctx.Err()
	}
	if mode == "crash" {
		w.wg.Go(func() {
			time.Sleep(20 * time.Millisecond)
			f.exit(errors.New("exit status 2"))
		})
	}
	w.wg.Go(f.run)
	return f, nil
}

// Adopt finds a fake.
func (w *world) Adopt(id process.Identity, _ Spec) (Worker, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.workers[id.PID]
	if f == nil || f.ctx.Err() != nil || id.Start != "s" {
		return nil, process.ErrGone
	}
	return f, nil
}

// Save is the disk.
func (w *world) Save(r journal.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record = r
	return nil
}

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where virtual time begins

func clock() string { return time.Since(epoch).Round(time.Millisecond).String() }

func (w *world) start() {
	w.mu.Lock()
	record := w.record
	w.mu.Unlock()
	r := roster.New(record.Generation)
	sup := New(Config{}, Settings{
		Spawner: w, Journal: w, Record: record, Roster: r, JoinToken: joinToken,
		Models: []*coppicev1.ServedModel{{Sha256: model}}, Logger: slog.New(slog.DiscardHandler),
		Jitter: func() float64 { return 0.5 },
	})
	ctx, cancel := context.WithCancel(context.Background())
	w.mu.Lock()
	w.sup, w.roster, w.balancer, w.die = sup, r, ctx, cancel
	w.mu.Unlock()
	sup.Start()
}

// kill ends the balancer as kill -9 does: it tells nobody.
func (w *world) kill() {
	w.die()
	w.sup.stop()
	w.sup.loops.Wait()
	w.old = append(w.old, w.sup)
	for _, g := range w.gateways {
		g.cancel()
		g.sub.Close()
	}
	clear(w.gateways)
}

func (w *world) watch(name string) {
	sub, err := w.roster.Subscribe(name)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &gateway{sub: sub, cancel: cancel, ack: true}
	w.gateways[name] = g
	w.wg.Go(func() {
		for {
			v, err := sub.Next(ctx)
			if err != nil {
				return
			}
			w.mu.Lock()
			g.view = v
			ack := g.ack
			w.mu.Unlock()
			if ack {
				sub.Acknowledge(v.GetGeneration())
			}
		}
	})
}

// do executes a command and says what came out.
//
//	start | kill | shutdown [TIMEOUT]      the balancer
//	forget                                 the disk
//	scale N                                how many spawned replicas there should be
//	mode ok|loading|fail|hang|mute|crash   what becomes of workers that are launched from now on
//	crash|freeze|thaw|cut|mend|leave|deaf|loaded NAME    what a replica does
//	load NAME N                            how many requests it has in flight
//	join NAME                              a replica that was started by hand
//	drain NAME [TIMEOUT]                   in the background
//	gateway NAME [ack|noack|gone]
//	sleep DURATION
//	members | view NAME | log | generation
func (w *world) do(line string) []string {
	words := append(strings.Fields(line), "", "")
	name, arg := words[1], words[2]
	duration := func(s string) time.Duration {
		d, err := time.ParseDuration(s)
		if err != nil {
			w.t.Fatalf("%q: %v", line, err)
		}
		return d
	}
	w.mu.Lock()
	f := w.names[name]
	w.mu.Unlock()
	switch words[0] {
	case "start":
		w.start()
	case "kill":
		w.kill()
	case "forget":
		w.mu.Lock()
		w.record = journal.Record{}
		w.mu.Unlock()
	case "shutdown":
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		if name != "" {
			ctx, cancel = context.WithTimeout(context.Background(), duration(name))
		}
		defer cancel()
		before := time.Now()
		err := w.sup.Shutdown(ctx)
		w.die()
		return []string{fmt.Sprintf("shut down after %v: %v", time.Since(before).Round(10*time.Millisecond), err)}
	case "scale":
		var n int
		if _, err := fmt.Sscan(name, &n); err != nil {
			w.t.Fatal(err)
		}
		w.sup.SetScale(autoscale.State{Desired: n})
	case "mode":
		w.mu.Lock()
		w.mode = name
		w.mu.Unlock()
	case "crash":
		f.exit(errors.New("exit status 2"))
	case "freeze":
		f.set(func() { f.frozen = true })
	case "thaw":
		f.set(func() { f.frozen = false })
	case "cut":
		f.set(func() { f.cut = true })
	case "mend":
		f.set(func() { f.cut = false })
	case "leave":
		f.set(func() { f.leaving = true })
	case "deaf":
		f.set(func() { f.deaf = true })
	case "loaded":
		f.set(func() { f.loading = false })
	case "load":
		f.set(func() {
			if _, err := fmt.Sscan(arg, &f.load); err != nil {
				w.t.Fatal(err)
			}
		})
	case "join":
		w.mu.Lock()
		f := w.newFake(name, &coppicev1.ReplicaHello{Token: joinToken, Address: name + ":1", Pid: int64(w.next(name)), Host: name}, Spec{})
		w.names[name] = f
		w.mu.Unlock()
		w.wg.Go(f.run)
	case "drain":
		timeout := time.Duration(0)
		if arg != "" {
			timeout = duration(arg)
		}
		before := time.Now()
		w.wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			n, err := w.sup.Drain(ctx, name, timeout)
			w.note("drain of %s returned after %v: %d abandoned, %v", name, time.Since(before).Round(10*time.Millisecond), n, err)
		})
	case "gateway":
		switch arg {
		case "":
			w.watch(name)
		case "gone":
			w.gateways[name].cancel()
			w.gateways[name].sub.Close()
			delete(w.gateways, name)
		default:
			w.mu.Lock()
			w.gateways[name].ack = arg == "ack"
			w.mu.Unlock()
		}
	case "sleep":
		time.Sleep(duration(name))
	case "members":
		synctest.Wait()
		var out []string
		for _, m := range w.sup.Members() {
			s := fmt.Sprintf("%s %s pid %d", m.Replica, m.State, m.PID)
			if !m.Spawned {
				s += " joined"
			}
			if m.Restarts > 0 {
				s += fmt.Sprintf(" restarts %d", m.Restarts)
			}
			out = append(out, s)
		}
		return out
	case "view":
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		v := w.gateways[name].view
		if v == nil {
			return []string{"no view"}
		}
		var out []string
		for _, e := range v.GetEndpoints() {
			state := strings.ToLower(strings.TrimPrefix(e.GetState().String(), "REPLICA_STATE_"))
			out = append(out, fmt.Sprintf("%s %s", e.GetReplica(), state))
		}
		return append(out, fmt.Sprintf("%d endpoints", len(out)))
	case "generation":
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		return []string{fmt.Sprintf("grew: %v, below what is written: %v", w.roster.Generation() > 0, w.roster.Generation() < w.record.Generation)}
	case "log":
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		slices.SortStableFunc(w.log, func(a, b entry) int { return cmp.Or(a.at.Compare(b.at), strings.Compare(a.text, b.text)) })
		var out []string
		for _, e := range w.log {
			out = append(out, e.text)
		}
		w.log = nil
		return out
	default:
		w.t.Fatalf("unknown command %q", line)
	}
	synctest.Wait()
	return nil
}

func (w *world) end() {
	if w.sup == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	_ = w.sup.Shutdown(ctx)
	for _, f := range w.workers {
		f.exit(errors.New("the story is over"))
	}
	for _, f := range w.names {
		f.exit(errors.New("the story is over"))
	}
	for _, s := range w.old {
		s.work.Wait()
	}
	w.die()
	for _, g := range w.gateways {
		g.cancel()
	}
	w.wg.Wait()
}
