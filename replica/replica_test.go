package replica_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/coppice-mesh/coppice/proto/frame"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica"
	"github.com/coppice-mesh/coppice/replica/control"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/plugin"
	"github.com/coppice-mesh/coppice/replica/worker"
)

const childVariable = "COPPICE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(spawnedReplica())
	}
	goleak.VerifyTestMain(m)
}

// patience is what a step of these tests may take at most.
const patience = 20 * time.Second

// fakeBalancer serves Join and FetchModel on a port of its own.
type fakeBalancer struct {
	coppicev1.UnimplementedBalancerServiceServer

	t     *testing.T
	addr  string
	srv   *grpc.Server
	token string
	lease time.Duration
	joins chan *member
	files map[string][]byte // what FetchModel has
}

// member is a replica's stream, in the hands of a test.
type member struct {
	hello *coppicev1.ReplicaHello
	in    chan *coppicev1.JoinRequest // closed when the stream has ended
	out   chan *coppicev1.JoinResponse
}

func newBalancer(t *testing.T) *fakeBalancer {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &fakeBalancer{
		t: t, addr: lis.Addr().String(), srv: grpc.NewServer(), token: "secret", lease: 5 * time.Second,
		joins: make(chan *member, 8), files: map[string][]byte{},
	}
	coppicev1.RegisterBalancerServiceServer(b.srv, b)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = b.srv.Serve(lis)
	}()
	t.Cleanup(func() {
		b.srv.Stop()
		<-served
	})
	return b
}

func (b *fakeBalancer) Join(stream coppicev1.BalancerService_JoinServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetHello().GetToken() != b.token {
		return status.Error(codes.Unauthenticated, "the join token is wrong")
	}
	m := &member{hello: first.GetHello(), in: make(chan *coppicev1.JoinRequest, 1000), out: make(chan *coppicev1.JoinResponse, 8)}
	go func() {
		defer close(m.in)
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			m.in <- req
		}
	}()
	b.joins <- m
	for {
		select {
		case res := <-m.out:
			if err := stream.Send(res); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (b *fakeBalancer) FetchModel(req *coppicev1.FetchModelRequest, stream coppicev1.BalancerService_FetchModelServer) error {
	data, ok := b.files[req.GetSha256()]
	if req.GetToken() != b.token || !ok {
		return status.Errorf(codes.NotFound, "no model %s", req.GetSha256())
	}
	for part := range slices.Chunk(data, 7) {
		if err := stream.Send(&coppicev1.FetchModelResponse{Data: part}); err != nil {
			return err
		}
	}
	return nil
}

func (b *fakeBalancer) next() *member {
	b.t.Helper()
	select {
	case m := <-b.joins:
		return m
	case <-time.After(patience):
		b.t.Fatal("no replica joined")
		return nil
	}
}

func (b *fakeBalancer) welcome(m *member, models ...string) {
	w := &coppicev1.Welcome{Replica: "r5", Incarnation: m.hello.GetIncarnation(), Lease: durationpb.New(b.lease)}
	for _, name := range models {
		w.Models = append(w.Models, &coppicev1.ServedModel{Name: name, Version: "v-" + name, Sha256: "sum-" + name})
	}
	m.out <- &coppicev1.JoinResponse{Welcome: w}
}

// until waits for a message that is as wanted.
func (b *fakeBalancer) until(m *member, what string, want func(*coppicev1.JoinRequest) bool) {
	b.t.Helper()
	over := time.After(patience)
	for {
		select {
		case req, ok := <-m.in:
			if !ok {
				b.t.Fatalf("the stream ended before %s", what)
			}
			if want(req) {
				return
			}
		case <-over:
			b.t.Fatalf("no %s", what)
		}
	}
}

func (b *fakeBalancer) loaded(m *member, models ...string) {
	b.t.Helper()
	var sums []string
	for _, name := range models {
		sums = append(sums, "sum-"+name)
	}
	b.until(m, fmt.Sprintf("heartbeat with models %q", models), func(r *coppicev1.JoinRequest) bool {
		return slices.Equal(r.GetHeartbeat().GetModels(), sums)
	})
}

func (m *member) stop() { m.out <- &coppicev1.JoinResponse{Stop: true} }

// memory opens models that exist only here: model "sum-x" has one feature and one output, the feature times
// factor. Those in fetched come from the balancer.
type memory struct {
	gate   chan struct{} // when set, every Predict takes from it first
	mu     sync.Mutex
	open   int
	fetch  map[string]bool
	got    map[string][]byte
	failed []error
}

func (o *memory) OpenModel(ctx context.Context, sha256 string, fetch func(context.Context, func([]byte) error) error) (replica.Model, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fetch[sha256] {
		var got []byte
		err := fetch(ctx, func(b []byte) error {
			got = append(got, b...)
			if len(got) > 1000 {
				return errors.New("the disk is full")
			}
			return nil
		})
		if err != nil {
			o.failed = append(o.failed, err)
			return nil, err
		}
		if o.got == nil {
			o.got = map[string][]byte{}
		}
		o.got[sha256] = got
	}
	o.open++
	return &twice{opener: o, name: sha256}, nil
}

// twice is a regressor that doubles its one feature.
type twice struct {
	opener *memory
	name   string
	closed bool
}

func (m *twice) Input() model.Input                    { return model.Float32 }
func (m *twice) NumFeatures() int                      { return 1 }
func (m *twice) NumMargins() int                       { return 1 }
func (m *twice) NumScores() int                        { return 1 }
func (m *twice) NumTargets() int                       { return 1 }
func (m *twice) NumTrees() int                         { return 1 }
func (m *twice) Classes() []string                     { return nil }
func (m *twice) FeatureName(int) string                { return "" }
func (m *twice) TakesMissing() bool                    { return false }
func (m *twice) TakesInfinite() bool                   { return false }
func (m *twice) Leaves([]int64, []float32) error       { return nil }
func (m *twice) Leaves64([]int64, []float64) error     { return nil }
func (m *twice) Margins64([]float64, []float64) error  { return errors.New("rows of the wrong type") }
func (m *twice) LabelOf(int, []float64, []float64) int { return 0 }

func (m *twice) Scores(dst, margins []float64) error {
	copy(dst, margins)
	return nil
}

func (m *twice) Margins(dst []float64, rows []float32) error {
	if m.opener.gate != nil {
		<-m.opener.gate
	}
	for i, v := range rows {
		dst[i] = 2 * float64(v)
	}
	return nil
}

func (m *twice) Close() error {
	m.opener.mu.Lock()
	defer m.opener.mu.Unlock()
	if m.closed {
		return errors.New("closed twice")
	}
	m.closed = true
	m.opener.open--
	return nil
}

// running is a replica that runs in this process.
type running struct {
	t     *testing.T
	kill  context.CancelCauseFunc
	leave context.CancelFunc
	done  chan error
}

func start(t *testing.T, cfg replica.Config, set replica.Settings) *running {
	t.Helper()
	if set.Logger == nil {
		set.Logger = slog.New(slog.DiscardHandler)
	}
	if set.Models == nil {
		set.Models = &memory{}
	}
	r := replica.New(cfg, set)
	ctx, kill := context.WithCancelCause(context.Background())
	leave, tell := context.WithCancel(context.Background())
	run := &running{t: t, kill: kill, leave: tell, done: make(chan error, 1)}
	go func() { run.done <- r.Run(ctx, leave) }()
	t.Cleanup(func() {
		kill(nil)
		tell()
	})
	return run
}

// wait is how the replica ended.
func (r *running) wait() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		r.t.Fatal("the replica did not end")
		return nil
	}
}

// gateway is a stream to a replica.
type gateway struct {
	t       *testing.T
	stream  grpc.ClientStream
	replies chan frame.Reply // closed with the stream
}

func dial(t *testing.T, address string) *gateway {
	t.Helper()
	address = strings.TrimPrefix(address, "tcp:")
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec())))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, coppicev1.WorkerService_Exchange_FullMethodName)
	if err != nil {
		t.Fatalf("dial %s: %v", address, err)
	}
	g := &gateway{t: t, stream: stream, replies: make(chan frame.Reply, 100)}
	go func() {
		defer close(g.replies)
		var m frame.Message
		for stream.RecvMsg(&m) == nil {
			for rest := m.Bytes; ; {
				reply, next, ok, err := frame.NextReply(rest)
				if err != nil || !ok {
					break
				}
				rest = next
				g.replies <- reply
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		conn.Close()
		for range g.replies { // until it is closed
		}
	})
	return g
}

func (g *gateway) send(id uint64, model string, value float64) {
	g.t.Helper()
	payload, err := proto.Marshal(&coppicev1.PredictRequest{Model: model, Instances: []*coppicev1.Instance{{Values: []float64{value}}}})
	if err != nil {
		g.t.Fatal(err)
	}
	b, err := proto.Marshal(&coppicev1.ExchangeRequest{Frames: []*coppicev1.WorkFrame{{Id: id, Payload: payload, Version: "v-" + model, RequestId: "q"}}})
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.stream.SendMsg(&frame.Message{Bytes: b}); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) reply() frame.Reply {
	g.t.Helper()
	select {
	case r, ok := <-g.replies:
		if !ok {
			g.t.Fatal("the stream ended")
		}
		return r
	case <-time.After(patience):
		g.t.Fatal("no reply")
	}
	panic("unreachable")
}

// predict sends one value and returns the model's.
func (g *gateway) predict(id uint64, model string, value float64) float64 {
	g.t.Helper()
	g.send(id, model, value)
	return g.value()
}

func (g *gateway) value() float64 {
	g.t.Helper()
	r := g.reply()
	if r.Code != codes.OK {
		g.t.Fatalf("%v: %s", r.Code, r.Message)
	}
	var res coppicev1.PredictResponse
	if err := proto.Unmarshal(r.Payload, &res); err != nil {
		g.t.Fatal(err)
	}
	return res.GetPredictions()[0].GetValue()
}

// leakCheck fails the test when something of it still runs behind it.
func leakCheck(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
}

// TestLife is a replica's life in order, on each kind of socket.
func TestLife(t *testing.T) {
	for _, kind := range []string{"unix", "tcp"} {
		t.Run(kind, func(t *testing.T) {
			leakCheck(t)
			b := newBalancer(t)
			listen, socket := "tcp:127.0.0.1:0", ""
			if kind == "unix" {
				socket = filepath.Join(t.TempDir(), "r.sock")
				listen = "unix:" + socket
			}
			models := &memory{}
			var mu sync.Mutex
			var places []string
			run := start(t, replica.Config{Balancer: b.addr, Listen: listen, Token: "secret"}, replica.Settings{
				Models: models, Version: "v9",
				Joined: func(name, incarnation string) {
					mu.Lock()
					defer mu.Unlock()
					places = append(places, name+" "+incarnation)
				},
			})
			m := b.next()
			if m.hello.GetPid() != int64(os.Getpid()) || m.hello.GetVersion() != "v9" || m.hello.GetSpawned() || len(m.hello.GetIncarnation()) < 16 {
				t.Errorf("hello is %v", m.hello)
			}
			if kind == "unix" {
				if m.hello.GetAddress() != listen {
					t.Errorf("address is %q, want %q", m.hello.GetAddress(), listen)
				}
				info, err := os.Stat(socket)
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode() != os.ModeSocket|0o600 {
					t.Errorf("the socket's mode is %v, it is for its owner alone", info.Mode())
				}
			}
			b.welcome(m, "a", "b")
			b.loaded(m, "a", "b")
			g := dial(t, m.hello.GetAddress())
			if got := g.predict(1, "a", 21); got != 42 {
				t.Errorf("predicted %v", got)
			}
			g.send(2, "c", 1)
			if r := g.reply(); r.Code != codes.NotFound {
				t.Errorf("a model that is not served: %v", r.Code)
			}
			// The models change: exactly those of the last welcome are served.
			b.welcome(m, "b", "c")
			b.loaded(m, "b", "c")
			if got := g.predict(3, "c", 4); got != 8 {
				t.Errorf("predicted %v", got)
			}
			g.send(4, "a", 1)
			if r := g.reply(); r.Code != codes.NotFound {
				t.Errorf("a model that is no longer served: %v", r.Code)
			}
			m.out <- &coppicev1.JoinResponse{Drain: &coppicev1.Drain{}}
			// What was on its way when it was told to drain is answered.
			if got := g.predict(5, "b", 5); got != 10 {
				t.Errorf("predicted %v", got)
			}
			m.stop()
			if err := run.wait(); err != nil {
				t.Error(err)
			}
			if models.open != 0 {
				t.Errorf("%d models are still open", models.open)
			}
			if _, err := os.Stat(socket); kind == "unix" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its socket is still there: %v", err)
			}
			place := "r5 " + m.hello.GetIncarnation()
			if d := cmp.Diff([]string{place, place}, places); d != "" {
				t.Errorf("places (-want +got):\n%s", d)
			}
		})
	}
}

func TestAddress(t *testing.T) {
	b := newBalancer(t)
	for _, tt := range []struct{ listen, advertise, host string }{
		{"tcp:127.0.0.1:0", "", "127.0.0.1"},
		{"tcp:localhost:0", "", "127.0.0.1"},
		{"tcp:0.0.0.0:0", "", "127.0.0.1"}, // the way to the balancer
		{"tcp::0", "", "127.0.0.1"},
		{"tcp:127.0.0.1:0", "worker-7.example", "worker-7.example"},
		{"tcp:127.0.0.1:0", "fd00::7", "fd00::7"},
	} {
		t.Run(tt.listen+" "+tt.advertise, func(t *testing.T) {
			leakCheck(t)
			run := start(t, replica.Config{Balancer: b.addr, Listen: tt.listen, Advertise: tt.advertise, Token: "secret"}, replica.Settings{})
			m := b.next()
			host, port, err := net.SplitHostPort(strings.TrimPrefix(m.hello.GetAddress(), "tcp:"))
			if err != nil || host != tt.host || port == "0" {
				t.Errorf("address is %q, want host %s and a port (%v)", m.hello.GetAddress(), tt.host, err)
			}
			m.stop()
			if err := run.wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestListen sees what a replica does with what is at the place of its socket.
func TestListen(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as a process that was killed leaves it
	l.Close()
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	b := newBalancer(t)
	for _, tt := range []struct{ name, listen, want string }{
		{"stale socket", "unix:" + stale, ""},
		{"no socket", "unix:" + precious, "a file that is no socket is there"},
		{"directory", "unix:" + dir, "a file that is no socket is there"},
		{"no directory", "unix:" + filepath.Join(dir, "none", "x.sock"), "no such file"},
		{"port in use", "tcp:" + taken.Addr().String(), "address already in use"},
		{"no port", "tcp:127.0.0.1", "missing port"},
		{"no kind", "127.0.0.1:0", `expected "unix:/path" or "tcp:host:port"`},
		{"empty", "", `expected "unix:/path" or "tcp:host:port"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leakCheck(t)
			run := start(t, replica.Config{Balancer: b.addr, Listen: tt.listen, Token: "secret"}, replica.Settings{})
			if tt.want == "" {
				b.next().stop()
			}
			err := run.wait()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if got, err := os.ReadFile(precious); err != nil || string(got) != "data" {
		t.Errorf("a file at the socket's place is now %q, %v", got, err)
	}
}

// TestFetch sees that models come from the balancer, and that those that do not come keep no other from being
// served.
func TestFetch(t *testing.T) {
	leakCheck(t)
	b := newBalancer(t)
	b.files["sum-b"] = []byte("the canonical file of b, in several parts")
	b.files["sum-huge"] = make([]byte, 5000)
	models := &memory{fetch: map[string]bool{"sum-b": true, "sum-huge": true, "sum-lost": true}}
	run := start(t, replica.Config{Balancer: b.addr, Listen: "tcp:127.0.0.1:0", Token: "secret"}, replica.Settings{Models: models})
	m := b.next()
	b.welcome(m, "a", "b", "huge", "lost")
	b.loaded(m, "a", "b")
	if got := string(models.got["sum-b"]); got != string(b.files["sum-b"]) {
		t.Errorf("fetched %q", got)
	}
	g := dial(t, m.hello.GetAddress())
	if got := g.predict(1, "b", 3); got != 6 {
		t.Errorf("predicted %v", got)
	}
	m.stop()
	if err := run.wait(); err != nil {
		t.Error(err)
	}
	if len(models.failed) < 2 || models.failed[0].Error() != "the disk is full" || status.Code(models.failed[1]) != codes.NotFound {
		t.Errorf("failed with %v, want a full disk and NOT_FOUND", models.failed)
	}
	if models.open != 0 {
		t.Errorf("%d models are still open", models.open)
	}
}

// TestAnswersAtTheEnd sees that what was accepted is answered before the replica ends.
func TestAnswersAtTheEnd(t *testing.T) {
	leakCheck(t)
	b := newBalancer(t)
	models := &memory{gate: make(chan struct{})}
	run := start(t, replica.Config{Balancer: b.addr, Listen: "tcp:127.0.0.1:0", Token: "secret"}, replica.Settings{Models: models})
	m := b.next()
	b.welcome(m, "a")
	b.loaded(m, "a")
	g := dial(t, m.hello.GetAddress())
	g.send(1, "a", 1)
	g.send(2, "a", 1)
	b.until(m, "heartbeat with 2 in flight", func(r *coppicev1.JoinRequest) bool { return r.GetHeartbeat().GetInFlight() == 2 })
	m.stop()
	select {
	case err := <-run.done:
		t.Fatalf("it ended with %v, and two requests are unanswered", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(models.gate)
	for range 2 {
		if got := g.value(); got != 2 {
			t.Errorf("predicted %v", got)
		}
	}
	if err := run.wait(); err != nil {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	leakCheck(t)
	b := newBalancer(t)
	run := start(t, replica.Config{Balancer: b.addr, Listen: "tcp:127.0.0.1:0", Token: "wrong"}, replica.Settings{})
	if err := run.wait(); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "the join token is wrong") {
		t.Errorf("got %v", err)
	}
}

func TestLeave(t *testing.T) {
	t.Run("balancer lets it go", func(t *testing.T) {
		leakCheck(t)
		b := newBalancer(t)
		run := start(t, replica.Config{Balancer: b.addr, Listen: "tcp:127.0.0.1:0", Token: "secret"}, replica.Settings{})
		m := b.next()
		b.welcome(m, "a")
		b.loaded(m, "a")
		run.leave()
		b.until(m, "wish to leave", (*coppicev1.JoinRequest).GetLeaving)
		// Until the balancer lets it go, it answers.
		g := dial(t, m.hello.GetAddress())
		if got := g.predict(1, "a", 1); got != 2 {
			t.Errorf("predicted %v", got)
		}
		m.stop()
		if err := run.wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("balancer never there", func(t *testing.T) {
		leakCheck(t)
		run := start(t, replica.Config{Balancer: "127.0.0.1:1", Listen: "tcp:127.0.0.1:0", Token: "secret"}, replica.Settings{})
		time.Sleep(20 * time.Millisecond)
		run.leave()
		if err := run.wait(); err != nil {
			t.Error(err)
		}
	})
	// A request that never ends holds up neither a replica whose balancer does not let it go, nor one that is let
	// go at once.
	for _, stops := range []bool{false, true} {
		t.Run(fmt.Sprintf("in time, balancer stops it: %v", stops), func(t *testing.T) {
			leakCheck(t)
			b := newBalancer(t)
			models := &memory{gate: make(chan struct{})}
			const drain = 300 * time.Millisecond
			var failpoint []float32
			run := start(t, replica.Config{Balancer: b.addr, Listen: "tcp:127.0.0.1:0", Token: "secret", DrainTimeout: drain}, replica.Settings{
				Models: models, Failpoint: func(rows []float32) { failpoint = slices.Clone(rows) },
			})
			m := b.next()
			b.welcome(m, "a")
			b.loaded(m, "a")
			g := dial(t, m.hello.GetAddress())
			g.send(1, "a", 1)
			b.until(m, "heartbeat with 1 in flight", func(r *coppicev1.JoinRequest) bool { return r.GetHeartbeat().GetInFlight() == 1 })
			told := time.Now()
			run.leave()
			if stops {
				b.until(m, "wish to leave", (*coppicev1.JoinRequest).GetLeaving)
				m.stop()
			}
			// The stream ends when the drain is over. The evaluation itself cannot be given up.
			for range g.replies {
				t.Error("a reply")
			}
			if took := time.Since(told); took < drain || took > drain+8*time.Second {
				t.Errorf("the stream ended after %v", took)
			}
			close(models.gate)
			if err := run.wait(); err != nil {
				t.Error(err)
			}
			if !slices.Equal(failpoint, []float32{1}) {
				t.Errorf("the failpoint saw %v", failpoint)
			}
		})
	}
}

// TestKilled sees that the end of the context ends a replica at once, whatever it does, and without a leak.
func TestKilled(t *testing.T) {
	over := errors.New("over")
	for name, prepare := range map[string]func(t *testing.T, b *fakeBalancer){
		"unknown to its balancer": func(*testing.T, *fakeBalancer) {},
		"welcomed":                func(_ *testing.T, b *fakeBalancer) { b.welcome(b.next(), "a") },
		"serving": func(t *testing.T, b *fakeBalancer) {
			m := b.next()
			b.welcome(m, "a")
			b.loaded(m, "a")
			if got := dial(t, m.hello.GetAddress()).predict(1, "a", math.Pi); math.Abs(got-2*math.Pi) > 1e-6 {
				t.Errorf("predicted %v", got)
			}
		},
		"fetching in vain": func(_ *testing.T, b *fakeBalancer) { b.welcome(b.next(), "lost") },
	} {
		t.Run(name, func(t *testing.T) {
			leakCheck(t)
			b := newBalancer(t)
			models := &memory{fetch: map[string]bool{"sum-lost": true}}
			run := start(t, replica.Config{Balancer: b.addr, Listen: "tcp:127.0.0.1:0", Token: "secret"}, replica.Settings{Models: models})
			prepare(t, b)
			killed := time.Now()
			run.kill(over)
			if err := run.wait(); !errors.Is(err, over) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(killed); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if models.open != 0 {
				t.Errorf("%d models are still open", models.open)
			}
		})
	}
}

// TestNotLaunched is a replica that believes to be spawned, in a process that no balancer started.
func TestNotLaunched(t *testing.T) {
	leakCheck(t)
	b := newBalancer(t)
	run := start(t, replica.Config{Balancer: b.addr, Listen: "tcp:127.0.0.1:0"}, replica.Settings{Launch: &plugin.Launch{Secret: "secret"}})
	if err := run.wait(); !errors.Is(err, plugin.ErrNotLaunched) {
		t.Errorf("got %v", err)
	}
}

// spawnedReplica is what a child process of these tests does.
func spawnedReplica() int {
	launch, err := plugin.Parse(os.LookupEnv)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	r := replica.New(replica.Config{Balancer: launch.Balancer, Listen: launch.Listen, Advertise: launch.Advertise},
		replica.Settings{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), Models: &memory{fetch: map[string]bool{"sum-f": true}}, Launch: &launch, Version: "v-child"})
	if err := r.Run(context.Background(), context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestSpawned launches a replica as a process, as a balancer does. Its secret is its token; it ends when it is
// told to, and when its balancer is gone for its lease.
func TestSpawned(t *testing.T) {
	for _, end := range []string{"stop", "lease"} {
		t.Run(end, func(t *testing.T) {
			leakCheck(t)
			b := newBalancer(t)
			b.lease = 300 * time.Millisecond
			b.files["sum-f"] = []byte("f")
			dir, err := os.MkdirTemp("", "coppice") // t.TempDir is too long for a socket's path
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			launch := plugin.Launch{Balancer: b.addr, Replica: "r5", Incarnation: "inc", Secret: "secret", Listen: "unix:" + filepath.Join(dir, "w.sock")}
			cmd := exec.CommandContext(ctx, exe)
			cmd.Env = append(launch.Environ(), childVariable+"=1")
			log, err := os.Create(filepath.Join(dir, "log"))
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			cmd.Stderr = log
			p, d, err := plugin.Connect(ctx, cmd, dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = p.Kill()
				<-p.Exited()
				if t.Failed() {
					_, _ = log.Seek(0, io.SeekStart)
					text, _ := io.ReadAll(log)
					t.Logf("its log:\n%s", text)
				}
			}()
			if d.Address != launch.Listen || d.PID != p.PID() || d.Version != "v-child" {
				t.Errorf("it describes itself as %+v", d)
			}
			m := b.next()
			h := m.hello
			if !h.GetSpawned() || h.GetReplica() != "r5" || h.GetIncarnation() != "inc" || h.GetAddress() != launch.Listen || h.GetPid() != int64(p.PID()) {
				t.Errorf("hello is %v", h)
			}
			b.welcome(m, "a", "f")
			b.loaded(m, "a", "f")
			g := dial(t, h.GetAddress())
			if got := g.predict(1, "f", 1); got != 2 {
				t.Errorf("predicted %v", got)
			}
			lost := time.Now()
			if end == "stop" {
				m.stop()
			} else {
				b.srv.Stop()
			}
			select {
			case <-p.Exited():
			case <-time.After(patience):
				t.Fatal("it did not end")
			}
			if err := p.Err(); err != nil {
				t.Errorf("it ended with %v", err)
			}
			if took := time.Since(lost); end == "lease" && took < b.lease {
				t.Errorf("it ended after %v, before its lease", took)
			}
		})
	}
}

var _ worker.Forest = (*twice)(nil)
