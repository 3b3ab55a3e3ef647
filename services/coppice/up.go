package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/balancer"
	"github.com/coppice-mesh/coppice/replica/forest/store"
)

// readyTimeout is how long replicas may take to be ready.
const readyTimeout = time.Minute

func upCommand() *cobra.Command {
	var (
		c  common
		b  balancerFlags
		g  gatewayFlags
		js bool
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the whole mesh on this machine",
		Long: "Run the whole mesh on this machine: balancer and gateway in this process, replicas as child processes.\n" +
			"Without --model it trains a demo forest of 20 features and serves it as \"demo\". SIGTERM or SIGINT (Ctrl-C)\n" +
			"answers what was accepted, stops the replicas and exits; a second one exits at once.",
		Example: "  coppice up\n  coppice up --model rf.joblib\n  coppice up --model fraud=rf.pkl --model churn=m.coppice --replicas 4\n" +
			"  coppice up --min-replicas 1 --max-replicas 4 --otlp-endpoint http://127.0.0.1:4317",
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := c.logLevel
			if !cmd.Flags().Changed("log-level") && isTerminal(cmd.ErrOrStderr()) && level == "info" {
				c.logLevel = "warn" // a person at a terminal reads what is printed below
			}
			logger, err := c.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			state, err := c.state()
			if err != nil {
				return err
			}
			b.telemetry = g.telemetry
			cfg, err := b.config(cmd, state)
			if err != nil {
				return err
			}
			front, err := g.config()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			models, err := b.load(ctx, store.New(state), cmd.ErrOrStderr())
			if err != nil {
				return interrupted(ctx, err)
			}
			control, err := startBalancer(ctx, cfg, models, logger)
			if err != nil {
				return interrupted(ctx, err)
			}
			stop := func(err error) error { return errors.Join(err, shutdownBalancer(control, cfg.DrainTimeout)) }
			front.Balancer = control.WorkerAddr()
			gate, err := startGateway(ctx, front, &g, logger)
			if err != nil {
				return stop(interrupted(ctx, err))
			}
			want := max(cfg.Replicas, cfg.MinReplicas, 1)
			if err := awaitUp(ctx, control, gate, want); err != nil && ctx.Err() == nil {
				gate.shutdown(cfg.DrainTimeout)
				return stop(err)
			}
			if ctx.Err() == nil {
				if err := announce(cmd.OutOrStdout(), js, control, gate, models); err != nil {
					gate.shutdown(cfg.DrainTimeout)
					return stop(err)
				}
			}
			select {
			case <-ctx.Done():
				err = nil
			case err = <-control.Failed():
			}
			gate.shutdown(cfg.DrainTimeout)
			return stop(err)
		},
	}
	c.flags(cmd)
	b.flags(cmd)
	g.flags(cmd)
	cmd.Flags().BoolVar(&js, "json", false, "print the addresses as JSON when all is ready")
	return cmd
}

// awaitUp waits until predictions can be answered.
func awaitUp(ctx context.Context, control *balancer.Balancer, gate *runningGateway, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := control.WaitReady(ctx, replicas); err != nil {
		return err
	}
	for {
		ready, why := gate.Ready()
		if ready {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the gateway is not ready: %s", why)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// announce prints where everything is and a first command to try.
func announce(w io.Writer, js bool, control *balancer.Balancer, gate *runningGateway, models []balancer.Model) error {
	if js {
		type jsonServed struct {
			Name    string `json:"name"`
			Version string `json:"version"`
		}
		out := struct {
			GRPC    string       `json:"grpc_addr"`
			HTTP    string       `json:"http_addr"`
			Metrics string       `json:"metrics_addr"`
			Control string       `json:"control_addr"`
			Models  []jsonServed `json:"models"`
		}{gate.GRPCAddr(), gate.HTTPAddr(), control.MetricsAddr(), control.ControlAddr(), nil}
		for _, m := range models {
			out.Models = append(out.Models, jsonServed{m.Served.GetName(), m.Served.GetVersion()})
		}
		return printJSON(w, out)
	}
	var b strings.Builder
	for _, m := range models {
		fmt.Fprintf(&b, "serving %s (%s, %d features, %d trees), version %s\n", m.Served.GetName(), m.Served.GetTask(),
			m.Served.GetFeatures(), m.Served.GetTrees(), m.Served.GetVersion())
	}
	fmt.Fprintf(&b, "  gRPC     %s\n  HTTP     http://%s/predict\n", gate.GRPCAddr(), gate.HTTPAddr())
	if a := control.MetricsAddr(); a != balancer.Off {
		fmt.Fprintf(&b, "  metrics  http://%s/metrics\n", a)
	}
	fmt.Fprintf(&b, "  control  %s\n\ntry\n", control.ControlAddr())
	m := models[0].Served
	const show = 64 // features, in a command for people
	if n := int(m.GetFeatures()); n <= show {
		values := strings.TrimSuffix(strings.Repeat("0,", n), ",")
		fmt.Fprintf(&b, "  grpcurl -plaintext -d '{\"model\":\"%s\",\"instances\":[{\"values\":[%s]}]}' %s coppice.v1.PredictService/Predict\n",
			m.GetName(), values, gate.GRPCAddr())
	}
	fmt.Fprintf(&b, "  coppice status%s\nCtrl-C stops it.\n", flagUnless(" --control-addr ", control.ControlAddr(), defaultControlAddr))
	_, err := io.WriteString(w, b.String())
	return err
}

// flagUnless is a flag with its value, or nothing when that is the default.
func flagUnless(flag, value, normal string) string {
	if value == normal {
		return ""
	}
	return flag + value
}
