// Program shap generates the inner loop of package shap: a pass of a tree over 8 rows, for each number of points.
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
	answers()
	for points := 1; points <= maxPoints; points++ {
		generate(points)
	}
	Generate()
}

// lessOrEqual is the predicate of a comparison.
const lessOrEqual = 2

func answers() {
	TEXT("ShapAnswers", NOSPLIT, "func(lanes *byte, asks *int32, columns *int32, n int)")
	Pragma("noescape")
	Doc("ShapAnswers writes for n splits which of 8 rows go left: those whose value is at most the key. asks has for each",
		"where the values are in columns, and the key. lanes has two bytes for each, of which the first is written.")
	lane, asks := Load(Param("lanes"), GP64()), Load(Param("asks"), GP64())
	columns, n := Load(Param("columns"), GP64()), Load(Param("n"), GP64())
	Label("answer")
	at, values, left := GP64(), YMM(), K()
	MOVL(Mem{Base: asks}, at.As32())
	VMOVDQU32(Mem{Base: columns, Index: at, Scale: 4}, values)
	VPCMPD_BCST(U8(lessOrEqual), Mem{Base: asks, Disp: 4}, values, left)
	KMOVB(left, at.As32())
	MOVB(at.As8(), Mem{Base: lane})
	ADDQ(U8(8), asks)
	ADDQ(U8(2), lane)
	DECQ(n)
	JNZ(LabelRef("answer"))
	VZEROUPPER()
	RET()
}

func generate(points int) {
	TEXT(fmt.Sprintf("Shap%d", points), NOSPLIT, "func(nodes *byte, n int, lanes *byte, tables, c, t, phi, values *float64)")
	Pragma("noescape")
	Doc(fmt.Sprintf("Shap%d is shap's pass over n nodes, of %d points, with AVX-512.", points, points))
	at, lane := Load(Param("nodes"), GP64()), Load(Param("lanes"), GP64())
	tables, c, t := Load(Param("tables"), GP64()), Load(Param("c"), GP64()), Load(Param("t"), GP64())
	// Registers are short: these are read where they are needed.
	n, sums, values := NewParamAddr("n", 8), NewParamAddr("phi", 48), NewParamAddr("values", 56)
	stride := points * lanes
	k := GP64()
	XORQ(k, k)
	Label("enter")
	INCQ(k)
	a, b, x := GP64(), GP64(), GP64()
	field := func(base Register, disp int) Mem { return Mem{Base: base, Disp: disp} }
	flags := func(i Register, disp int) Mem { return Mem{Base: lane, Index: i, Scale: 2, Disp: disp} }

	// Which rows meet what the path asks of this feature.
	MOVL(field(at, same), x.As32())
	MOVBLZX(flags(x, 0), a.As32())
	XORB(field(at, sameSide), a.As8())
	ANDB(flags(x, 1), a.As8())
	MOVB(a.As8(), flags(k, 1))
	// And which of the parent's: all of its path, and the way to here, too.
	met, here := K(), K()
	MOVL(field(at, parent), x.As32())
	MOVBLZX(flags(x, 1), a.As32())
	MOVBLZX(flags(x, 0), b.As32())
	XORB(field(at, side), b.As8())
	ANDL(a.As32(), b.As32())
	KMOVB(a.As32(), met)
	KMOVB(b.As32(), here)
	MOVL(field(at, slot), a.As32())
	ADDQ(c, a)
	MOVL(field(at, above), b.As32())
	ADDQ(tables, b)
	ratio := ZMM()
	VBROADCASTSD(field(at, z), ratio)
	for q := range points {
		tau, was, gain := ZMM(), ZMM(), ZMM()
		VBROADCASTSD_Z(field(b, 8*q), met, tau)
		VMOVUPD(field(a, q*lanes-stride), was)
		VMULPD_Z(tau, was, here, gain)
		VFNMADD213PD(was, was, tau)
		VFMADD213PD(gain, ratio, tau)
		VMOVUPD(tau, field(a, q*lanes))
	}

	count := GP64()
	MOVWLZX(field(at, exits), count.As32())
	SHRL(U8(2), count.As32())
	JZ(LabelRef("next"))
	i, split := GP64(), GP64()
	MOVQ(k, i)
	MOVQ(at, split)
	Label("exit")
	met, isLeft := K(), K()
	MOVBLZX(flags(i, 1), a.As32())
	KMOVB(a.As32(), met)
	MOVBLZX(flags(i, 0), a.As32())
	KMOVB(a.As32(), isLeft)
	MOVL(field(split, slot), a.As32())
	to := GP64()
	LEAQ(Mem{Base: t, Index: a, Scale: 2}, to)
	ADDQ(c, a)
	MOVL(field(split, table), b.As32())
	ADDQ(tables, b)
	MOVBQSX(field(split, side), x)
	ANDQ(I32(int32(stride)), x)
	ADDQ(to, x) // where its values go
	sum, toLeft, toRight := ZMM(), ZMM(), ZMM()
	VXORPD(sum, sum, sum)
	VBROADCASTSD(field(split, left), toLeft)
	VBROADCASTSD(field(split, right), toRight)
	leafValue := func(child int) VecVirtual {
		v, at := ZMM(), GP64()
		MOVL(field(split, leaf+4*child), at.As32())
		ADDQ(values, at)
		VBROADCASTSD(Mem{Base: at}, v)
		return v
	}
	both := func(l, r VecVirtual) (mean, gain VecVirtual) {
		mean, gain = ZMM(), ZMM()
		VMULPD(l, toLeft, mean)
		VFMADD231PD(r, toRight, mean)
		VBLENDMPD(l, r, isLeft, gain)
		VSUBPD(mean, gain, gain)
		return mean, gain
	}
	finish := func(q int, mean, gain VecVirtual) {
		kappa, tau := ZMM(), ZMM()
		VBROADCASTSD_Z(field(b, 8*(points+q)), met, kappa)
		VMULPD(field(a, q*lanes), kappa, kappa)
		VFMADD231PD(gain, kappa, sum)
		VBROADCASTSD_Z(field(b, 8*q), met, tau)
		VFMADD213PD(mean, gain, tau)
		VMOVUPD(tau, field(x, q*lanes))
	}
	subtree := func(child, q int) VecVirtual {
		v := ZMM()
		VMOVUPD(field(to, (2+child)*stride+q*lanes), v)
		return v
	}
	TESTB(U8(1), field(split, exits))
	JZ(LabelRef("left_subtree"))
	l := leafValue(0)
	TESTB(U8(2), field(split, exits))
	JZ(LabelRef("left_leaf"))
	{
		mean, gain := both(l, leafValue(1))
		for q := range points {
			finish(q, mean, gain)
		}
		JMP(LabelRef("complete"))
	}
	Label("left_leaf")
	for q := range points {
		mean, gain := both(l, subtree(1, q))
		finish(q, mean, gain)
	}
	JMP(LabelRef("complete"))
	Label("left_subtree")
	TESTB(U8(2), field(split, exits))
	JZ(LabelRef("no_leaf"))
	r := leafValue(1)
	for q := range points {
		mean, gain := both(subtree(0, q), r)
		finish(q, mean, gain)
	}
	JMP(LabelRef("complete"))
	Label("no_leaf")
	for q := range points {
		mean, gain := both(subtree(0, q), subtree(1, q))
		finish(q, mean, gain)
	}
	Label("complete")
	MOVL(field(split, phi), a.As32())
	ADDQ(sums, a)
	VADDPD(Mem{Base: a}, sum, sum)
	VMOVUPD(sum, Mem{Base: a})
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
