// Package engine evaluates forests. Every kernel gives the same bits as the scalar one, which is the
// reference:
//
//	scalar.go    one row, one tree, on the canonical nodes: every forest
//	plain.go     the same for float32 thresholds and nothing else
//	lanes.go     eight walks at a time, on small nodes of its own: all but linear leaves and many sets
//	bitslice.go  64 rows at a time, a bit each: trees of up to 256 leaves; circuit.go those of any shape
//	columns.go   what the last two compare: whole numbers, worked out once a row
//
// An Engine uses the last of them that takes the forest and the batch.
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
	f      *model.Forest
	once   sync.Once
	lanes  *laneForest // nil when the forest is not one for it
	sliced *slicedForest
}

// New makes the engine of a forest. It does no work before Prepare, so that a forest that lies in a file is open at
// once.
func New(f *model.Forest) *Engine { return &Engine{f: f} }

// Prepare lays out what the kernels need; without it, the first call of Margins does.
func (e *Engine) Prepare() {
	e.once.Do(func() {
		e.lanes = newLaneForest(e.f)
		e.sliced = newSlicedForest(e.lanes, highest)
	})
}

// Bytes is the size of what Prepare made or, since it has to know, makes now.
func (e *Engine) Bytes() int {
	e.Prepare()
	n := 0
	if e.lanes != nil {
		n += e.lanes.bytes()
	}
	if e.sliced != nil {
		n += e.sliced.bytes()
	}
	return n
}

// Of is an engine's kernel for rows of a type.
func Of[T Row](e *Engine) Kernel[T] { return used[T]{e} }

type used[T Row] struct{ e *Engine }

func (u used[T]) Margins(dst []float64, rows []T, features int) {
	u.e.Prepare()
	switch {
	case u.e.sliced != nil:
		sliced[T]{u.e.sliced}.Margins(dst, rows, features)
	case u.e.lanes != nil:
		lanes[T]{u.e.lanes}.Margins(dst, rows, features)
	default:
		walker[T](u.e.f).Margins(dst, rows, features)
	}
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
var Names = []string{"scalar", "plain", "lanes", "sliced", "narrow"}

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
	case name == "sliced":
		if w := newSlicedForest(newLaneForest(f), highest); w != nil {
			return sliced[T]{w}
		}
	case name == "narrow":
		if w := newNarrowForest(newLaneForest(f)); w != nil {
			return narrow[T]{w}
		}
	}
	return nil
}
