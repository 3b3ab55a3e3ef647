package engine

import (
	"syscall"
	"unsafe"
)

// hugePage is how much memory Linux can give the processor as one page.
const hugePage = 2 << 20

// wantHugePages asks for large pages for an array that is not written yet. Walks jump about in it, and what the processor
// remembers of pages covers some megabytes of small ones. It is a wish only, so that an error changes nothing.
func wantHugePages(a []word) {
	size := uintptr(8 * len(a))
	if size < 2*hugePage {
		return
	}
	start := unsafe.Pointer(unsafe.SliceData(a))
	skip := -uintptr(start) & (hugePage - 1)
	_ = syscall.Madvise(unsafe.Slice((*byte)(start), size)[skip:skip+(size-skip)&^(hugePage-1)], syscall.MADV_HUGEPAGE)
}
