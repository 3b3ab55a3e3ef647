module github.com/coppice-mesh/coppice/replica/forest

go 1.26.0

