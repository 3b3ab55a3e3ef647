package engine

import (
	"math/bits"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// costs are what the steps of kernels take at a level, in nanoseconds on the processor of docs/performance.md. Only
// their ratios matter. BenchmarkSteps measures them again.
type costs struct {
	piece  float64 // of a block: to rank its rows
	ask    float64 // of a block: one question
	split  float64 // of a block: one split of a heap
	gate   float64 // of a block: one gate of a circuit
	add32  float64 // of a block: to look up and add the leaves of one tree, of up to 64 leaves
	add64  float64 // the same in float64
	large  float64 // times that, for more leaves
	output float64 // to write one margin
}

var costOf = [...]costs{
	levelGo:     {piece: 320, ask: 0.45, split: 0.7, gate: 1.2, add32: 30, add64: 32, large: 1.3, output: 2},
	levelAVX2:   {piece: 1300, ask: 1, split: 0.4, gate: 1.2, add32: 110, add64: 130, large: 1.3, output: 2},
	levelAVX512: {piece: 75, ask: 1.8, split: 0.6, gate: 1.6, add32: 300, add64: 300, large: 1, output: 2},
	levelVBMI:   {piece: 75, ask: 1.8, split: 0.6, gate: 1.6, add32: 18, add64: 42, large: 1.8, output: 2},
}

// The costs of steps that are not those of blocks: what makes them agree with `coppice bench` of whole models.
const (
	sumCost = 0.3 // an estimate: to begin the sum of a row of a block, whether it is there or not

	scalarStep = 4.5 // of a walk on canonical nodes
	plainStep  = 3

	laneColumnCost  = 3.5 // to work out a column of one of many rows
	laneStep        = 0.4 // of one of many walks, in assembly
	goLaneStep      = 1   // and in Go
	laneAdd         = 0.5 // to add what a leaf gives
	aloneColumnCost = 8   // the same for a row alone
	aloneStep       = 1.3

	permutePiece = 4    // to rank a value
	permuteHeap  = 1.7  // to evaluate a tree that is a heap for one row
	permuteHeaps = 0.85 // and for one of several
	permuteBlock = 2.6  // a tree that is a block
	permuteDeep  = 12   // to go on with a tree that is more

	narrowPiece = 100 // to rank 64 rows
	narrowAsk   = 0.9 // to answer a question for them
	narrowGroup = 230 // to evaluate eight trees of 64 rows
)

// meanSteps is about how many splits a row passes in all trees: in a tree whose leaves are reached about as often.
func meanSteps(f *model.Forest) float64 {
	n := 0.0
	for t := range f.NumTrees() {
		splits := int(f.Trees[t+1].Split - f.Trees[t].Split)
		n += 1.2 * float64(bits.Len(uint(splits)))
	}
	return n
}
