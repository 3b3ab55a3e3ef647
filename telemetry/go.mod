module github.com/coppice-mesh/coppice/telemetry

go 1.26.0

require (
	github.com/coppice-mesh/coppice/proto v0.0.0
	github.com/coppice-mesh/coppice/replica/forest v0.0.0
)

replace (
	github.com/coppice-mesh/coppice/proto => ../proto
	github.com/coppice-mesh/coppice/replica/forest => ../replica/forest
)
