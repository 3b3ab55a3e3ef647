// Command narrow generates the inner loops of the narrow kernel. What they do is said in engine/narrow.go.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"

	"github.com/coppice-mesh/coppice/replica/forest/engine/asm/unpack"
)

const (
	trees = 8 // side by side
	depth = 6 // of each
)

func main() {
	ConstraintExpr("!purego")
	groups("GroupsFloats", 4)
	groups("GroupsDoubles", 8)
	Generate()
}

func mux(p, a, r Op) { VPTERNLOGQ(U8(0xb8), a, p, r) }

// groups evaluates groups of eight heaps of depth 6 for 64 rows, a word of a vector for each tree, and adds what their
// leaves give to the sums of the rows, tree by tree.
func groups(name string, bytes int) {
	kind := map[int]string{4: "float32", 8: "float64"}[bytes]
	TEXT(name, NOSPLIT, "func(words *uint64, heaps *uint16, n int, tables *byte, sums *"+kind+")")
	words, heaps := Load(Param("words"), GP64()), Load(Param("heaps"), GP64())
	n, tables := Load(Param("n"), GP64()), Load(Param("tables"), GP64())
	sums := Load(Param("sums"), GP64())
	// Lane j of a vector of sums has the rows that lane i of vector j has in memory.
	sum := make([]VecVirtual, bytes)
	part := bytes / 4 // of as many vectors one
	for h := range part {
		var v [4]VecVirtual
		for i := range v {
			v[i] = ZMM()
			VMOVDQU64(Mem{Base: sums, Disp: 64 * (part*i + h)}, v[i])
		}
		v = lanes(v)
		copy(sum[4*h:], v[:])
	}
	g, transposed := GP64(), ZMM()
	MOVQ(U64(0x8040201008040201), g)
	VPBROADCASTQ(g, transposed)
	zero := ZMM()
	VPXORQ(zero, zero, zero)
	ones := K()
	KXNORB(ones, ones, ones)
	Label("group")
	answer := func(node int) VecVirtual {
		at, k, r := YMM(), K(), ZMM()
		VPMOVZXWD(Mem{Base: heaps, Disp: node * trees * 2}, at)
		KMOVB(ones, k)
		VMOVDQA64(zero, r)
		VPGATHERDQ(Mem{Base: words, Index: at, Scale: 8}, k, r)
		return r
	}
	var p [depth]VecVirtual // the highest bit first
	for level := range depth {
		var below func(l, k int) VecVirtual
		below = func(l, k int) VecVirtual {
			if l == level {
				return answer(1<<level + k)
			}
			r := below(l+1, 2*k)
			mux(p[l], below(l+1, 2*k+1), r)
			return r
		}
		p[level] = below(0, 0)
	}
	// Bytes of planes become bytes of indices, those of a tree in half a lane of eight vectors.
	unpacked := unpack.Interleave([8]VecVirtual{zero, zero, p[0], p[1], p[2], p[3], p[4], p[5]})
	for i, u := range unpacked {
		VGF2P8AFFINEQB(U8(0), u, transposed, u)
		unpacked[i] = u
	}
	even, odd := lanes([4]VecVirtual(unpacked[:4])), lanes([4]VecVirtual(unpacked[4:]))
	for tree := range trees {
		index := even[tree/2]
		if tree%2 == 1 {
			index = odd[tree/2]
		}
		var v [8]VecVirtual
		for b := range bytes {
			v[b] = ZMM()
			VPERMB(Mem{Base: tables, Disp: 64 * (tree*bytes + b)}, index, v[b])
		}
		if bytes == 8 {
			for i, r := range unpack.Interleave(v) {
				VADDPD(r, sum[i], sum[i])
			}
			continue
		}
		for h := range 2 {
			lo, hi, r := ZMM(), ZMM(), ZMM()
			if h == 0 {
				VPUNPCKLBW(v[1], v[0], lo)
				VPUNPCKLBW(v[3], v[2], hi)
			} else {
				VPUNPCKHBW(v[1], v[0], lo)
				VPUNPCKHBW(v[3], v[2], hi)
			}
			VPUNPCKLWD(hi, lo, r)
			VADDPS(r, sum[2*h], sum[2*h])
			VPUNPCKHWD(hi, lo, lo)
			VADDPS(lo, sum[2*h+1], sum[2*h+1])
		}
	}
	ADDQ(U32(trees*2<<depth), heaps)
	ADDQ(U32(trees*64*bytes), tables)
	DECQ(n)
	JNE(LabelRef("group"))
	for h := range part {
		for i, s := range lanes([4]VecVirtual(sum[4*h : 4*h+4])) {
			VMOVDQU64(s, Mem{Base: sums, Disp: 64 * (part*i + h)})
		}
	}
	VZEROUPPER()
	RET()
}

// lanes turns the four lanes of four vectors around: lane j of vector i becomes lane i of vector j.
func lanes(a [4]VecVirtual) (r [4]VecVirtual) {
	var b [4]VecVirtual
	for i := range 2 {
		b[2*i], b[2*i+1] = ZMM(), ZMM()
		VSHUFI32X4(U8(0x88), a[2*i+1], a[2*i], b[2*i])   // lanes 0 and 2 of both
		VSHUFI32X4(U8(0xdd), a[2*i+1], a[2*i], b[2*i+1]) // lanes 1 and 3
	}
	for i := range 2 {
		r[i], r[2+i] = ZMM(), ZMM()
		VSHUFI32X4(U8(0x88), b[2+i], b[i], r[i])
		VSHUFI32X4(U8(0xdd), b[2+i], b[i], r[2+i])
	}
	return r
}
