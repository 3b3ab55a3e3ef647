// Package testworker is a worker without models: it does all that a balancer sees of a worker. Tests of the
// balancer re-execute their own binary as one, so that processes, sockets and signals are real.
package testworker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/coppice-mesh/coppice/replica/plugin"
)

// Variables of the environment that steer a worker.
const (
	// Role makes the binary a worker: "worker", "crash" (ends before the handshake), or "hand" (joins by hand
	// the balancer of Balancer with the token of Token).
	Role     = "TESTWORKER_ROLE"
	Balancer = "TESTWORKER_BALANCER"
	Token    = "TESTWORKER_TOKEN"
	// InFlight is a file with the number of requests that the worker says it has. Absent: 0.
	InFlight = "TESTWORKER_IN_FLIGHT"
)

// beat is the time between two heartbeats.
const beat = 20 * time.Millisecond

// Main runs a worker if this process is to be one; then it does not return. TestMain calls it first.
func Main() {
	role := os.Getenv(Role)
	if role == "" {
		return
	}
	if err := run(role); err != nil {
		fmt.Fprintln(os.Stderr, "testworker:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Environ is the environment of a worker of this role, on top of this process's.
func Environ(role string, more ...string) []string {
	return append(append(os.Environ(), Role+"="+role), more...)
}

func run(role string) error {
	if role == "crash" {
		return errors.New("crashed, as it was told to")
	}
	// A test that is killed leaves no worker behind for long.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	terminated, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()

	hello := &coppicev1.ReplicaHello{Token: os.Getenv(Token), Pid: int64(os.Getpid()), Host: "test", Version: "test"}
	balancer, listen := os.Getenv(Balancer), "tcp:127.0.0.1:0"
	if role == "worker" {
		launch, err := plugin.Parse(os.LookupEnv)
		if err != nil {
			return err
		}
		hello.Token, hello.Replica, hello.Incarnation, hello.Spawned = launch.Secret, launch.Replica, launch.Incarnation, true
		balancer, listen = launch.Balancer, launch.Listen
	}
	network, address, err := plugin.SplitListen(listen)
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return err
	}
	defer l.Close()
	hello.Address = l.Addr().String()
	if network == "unix" {
		hello.Address = "unix:" + hello.Address
	}
	if role == "worker" {
		if err := plugin.Serve(ctx, plugin.Description{PID: os.Getpid(), Address: hello.Address, Version: "test"}); err != nil {
			return err
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+balancer, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	const lease = 3 * time.Second
	for last := time.Now(); ; {
		joined, stopped, err := join(ctx, terminated, coppicev1.NewBalancerServiceClient(conn), hello)
		if joined {
			last = time.Now()
		}
		switch code := status.Code(err); {
		case stopped:
			return nil
		case code == codes.Unauthenticated, code == codes.InvalidArgument:
			return err
		case ctx.Err() != nil || (hello.GetSpawned() && time.Since(last) > lease):
			return fmt.Errorf("no balancer for %v: %w", time.Since(last), err)
		}
		time.Sleep(beat)
	}
}

// join is one control stream.
func join(ctx, terminated context.Context, client coppicev1.BalancerServiceClient, hello *coppicev1.ReplicaHello) (joined, stopped bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Join(ctx)
	if err != nil {
		return false, false, err
	}
	var models atomic.Pointer[[]string]
	models.Store(new([]string))
	req := &coppicev1.JoinRequest{Hello: hello}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		leaving := terminated.Done()
		for {
			req.Heartbeat = &coppicev1.Heartbeat{Models: *models.Load(), InFlight: inFlight()}
			if stream.Send(req) != nil {
				return
			}
			req = &coppicev1.JoinRequest{}
			select {
			case <-ctx.Done():
				return
			case <-leaving:
				leaving = nil
				req.Leaving = true
			case <-tick.C:
			}
		}
	}()
	defer func() { <-sent }()
	defer cancel()
	for {
		resp, err := stream.Recv()
		if err != nil {
			return joined, false, err
		}
		if w := resp.GetWelcome(); w != nil {
			joined = true
			hashes := make([]string, 0, len(w.GetModels()))
			for _, m := range w.GetModels() {
				hashes = append(hashes, m.GetSha256())
			}
			models.Store(&hashes)
			fmt.Fprintln(os.Stderr, "joined as", w.GetReplica())
		}
		if resp.GetDrain() != nil {
			fmt.Fprintln(os.Stderr, "told to drain")
		}
		if resp.GetStop() {
			fmt.Fprintln(os.Stderr, "told to stop")
			return true, true, nil
		}
	}
}

func inFlight() uint64 {
	b, err := os.ReadFile(os.Getenv(InFlight)) //nolint:gosec // the test that launched it names the file
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
