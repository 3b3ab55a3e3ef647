// Package unpack emits what several generators need.
package unpack

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/reg"
)

// Interleave puts the bytes of eight vectors side by side: those of position 2i and 2i+1 of each lane into vector i.
func Interleave(q [8]VecVirtual) (r [8]VecVirtual) {
	var w, d [8]VecVirtual
	for i := range 4 { // w[2i], w[2i+1]: of q[2i] and q[2i+1], low and high
		w[2*i], w[2*i+1] = ZMM(), ZMM()
		VPUNPCKLBW(q[2*i+1], q[2*i], w[2*i])
		VPUNPCKHBW(q[2*i+1], q[2*i], w[2*i+1])
	}
	for half := range 2 { // d[4half+0..3]: of q[4half..4half+3], positions 0-3, 4-7, 8-11, 12-15
		for h := range 2 {
			lo, hi := ZMM(), ZMM()
			VPUNPCKLWD(w[4*half+2+h], w[4*half+h], lo)
			VPUNPCKHWD(w[4*half+2+h], w[4*half+h], hi)
			d[4*half+2*h], d[4*half+2*h+1] = lo, hi
		}
	}
	for i := range 4 {
		r[2*i], r[2*i+1] = ZMM(), ZMM()
		VPUNPCKLDQ(d[4+i], d[i], r[2*i])
		VPUNPCKHDQ(d[4+i], d[i], r[2*i+1])
	}
	return r
}
