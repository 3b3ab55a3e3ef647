// Package engine evaluates forests. Every kernel gives the same bits as the scalar one, which is the
// reference:
//
//	scalar.go   one row, one tree, on the canonical nodes: every forest
//	plain.go    the same for float32 thresholds and nothing else
//	lanes.go    many walks at a time, on small nodes of its own: all but very many sets
//	sliced.go   blocks of up to 512 rows, a bit each; circuit.go has trees of any shape
//	narrow.go   the same for 64 rows, eight trees side by side
//	permute_amd64.go   one row, all splits of a tree at once
//
// What several of them compare are whole numbers that are worked out once a row: columns.go has them, and ranks.go
// their ranks of a byte. Their inner loops are in Go, and for some processors in assembly beside it (cpu.go,
// internal/simd).
//
// An Engine uses for each batch the kernel that costs the least, by what their steps were measured to take (cost.go).
package engine

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// Row is the type of the values of a row. A kernel converts them to the forest's Input.
type Row interface{ float32 | float64 }

// Kernel evaluates one forest. Its methods may be called by several goroutines at once, allocate nothing, and
// trust that the forest is valid and that the slices have the sizes they say.
type Kernel[T Row] interface {
	// Margins writes Outputs values for each row, as model.Forest defines them. rows is row-major, features values from
	// one row to the next: if they are more than the forest knows, the rest is skipped.
	Margins(dst []float64, rows []T, features int)
	// Leaves writes for each row the id of the leaf that it falls into, one a tree.
	Leaves(dst []int64, rows []T, features int)
}

// layout is a forest as a kernel wants it.
type layout interface {
	// kernels are for rows of both types.
	kernels() (Kernel[float32], Kernel[float64])
	// bytes is what the layout takes besides the forest.
	bytes() int
	// cost is about how long the margins of some rows take, in nanoseconds.
	cost(rows int) float64
	// shares says which trees are evaluated how.
	shares() []Share
}

// The kernels, the reference first. Each makes its layout of a forest, or gives nil when the forest is not one for it,
// or the processor.
var list = []struct {
	name string
	lay  func(p *parts) layout
}{
	{"scalar", func(p *parts) layout { return newScalarForest(p.f) }},
	{"plain", func(p *parts) layout { return orNil(newPlainForest(p.f)) }},
	{"lanes", func(p *parts) layout { return orNil(p.lanes()) }},
	{"sliced", func(p *parts) layout { return orNil(newSlicedForest(p, highest)) }},
	{"permute", func(p *parts) layout { return orNil(newPermuteForest(p)) }},
	{"narrow", func(p *parts) layout { return orNil(newNarrowForest(p)) }},
}

// orNil makes no layout of a pointer that is nil.
func orNil[L any, P interface {
	*L
	layout
}](p P) layout {
	if p == nil {
		return nil
	}
	return p
}

// parts are what the layouts of a forest share.
type parts struct {
	f     *model.Forest
	asked sync.Once
	ask   *ask // nil when there is none
	laid  sync.Once
	walks *laneForest
}

func (p *parts) questions() *ask {
	p.asked.Do(func() { p.ask = newAsk(p.f) })
	return p.ask
}

func (p *parts) lanes() *laneForest {
	p.laid.Do(func() { p.walks = newLaneForest(p.questions(), highest) })
	return p.walks
}

// Names lists the kernels, the reference first.
func Names() []string {
	var names []string
	for _, k := range list {
		names = append(names, k.name)
	}
	return names
}

// ErrKernel is wrapped by the error about a kernel that there is not, or not for a forest.
var ErrKernel = errors.New("no kernel")

// Options say how an engine works. The zero value is what is best for one caller at a time.
type Options struct {
	// Kernel is the name of the only kernel to use. Empty: those that cost the least.
	Kernel string
	// Threads is how many a batch of many rows is split over, at most. 0: as many as Go uses, GOMAXPROCS. The answers
	// do not depend on it.
	Threads int
}

// Engine evaluates a forest by the kernels that are the fastest for it.
type Engine struct {
	f       *model.Forest
	options Options
	forced  layout // of the only kernel
	once    sync.Once
	names   []string // of the kernels that are used
	layouts []layout
	of32    []Kernel[float32]
	of64    []Kernel[float64]
	best    [maxRows + 1]uint8 // the kernel for as many rows, and the last one for more
	costs   map[string]*[maxRows + 1]float64
	split   int // rows from which on threads share them
	pool32  sync.Pool
	pool64  sync.Pool
}

// New makes the engine of a forest. It does no work before Prepare, so that a forest that lies in a file is open at
// once. An error wraps ErrKernel.
func New(f *model.Forest, o Options) (*Engine, error) {
	var forced layout
	if o.Kernel != "" {
		if !slices.Contains(Names(), o.Kernel) {
			return nil, fmt.Errorf("%w is called %q, it can be %s", ErrKernel, o.Kernel, strings.Join(Names(), ", "))
		}
		if forced = layoutOf(&parts{f: f}, o.Kernel); forced == nil {
			return nil, fmt.Errorf("%w for this model, or this processor: %s", ErrKernel, o.Kernel)
		}
	}
	if o.Threads <= 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	return &Engine{f: f, options: o, forced: forced}, nil
}

func layoutOf(p *parts, name string) layout {
	for _, k := range list {
		if k.name == name {
			return k.lay(p)
		}
	}
	return nil
}

// Prepare lays out what the kernels need; without it, the first call of Margins does.
func (e *Engine) Prepare() { e.once.Do(e.prepare) }

func (e *Engine) prepare() {
	var names []string
	var layouts []layout
	p := &parts{f: e.f}
	if e.forced != nil {
		names, layouts = []string{e.options.Kernel}, []layout{e.forced}
	}
	for _, k := range list {
		if e.forced != nil {
			break
		}
		if l := k.lay(p); l != nil {
			names, layouts = append(names, k.name), append(layouts, l)
		}
	}
	e.costs = map[string]*[maxRows + 1]float64{}
	for i, l := range layouts {
		costs := new([maxRows + 1]float64)
		for rows := range costs {
			costs[rows] = l.cost(max(rows, 1))
		}
		e.costs[names[i]] = costs
	}
	index := map[int]uint8{} // of layouts: those that are the best for some batch stay
	for rows := range e.best {
		best := 0
		for i := range layouts {
			if e.costs[names[i]][rows] < e.costs[names[best]][rows] {
				best = i
			}
		}
		at, ok := index[best]
		if !ok {
			at = uint8(len(e.layouts))
			index[best] = at
			k32, k64 := layouts[best].kernels()
			e.names, e.layouts = append(e.names, names[best]), append(e.layouts, layouts[best])
			e.of32, e.of64 = append(e.of32, k32), append(e.of64, k64)
		}
		e.best[rows] = at
	}
	for e.split = 2 * maxRows; e.split < mostSplit && e.cost(e.split) < splitCost; {
		e.split *= 2
	}
	e.pool32.New, e.pool64.New = newSharing[float32], newSharing[float64]
}

// cost is about how long a batch takes on one thread, in nanoseconds.
func (e *Engine) cost(rows int) float64 {
	cost := 0.0
	for _, s := range e.portions(rows) {
		cost += e.layouts[s.kernel].cost(s.rows)
	}
	return cost
}

// portion is a part of a batch that one kernel evaluates.
type portion struct {
	kernel uint8
	rows   int
}

// portion is the first one of as many rows: those of whole blocks, and then the rest.
func (e *Engine) portion(rows int) portion {
	last := e.best[maxRows]
	switch tail := rows % maxRows; {
	case rows < maxRows:
		return portion{e.best[rows], rows}
	case e.best[tail] == last:
		return portion{last, rows}
	}
	return portion{last, rows / maxRows * maxRows}
}

func (e *Engine) portions(rows int) []portion {
	var portions []portion
	for rows > 0 {
		s := e.portion(rows)
		portions = append(portions, s)
		rows -= s.rows
	}
	return portions
}

// Bytes is the size of what Prepare made or, since it has to know, makes now.
func (e *Engine) Bytes() int {
	e.Prepare()
	n := 0
	for _, l := range e.layouts {
		n += l.bytes()
	}
	return n
}

// Share says how some trees of a forest are evaluated by a kernel.
type Share struct {
	Trees int    `json:"trees"`
	How   string `json:"how"`
}

// Step is a part of a batch that one kernel evaluates.
type Step struct {
	Kernel string  `json:"kernel"`
	Rows   int     `json:"rows"`
	Cost   float64 `json:"expected_ns"` // by the cost model, on one thread
}

// Plan says which kernels evaluate a batch.
func (e *Engine) Plan(rows int) []Step {
	e.Prepare()
	var plan []Step
	for _, s := range e.portions(rows) {
		plan = append(plan, Step{e.names[s.kernel], s.rows, e.layouts[s.kernel].cost(s.rows)})
	}
	return plan
}

// Costs are what each kernel that takes the forest would cost for a batch, by the cost model: nanoseconds on one thread.
func (e *Engine) Costs(rows int) map[string]float64 {
	e.Prepare()
	all := map[string]float64{}
	for name, costs := range e.costs {
		all[name] = costs[rows%maxRows] + costs[maxRows]*float64(rows/maxRows)
		if rows%maxRows == 0 {
			all[name] -= costs[0]
		}
	}
	return all
}

// Shares says for each kernel that is used how it evaluates the trees.
func (e *Engine) Shares() map[string][]Share {
	e.Prepare()
	shares := map[string][]Share{}
	for i, l := range e.layouts {
		shares[e.names[i]] = l.shares()
	}
	return shares
}

// Of is an engine's kernel for rows of a type.
func Of[T Row](e *Engine) Kernel[T] { return used[T]{e} }

type used[T Row] struct{ e *Engine }

func (u used[T]) Margins(dst []float64, rows []T, features int) {
	u.e.Prepare()
	if u.e.options.Threads > 1 && len(rows) >= u.e.split*features {
		share(u.e, dst, nil, rows, features)
		return
	}
	u.margins(dst, rows, features)
}

func (u used[T]) Leaves(dst []int64, rows []T, features int) {
	u.e.Prepare()
	if u.e.options.Threads > 1 && len(rows) >= u.e.split*features {
		share(u.e, nil, dst, rows, features)
		return
	}
	u.leaves(dst, rows, features)
}

// margins does it on this thread.
func (u used[T]) margins(dst []float64, rows []T, features int) {
	kernels, outputs := kernelsOf[T](u.e), u.e.f.Outputs
	for n := len(rows) / features; n > 0; {
		s := u.e.portion(n)
		kernels[s.kernel].Margins(dst[:s.rows*outputs], rows[:s.rows*features], features)
		rows, dst, n = rows[s.rows*features:], dst[s.rows*outputs:], n-s.rows
	}
}

func (u used[T]) leaves(dst []int64, rows []T, features int) {
	kernels, trees := kernelsOf[T](u.e), u.e.f.NumTrees()
	for n := len(rows) / features; n > 0; {
		s := u.e.portion(n)
		kernels[s.kernel].Leaves(dst[:s.rows*trees], rows[:s.rows*features], features)
		rows, dst, n = rows[s.rows*features:], dst[s.rows*trees:], n-s.rows
	}
}

// kernelsOf are an engine's kernels for rows of a type.
func kernelsOf[T Row](e *Engine) []Kernel[T] {
	if unsafe.Sizeof(*new(T)) == 4 {
		return *(*[]Kernel[T])(unsafe.Pointer(&e.of32))
	}
	return *(*[]Kernel[T])(unsafe.Pointer(&e.of64))
}

// Reference is the simplest kernel, which takes every forest and lays nothing out.
func Reference[T Row](f *model.Forest) Kernel[T] { return scalar[T]{f} }

// ByName makes the kernel with a name, or nil when the forest is not one for it. Without a name it is an engine's.
func ByName[T Row](name string, f *model.Forest) Kernel[T] {
	e, err := New(f, Options{Kernel: name, Threads: 1})
	if err != nil {
		return nil
	}
	return Of[T](e)
}
