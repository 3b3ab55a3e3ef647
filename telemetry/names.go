package telemetry

import "go.opentelemetry.io/otel/attribute"

// The instruments that the members of a mesh export and that the balancer reads. docs/metrics.md describes
// them.
const (
	// GatewayDuration is a histogram in seconds: from a request's arrival at the gateway to its answer.
	GatewayDuration = "coppice.gateway.request.duration"
	// GatewayReplays counts requests that were sent again since their replica died.
	GatewayReplays = "coppice.gateway.replays"
	// GatewayInFlight is the number of requests accepted and not yet answered.
	GatewayInFlight = "coppice.gateway.in_flight"
	// ReplicaDuration is a histogram in seconds: from a request's arrival at the replica to its answer.
	ReplicaDuration = "coppice.replica.request.duration"
	// ReplicaRows and ReplicaBatches count what was evaluated.
	ReplicaRows    = "coppice.replica.rows"
	ReplicaBatches = "coppice.replica.batches"
	// ReplicaInFlight is the number of requests accepted and not yet answered.
	ReplicaInFlight = "coppice.replica.in_flight"
	// SpansDropped counts the spans of a member that did not reach the balancer.
	SpansDropped = "coppice.spans.dropped"
)

// Attributes of metrics, spans and resources. Those that begin with rpc. are of OpenTelemetry's semantic
// conventions.
const (
	AttrService     = attribute.Key("service.name")
	AttrVersion     = attribute.Key("service.version")
	AttrInstance    = attribute.Key("service.instance.id")
	AttrReplica     = attribute.Key("coppice.replica")
	AttrIncarnation = attribute.Key("coppice.incarnation")
	AttrGateway     = attribute.Key("coppice.gateway")

	AttrRPCSystem = attribute.Key("rpc.system.name")
	AttrRPCMethod = attribute.Key("rpc.method")
	AttrRPCCode   = attribute.Key("rpc.response.status_code")

	AttrModel        = attribute.Key("coppice.model")
	AttrModelVersion = attribute.Key("coppice.model.version")
	AttrRows         = attribute.Key("coppice.rows")
	AttrWork         = attribute.Key("coppice.work")
	AttrRequestID    = attribute.Key("coppice.request.id")
	AttrAttempt      = attribute.Key("coppice.attempt")
	AttrBatchRows    = attribute.Key("coppice.batch.rows")
	AttrBatchSize    = attribute.Key("coppice.batch.requests")
)

// The values of AttrService.
const (
	ServiceGateway  = "coppice-gateway"
	ServiceReplica  = "coppice-replica"
	ServiceBalancer = "coppice-balancer"
)
