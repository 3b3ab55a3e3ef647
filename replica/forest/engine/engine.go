// Package engine evaluates forests. Every kernel gives the same bits as the scalar one, which is the
// reference.
package engine

import "github.com/coppice-mesh/coppice/replica/forest/model"

// Kernel evaluates one forest. Its methods may be called by several goroutines at once, allocate nothing, and
// trust that the forest is valid and that the slices have the sizes they say.
type Kernel interface {
	// Scores writes Outputs values for each row: for every output the sum of the leaves in tree order,
	// divided by the number of trees. rows is row-major, features values a row.
	Scores(dst []float64, rows []float32, features int)
	// Leaves writes for each row the id of the leaf that it falls into, one a tree.
	Leaves(dst []int64, rows []float32, features int)
}

// Kernels lists the kernels by name, the reference first.
var Kernels = []struct {
	Name string
	New  func(*model.Forest) Kernel
}{
	{"scalar", newScalar},
}

// New makes the kernel that is used for a forest.
func New(f *model.Forest) Kernel { return newScalar(f) }
