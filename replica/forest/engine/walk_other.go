//go:build !amd64 || purego

package engine

func (level) walkRows(tree []word, f *form, columns []uint32, from []word, move int, to []word, steps int, _ []word) {
	goWalkRows(tree, f, columns, from, move, to, steps)
}

func (level) walkTrees(nodes []word, f *form, lane []uint32, trees []laneTree, to []word) {
	goWalkTrees(nodes, f, lane, trees, to)
}
