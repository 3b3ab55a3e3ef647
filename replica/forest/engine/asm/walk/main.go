// Program walk generates the walks of package engine: WalkRows and WalkTrees are goWalkRows and goWalkTrees there, which say
// what words, columns and fields are.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// burst is the number of steps between looks at whether walks have arrived.
const burst = 4

func main() {
	ConstraintExpr("!purego")
	walkRows()
	walkTrees()
	Generate()
}

// What the walks keep in registers.
var (
	nodes, columns = RSI, RDI
	column, left   = RCX, RDX // fields of words, as BEXTR wants them
)

func load() {
	Load(Param("nodes"), nodes)
	Load(Param("columns"), columns)
	Load(Param("column"), column)
	Load(Param("left"), left)
}

// step makes of a word the next one. Both children are read while the row's value is still on its way: the walk waits
// for the longer of the two ways, not for one after the other.
func step(n, child, asked GPPhysical, lane int) {
	BEXTRQ(column, n, asked)
	BEXTRQ(left, n, child)
	CMPL(n.As32(), Mem{Base: columns, Index: asked, Scale: 8, Disp: 4 * lane}) // carries when the key is below
	MOVQ(Mem{Base: nodes, Index: child, Scale: 8}, n)
	CMOVQCS(Mem{Base: nodes, Index: child, Scale: 8, Disp: 8}, n)
}

// walkRows keeps half of the 16 lanes in registers and the others on the stack: with 16 the processor has enough to do
// while one waits.
func walkRows() {
	TEXT("WalkRows", NOSPLIT, "func(nodes *uint64, column, left uint64, columns *uint32, group uint64, from *uint64, move uint64, to *uint64, groups, steps uint64, ahead *uint64, lines uint64)")
	Doc("WalkRows walks down one tree with groups of 16 rows. group and move are in bytes. For each group some cache lines are",
		"fetched from ahead on.")
	Pragma("noescape")
	groups, from, to, ahead, count := AllocLocal(8), AllocLocal(8), AllocLocal(8), AllocLocal(8), AllocLocal(8)
	slots := AllocLocal(64)
	lanes := []GPPhysical{R8, R9, R10, R11, R12, R13, R14, R15}
	a, b, n := RAX, RBX, RBP
	load()
	for _, p := range []struct {
		name string
		to   Mem
	}{{"groups", groups}, {"from", from}, {"to", to}, {"ahead", ahead}} {
		Load(Param(p.name), a)
		MOVQ(a, p.to)
	}

	Label("group")
	Load(Param("lines"), b)
	MOVQ(ahead, a)
	Label("line")
	DECQ(b)
	JLT(LabelRef("begin"))
	PREFETCHT1(Mem{Base: a})
	ADDQ(Imm(64), a)
	JMP(LabelRef("line"))
	Label("begin")
	MOVQ(a, ahead)
	MOVQ(from, a)
	for k, r := range lanes {
		MOVQ(Mem{Base: a, Disp: 8 * k}, r)
		MOVQ(Mem{Base: a, Disp: 8 * (k + len(lanes))}, n)
		MOVQ(n, slots.Offset(8*k))
	}
	Load(Param("move"), b)
	ADDQ(b, a)
	MOVQ(a, from)
	Load(Param("steps"), b)
	MOVQ(b, count)
	TESTQ(b, b)
	JZ(LabelRef("look"))

	Label("step")
	for k, r := range lanes {
		step(r, a, b, k)
		MOVQ(slots.Offset(8*k), n)
		step(n, a, b, k+len(lanes))
		MOVQ(n, slots.Offset(8*k))
	}
	DECQ(count)
	JNZ(LabelRef("step"))

	Comment("The highest bit of a word tells that it is a leaf.")
	Label("look")
	MOVQ(I32(-1), a)
	for k, r := range lanes {
		ANDQ(r, a)
		ANDQ(slots.Offset(8*k), a)
	}
	MOVQ(U32(burst), count)
	TESTQ(a, a)
	JPL(LabelRef("step"))

	MOVQ(to, a)
	for k, r := range lanes {
		MOVQ(r, Mem{Base: a, Disp: 8 * k})
		MOVQ(slots.Offset(8*k), n)
		MOVQ(n, Mem{Base: a, Disp: 8 * (k + len(lanes))})
	}
	ADDQ(U32(128), to)
	Load(Param("group"), a)
	ADDQ(a, columns)
	DECQ(groups)
	JNZ(LabelRef("group"))
	RET()
}

// walkTrees takes all trees one step, and then the next. What a word leads to is fetched into the cache until its turn
// comes again: trees wait for memory together. After some steps it goes on with those that have not arrived.
func walkTrees() {
	TEXT("WalkTrees", NOSPLIT, "func(nodes *uint64, column, left uint64, columns *uint32, bases *uint64, n uint64, to *uint64, steps uint64, live *uint32)")
	Doc("WalkTrees walks down n trees with one row. The lower half of each of bases is where a tree's words begin. live has room for n.")
	Pragma("noescape")
	steps := AllocLocal(8)
	load()
	bases, to, live, n, next, base, tree, i, child, asked, w := R8, R9, R10, R11, R12, R13, R14, RBP, RAX, RBX, R15
	Load(Param("bases"), bases)
	Load(Param("to"), to)
	Load(Param("live"), live)
	Load(Param("n"), n)
	Load(Param("steps"), w)
	MOVQ(w, steps)

	step := func(tree GPPhysical) {
		MOVQ(Mem{Base: to, Index: tree, Scale: 8}, w)
		MOVL(Mem{Base: bases, Index: tree, Scale: 8}, base.As32())
		BEXTRQ(left, w, child)
		ADDQ(base, child)
		BEXTRQ(column, w, asked)
		CMPL(w.As32(), Mem{Base: columns, Index: asked, Scale: 8})
		MOVQ(Mem{Base: nodes, Index: child, Scale: 8}, w)
		CMOVQCS(Mem{Base: nodes, Index: child, Scale: 8, Disp: 8}, w)
		BEXTRQ(left, w, child)
		ADDQ(base, child)
		PREFETCHT0(Mem{Base: nodes, Index: child, Scale: 8})
		MOVQ(w, Mem{Base: to, Index: tree, Scale: 8})
	}
	// list adds a tree to the list unless its word is a leaf, which the highest bit tells.
	list := func(tree GPPhysical) {
		MOVL(tree.As32(), Mem{Base: live, Index: next, Scale: 4})
		INCQ(next)
		SHRQ(Imm(63), w)
		SUBQ(w, next)
	}

	Label("all")
	XORL(i.As32(), i.As32())
	Label("each")
	step(i)
	INCQ(i)
	CMPQ(i, n)
	JB(LabelRef("each"))
	DECQ(steps)
	JGT(LabelRef("all"))

	XORL(i.As32(), i.As32())
	XORL(next.As32(), next.As32())
	Label("list")
	MOVQ(Mem{Base: to, Index: i, Scale: 8}, w)
	list(i)
	INCQ(i)
	CMPQ(i, n)
	JB(LabelRef("list"))
	JMP(LabelRef("look"))

	Label("pass")
	XORL(i.As32(), i.As32())
	XORL(next.As32(), next.As32())
	Label("tree")
	MOVL(Mem{Base: live, Index: i, Scale: 4}, tree.As32())
	step(tree)
	list(tree)
	INCQ(i)
	CMPQ(i, n)
	JB(LabelRef("tree"))
	Label("look")
	MOVQ(next, n)
	TESTQ(n, n)
	JNZ(LabelRef("pass"))
	RET()
}
