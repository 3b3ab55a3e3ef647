package engine

import (
	"math/bits"
	"unsafe"
)

// word is a node of a tree as walks read it, 64 bits of which the lowest are first:
//
//	key     32 bits  a split's, or what a leaf gives
//	left             the place of the left child among the words of the tree; the right child is the next. A leaf's own place
//	column           the column of rows that is compared with the key, as laneColumns numbers them
//	leaf     1 bit   it is a leaf
//
// A walk goes from a split to the left when the row's value in the column is <= key, and else to the right. A leaf asks
// a column that is 0 in all rows: a walk that has arrived stays where it is.
type word uint64

const (
	leafBit word = 1 << 63
	// leftFirst is the first bit of the left child.
	leftFirst = 32
)

func (n word) isLeaf() bool { return n&leafBit != 0 }

// key is what a split compares with or a leaf gives.
func (n word) key() uint32 { return uint32(n) }

// bitField are some bits of a word.
type bitField struct {
	first uint8
	mask  uint64 // of as many bits
}

func newBitField(first, n int) bitField { return bitField{uint8(first), 1<<n - 1} }

func (b bitField) of(n word) uint64 { return uint64(n) >> (b.first & 63) & b.mask }

// control is what the instruction BEXTR calls a field.
func (b bitField) control() uint64 { return uint64(b.first) | uint64(bits.Len64(b.mask))<<8 }

const (
	// laneCount is the number of rows whose columns stand together: laneCount values of the first column, then of the
	// second, and so on. They walk together.
	laneCount = 16
	// walkSteps is how many steps are taken before looking again whether all of them have arrived.
	walkSteps = 4
	// maxAhead bounds the cache lines that are fetched for the next tree while laneCount rows walk, which need some hundred.
	maxAhead = 128
)

// goWalkRows is the reference of walkRows: it takes rows, laneCount at a time, from nodes of a tree to leaves. Rows stand in
// columns of a form. The words of the nodes are in from, and those of the leaves are written to to, which may be the
// same; from moves by move words for each laneCount rows, so that with 0 all have the same. As many steps as steps says are
// taken before looking whether rows have arrived.
func goWalkRows(tree []word, f *form, columns []uint32, from []word, move int, to []word, steps int) {
	nodes := unsafe.Pointer(unsafe.SliceData(tree))
	for len(to) > 0 {
		n := *(*[laneCount]word)(from)
		lanes := unsafe.Pointer(unsafe.SliceData(columns))
		for sure := steps; ; sure = walkSteps {
			some := goWalkHalf(nodes, lanes, f, (*[laneCount / 2]word)(n[:]), sure)
			some &= goWalkHalf(nodes, unsafe.Add(lanes, laneCount/2*4), f, (*[laneCount / 2]word)(n[laneCount/2:]), sure)
			if some.isLeaf() {
				break
			}
		}
		*(*[laneCount]word)(to) = n
		columns, from, to = columns[f.group:], from[move:], to[laneCount:]
	}
}

// goWalkHalf takes half of the lanes, for which there are registers, some steps, and gives the bits that all words have.
func goWalkHalf(nodes, lanes unsafe.Pointer, f *form, n *[laneCount / 2]word, steps int) word {
	column, left := f.column, f.left.mask
	n0, n1, n2, n3, n4, n5, n6, n7 := n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]
	for range steps {
		n0 = step(nodes, lanes, column, left, n0)
		n1 = step(nodes, unsafe.Add(lanes, 4), column, left, n1)
		n2 = step(nodes, unsafe.Add(lanes, 8), column, left, n2)
		n3 = step(nodes, unsafe.Add(lanes, 12), column, left, n3)
		n4 = step(nodes, unsafe.Add(lanes, 16), column, left, n4)
		n5 = step(nodes, unsafe.Add(lanes, 20), column, left, n5)
		n6 = step(nodes, unsafe.Add(lanes, 24), column, left, n6)
		n7 = step(nodes, unsafe.Add(lanes, 28), column, left, n7)
	}
	*n = [laneCount / 2]word{n0, n1, n2, n3, n4, n5, n6, n7}
	return n0 & n1 & n2 & n3 & n4 & n5 & n6 & n7
}

// goWalkTrees is the reference of walkTrees: it takes one row, a lane of columns, down several trees. to has the words of their
// roots and then those of the leaves.
func goWalkTrees(nodes []word, f *form, lane []uint32, trees []laneTree, to []word) {
	base, c := unsafe.Pointer(unsafe.SliceData(nodes)), unsafe.Pointer(unsafe.SliceData(lane))
	column, left := f.column, f.left.mask
	// Some trees at a time, for which there are registers.
	const some = 4
	for ; len(to) >= some; trees, to = trees[some:], to[some:] {
		n, t := (*[some]word)(to), (*[some]laneTree)(trees)
		b0, b1 := unsafe.Add(base, uintptr(t[0].base)*8), unsafe.Add(base, uintptr(t[1].base)*8)
		b2, b3 := unsafe.Add(base, uintptr(t[2].base)*8), unsafe.Add(base, uintptr(t[3].base)*8)
		n0, n1, n2, n3 := n[0], n[1], n[2], n[3]
		for !(n0 & n1 & n2 & n3).isLeaf() {
			n0 = step(b0, c, column, left, n0)
			n1 = step(b1, c, column, left, n1)
			n2 = step(b2, c, column, left, n2)
			n3 = step(b3, c, column, left, n3)
		}
		*n = [some]word{n0, n1, n2, n3}
	}
	for i, n := range to {
		b := unsafe.Add(base, uintptr(trees[i].base)*8)
		for !n.isLeaf() {
			n = step(b, c, column, left, n)
		}
		to[i] = n
	}
}

// step is the node after one. Nodes lead to nodes of their tree and ask columns that there are, since newLaneForest laid
// them out. left is the mask of the left child; that its place is known leaves the register for shifts to the column.
func step(nodes, lane unsafe.Pointer, column bitField, left uint64, n word) word {
	right := uint64(0)
	if *(*uint32)(unsafe.Add(lane, column.of(n)*8)) > n.key() {
		right = 1 // which the compiler makes without a jump
	}
	return *(*word)(unsafe.Add(nodes, (uint64(n)>>leftFirst&left+right)*8))
}
