// Package engine evaluates forests. Every kernel gives the same bits as the scalar one, which is the
// reference.
package engine

import "github.com/coppice-mesh/coppice/replica/forest/model"

// Row is the type of the values of a row. A kernel converts them to the forest's Input.
type Row interface{ float32 | float64 }

// Kernel evaluates one forest. Its methods may be called by several goroutines at once, allocate nothing, and
// trust that the forest is valid and that the slices have the sizes they say.
type Kernel[T Row] interface {
	// Margins writes Outputs values for each row, as model.Forest defines them. rows is row-major, features values
	// a row.
	Margins(dst []float64, rows []T, features int)
	// Leaves writes for each row the id of the leaf that it falls into, one a tree.
	Leaves(dst []int64, rows []T, features int)
}

// New makes the kernel that is used for a forest.
func New[T Row](f *model.Forest) Kernel[T] {
	if plain(f) {
		return plainScalar[T]{scalar[T]{f}}
	}
	return scalar[T]{f}
}

// Names lists the kernels, the reference first.
var Names = []string{"scalar", "plain"}

// ByName makes the kernel with a name, or nil when the forest is not one for it.
func ByName[T Row](name string, f *model.Forest) Kernel[T] {
	switch {
	case name == "scalar":
		return scalar[T]{f}
	case name == "plain" && plain(f):
		return plainScalar[T]{scalar[T]{f}}
	}
	return nil
}
