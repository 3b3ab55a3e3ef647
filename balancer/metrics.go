package balancer

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/coppice-mesh/coppice/balancer/roster"
	"github.com/coppice-mesh/coppice/balancer/supervise"
	"github.com/coppice-mesh/coppice/telemetry/forward"
)

// The balancer's own metrics, all with the prefix coppice_balancer_. docs/metrics.md describes them.
var (
	replicasDesc  = desc("replicas", "Replicas of the pool by state, those that joined by themselves included.", "state")
	desiredDesc   = desc("desired_replicas", "How many spawned replicas the pool should have.")
	stepsDesc     = desc("scale_steps_total", "Changes of the pool's size.", "direction")
	restartsDesc  = desc("worker_losses_total", "Workers that ended without being told to.")
	gatewaysDesc  = desc("gateways", "Gateways that watch the pool.")
	p95Desc       = desc("signal_latency_p95_seconds", "What the autoscaler sees: the 95th percentile at all gateways over the last 10 s.")
	samplesDesc   = desc("signal_requests", "What the autoscaler sees: requests that ended in the last 10 s.")
	ageDesc       = desc("signal_age_seconds", "How old the newest signal is.", "signal", "source")
	forwardedDesc = desc("spans_forwarded_total", "Spans that the OTLP endpoint took.")
	droppedDesc   = desc("spans_dropped_total", "Spans that were dropped because the OTLP endpoint did not take them.")
	generatedDesc = desc("generation", "The generation of the pool's newest view.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("coppice_balancer_"+name, help, labels, nil)
}

// collector gives the balancer's own metrics.
type collector struct {
	supervisor *supervise.Supervisor
	roster     *roster.Roster
	scaler     *scaler
	forwarder  *forward.Forwarder
}

func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		replicasDesc, desiredDesc, stepsDesc, restartsDesc, gatewaysDesc, p95Desc, samplesDesc, ageDesc, forwardedDesc, droppedDesc, generatedDesc,
	} {
		out <- d
	}
}

func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	states := make(map[supervise.State]int)
	for _, m := range c.supervisor.Members() {
		states[m.State]++
		gauge(ageDesc, m.HeartbeatAge.Seconds(), "heartbeat", m.Replica)
	}
	for _, s := range supervise.States() {
		if s != supervise.Exited { // these are no members
			gauge(replicasDesc, float64(states[s]), s.String())
		}
	}
	count(restartsDesc, c.supervisor.Restarts())
	gauge(gatewaysDesc, float64(len(c.roster.Gateways())))
	gauge(generatedDesc, float64(c.roster.Generation()))
	count(forwardedDesc, c.forwarder.Sent())
	count(droppedDesc, c.forwarder.Dropped())

	c.scaler.mu.Lock()
	defer c.scaler.mu.Unlock()
	gauge(desiredDesc, float64(c.scaler.decision.Desired))
	count(stepsDesc, c.scaler.ups, "up")
	count(stepsDesc, c.scaler.downs, "down")
	l := c.scaler.signals.Latency
	gauge(samplesDesc, float64(l.Count))
	if l.Count > 0 {
		gauge(p95Desc, l.P95.Seconds())
	}
	if l.Age >= 0 {
		gauge(ageDesc, l.Age.Seconds(), "latency", "gateways")
	}
}
