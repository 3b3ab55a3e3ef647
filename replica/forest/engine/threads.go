package engine

import (
	"sync"
	"sync/atomic"
)

// splitCost is how long a batch of whole blocks takes at least, in nanoseconds, that is split over threads: to start
// others and to wait for them takes some microseconds.
const splitCost = 100e3

// mostSplit is the number of rows from which on a batch is split however little its trees do.
const mostSplit = 1 << 20

// sharing is a batch whose blocks several goroutines evaluate, each on a thread of its own if there are enough. A row's
// answer does not depend on who evaluates it.
type sharing[T Row] struct {
	e        *Engine
	dst      []float64
	leaves   []int64
	rows     []T
	features int
	part     int // rows
	next     atomic.Int64
	others   sync.WaitGroup
	help     func()
}

// newSharing makes what a pool makes: starting a goroutine of a function that is there allocates nothing.
func newSharing[T Row]() any {
	s := new(sharing[T])
	s.help = func() {
		s.work()
		s.others.Done()
	}
	return s
}

// share splits a batch of at least two blocks.
func share[T Row](e *Engine, dst []float64, leaves []int64, rows []T, features int) {
	pool := &e.pool32
	if _, ok := any(rows).([]float64); ok {
		pool = &e.pool64
	}
	s, _ := pool.Get().(*sharing[T])
	n := len(rows) / features
	blocks := (n + maxRows - 1) / maxRows
	threads := min(e.options.Threads, blocks)
	s.e, s.dst, s.leaves, s.rows, s.features = e, dst, leaves, rows, features
	s.part = (blocks + threads - 1) / threads * maxRows
	s.next.Store(0)
	s.others.Add(threads - 1)
	for range threads - 1 {
		go s.help()
	}
	s.work()
	s.others.Wait()
	s.e, s.dst, s.leaves, s.rows = nil, nil, nil, nil
	pool.Put(s)
}

// work evaluates parts until none is left.
func (s *sharing[T]) work() {
	n := len(s.rows) / s.features
	alone := used[T]{s.e}
	for {
		from := int(s.next.Add(1)-1) * s.part
		if from >= n {
			return
		}
		to := min(from+s.part, n)
		rows := s.rows[from*s.features : to*s.features]
		if s.leaves != nil {
			trees := s.e.f.NumTrees()
			alone.leaves(s.leaves[from*trees:to*trees], rows, s.features)
		} else {
			outputs := s.e.f.Outputs
			alone.margins(s.dst[from*outputs:to*outputs], rows, s.features)
		}
	}
}
