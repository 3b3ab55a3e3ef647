module github.com/coppice-mesh/coppice/services

go 1.26.0

require (
	github.com/coppice-mesh/coppice/balancer v0.0.0
	github.com/coppice-mesh/coppice/gateway v0.0.0
	github.com/coppice-mesh/coppice/proto v0.0.0
	github.com/coppice-mesh/coppice/replica v0.0.0
	github.com/coppice-mesh/coppice/replica/forest v0.0.0
	github.com/coppice-mesh/coppice/telemetry v0.0.0
)

require (
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/spf13/cobra v1.10.2 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/term v0.47.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/grpc v1.85.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/coppice-mesh/coppice/balancer => ../balancer
	github.com/coppice-mesh/coppice/gateway => ../gateway
	github.com/coppice-mesh/coppice/proto => ../proto
	github.com/coppice-mesh/coppice/replica => ../replica
	github.com/coppice-mesh/coppice/replica/forest => ../replica/forest
	github.com/coppice-mesh/coppice/telemetry => ../telemetry
)
