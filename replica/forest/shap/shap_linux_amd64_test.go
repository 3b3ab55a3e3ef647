//go:build !purego

package shap

import (
	"maps"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
)

// atEnd has a copy of values at the end of a page that no page follows: reading or writing beyond it ends the test.
func atEnd[E any](t *testing.T, values []E) []E {
	t.Helper()
	page := syscall.Getpagesize()
	size := len(values) * int(unsafe.Sizeof(*new(E)))
	mapped := (size + page - 1) / page * page
	memory, err := syscall.Mmap(-1, 0, mapped+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(memory) })
	if err := syscall.Mprotect(memory[mapped:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	at := unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData(memory[mapped-size:]))), len(values))
	copy(at, values)
	return at
}

// TestMemory: passes in assembly read and write what they are given and nothing behind it.
func TestMemory(t *testing.T) {
	all := maps.Clone(wide)
	maps.Copy(all, styles)
	for name, s := range all {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(9, 9))
			f := grow(t, s, random)
			e, err := New(f)
			if err != nil {
				t.Fatal(err)
			}
			e.Prepare()
			p := e.plan
			if p.code.Answers == nil {
				t.Skip("the processor has not what it takes")
			}
			const rows = 11
			x := rowsOf(rows, s.features, random)
			each := s.outputs * (s.features + 1)
			want := make([]float64, rows*each)
			Values(e, want, x, s.features, s.features, 1)

			p.nodes, p.asks, p.values = atEnd(t, p.nodes), atEnd(t, p.asks), atEnd(t, p.values)
			for _, p.code = range engine.ShapCodes() {
				sc := newScratch(p)
				sc.columns, sc.lanes, sc.tables = atEnd(t, sc.columns), atEnd(t, sc.lanes), atEnd(t, sc.tables)
				sc.c, sc.t, sc.sums = atEnd(t, sc.c), atEnd(t, sc.t[:2*p.most.slots]), atEnd(t, sc.sums)
				block(p, sc, x, s.features)
				got := make([]float64, each)
				for i := range rows {
					p.gather(sc, i, got, s.features)
					for j, v := range got {
						if math.Float64bits(v) != math.Float64bits(want[i*each+j]) {
							t.Fatalf("%s, row %d, value %d: %v, want %v", p.code.Name, i, j, v, want[i*each+j])
						}
					}
				}
			}
		})
	}
}
