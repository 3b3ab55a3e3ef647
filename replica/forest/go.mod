module github.com/coppice-mesh/coppice/replica/forest

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/pierrec/lz4/v4 v4.1.33
	github.com/ulikunitz/xz v0.5.17
	go.uber.org/goleak v1.3.0
)

require golang.org/x/sys v0.49.0
