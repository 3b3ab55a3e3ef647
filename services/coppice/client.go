package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// The addresses on which Coppice listens and where its clients look for it.
const (
	defaultGRPCAddr    = "127.0.0.1:8001"
	defaultHTTPAddr    = "127.0.0.1:8000"
	defaultMetricsAddr = "127.0.0.1:8002"
	defaultControlAddr = "127.0.0.1:7600"
)

// control is the connection of the operator's commands to a balancer.
type control struct {
	addr    string
	timeout time.Duration
}

func (c *control) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.addr, "control-addr", defaultControlAddr, "`ADDR`ess of the balancer")
	cmd.Flags().DurationVar(&c.timeout, "timeout", 5*time.Second, "how long to wait for an answer")
}

// call runs f with a client of the balancer, within the timeout.
func (c *control) call(ctx context.Context, f func(context.Context, coppicev1.BalancerServiceClient) error) error {
	conn, err := grpc.NewClient(c.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return usageError("control-addr %q: %w", c.addr, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := f(ctx, coppicev1.NewBalancerServiceClient(conn)); err != nil {
		return unreachable("balancer", c.addr, err)
	}
	return nil
}

// unreachable says what to do when nothing listens at an address.
func unreachable(what, addr string, err error) error {
	if code := exitCode(err); code == exitUnavailable {
		return &exitError{code, fmt.Errorf("no answer from the %s at %s: %s; is it running there?", what, addr, message(err))}
	}
	return err
}

// printJSON writes a value as one line of JSON.
func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }
