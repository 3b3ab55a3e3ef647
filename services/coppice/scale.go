package main

import (
	"context"
	"fmt"
	"strconv"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/spf13/cobra"
)

func scaleCommand() *cobra.Command {
	var (
		c    control
		auto bool
		js   bool
	)
	cmd := &cobra.Command{
		Use:     "scale N | --auto",
		Short:   "Pin the number of replicas, or let the autoscaler decide",
		Example: "  coppice scale 3        # three replicas, whatever the load\n  coppice scale --auto   # give the decision back",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &coppicev1.ScaleRequest{}
			switch {
			case auto && len(args) == 0:
				req.Target = &coppicev1.ScaleRequest_Auto{Auto: true}
			case !auto && len(args) == 1:
				n, err := strconv.ParseInt(args[0], 10, 32)
				if err != nil || n < 1 {
					return usageError("%q is not a number of replicas; at least 1 is needed", args[0])
				}
				req.Target = &coppicev1.ScaleRequest_Replicas{Replicas: n}
			default:
				return usageError("either a number of replicas or --auto is needed")
			}
			var res *coppicev1.ScaleResponse
			err := c.call(cmd.Context(), func(ctx context.Context, b coppicev1.BalancerServiceClient) (err error) {
				res, err = b.Scale(ctx, req)
				return err
			})
			if err != nil {
				return err
			}
			s := res.GetScale()
			if js {
				return printJSON(cmd.OutOrStdout(), scaleJSON(s))
			}
			how := "automatic"
			if s.GetPinned() {
				how = "pinned"
			} else if !s.GetAuto() {
				how = "fixed"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d replicas wanted (%s, %d to %d)\n", s.GetDesired(), how, s.GetMin(), s.GetMax())
			return err
		},
	}
	c.flags(cmd)
	cmd.Flags().BoolVar(&auto, "auto", false, "let the autoscaler decide")
	cmd.Flags().BoolVar(&js, "json", false, "print JSON")
	return cmd
}
