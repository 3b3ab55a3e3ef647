// Package plugin is the launch of a worker: what a balancer hands to the process that it starts and what that
// process says of itself. Both sides of it are here, the worker's (Parse, Serve) and the balancer's (Connect).
//
// The launch goes by hashicorp/go-plugin: a cookie in the environment, one line on standard output, one gRPC
// call over a Unix socket. go-plugin is let go as soon as that call is answered, on both sides. Everything
// later, a drain above all, goes over the control stream (BalancerService.Join): go-plugin's way to end a
// plugin aborts the calls that it has in flight, and a plugin whose output goes to its host dies with the
// first line that it writes after its host died.
//
// A worker's standard error is therefore a file from its first instruction on, so that a panic at start-up
// is found there, too. Its standard output carries the one handshake line and becomes the same file.
package plugin

import (
	"context"
	"errors"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// Handshake is what both sides must agree on. The cookie is no secret: it keeps a person from starting a
// worker's command line by hand and wondering why nothing happens.
var Handshake = goplugin.HandshakeConfig{
	ProtocolVersion:  1,
	MagicCookieKey:   "COPPICE_WORKER_COOKIE",
	MagicCookieValue: "9d1f6a0b5c8e4e37a2b46a1c90e4d5f2",
}

// name is the worker's entry in go-plugin's map.
const name = "worker"

// Errors of a launch.
var (
	// ErrNotLaunched is returned by Parse and Serve in a process that no balancer launched.
	ErrNotLaunched = errors.New("plugin: this process was not launched by a balancer")
	// ErrLaunch wraps every reason why a process did not come up as a worker.
	ErrLaunch = errors.New("plugin: worker did not come up")
)

// Description is what a worker says of itself when it is up.
type Description struct {
	// PID is the process id as the worker sees it.
	PID int
	// Address is where it serves WorkerService: "unix:/path" or "host:port".
	Address string
	// Version is the version of the worker's binary.
	Version string
}

// worker is the worker's entry for go-plugin, on either side.
type worker struct {
	goplugin.NetRPCUnsupportedPlugin
	service coppicev1.LaunchServiceServer // only on the worker's side
}

func (w *worker) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	coppicev1.RegisterLaunchServiceServer(s, w.service)
	return nil
}

func (w *worker) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}
