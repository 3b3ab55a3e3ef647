package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"github.com/spf13/cobra"
)

func statusCommand() *cobra.Command {
	var (
		c     control
		js    bool
		watch bool
		every time.Duration
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the replicas, their load and latency",
		Long:  "Show the pool: every replica with its state, load and latency over the last 10 s, the gateways, the\nmodels, and what decides the number of replicas. With --json, one object a line.",
		Example: "  coppice status\n  coppice status --watch\n" +
			"  coppice status --json | jq '.replicas[] | {id, pid, state, p99}'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return usageError("--interval is %v, at least 100ms is needed", every)
			}
			for {
				var s *coppicev1.StatusResponse
				err := c.call(cmd.Context(), func(ctx context.Context, b coppicev1.BalancerServiceClient) (err error) {
					s, err = b.Status(ctx, &coppicev1.StatusRequest{})
					return err
				})
				if watch && cmd.Context().Err() != nil {
					return nil //nolint:nilerr // it was watched long enough
				}
				if err != nil {
					return err
				}
				if err := printStatus(cmd.OutOrStdout(), s, js, watch); err != nil {
					return err
				}
				if !watch {
					return nil
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(every):
				}
			}
		},
	}
	c.flags(cmd)
	cmd.Flags().BoolVar(&js, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print again and again until interrupted")
	cmd.Flags().DurationVar(&every, "interval", time.Second, "time between two prints of --watch")
	return cmd
}

func printStatus(w io.Writer, s *coppicev1.StatusResponse, js, watch bool) error {
	if js {
		return printJSON(w, statusJSON(s))
	}
	var b strings.Builder
	if watch && isTerminal(w) {
		b.WriteString("\x1b[H\x1b[2J")
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REPLICA\tPID\tSTATE\tIN FLIGHT\tQUEUED\tRATE/S\tP50\tP95\tP99\tRESTARTS\tADDRESS")
	for _, r := range s.GetReplicas() {
		fmt.Fprintf(t, "%s\t%d\t%s\t%d\t%d\t%.1f\t%s\t%s\t%s\t%d\t%s\n", r.GetId(), r.GetPid(), stateName(r.GetState()),
			r.GetInFlight(), r.GetQueued(), r.GetRate(), seconds(r.P50), seconds(r.P95), seconds(r.P99), r.GetRestarts(), r.GetAddress())
	}
	fmt.Fprintln(t, "\nGATEWAY\t\t\tIN FLIGHT\tQUEUED\tRATE/S\tP50\tP95\tP99")
	for _, g := range s.GetGateways() {
		fmt.Fprintf(t, "%s\t\t\t%d\t%d\t%.1f\t%s\t%s\t%s\n", g.GetId(), g.GetInFlight(), g.GetQueued(), g.GetRate(),
			seconds(g.P50), seconds(g.P95), seconds(g.P99))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nMODEL\tVERSION\tTASK\tFEATURES\tTREES\tBYTES")
	for _, m := range s.GetModels() {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\n", m.GetName(), m.GetVersion(), m.GetTask(), m.GetFeatures(), m.GetTrees(), m.GetBytes())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	sc := s.GetScale()
	fmt.Fprintf(&b, "\nScale: %d wanted, %d to %d", sc.GetDesired(), sc.GetMin(), sc.GetMax())
	switch {
	case sc.GetPinned():
		b.WriteString(", pinned")
	case sc.GetAuto():
		b.WriteString(", automatic")
	}
	if sc.GetReason() != "" {
		fmt.Fprintf(&b, ": %s", sc.GetReason())
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func stateName(s coppicev1.ReplicaState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "REPLICA_STATE_"))
}

// seconds shows a latency, or that there is none yet.
func seconds(v *float64) string {
	if v == nil {
		return "-"
	}
	d := time.Duration(*v * float64(time.Second))
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// The JSON of `coppice status`, with plain numbers where protobuf's JSON has strings.
type (
	jsonStatus struct {
		Version    string        `json:"version"`
		Generation uint64        `json:"generation"`
		Replicas   []jsonReplica `json:"replicas"`
		Gateways   []jsonGateway `json:"gateways"`
		Models     []jsonModel   `json:"models"`
		Scale      jsonScale     `json:"scale"`
	}
	jsonReplica struct {
		ID           string   `json:"id"`
		PID          int64    `json:"pid"`
		State        string   `json:"state"`
		InFlight     uint64   `json:"in_flight"`
		Queued       uint64   `json:"queued"`
		Rate         float64  `json:"rate"`
		P50          *float64 `json:"p50"`
		P95          *float64 `json:"p95"`
		P99          *float64 `json:"p99"`
		Version      string   `json:"version"`
		Versions     []string `json:"versions"`
		Spawned      bool     `json:"spawned"`
		Incarnation  string   `json:"incarnation"`
		Address      string   `json:"address"`
		Host         string   `json:"host"`
		Restarts     uint64   `json:"restarts"`
		HeartbeatAge float64  `json:"heartbeat_age"`
		MetricsAge   float64  `json:"metrics_age"`
	}
	jsonGateway struct {
		ID           string   `json:"id"`
		InFlight     uint64   `json:"in_flight"`
		Queued       uint64   `json:"queued"`
		Rate         float64  `json:"rate"`
		P50          *float64 `json:"p50"`
		P95          *float64 `json:"p95"`
		P99          *float64 `json:"p99"`
		Acknowledged uint64   `json:"acknowledged_generation"`
	}
	jsonModel struct {
		Name     string `json:"name"`
		Version  string `json:"version"`
		SHA256   string `json:"sha256"`
		Task     string `json:"task"`
		Features int64  `json:"features"`
		Outputs  int64  `json:"outputs"`
		Trees    int64  `json:"trees"`
		Bytes    int64  `json:"bytes"`
	}
	jsonScale struct {
		Desired int64  `json:"desired"`
		Min     int64  `json:"min"`
		Max     int64  `json:"max"`
		Pinned  bool   `json:"pinned"`
		Auto    bool   `json:"auto"`
		Reason  string `json:"reason"`
	}
)

func statusJSON(s *coppicev1.StatusResponse) jsonStatus {
	out := jsonStatus{
		Version: s.GetVersion(), Generation: s.GetGeneration(), Scale: scaleJSON(s.GetScale()),
		Replicas: []jsonReplica{}, Gateways: []jsonGateway{}, Models: []jsonModel{},
	}
	for _, r := range s.GetReplicas() {
		versions := append([]string{}, r.GetVersions()...)
		out.Replicas = append(out.Replicas, jsonReplica{
			ID: r.GetId(), PID: r.GetPid(), State: stateName(r.GetState()), InFlight: r.GetInFlight(), Queued: r.GetQueued(),
			Rate: r.GetRate(), P50: r.P50, P95: r.P95, P99: r.P99, Version: strings.Join(versions, ","), Versions: versions,
			Spawned: r.GetSpawned(), Incarnation: r.GetIncarnation(), Address: r.GetAddress(), Host: r.GetHost(),
			Restarts: r.GetRestarts(), HeartbeatAge: r.GetHeartbeatAge(), MetricsAge: r.GetMetricsAge(),
		})
	}
	for _, g := range s.GetGateways() {
		out.Gateways = append(out.Gateways, jsonGateway{
			ID: g.GetId(), InFlight: g.GetInFlight(), Queued: g.GetQueued(), Rate: g.GetRate(),
			P50: g.P50, P95: g.P95, P99: g.P99, Acknowledged: g.GetAcknowledgedGeneration(),
		})
	}
	for _, m := range s.GetModels() {
		out.Models = append(out.Models, jsonModel{
			Name: m.GetName(), Version: m.GetVersion(), SHA256: m.GetSha256(), Task: m.GetTask(),
			Features: m.GetFeatures(), Outputs: m.GetOutputs(), Trees: m.GetTrees(), Bytes: m.GetBytes(),
		})
	}
	return out
}

func scaleJSON(s *coppicev1.ScaleStatus) jsonScale {
	return jsonScale{
		Desired: s.GetDesired(), Min: s.GetMin(), Max: s.GetMax(),
		Pinned: s.GetPinned(), Auto: s.GetAuto(), Reason: s.GetReason(),
	}
}
