// Command sliced generates the primitives of the sliced kernel. What each does is said in engine/slices.go, which has
// them in Go.
package main

import (
	"fmt"
	"math/bits"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"

	"github.com/coppice-mesh/coppice/replica/forest/engine/asm/unpack"
)

func main() {
	ConstraintExpr("!purego")
	for _, v := range []vector{{64, "512"}, {32, "256"}} {
		planes(v)
		circuit(v)
	}
	above()
	bits32()
	bits64()
	transpose()
	index()
	indexBytes()
	gather("GatherFloats512", 4)
	gather("GatherDoubles512", 8)
	add("AddFloats64", 4, 64)
	add("AddFloats256", 4, 256)
	add("AddDoubles64", 8, 64)
	add("AddDoubles256", 8, 256)
	Generate()
}

const (
	word   = 64  // bytes of a slice in AVX-512
	rows   = 512 // of a block there
	planeN = 8   // planes of an index
)

// vector is a width of registers, which is that of a slice.
type vector struct {
	bytes int
	name  string
}

// shift makes an offset of the number of a slice.
func (v vector) shift() U8 { return U8(bits.TrailingZeros(uint(v.bytes))) }

func (v vector) reg() VecVirtual {
	if v.bytes == 64 {
		return ZMM()
	}
	return YMM()
}

func (v vector) load(m Mem, r Op) {
	if v.bytes == 64 {
		VMOVDQU64(m, r)
	} else {
		VMOVDQU(m, r)
	}
}

func (v vector) store(r Op, m Mem) {
	if v.bytes == 64 {
		VMOVDQU64(r, m)
	} else {
		VMOVDQU(r, m)
	}
}

func (v vector) zero() VecVirtual {
	r := v.reg()
	if v.bytes == 64 {
		VPXORQ(r, r, r)
	} else {
		VPXOR(r, r, r)
	}
	return r
}

// mux gives r the bits of a where p has ones.
func (v vector) mux(p Op, a Op, r Op) {
	if v.bytes == 64 {
		VPTERNLOGQ(U8(0xb8), a, p, r)
		return
	}
	t := v.reg()
	VPXOR(a, r, t)
	VPAND(p, t, t)
	VPXOR(t, r, r)
}

// planes evaluates a heap of a depth of 1 to 8.
func planes(v vector) {
	TEXT("Planes"+v.name, NOSPLIT, "func(words *byte, heap *uint16, depth int, planes *byte)")
	words, heap := Load(Param("words"), GP64()), Load(Param("heap"), GP64())
	depth, out := Load(Param("depth"), GP64()), Load(Param("planes"), GP64())
	for d := 1; d <= planeN; d++ {
		CMPQ(depth, U8(d))
		JEQ(LabelRef(fmt.Sprintf("depth%d", d)))
	}
	VZEROUPPER()
	RET()
	for d := 1; d <= planeN; d++ {
		Label(fmt.Sprintf("depth%d", d))
		answer := func(node int) Mem {
			at := GP64()
			MOVWQZX(Mem{Base: heap, Disp: 2 * node}, at)
			SHLQ(v.shift(), at)
			return Mem{Base: words, Index: at, Scale: 1}
		}
		p := make([]VecVirtual, d)
		for level := range d {
			var below func(l, k int) VecVirtual
			below = func(l, k int) VecVirtual {
				if l == level-1 {
					r := v.reg()
					v.load(answer(1<<level+2*k), r)
					v.mux(p[l], answer(1<<level+2*k+1), r)
					return r
				}
				r := below(l+1, 2*k)
				v.mux(p[l], below(l+1, 2*k+1), r)
				return r
			}
			if level == 0 {
				p[0] = v.reg()
				v.load(answer(1), p[0])
			} else {
				p[level] = below(0, 0)
			}
			v.store(p[level], Mem{Base: out, Disp: (d - 1 - level) * v.bytes})
		}
		if d < planeN {
			zero := v.zero()
			for i := d; i < planeN; i++ {
				v.store(zero, Mem{Base: out, Disp: i * v.bytes})
			}
		}
		VZEROUPPER()
		RET()
	}
}

// circuit evaluates gates one after the other.
func circuit(v vector) {
	TEXT("Circuit"+v.name, NOSPLIT, "func(words *byte, gates *uint16, n int, free int)")
	words, gates := Load(Param("words"), GP64()), Load(Param("gates"), GP64())
	n, to := Load(Param("n"), GP64()), Load(Param("free"), GP64())
	SHLQ(v.shift(), to)
	ADDQ(words, to)
	Label("gate")
	TESTQ(n, n)
	JEQ(LabelRef("end"))
	at := func(i int) Mem {
		r := GP64()
		MOVWQZX(Mem{Base: gates, Disp: 2 * i}, r)
		SHLQ(v.shift(), r)
		return Mem{Base: words, Index: r, Scale: 1}
	}
	p, r := v.reg(), v.reg()
	v.load(at(0), p)
	v.load(at(2), r)
	v.mux(p, at(1), r)
	v.store(r, Mem{Base: to})
	ADDQ(U8(6), gates)
	ADDQ(U8(v.bytes), to)
	DECQ(n)
	JMP(LabelRef("gate"))
	Label("end")
	VZEROUPPER()
	RET()
}

// search is a binary search for the numbers of a vector in a table of keys in the order of a heap.
type search struct {
	lanes int // of a vector: 16 or 8
	table Register
	one   VecVirtual
	regs  map[int]VecVirtual // the first entries of the table
	bits  map[int]VecVirtual // numbers of one bit
}

func (s *search) width() int { return 64 / s.lanes }

// op emits the instruction for numbers of 4 or of 8 bytes.
func (s *search) op(d, q func(...Op), ops ...Op) {
	if s.lanes == 16 {
		d(ops...)
	} else {
		q(ops...)
	}
}

// all is a vector of the same number.
func (s *search) all(n uint64) VecVirtual {
	v, g := ZMM(), GP64()
	if s.lanes == 16 {
		MOVL(U32(n), g.As32())
		VPBROADCASTD(g.As32(), v)
	} else {
		MOVQ(U64(n), g)
		VPBROADCASTQ(g, v)
	}
	return v
}

// entries is the vector of the table at an entry.
func (s *search) entries(at int) Op {
	if r, ok := s.regs[at]; ok {
		return r
	}
	return Mem{Base: s.table, Disp: at * s.width()}
}

// keys looks up the keys of a level, which stand at the entries from 1<<level on, by their indices.
func (s *search) keys(level int, index VecVirtual) VecVirtual {
	n := 1 << level
	if n <= s.lanes { // all levels above the last one of these stand in the first vector
		t := ZMM()
		s.op(VPERMD, VPERMQ, s.entries(n/s.lanes*s.lanes), index, t)
		return t
	}
	// Pairs of vectors, of which bits of the index above the pair choose.
	var part []VecVirtual
	for at := n; at < 2*n; at += 2 * s.lanes {
		t := ZMM()
		VMOVDQU64(s.entries(at), t)
		s.op(VPERMT2D, VPERMT2Q, s.entries(at+s.lanes), index, t)
		part = append(part, t)
	}
	for bit := 2 * s.lanes; len(part) > 1; bit *= 2 {
		k := K()
		s.op(VPTESTMD, VPTESTMQ, s.bits[bit], index, k)
		for i := range len(part) / 2 {
			s.op(VPBLENDMD, VPBLENDMQ, part[2*i+1], part[2*i], k, part[2*i])
			part[i] = part[2*i]
		}
		part = part[:len(part)/2]
	}
	return part[0]
}

func bits32() {
	TEXT("Bits32", NOSPLIT, "func(x *float32, table *int32, levels int, missing int32, planes *byte, words int)")
	ranks(16)
}

func bits64() {
	TEXT("Bits64", NOSPLIT, "func(x *float64, table *int64, levels int, missing int64, planes *byte, words int)")
	ranks(8)
}

// ranks finds the ranks of 64 rows a word. A step to the right is a bit of the rank, the highest first.
func ranks(lanes int) {
	x, table := Load(Param("x"), GP64()), Load(Param("table"), GP64())
	levels := Load(Param("levels"), GP64())
	s := &search{lanes: lanes, table: table}
	missing, zero := ZMM(), ZMM()
	if lanes == 16 {
		m := GP32()
		Load(Param("missing"), m)
		VPBROADCASTD(m, missing)
	} else {
		m := GP64()
		Load(Param("missing"), m)
		VPBROADCASTQ(m, missing)
	}
	to := Load(Param("planes"), GP64())
	VPXORQ(zero, zero, zero)
	positive := s.all(1<<(8*s.width()-1) - 1)
	s.one = s.all(1)
	words := Load(Param("words"), GP64())
	end := GP64()
	LEAQ(Mem{Base: to, Index: words, Scale: 8}, end)
	for n := 1; n <= 8; n++ {
		CMPQ(levels, U8(n))
		JEQ(LabelRef(fmt.Sprintf("levels%d", n)))
	}
	VZEROUPPER()
	RET()
	for n := 1; n <= 8; n++ {
		Label(fmt.Sprintf("levels%d", n))
		s.regs, s.bits = map[int]VecVirtual{}, map[int]VecVirtual{}
		for at := 0; at < 1<<n && len(s.regs) < 8+lanes/2; at += lanes { // the rest is read where it is needed
			s.regs[at] = ZMM()
			VMOVDQU64(Mem{Base: table, Disp: at * s.width()}, s.regs[at])
		}
		for bit := 2 * lanes; bit < 1<<(n-1); bit *= 2 {
			s.bits[bit] = s.all(uint64(bit))
		}
		loop := fmt.Sprintf("rows%d", n)
		Label(loop)
		// Numbers in the order of the values: the bits of a negative one are turned around below the sign.
		k, sign, v, index := K(), ZMM(), ZMM(), ZMM()
		if lanes == 16 {
			VADDPS(Mem{Base: x}, zero, v) // -0 becomes 0
			VCMPPS(U8(3), v, v, k)        // not a number
			VPSRAD(U8(31), v, sign)
			VPTERNLOGD(U8(0x78), positive, sign, v) // v ^ (sign & positive)
			VMOVDQA32(missing, k, v)
			VMOVDQA32(s.one, index)
		} else {
			VADDPD(Mem{Base: x}, zero, v)
			VCMPPD(U8(3), v, v, k)
			VPSRAQ(U8(63), v, sign)
			VPTERNLOGQ(U8(0x78), positive, sign, v)
			VMOVDQA64(missing, k, v)
			VMOVDQA64(s.one, index)
		}
		for level := range n {
			k := K()
			keys := s.keys(level, index)
			s.op(VPCMPGTD, VPCMPGTQ, keys, v, k)
			bit := Mem{Base: to, Disp: (n - 1 - level) * word}
			if lanes == 16 {
				KMOVW(k, bit)
			} else {
				KMOVB(k, bit)
			}
			if level < n-1 {
				s.op(VPADDD, VPADDQ, index, index, index)
				s.op(VPADDD, VPADDQ, s.one, index, k, index)
			}
		}
		ADDQ(U8(64), x)
		ADDQ(U8(lanes/8), to)
		CMPQ(to, end)
		JNE(LabelRef(loop))
		VZEROUPPER()
		RET()
	}
}

// above answers questions by the bits of the ranks: answer i is whether the rank is above i. For numbers of one bit
// more, b, those are b|a for the i below the bit's value, and b&a from there on.
func above() {
	TEXT("Above", NOSPLIT, "func(planes *byte, levels int, scratch *byte, answers *byte, n int)")
	planes, levels := Load(Param("planes"), GP64()), Load(Param("levels"), GP64())
	scratch, answers := Load(Param("scratch"), GP64()), Load(Param("answers"), GP64())
	n := Load(Param("n"), GP64())
	SHLQ(U8(6), n)
	for l := 1; l <= planeN; l++ {
		CMPQ(levels, U8(l))
		JEQ(LabelRef(fmt.Sprintf("levels%d", l)))
	}
	VZEROUPPER()
	RET()
	const first = 4 // levels of which all answers fit registers
	for l := 1; l <= planeN; l++ {
		Label(fmt.Sprintf("levels%d", l))
		bit := func(i int) VecVirtual {
			r := ZMM()
			VMOVDQU64(Mem{Base: planes, Disp: i * word}, r)
			return r
		}
		a := []VecVirtual{bit(0)}
		for i := 1; i < min(l, first); i++ {
			// One answer more than numbers of i bits have: that none is above the largest.
			b := bit(i)
			var both []VecVirtual
			for _, v := range a {
				r := ZMM()
				VPORQ(b, v, r)
				both = append(both, r)
			}
			both = append(both, b)
			for _, v := range a {
				VPANDQ(b, v, v)
				both = append(both, v)
			}
			a = both
		}
		if l <= first {
			for i, v := range a {
				CMPQ(n, U32(i*word))
				JLE(LabelRef("end"))
				VMOVDQU64(v, Mem{Base: answers, Disp: i * word})
			}
			JMP(LabelRef("end"))
			continue
		}
		zero := ZMM()
		VPXORQ(zero, zero, zero)
		for i, v := range append(a, zero) {
			VMOVDQU64(v, Mem{Base: scratch, Disp: i * word})
		}
		for i := first; i < l; i += 2 {
			last := i+2 >= l
			to := scratch
			if last {
				to = answers
			}
			low := bit(i)
			size := word << i // of the answers so far
			at := GP64()
			XORQ(at, at)
			loop := fmt.Sprintf("more%dof%d", i, l)
			Label(loop)
			v := ZMM()
			VMOVDQU64(Mem{Base: scratch, Index: at, Scale: 1}, v)
			parts := 2
			if i+1 < l {
				parts = 4
			}
			// put writes the answers in one part, unless they are beyond the questions.
			put := func(part int, r Op) {
				skip := fmt.Sprintf("skip%dof%dpart%d", i, l, part)
				if last && part >= parts/2 {
					edge := GP64()
					LEAQ(Mem{Base: at, Disp: part * size}, edge)
					CMPQ(edge, n)
					JGE(LabelRef(skip))
				}
				VMOVDQU64(r, Mem{Base: to, Index: at, Scale: 1, Disp: part * size})
				if last && part >= parts/2 {
					Label(skip)
				}
			}
			r := make([]VecVirtual, parts)
			for j := range r {
				r[j] = ZMM()
			}
			if parts == 2 {
				VPORQ(low, v, r[0])
				VPANDQ(low, v, r[1])
			} else {
				high := bit(i + 1)
				VPORQ(low, v, r[0])
				VPANDQ(low, v, r[1])
				VPANDQ(high, r[0], r[2])
				VPANDQ(high, r[1], r[3])
				VPORQ(high, r[0], r[0])
				VPORQ(high, r[1], r[1])
			}
			for j, v := range r {
				put(j, v)
			}
			ADDQ(U8(word), at)
			CMPQ(at, U32(size))
			JNE(LabelRef(loop))
		}
		JMP(LabelRef("end"))
	}
	Label("end")
	VZEROUPPER()
	RET()
}

// transpose turns 16 rows of up to 16 values of 4 bytes each into columns.
func transpose() {
	TEXT("Transpose32", NOSPLIT, "func(rows *uint32, stride int, values int, columns *uint32)")
	from, stride := Load(Param("rows"), GP64()), Load(Param("stride"), GP64())
	values, to := Load(Param("values"), GP64()), Load(Param("columns"), GP64())
	mask, k := GP64(), K()
	MOVQ(I32(-1), mask)
	BZHIQ(values, mask, mask)
	KMOVW(mask.As32(), k)
	var a, b [16]VecVirtual
	for i := range a {
		a[i] = ZMM()
		VMOVDQU32_Z(Mem{Base: from}, k, a[i])
		PREFETCHT1(Mem{Base: from, Disp: 64}) // the values that are asked for next, if the row has them
		if i < 15 {
			ADDQ(stride, from)
		}
	}
	for i := 0; i < 16; i += 2 {
		b[i], b[i+1] = ZMM(), ZMM()
		VPUNPCKLDQ(a[i+1], a[i], b[i])
		VPUNPCKHDQ(a[i+1], a[i], b[i+1])
	}
	for i := 0; i < 16; i += 4 {
		for h := range 2 {
			a[i+2*h], a[i+2*h+1] = ZMM(), ZMM()
			VPUNPCKLQDQ(b[i+2+h], b[i+h], a[i+2*h])
			VPUNPCKHQDQ(b[i+2+h], b[i+h], a[i+2*h+1])
		}
	}
	// a[4g+c] has, in lane l, value 4l+c of rows 4g to 4g+3.
	for h := 0; h < 16; h += 8 {
		for i := range 4 {
			b[h+i], b[h+4+i] = ZMM(), ZMM()
			VSHUFI32X4(U8(0x88), a[h+4+i], a[h+i], b[h+i])
			VSHUFI32X4(U8(0xdd), a[h+4+i], a[h+i], b[h+4+i])
		}
	}
	var r [16]VecVirtual
	for i := range 4 {
		// lanes 0 and 2 of values i and i+8, then lanes 1 and 3
		for h := range 2 {
			lo, hi := ZMM(), ZMM()
			VSHUFI32X4(U8(0x88), b[8+4*h+i], b[4*h+i], lo)
			VSHUFI32X4(U8(0xdd), b[8+4*h+i], b[4*h+i], hi)
			r[4*h+i], r[8+4*h+i] = lo, hi
		}
	}
	for i, v := range r {
		CMPQ(values, U8(i))
		JLE(LabelRef("end"))
		VMOVDQU64(v, Mem{Base: to, Disp: i * rows * 4})
	}
	Label("end")
	VZEROUPPER()
	RET()
}

// indices loads planes and turns them into the indices of all rows, 64 of them in each of eight vectors.
func indices(planes Register, n int) (idx [8]VecVirtual) {
	var q [8]VecVirtual // the planes, the highest first
	for i := range q {
		q[i] = ZMM()
		if plane := 7 - i; plane < n {
			VMOVDQU64(Mem{Base: planes, Disp: plane * word}, q[i])
		} else {
			VPXORQ(q[i], q[i], q[i])
		}
	}
	unpacked := unpack.Interleave(q)
	g, m := GP64(), ZMM()
	MOVQ(U64(0x8040201008040201), g)
	VPBROADCASTQ(g, m)
	for i, u := range unpacked {
		idx[i] = ZMM()
		VGF2P8AFFINEQB(U8(0), u, m, idx[i])
	}
	return idx
}

// index writes the indices of all rows.
func index() {
	TEXT("Index", NOSPLIT, "func(planes *byte, index *byte)")
	planes, to := Load(Param("planes"), GP64()), Load(Param("index"), GP64())
	for i, idx := range indices(planes, planeN) {
		VMOVDQU64(idx, Mem{Base: to, Disp: 64 * i})
	}
	VZEROUPPER()
	RET()
}

// indexBytes writes the indices of all rows without GFNI, 32 rows at a time: each byte of a vector gets the byte of the
// plane that has its bit, and is compared with that bit.
func indexBytes() {
	TEXT("Index512NoGFNI", NOSPLIT, "func(planes *byte, index *byte)")
	planes, to := Load(Param("planes"), GP64()), Load(Param("index"), GP64())
	spread, ofByte, value := YMM(), YMM(), YMM()
	g, x := GP64(), XMM()
	halves := YMM()
	for i, n := range []uint64{0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303} {
		MOVQ(U64(n), g)
		switch i {
		case 0, 2:
			MOVQ(g, x)
		case 1:
			VPINSRQ(U8(1), g, x, x)
			VINSERTI128(U8(0), x, halves, halves)
		case 3:
			VPINSRQ(U8(1), g, x, x)
			VINSERTI128(U8(1), x, halves, spread)
		}
	}
	MOVQ(U64(0x8040201008040201), g)
	MOVQ(g, x)
	VPBROADCASTQ(x, ofByte)
	end := GP64()
	LEAQ(Mem{Base: to, Disp: 8 * word}, end)
	MOVQ(U32(1), g)
	one := YMM()
	MOVQ(g, x)
	VPBROADCASTB(x, one)
	Label("rows")
	index := YMM()
	VPXOR(index, index, index)
	VMOVDQU(one, value)
	for b := range planeN {
		v := YMM()
		VPBROADCASTD(Mem{Base: planes, Disp: b * word}, v)
		VPSHUFB(spread, v, v)
		VPAND(ofByte, v, v)
		VPCMPEQB(ofByte, v, v)
		VPAND(value, v, v)
		VPOR(v, index, index)
		VPADDB(value, value, value)
	}
	VMOVDQU(index, Mem{Base: to})
	ADDQ(U8(4), planes)
	ADDQ(U8(32), to)
	CMPQ(to, end)
	JNE(LabelRef("rows"))
	VZEROUPPER()
	RET()
}

// gather adds to each sum the value that its index chooses.
func gather(name string, bytes int) {
	kind := map[int]string{4: "float32", 8: "float64"}[bytes]
	TEXT(name, NOSPLIT, fmt.Sprintf("func(sums *%s, index *byte, values *%s)", kind, kind))
	sums, index := Load(Param("sums"), GP64()), Load(Param("index"), GP64())
	values := Load(Param("values"), GP64())
	end := GP64()
	LEAQ(Mem{Base: index, Disp: rows}, end)
	Label("rows")
	k, v := K(), ZMM()
	KXNORW(k, k, k)
	VPXORQ(v, v, v)
	if bytes == 4 {
		i := ZMM()
		VPMOVZXBD(Mem{Base: index}, i)
		VGATHERDPS(Mem{Base: values, Index: i, Scale: 4}, k, v)
		VADDPS(Mem{Base: sums}, v, v)
	} else {
		i := YMM()
		VPMOVZXBD(Mem{Base: index}, i)
		VGATHERDPD(Mem{Base: values, Index: i, Scale: 8}, k, v)
		VADDPD(Mem{Base: sums}, v, v)
	}
	VMOVDQU64(v, Mem{Base: sums})
	ADDQ(U8(64), sums)
	ADDQ(U8(64/bytes), index)
	CMPQ(index, end)
	JNE(LabelRef("rows"))
	VZEROUPPER()
	RET()
}

// add looks up what the leaves give, byte by byte of the values, and adds it to the sums.
func add(name string, bytes, leaves int) {
	kind := map[int]string{4: "float32", 8: "float64"}[bytes]
	TEXT(name, NOSPLIT, fmt.Sprintf("func(sums *%s, planes *byte, table *byte)", kind))
	sums, planes := Load(Param("sums"), GP64()), Load(Param("planes"), GP64())
	table := Load(Param("table"), GP64())
	n := 6
	if leaves == 256 {
		n = 8
	}
	idx := indices(planes, n)
	var tables [8]VecVirtual
	if leaves == 64 && bytes == 4 {
		for b := range bytes {
			tables[b] = ZMM()
			VMOVDQU64(Mem{Base: table, Disp: 64 * b}, tables[b])
		}
	}
	for j := range idx {
		var v [8]VecVirtual
		var k Register
		if leaves == 256 {
			k = K()
			VPMOVB2M(idx[j], k)
		}
		for b := range bytes {
			v[b] = ZMM()
			switch {
			case leaves == 256:
				hi := ZMM()
				at := func(quarter int) Mem { return Mem{Base: table, Disp: 256*b + 64*quarter} }
				VMOVDQU64(at(0), v[b])
				VPERMT2B(at(1), idx[j], v[b])
				VMOVDQU64(at(2), hi)
				VPERMT2B(at(3), idx[j], hi)
				VMOVDQU8(hi, k, v[b])
			case bytes == 4:
				VPERMB(tables[b], idx[j], v[b])
			default:
				VPERMB(Mem{Base: table, Disp: 64 * b}, idx[j], v[b])
			}
		}
		if bytes == 8 {
			for i, r := range unpack.Interleave(v) {
				sum := Mem{Base: sums, Disp: 512*j + 64*i}
				VADDPD(sum, r, r)
				VMOVDQU64(r, sum)
			}
			continue
		}
		var w [4]VecVirtual // bytes 0 and 1, low and high, bytes 2 and 3, low and high
		for h := range 2 {
			w[2*h], w[2*h+1] = ZMM(), ZMM()
			VPUNPCKLBW(v[2*h+1], v[2*h], w[2*h])
			VPUNPCKHBW(v[2*h+1], v[2*h], w[2*h+1])
		}
		for m := range 4 {
			r := ZMM()
			if m%2 == 0 {
				VPUNPCKLWD(w[2+m/2], w[m/2], r)
			} else {
				VPUNPCKHWD(w[2+m/2], w[m/2], r)
			}
			sum := Mem{Base: sums, Disp: 256*j + 64*m}
			VADDPS(sum, r, r)
			VMOVDQU64(r, sum)
		}
	}
	VZEROUPPER()
	RET()
}
