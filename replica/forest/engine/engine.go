// Package engine evaluates forests. Every kernel gives the same bits as the scalar one, which is the
// reference.
package engine

import (
	"sync"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

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

// Engine evaluates a forest by the kernels that are the fastest for it.
type Engine struct {
	f     *model.Forest
	once  sync.Once
	lanes *laneForest // nil when the forest is not one for it
}

// New makes the engine of a forest. It does no work before Prepare, so that a forest that lies in a file is open at
// once.
func New(f *model.Forest) *Engine { return &Engine{f: f} }

// Prepare lays out what the kernels need; without it, the first call of Margins does.
func (e *Engine) Prepare() {
	e.once.Do(func() { e.lanes = newLaneForest(e.f) })
}

// Bytes is the size of what Prepare made or, since it has to know, makes now.
func (e *Engine) Bytes() int {
	if e.Prepare(); e.lanes == nil {
		return 0
	}
	return e.lanes.bytes()
}

// Of is an engine's kernel for rows of a type.
func Of[T Row](e *Engine) Kernel[T] { return used[T]{e} }

type used[T Row] struct{ e *Engine }

func (u used[T]) Margins(dst []float64, rows []T, features int) {
	if u.e.Prepare(); u.e.lanes != nil {
		lanes[T]{u.e.lanes}.Margins(dst, rows, features)
		return
	}
	walker[T](u.e.f).Margins(dst, rows, features)
}

func (u used[T]) Leaves(dst []int64, rows []T, features int) {
	walker[T](u.e.f).Leaves(dst, rows, features)
}

// walker is the fastest kernel that walks on the canonical nodes.
func walker[T Row](f *model.Forest) Kernel[T] {
	if plain(f) {
		return plainScalar[T]{scalar[T]{f}}
	}
	return scalar[T]{f}
}

// Names lists the kernels, the reference first.
var Names = []string{"scalar", "plain", "lanes"}

// ByName makes the kernel with a name, or nil when the forest is not one for it.
func ByName[T Row](name string, f *model.Forest) Kernel[T] {
	switch {
	case name == "scalar":
		return scalar[T]{f}
	case name == "plain" && plain(f):
		return plainScalar[T]{scalar[T]{f}}
	case name == "lanes":
		if l := newLaneForest(f); l != nil {
			return lanes[T]{l}
		}
	}
	return nil
}
