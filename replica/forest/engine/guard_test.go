package engine

import (
	"os"
	"testing"
	"unsafe"
)

// guarded gives memory for n values between pages that must not be touched: they end where the page behind begins or,
// with start, begin where the page before ends. Where pages cannot be protected it is plain memory.
func guarded[V any](t testing.TB, n int, start bool) []V {
	t.Helper()
	var v V
	size, page := n*int(unsafe.Sizeof(v)), os.Getpagesize()
	inner := max((size+page-1)/page, 1) * page
	all := pages(t, inner+2*page, page)
	at := page + inner - size
	if start {
		at = page
	}
	return unsafe.Slice((*V)(unsafe.Pointer(&all[at])), n)
}
