package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// releaseTimeout bounds how long Serve waits for the balancer to hang up after it has its answer.
const releaseTimeout = 2 * time.Second

// Serve does the worker's part of the launch: it announces itself on standard output, answers the balancer's
// one question with d and returns when the balancer has hung up. It blocks until then or until ctx is done,
// and may be called once in a process.
//
// Call it when the worker already listens at d.Address. While it runs it replaces os.Stdout and os.Stderr, as
// go-plugin does, and puts them back; other goroutines must not read these variables meanwhile (a logger that
// was built before holds the file and is safe). When it returns without error, everything that the process
// writes to standard output or standard error goes to the file that its standard error was.
//
// Errors: ErrNotLaunched when no balancer launched this process; the context's when nobody asked in time.
func Serve(ctx context.Context, d Description) error {
	if os.Getenv(Handshake.MagicCookieKey) != Handshake.MagicCookieValue {
		return ErrNotLaunched
	}
	s := &launchService{description: d, stdout: os.Stdout, stderr: os.Stderr, described: make(chan struct{})}
	var server *grpc.Server
	created := make(chan struct{})
	served := make(chan struct{})
	go func() {
		defer close(served)
		goplugin.Serve(&goplugin.ServeConfig{
			HandshakeConfig: Handshake,
			Plugins:         goplugin.PluginSet{name: &worker{service: s}},
			GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
				server = grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(64<<10))...)
				close(created)
				return server
			},
			Logger: hclog.New(&hclog.LoggerOptions{Name: "launch", Level: hclog.Error, Output: s.stderr, JSONFormat: true}),
		})
	}()

	select {
	case <-s.described:
	case <-served:
		s.restore()
		return errors.New("plugin: the handshake ended before the balancer asked for a description")
	case <-ctx.Done():
		select {
		case <-created:
			server.Stop()
			<-served
		case <-served:
		}
		s.restore()
		return fmt.Errorf("plugin: no balancer asked for a description: %w", context.Cause(ctx))
	}

	// The balancer hangs up when it has read the answer: that ends go-plugin's own streams, for which
	// GracefulStop waits.
	stop := time.AfterFunc(releaseTimeout, server.Stop)
	server.GracefulStop()
	stop.Stop()
	<-served
	// Only now: the balancer has read the handshake line.
	if err := redirect(s.stderr, s.stdout); err != nil {
		return fmt.Errorf("plugin: join standard output and standard error: %w", err)
	}
	return nil
}

// launchService answers Describe, once.
type launchService struct {
	coppicev1.UnimplementedLaunchServiceServer

	description    Description
	stdout, stderr *os.File // as they were before go-plugin replaced them
	once           sync.Once
	described      chan struct{}
}

// Describe runs after go-plugin has replaced the variables of package os, and it is the first place that is
// certain to.
func (s *launchService) Describe(context.Context, *coppicev1.DescribeRequest) (*coppicev1.DescribeResponse, error) {
	s.once.Do(func() {
		s.restore()
		close(s.described)
	})
	return &coppicev1.DescribeResponse{
		Pid:     int64(s.description.PID),
		Address: s.description.Address,
		Version: s.description.Version,
	}, nil
}

// restore puts the standard files back and closes go-plugin's ends of the pipes it put in their place: nobody
// would read what is written there.
func (s *launchService) restore() {
	for _, f := range []struct {
		now    **os.File
		before *os.File
	}{{&os.Stdout, s.stdout}, {&os.Stderr, s.stderr}} {
		if *f.now != f.before {
			pipe := *f.now
			*f.now = f.before
			pipe.Close()
		}
	}
}
