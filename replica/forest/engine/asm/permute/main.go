// Command permute generates the loops of the engine's kernel permute: a row's ranks stand in registers, and one
// permutation brings to every split of a block of a tree the rank that it asks for.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The predicates of comparisons.
const (
	lessOrEqual = 2
	unordered   = 3
	greater     = 6
)

func main() {
	ConstraintExpr("!purego")
	columns()
	columnsWide()
	ranks("PermuteRanks", "int32", 4, false,
		"PermuteRanks writes n ranks. A piece is a column, the number of levels, which is 2, and where each begins: on the",
		"last level all keys stand, and on the one above, right before it, the last of each 16, each filled up by sixteens",
		"with the largest number to more than there are.")
	ranks("PermuteRanksWide", "int64", 8, false, "PermuteRanksWide is PermuteRanks for int64.")
	ranks("PermuteWordRanks", "int32", 4, true, "PermuteWordRanks is PermuteRanks for up to 4 levels, which may lie anywhere.")
	ranks("PermuteWordRanksWide", "int64", 8, true, "PermuteWordRanksWide is PermuteWordRanks for int64.")
	heap, root, words := together{"[128]byte", 1, 64}, together{"byte", 1, 32}, together{"byte", 2, 32}
	answers("PermuteHeaps", heap, 1, "PermuteHeaps writes for n heaps who goes right: bit i is that of split i. A heap has the pieces of "+
		"64 splits and then their keys.")
	answers("PermuteHeapRows", heap, 8, "PermuteHeapRows is PermuteHeaps for 8 rows: 8 masks a heap.")
	answers("PermuteRoots", root, 1, "PermuteRoots is PermuteHeaps for 32 splits.")
	answers("PermuteRootRows", root, 8, "PermuteRootRows is PermuteHeapRows for 32 splits.")
	answers("PermuteWordRoots", words, 1, "PermuteWordRoots is PermuteRoots for pieces and keys of 2 bytes.")
	answers("PermuteWordRootRows", words, 8, "PermuteWordRootRows is PermuteRootRows for pieces and keys of 2 bytes.")
	heapLeaves("PermuteHeapLeaves", "permuteHeaps", 64,
		"PermuteHeapLeaves walks down n heaps of 6 levels by their masks and writes 64 times the number of the heap and the",
		"number of its leaf. Both slices have room for a multiple of 32.")
	heapLeaves("PermuteHeapLeafRows", "permuteRows", 0,
		"PermuteHeapLeafRows is PermuteHeapLeaves for 8 rows, with room for a multiple of 4 heaps.")
	blocks("PermuteBlocks", 1,
		"PermuteBlocks writes for n blocks who goes right, their shapes and the numbers of their first exits. A block has",
		"its shape, its first exit, the number of its splits, 3 bytes of nothing, the splits' pieces and then their keys;",
		"behind the last one 128 bytes can be read.")
	blocks("PermuteWordBlocks", 2, "PermuteWordBlocks is PermuteBlocks for pieces and keys of 2 bytes.")
	blockExits("PermuteBlockExits", false,
		"PermuteBlockExits walks down n blocks by their masks and writes their bases plus the numbers of their exits. All",
		"slices have room for a multiple of 32.")
	blockExits("PermuteBlockExitRows", true,
		"PermuteBlockExitRows is PermuteBlockExits for 8 rows, with room for a multiple of 4 blocks.")
	Generate()
}

// loop repeats body until count, which it brings down by step, is 0 or less.
func loop(name string, count reg.GPVirtual, step int, body func()) {
	CMPQ(count, U8(0))
	JLE(LabelRef(name + "_done"))
	Label(name)
	body()
	SUBQ(U8(step), count)
	JG(LabelRef(name))
	Label(name + "_done")
}

// all32 has a number in all lanes.
func all32(v uint32) reg.VecVirtual {
	r, z := GP32(), ZMM()
	MOVL(U32(v), r)
	VPBROADCASTD(r, z)
	return z
}

func all64(v uint64) reg.VecVirtual {
	r, z := GP64(), ZMM()
	MOVQ(U64(v), r)
	VPBROADCASTQ(r, z)
	return z
}

// copies copies the values that columns look at, n of a size. A gather would take longer.
func copies(name string, size int, dst, row, feature reg.Register, n reg.GPVirtual) {
	i, at := GP64(), GP64()
	XORL(i.As32(), i.As32())
	count := GP64()
	MOVQ(n, count)
	loop(name, count, 1, func() {
		MOVL(Mem{Base: feature, Index: i, Scale: 4}, at.As32())
		if size == 8 {
			MOVQ(Mem{Base: row, Index: at, Scale: 8}, at)
			MOVQ(at, Mem{Base: dst, Index: i, Scale: 8})
		} else {
			MOVL(Mem{Base: row, Index: at, Scale: 4}, at.As32())
			MOVL(at.As32(), Mem{Base: dst, Index: i, Scale: 4})
		}
		INCQ(i)
	})
}

func columns() {
	TEXT("PermuteColumns", NOSPLIT, "func(dst *int32, row *float32, feature *uint32, missing *int32, zero *float32, n int)")
	Doc("PermuteColumns writes, for n columns, the place of a row's value in the order of all float32: missing for NaN",
		"and for what is not farther from 0 than zero. dst, missing and zero have room for a multiple of 16 columns.")
	dst, row := Load(Param("dst"), GP64()), Load(Param("row"), GP64())
	feature, missing := Load(Param("feature"), GP64()), Load(Param("missing"), GP64())
	zero, n := Load(Param("zero"), GP64()), Load(Param("n"), GP64()).(reg.GPVirtual)
	copies("copies", 4, dst, row, feature, n)
	positive, zeros := all32(1<<31-1), ZMM()
	VPXORD(zeros, zeros, zeros)
	loop("columns", n, 16, func() {
		v, absolute, nan, near, flip := ZMM(), ZMM(), K(), K(), ZMM()
		VADDPS(Mem{Base: dst}, zeros, v) // -0 + 0 is 0
		VPANDD(positive, v, absolute)
		VCMPPS(U8(unordered), v, v, nan)
		VCMPPS(U8(lessOrEqual), Mem{Base: zero}, absolute, near)
		KORW(nan, near, near)
		VPSRAD(U8(31), v, flip)
		VPANDD(positive, flip, flip)
		VPXORD(flip, v, v)
		VMOVDQU32(Mem{Base: missing}, near, v)
		VMOVDQU32(v, Mem{Base: dst})
		for _, p := range []reg.Register{dst, missing, zero} {
			ADDQ(U8(64), p)
		}
	})
	VZEROUPPER()
	RET()
}

func columnsWide() {
	TEXT("PermuteColumnsWide", NOSPLIT, "func(dst *int64, row *float64, feature *uint32, missing *int64, zero *float64, n int)")
	Doc("PermuteColumnsWide is PermuteColumns for float64, with room for a multiple of 8 columns.")
	dst, row := Load(Param("dst"), GP64()), Load(Param("row"), GP64())
	feature, missing := Load(Param("feature"), GP64()), Load(Param("missing"), GP64())
	zero, n := Load(Param("zero"), GP64()), Load(Param("n"), GP64()).(reg.GPVirtual)
	copies("copieswide", 8, dst, row, feature, n)
	positive, zeros := all64(1<<63-1), ZMM()
	VPXORQ(zeros, zeros, zeros)
	loop("columnswide", n, 8, func() {
		v, absolute, nan, near, flip := ZMM(), ZMM(), K(), K(), ZMM()
		VADDPD(Mem{Base: dst}, zeros, v) // -0 + 0 is 0
		VPANDQ(positive, v, absolute)
		VCMPPD(U8(unordered), v, v, nan)
		VCMPPD(U8(lessOrEqual), Mem{Base: zero}, absolute, near)
		KORW(nan, near, near)
		VPSRAQ(U8(63), v, flip)
		VPANDQ(positive, flip, flip)
		VPXORQ(flip, v, v)
		VMOVDQU64(Mem{Base: missing}, near, v)
		VMOVDQU64(v, Mem{Base: dst})
		for _, p := range []reg.Register{dst, missing, zero} {
			ADDQ(U8(64), p)
		}
	})
	VZEROUPPER()
	RET()
}

// ranks generates the search for keys of a size in bytes, of two levels or, for words, of as many as a piece says.
func ranks(name, typ string, size int, words bool, doc ...string) {
	TEXT(name, NOSPLIT, "func(dst *uint16, columns *"+typ+", pieces *[6]uint32, keys *"+typ+", n int)")
	Doc(doc...)
	dst, columns := Load(Param("dst"), GP64()), Load(Param("columns"), GP64())
	pieces, keys := Load(Param("pieces"), GP64()), Load(Param("keys"), GP64())
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	loop(name, n, 1, func() {
		column, v, rank := GP64(), ZMM(), GP64()
		MOVL(Mem{Base: pieces}, column.As32())
		if size == 8 {
			VPBROADCASTQ(Mem{Base: columns, Index: column, Scale: 8}, v)
		} else {
			VPBROADCASTD(Mem{Base: columns, Index: column, Scale: 4}, v)
		}
		// below counts the keys below the column among 16.
		below := func(m Mem) reg.GPVirtual {
			k, count := K(), GP64()
			if size == 8 {
				more := K()
				VPCMPQ(U8(greater), m, v, k)
				VPCMPQ(U8(greater), m.Offset(64), v, more)
				KUNPCKBW(k, more, k)
			} else {
				VPCMPD(U8(greater), m, v, k)
			}
			KMOVW(k, count.As32())
			POPCNTL(count.As32(), count.As32())
			return count
		}
		at := GP64()
		if words {
			levels, level := GP64(), GP64()
			MOVL(Mem{Base: pieces, Disp: 4}, levels.As32())
			LEAQ(Mem{Base: pieces, Disp: 8}, level)
			XORL(rank.As32(), rank.As32())
			Label(name + "_level")
			MOVL(Mem{Base: level}, at.As32())
			SHLL(U8(4), rank.As32())
			ADDQ(rank, at)
			ADDL(below(Mem{Base: keys, Index: at, Scale: uint8(size)}).As32(), rank.As32())
			ADDQ(U8(4), level)
			DECL(levels.As32())
			JNZ(LabelRef(name + "_level"))
		} else {
			MOVL(Mem{Base: pieces, Disp: 8}, at.As32())
			LEAQ(Mem{Base: keys, Index: at, Scale: uint8(size)}, at)
			high := below(Mem{Base: at})
			SHLL(U8(4), high.As32())
			LEAQ(Mem{Base: at, Index: high, Scale: uint8(size)}, at)
			rank = below(Mem{Base: at, Disp: 16 * size})
			ADDL(high.As32(), rank.As32())
		}
		MOVW(rank.As16(), Mem{Base: dst})
		ADDQ(U8(2), dst)
		ADDQ(U8(24), pieces)
	})
	VZEROUPPER()
	RET()
}

// table is the ranks of a row in registers: 128 bytes, or 64 words.
func table(ranks reg.Register, size int) (low, high reg.VecVirtual) {
	low, high = ZMM(), ZMM()
	if size == 2 {
		VMOVDQU16(Mem{Base: ranks}, low)
		VMOVDQU16(Mem{Base: ranks, Disp: 64}, high)
		return low, high
	}
	for i, to := range []reg.VecVirtual{low, high} {
		words, more := ZMM(), ZMM()
		VMOVDQU16(Mem{Base: ranks, Disp: 128 * i}, words)
		VMOVDQU16(Mem{Base: ranks, Disp: 128*i + 64}, more)
		VPMOVWB(words, words.AsY())
		VPMOVWB(more, more.AsY())
		VINSERTI64X4(U8(1), more.AsY(), words, to)
	}
	return low, high
}

// tables are those of several rows.
func tables(ranks reg.Register, size, rows int) (low, high []reg.VecVirtual) {
	for range rows {
		l, h := table(ranks, size)
		low, high = append(low, l), append(high, h)
		ADDQ(U32(256), ranks)
	}
	return low, high
}

// together is what stands together, as simd.PermuteHeaps has it.
type together struct {
	typ    string // of Go
	size   int    // of a piece or a key
	splits int
}

// answers generates the loop that answers splits for some rows.
func answers(name string, of together, rows int, doc ...string) {
	TEXT(name, NOSPLIT, fmt.Sprintf("func(masks *uint64, of *%s, ranks *[%d][128]uint16, n int)", of.typ, rows))
	Doc(doc...)
	masks, at := Load(Param("masks"), GP64()), Load(Param("of"), GP64())
	low, high := tables(Load(Param("ranks"), GP64()), of.size, rows)
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	length := of.size * of.splits
	loop(name, n, 1, func() {
		pieces, keys := ZMM(), Mem{Base: at, Disp: length}
		if length == 32 {
			VMOVDQU8(Mem{Base: at}, pieces.AsY())
		} else {
			VMOVDQU8(Mem{Base: at}, pieces)
		}
		for r := range rows {
			v, k := pieces, K()
			if rows > 1 {
				v = ZMM()
				VMOVDQA64(pieces, v)
			}
			switch {
			case of.size == 2:
				VPERMI2W(high[r], low[r], v)
				VPCMPUW(U8(greater), keys, v, k)
			case length == 32:
				VPERMI2B(high[r], low[r], v)
				VPCMPUB(U8(greater), keys, v.AsY(), k)
			default:
				VPERMI2B(high[r], low[r], v)
				VPCMPUB(U8(greater), keys, v, k)
			}
			KMOVQ(k, Mem{Base: masks, Disp: 8 * r})
		}
		ADDQ(U32(2*length), at)
		ADDQ(U8(8*rows), masks)
	})
	VZEROUPPER()
	RET()
}

// groups is how many registers of 8 walks go together.
const groups = 4

func heapLeaves(name, of string, lane int, doc ...string) {
	TEXT(name, NOSPLIT, "func(slots *uint32, masks *uint64, n int)")
	Doc(doc...)
	slots, masks := Load(Param("slots"), GP64()), Load(Param("masks"), GP64())
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	one, two, next, base := all64(1), all64(2), all64(64), ZMM()
	lanes := GLOBL(of, RODATA|NOPTR)
	for i := range 8 {
		DATA(8*i, I64(lane*i-64))
	}
	VMOVDQU64(lanes, base)
	step := groups
	if lane > 0 {
		VPSLLQ(U8(3), next, next)
		step *= 8
	}
	loop(name, n, step, func() {
		var m, at [groups]reg.VecVirtual
		for g := range groups {
			m[g], at[g] = ZMM(), ZMM()
			VMOVDQU64(Mem{Base: masks, Disp: 64 * g}, m[g])
			VPSRLQ(U8(1), m[g], at[g])
			VPTERNLOGQ(U8(orAnd), two, one, at[g])
		}
		for range 5 {
			for g := range groups {
				bit := ZMM()
				VPSRLVQ(at[g], m[g], bit)
				VPADDQ(at[g], at[g], at[g])
				VPTERNLOGQ(U8(insert), one, bit, at[g])
			}
		}
		for g := range groups {
			VPADDQ(base, at[g], at[g])
			VPADDQ(next, base, base)
			VPMOVQD(at[g], Mem{Base: slots, Disp: 32 * g})
		}
		ADDQ(U32(64*groups), masks)
		SUBQ(I8(-32*groups), slots)
	})
	VZEROUPPER()
	RET()
}

// What VPTERNLOG makes of its third, second and first operand, a, b and c: bit 4a+2b+c of the number is the result.
const (
	insert = 0b11111000 // a or (b and c)
	orAnd  = 0b11101010 // c or (a and b)
)

func blocks(name string, size int, doc ...string) {
	TEXT(name, NOSPLIT, "func(masks, shapes *uint64, bases *uint32, blocks *byte, offsets *uint32, ranks *[1][128]uint16, n int)")
	Doc(doc...)
	masks, shapes := Load(Param("masks"), GP64()), Load(Param("shapes"), GP64())
	bases, blocks := Load(Param("bases"), GP64()), Load(Param("blocks"), GP64())
	offsets := Load(Param("offsets"), GP64())
	low, high := table(Load(Param("ranks"), GP64()), size)
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	i := GP64()
	XORL(i.As32(), i.As32())
	loop(name, n, 1, func() {
		block, shape, base, splits := GP64(), GP64(), GP32(), GP64()
		MOVL(Mem{Base: offsets, Index: i, Scale: 4}, block.As32())
		ADDQ(blocks, block)
		MOVBLZX(Mem{Base: block, Disp: 12}, splits.As32())
		v, k, mask := ZMM(), K(), GP32()
		keys := Mem{Base: block, Index: splits, Scale: uint8(size), Disp: 16}
		if size == 1 {
			VMOVDQU8(Mem{Base: block, Disp: 16}, v.AsY())
			VPERMI2B(high, low, v)
			VPCMPUB(U8(greater), keys, v.AsY(), k)
		} else {
			VMOVDQU16(Mem{Base: block, Disp: 16}, v)
			VPERMI2W(high, low, v)
			VPCMPUW(U8(greater), keys, v, k)
		}
		KMOVD(k, mask)
		MOVQ(mask.As64(), Mem{Base: masks, Index: i, Scale: 8})
		MOVQ(Mem{Base: block}, shape)
		MOVL(Mem{Base: block, Disp: 8}, base)
		MOVQ(shape, Mem{Base: shapes, Index: i, Scale: 8})
		MOVL(base, Mem{Base: bases, Index: i, Scale: 4})
		INCQ(i)
	})
	VZEROUPPER()
	RET()
}

func blockExits(name string, rows bool, doc ...string) {
	TEXT(name, NOSPLIT, "func(slots *uint32, masks, shapes *uint64, bases *uint32, n int)")
	Doc(doc...)
	slots, masks := Load(Param("slots"), GP64()), Load(Param("masks"), GP64())
	shapes, bases := Load(Param("shapes"), GP64()), Load(Param("bases"), GP64())
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	one, last := all64(1), all64(63)
	step := 8 * groups
	if rows {
		step = groups
	}
	loop(name, n, step, func() {
		var m, s, at, rank [groups]reg.VecVirtual
		for g := range groups {
			m[g], s[g], at[g], rank[g] = ZMM(), ZMM(), ZMM(), ZMM()
			VMOVDQU64(Mem{Base: masks, Disp: 64 * g}, m[g])
			if rows {
				VPBROADCASTQ(Mem{Base: shapes, Disp: 8 * g}, s[g])
			} else {
				VMOVDQU64(Mem{Base: shapes, Disp: 64 * g}, s[g])
			}
			VPANDQ(one, m[g], at[g])
		}
		Label(name + "_down")
		var moves [groups]reg.Register
		for g := range groups {
			up, bit := ZMM(), ZMM()
			moves[g] = K()
			VPSUBQ(at[g], last, up)
			VPSLLVQ(up, s[g], up)
			VPMOVQ2M(up, moves[g])
			VPOPCNTQ(up, rank[g])
			VPSRLVQ(rank[g], m[g], bit)
			VPADDQ(rank[g], rank[g], moves[g], at[g])
			VPTERNLOGQ(U8(insert), one, bit, moves[g], at[g])
		}
		KORB(moves[0], moves[1], moves[1])
		KORB(moves[2], moves[3], moves[3])
		KORTESTB(moves[1], moves[3])
		JNE(LabelRef(name + "_down"))
		for g := range groups {
			exit, base := ZMM(), YMM()
			VPSUBQ(rank[g], at[g], exit)
			VPMOVQD(exit, exit.AsY())
			if rows {
				VPBROADCASTD(Mem{Base: bases, Disp: 4 * g}, base)
			} else {
				VMOVDQU(Mem{Base: bases, Disp: 32 * g}, base)
			}
			VPADDD(base, exit.AsY(), base)
			VMOVDQU(base, Mem{Base: slots, Disp: 32 * g})
		}
		ADDQ(U32(64*groups), masks)
		ADDQ(U32(8*step), shapes)
		SUBQ(I8(-4*step), bases)
		SUBQ(I8(-32*groups), slots)
	})
	VZEROUPPER()
	RET()
}
