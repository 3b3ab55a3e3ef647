//go:build !purego

package engine

import (
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/engine/internal/simd"
)

// walkRows takes rows down a tree, as goWalkRows says, and fetches the words of the next tree into the cache meanwhile.
func (l level) walkRows(tree []word, f *form, columns []uint32, from []word, move int, to []word, steps int, ahead []word) {
	if l < levelAVX2 || len(to) == 0 {
		goWalkRows(tree, f, columns, from, move, to, steps)
		return
	}
	groups := len(to) / laneCount
	lines := min((len(ahead)/8+groups-1)/groups, maxAhead)
	simd.WalkRows(first64(tree), f.column.control(), f.left.control(), unsafe.SliceData(columns), uint64(4*f.group),
		first64(from), uint64(8*move), first64(to), uint64(groups), uint64(steps), first64(ahead), uint64(lines))
}

// walkTrees takes a row down at most laneTrees trees, as goWalkTrees says.
func (l level) walkTrees(nodes []word, f *form, lane []uint32, trees []laneTree, to []word) {
	if l < levelAVX2 || len(to) == 0 {
		goWalkTrees(nodes, f, lane, trees, to)
		return
	}
	var live [laneTrees]uint32
	simd.WalkTrees(first64(nodes), f.column.control(), f.left.control(), unsafe.SliceData(lane),
		(*uint64)(unsafe.Pointer(unsafe.SliceData(trees))), uint64(len(to)), first64(to), uint64(trees[0].steps), &live[0])
}

func first64(w []word) *uint64 { return (*uint64)(unsafe.SliceData(w)) }
