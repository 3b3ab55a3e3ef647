module github.com/coppice-mesh/coppice/gateway

go 1.26.0

require (
	github.com/coppice-mesh/coppice/proto v0.0.0
	github.com/coppice-mesh/coppice/telemetry v0.0.0
	github.com/coppice-mesh/coppice/balancer v0.0.0
	github.com/coppice-mesh/coppice/replica/forest v0.0.0
	github.com/coppice-mesh/coppice/replica v0.0.0
)

replace (
	github.com/coppice-mesh/coppice/proto => ../proto
	github.com/coppice-mesh/coppice/telemetry => ../telemetry
	github.com/coppice-mesh/coppice/balancer => ../balancer
	github.com/coppice-mesh/coppice/replica/forest => ../replica/forest
	github.com/coppice-mesh/coppice/replica => ../replica
)
