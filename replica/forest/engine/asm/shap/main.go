// Program shap generates the inner loop of package shap: a pass of a tree over 8 rows, for each number of points, with
// AVX-512 and with AVX2 and FMA.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Where the fields of shap's node are.
const (
	z        = 0
	left     = 8
	right    = 16
	table    = 24
	above    = 28
	phi      = 32
	slot     = 36
	same     = 40
	parent   = 44
	leaf     = 48 // two
	exits    = 56 // above two bits that say which children are leaves, the left one's the lowest
	sameSide = 58
	side     = 59
	node     = 64
)

const (
	maxPoints = 8
	lanes     = 64 // bytes of a value for each lane
)

func main() {
	ConstraintExpr("!purego")
	for _, c := range []code{wide{}, narrow{laneBits()}} {
		answers(c)
		for points := 1; points <= maxPoints; points++ {
			pass(c, points)
		}
	}
	Generate()
}

// code is what differs between the two sets of instructions. A value for each of the 8 rows takes several registers.
type code interface {
	suffix() string
	registers() int
	register() VecVirtual
	// mask makes bits of rows what is needed to choose between values. The bits are not needed any more.
	mask(bits GP) mask
	// keep broadcasts a number to the rows of a mask, and 0 to the others.
	keep(number Mem, m mask) []VecVirtual
	// product is that of two values in the rows of a mask, and 0 in the others.
	product(a, b VecVirtual, m mask, i int) VecVirtual
	// choose takes a in the rows of a mask, and b in the others.
	choose(a, b VecVirtual, m mask, i int) VecVirtual
	// compare sets the bits of the values that are at most the key.
	compare(values, key Mem, bits GP)
}

// mask is a mask for each register of a value.
type mask []Register

// wide is AVX-512.
type wide struct{}

func (wide) suffix() string       { return "" }
func (wide) registers() int       { return 1 }
func (wide) register() VecVirtual { return ZMM() }

func (wide) mask(bits GP) mask {
	k := K()
	KMOVB(bits.As32(), k)
	return mask{k}
}

func (wide) keep(number Mem, m mask) []VecVirtual {
	v := ZMM()
	VBROADCASTSD_Z(number, m[0], v)
	return []VecVirtual{v}
}

func (wide) product(a, b VecVirtual, m mask, i int) VecVirtual {
	v := ZMM()
	VMULPD_Z(a, b, m[i], v)
	return v
}

func (wide) choose(a, b VecVirtual, m mask, i int) VecVirtual {
	v := ZMM()
	VBLENDMPD(a, b, m[i], v)
	return v
}

func (wide) compare(values, key Mem, bits GP) {
	const lessOrEqual = 2
	v, left := YMM(), K()
	VMOVDQU32(values, v)
	VPCMPD_BCST(U8(lessOrEqual), key, v, left)
	KMOVB(left, bits.As32())
}

// narrow is AVX2.
type narrow struct{ bits Mem }

func (narrow) suffix() string       { return "AVX2" }
func (narrow) registers() int       { return 2 }
func (narrow) register() VecVirtual { return YMM() }

// laneBits is a table of the bit of each row, 8 bytes each.
func laneBits() Mem {
	table := GLOBL("shapLanes", RODATA|NOPTR)
	for i := range 8 {
		DATA(8*i, U64(1<<i))
	}
	return table
}

func (n narrow) mask(bits GP) mask {
	some, all := XMM(), YMM()
	MOVQ(bits.As64(), some)
	VPBROADCASTQ(some, all)
	var m mask
	for i := range 2 {
		v := YMM()
		VPAND(n.bits.Offset(32*i), all, v)
		VPCMPEQQ(n.bits.Offset(32*i), v, v)
		m = append(m, v)
	}
	return m
}

func (narrow) keep(number Mem, m mask) []VecVirtual {
	v, other := YMM(), YMM()
	VBROADCASTSD(number, v)
	VANDPD(m[0], v, other)
	VANDPD(m[1], v, v)
	return []VecVirtual{other, v}
}

func (narrow) product(a, b VecVirtual, m mask, i int) VecVirtual {
	v := YMM()
	VMULPD(a, b, v)
	VANDPD(m[i], v, v)
	return v
}

func (narrow) choose(a, b VecVirtual, m mask, i int) VecVirtual {
	v := YMM()
	VBLENDVPD(m[i], a, b, v)
	return v
}

func (narrow) compare(values, key Mem, bits GP) {
	v, right := YMM(), YMM()
	VPBROADCASTD(key, right)
	VMOVDQU(values, v)
	VPCMPGTD(right, v, right)
	VMOVMSKPS(right, bits.As32())
	NOTL(bits.As32())
}

func answers(code code) {
	name := "ShapAnswers" + code.suffix()
	TEXT(name, NOSPLIT, "func(lanes *byte, asks *int32, columns *int32, n int)")
	Pragma("noescape")
	Doc(name+" writes for n splits which of 8 rows go left: those whose value is at most the key. asks has for each where",
		"the values are in columns, and the key. lanes has two bytes for each, of which the first is written.")
	lane, asks := Load(Param("lanes"), GP64()), Load(Param("asks"), GP64())
	columns, n := Load(Param("columns"), GP64()), Load(Param("n"), GP64())
	Label("answer")
	at := GP64()
	MOVL(Mem{Base: asks}, at.As32())
	code.compare(Mem{Base: columns, Index: at, Scale: 4}, Mem{Base: asks, Disp: 4}, at)
	MOVB(at.As8(), Mem{Base: lane})
	ADDQ(U8(8), asks)
	ADDQ(U8(2), lane)
	DECQ(n)
	JNZ(LabelRef("answer"))
	VZEROUPPER()
	RET()
}

func pass(code code, points int) {
	name := fmt.Sprintf("Shap%d%s", points, code.suffix())
	TEXT(name, NOSPLIT, "func(nodes *byte, n int, lanes *byte, tables, c, t, phi, values *float64)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s is shap's pass of %d points over n nodes.", name, points))
	at, lane := Load(Param("nodes"), GP64()), Load(Param("lanes"), GP64())
	tables, c, t := Load(Param("tables"), GP64()), Load(Param("c"), GP64()), Load(Param("t"), GP64())
	// Registers are short: these are read where they are needed.
	n, sums, values := NewParamAddr("n", 8), NewParamAddr("phi", 48), NewParamAddr("values", 56)
	stride := points * lanes
	part := lanes / code.registers()
	each := func(do func(i, disp int)) {
		for i := range code.registers() {
			do(i, i*part)
		}
	}
	field := func(base Register, disp int) Mem { return Mem{Base: base, Disp: disp} }
	bits := func(i Register, disp int) Mem { return Mem{Base: lane, Index: i, Scale: 2, Disp: disp} }
	broadcast := func(number Mem) VecVirtual {
		v := code.register()
		VBROADCASTSD(number, v)
		return v
	}
	k := GP64() // the node that is entered, counted from 1
	XORQ(k, k)
	Label("enter")
	INCQ(k)
	a, b, x := GP64(), GP64(), GP64()

	// Which rows meet what the path asks of this feature.
	MOVL(field(at, same), x.As32())
	MOVBLZX(bits(x, 0), a.As32())
	XORB(field(at, sameSide), a.As8())
	ANDB(bits(x, 1), a.As8())
	MOVB(a.As8(), bits(k, 1))
	// And which of the parent's: all of its path, and the way to here, too.
	MOVL(field(at, parent), x.As32())
	MOVBLZX(bits(x, 1), a.As32())
	MOVBLZX(bits(x, 0), b.As32())
	XORB(field(at, side), b.As8())
	ANDL(a.As32(), b.As32())
	met, here := code.mask(a), code.mask(b)
	MOVL(field(at, slot), a.As32())
	ADDQ(c, a)
	MOVL(field(at, above), b.As32())
	ADDQ(tables, b)
	ratio := broadcast(field(at, z))
	for q := range points {
		tau := code.keep(field(b, 8*q), met)
		each(func(i, disp int) {
			was := code.register()
			VMOVUPD(field(a, q*lanes-stride+disp), was)
			gain := code.product(tau[i], was, here, i)
			VFNMADD213PD(was, was, tau[i])
			VFMADD213PD(gain, ratio, tau[i])
			VMOVUPD(tau[i], field(a, q*lanes+disp))
		})
	}

	count := GP64()
	MOVWLZX(field(at, exits), count.As32())
	SHRL(U8(2), count.As32())
	JZ(LabelRef("next"))
	i, split := GP64(), GP64()
	MOVQ(k, i)
	MOVQ(at, split)
	Label("exit")
	MOVBLZX(bits(i, 1), a.As32())
	MOVBLZX(bits(i, 0), b.As32())
	met, toLeft := code.mask(a), code.mask(b)
	MOVL(field(split, slot), a.As32())
	to := GP64()
	LEAQ(Mem{Base: t, Index: a, Scale: 2}, to)
	ADDQ(c, a)
	MOVL(field(split, table), b.As32())
	ADDQ(tables, b)
	MOVBQSX(field(split, side), x)
	ANDQ(I32(int32(stride)), x)
	ADDQ(to, x) // where its values go
	var sum []VecVirtual
	each(func(int, int) {
		v := code.register()
		VXORPD(v, v, v)
		sum = append(sum, v)
	})
	leftRatio, rightRatio := broadcast(field(split, left)), broadcast(field(split, right))
	leafOf := func(child int) VecVirtual {
		at := GP64()
		MOVL(field(split, leaf+4*child), at.As32())
		ADDQ(values, at)
		return broadcast(field(at, 0))
	}
	subtree := func(child, q, disp int) VecVirtual {
		v := code.register()
		VMOVUPD(field(to, (2+child)*stride+q*lanes+disp), v)
		return v
	}
	// both is what the children give on average, and how much more the one gives to which a row goes.
	both := func(l, r VecVirtual, i int) (mean, gain VecVirtual) {
		mean = code.register()
		VMULPD(l, leftRatio, mean)
		VFMADD231PD(r, rightRatio, mean)
		gain = code.choose(l, r, toLeft, i)
		VSUBPD(mean, gain, gain)
		return mean, gain
	}
	finish := func(q int, values func(i, disp int) (mean, gain VecVirtual)) {
		kappa := code.keep(field(b, 8*(points+q)), met)
		each(func(i, disp int) { VMULPD(field(a, q*lanes+disp), kappa[i], kappa[i]) })
		var means, gains []VecVirtual
		each(func(i, disp int) {
			mean, gain := values(i, disp)
			VFMADD231PD(gain, kappa[i], sum[i])
			means, gains = append(means, mean), append(gains, gain)
		})
		tau := code.keep(field(b, 8*q), met)
		each(func(i, disp int) {
			VFMADD213PD(means[i], gains[i], tau[i])
			VMOVUPD(tau[i], field(x, q*lanes+disp))
		})
	}
	TESTB(U8(1), field(split, exits))
	JZ(LabelRef("left_subtree"))
	l := leafOf(0)
	TESTB(U8(2), field(split, exits))
	JZ(LabelRef("left_leaf"))
	{
		r := leafOf(1)
		var means, gains []VecVirtual
		each(func(i, _ int) {
			mean, gain := both(l, r, i)
			means, gains = append(means, mean), append(gains, gain)
		})
		for q := range points {
			finish(q, func(i, _ int) (mean, gain VecVirtual) { return means[i], gains[i] })
		}
	}
	JMP(LabelRef("complete"))
	Label("left_leaf")
	for q := range points {
		finish(q, func(i, disp int) (mean, gain VecVirtual) { return both(l, subtree(1, q, disp), i) })
	}
	JMP(LabelRef("complete"))
	Label("left_subtree")
	TESTB(U8(2), field(split, exits))
	JZ(LabelRef("no_leaf"))
	r := leafOf(1)
	for q := range points {
		finish(q, func(i, disp int) (mean, gain VecVirtual) { return both(subtree(0, q, disp), r, i) })
	}
	JMP(LabelRef("complete"))
	Label("no_leaf")
	for q := range points {
		finish(q, func(i, disp int) (mean, gain VecVirtual) {
			return both(subtree(0, q, disp), subtree(1, q, disp), i)
		})
	}
	Label("complete")
	MOVL(field(split, phi), a.As32())
	ADDQ(sums, a)
	each(func(i, disp int) {
		VADDPD(field(a, disp), sum[i], sum[i])
		VMOVUPD(sum[i], field(a, disp))
	})
	// On to the parent.
	MOVL(field(split, parent), b.As32())
	MOVQ(b, a)
	SUBQ(i, a)
	SHLQ(U8(6), a)
	ADDQ(a, split)
	MOVQ(b, i)
	DECL(count.As32())
	JNZ(LabelRef("exit"))

	Label("next")
	ADDQ(U8(node), at)
	CMPQ(k, n)
	JL(LabelRef("enter"))
	VZEROUPPER()
	RET()
}
