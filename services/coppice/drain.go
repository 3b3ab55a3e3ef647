package main

import (
	"context"
	"fmt"
	"time"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

func drainCommand() *cobra.Command {
	var (
		c     control
		drain time.Duration
		js    bool
	)
	cmd := &cobra.Command{
		Use:   "drain REPLICA",
		Short: "Take a replica out without losing a request",
		Long: "Take a replica out: it gets no new requests, finishes those that it has, and stops. The command returns\n" +
			"when it has stopped. A replica that the balancer spawned is replaced; `coppice scale` changes their number.",
		Example: "  coppice drain r1\n  coppice drain r1 --drain-timeout 2m",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPositive("drain-timeout", drain); err != nil {
				return err
			}
			if !cmd.Flags().Changed("timeout") {
				c.timeout = drain + 10*time.Second
			}
			var res *coppicev1.DrainResponse
			err := c.call(cmd.Context(), func(ctx context.Context, b coppicev1.BalancerServiceClient) (err error) {
				res, err = b.Drain(ctx, &coppicev1.DrainRequest{Replica: args[0], Timeout: durationpb.New(drain)})
				return err
			})
			if err != nil {
				return err
			}
			if js {
				return printJSON(cmd.OutOrStdout(), struct {
					Replica   string `json:"replica"`
					Abandoned uint64 `json:"abandoned"`
				}{args[0], res.GetAbandoned()})
			}
			if n := res.GetAbandoned(); n > 0 {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s stopped; %d requests were not done in time and went to other replicas\n", args[0], n)
			} else {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s drained and stopped\n", args[0])
			}
			return err
		},
	}
	c.flags(cmd)
	answer := cmd.Flags().Lookup("timeout")
	answer.Usage, answer.DefValue = "how long to wait for an answer (default 10s more than --drain-timeout)", "0s"
	cmd.Flags().DurationVar(&drain, "drain-timeout", 30*time.Second, "how long requests in flight may take")
	cmd.Flags().BoolVar(&js, "json", false, "print JSON")
	return cmd
}
