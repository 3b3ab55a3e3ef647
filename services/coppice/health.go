package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func healthCommand() *cobra.Command {
	var (
		controlAddr, target string
		timeout             time.Duration
		js                  bool
	)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a balancer or a gateway whether it is ready",
		Long: "Ask a balancer, or with --target a gateway, for its health by grpc.health.v1. Exits with 0 when it is\n" +
			"serving and with 3 when it is not or does not answer: fit for a container's health check.",
		Example: "  coppice health                           # the balancer of this machine\n" +
			"  coppice health --target 127.0.0.1:8001   # a gateway",
		RunE: func(cmd *cobra.Command, _ []string) error {
			what, addr := "balancer", controlAddr
			if target != "" {
				what, addr = "gateway", target
			}
			conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return usageError("address %q: %w", addr, err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
			if err != nil {
				return unreachable(what, addr, err)
			}
			state := res.GetStatus()
			if js {
				err = printJSON(cmd.OutOrStdout(), map[string]string{"role": what, "address": addr, "status": state.String()})
			} else {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s at %s: %s\n", what, addr, state)
			}
			if err != nil {
				return err
			}
			if state != healthpb.HealthCheckResponse_SERVING {
				return &exitError{exitUnavailable, fmt.Errorf("the %s at %s is not ready", what, addr)}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&controlAddr, "control-addr", defaultControlAddr, "`ADDR`ess of the balancer")
	cmd.Flags().StringVar(&target, "target", "", "`ADDR`ess of a gateway, to ask that instead")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Second, "how long to wait for an answer")
	cmd.Flags().BoolVar(&js, "json", false, "print JSON")
	return cmd
}
