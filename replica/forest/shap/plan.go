package shap

import (
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// tables is the number of tables before those of the splits that ask for a feature again: that of the others, and one
// of zeros, which is above a root.
const tables = 2

// maxPoints is the number of points that a pass takes at most. Trees that need more are gone through several times.
const maxPoints = 8

// node is a split in the order in which a pass comes to it, preorder. Assembly reads it, too: see engine/asm/shap.
type node struct {
	z           float64 // what of the parent's cover is this node's; 1 for a root
	left, right float64 // what of this node's cover is its children's

	table  uint32    // where its τ and κ begin among the tables, in bytes
	above  uint32    // its parent's
	phi    uint32    // where the accumulators of its feature are, in bytes
	slot   uint32    // where its products begin among the slots, in bytes; its parent's are those before
	same   uint32    // the nearest node above with the same feature, counted from 1; 0: there is none
	parent uint32    // counted from 1; 0: there is none
	leaf   [2]uint32 // the children that are leaves, in bytes among the values
	// exits is how many splits are complete after this one, if its children are leaves: itself, its parent, and so on.
	// It stands above two bits that say whether the left and the right child are leaves.
	exits    uint16
	sameSide uint8 // 255 when the node is to the right of same
	side     uint8 // 255 when it is its parent's right child
}

// The bits of exits.
const (
	leftLeaf  = 1 << 0
	rightLeaf = 1 << 1
	oneExit   = 1 << 2

	onRight = 0xff
)

// nodeBytes is the size of a node.
const nodeBytes = 64

// lanes is the number of rows that a pass takes together.
const lanes = engine.QuestionRows

// tree is one tree of a plan.
type tree struct {
	first, end int // its splits, in nodes
	values     int // its first leaf, in values, for its first output
	leaves     int
	out        int // the first output that it adds to
	points     int // of each pass
	passes     int
	// repeats has, for each split that asks for a feature again, what of the cover the steps of that feature above it
	// have left.
	repeats []float64
}

// sizes are numbers of things for which scratch needs room.
type sizes struct{ nodes, tables, slots int }

// rule is a quadrature rule on [0, 1].
type rule struct{ at, weights []float64 }

// plan is a forest as passes go through it.
type plan struct {
	f         *model.Forest
	questions *engine.Questions // nil: GoesLeft answers
	features  []uint32          // those that splits ask for, by the number of their accumulators
	trees     []tree
	nodes     []node
	asks      []asked // of the nodes
	splits    []model.Split
	values    []float64       // of the leaves of a tree for its first output, then for the next one
	base      []float64       // what each output is on average
	rules     map[int]rule    // by the number of points
	mirror    bool            // the two values of each leaf add up to 1
	most      sizes           // of all trees
	code      engine.ShapCode // empty: the code is Go
}

// asked is a split's question.
type asked struct{ at, key int32 }

func newPlan(f *model.Forest) *plan {
	p := &plan{f: f, rules: map[int]rule{}, questions: engine.NewQuestions(f), base: make([]float64, f.Outputs)}
	p.splits = f.Splits[f.Trees[0].Split:f.Trees[f.NumTrees()].Split]
	p.nodes = make([]node, 0, len(p.splits))
	if codes := engine.ShapCodes(); len(codes) > 0 {
		p.code = codes[0]
	}
	p.mirror = f.Width == 2 && mirrored(f)
	copy(p.base, f.Base)
	slots := map[int]uint32{}
	for _, s := range p.splits {
		if _, ok := slots[s.Feature()]; !ok {
			slots[s.Feature()] = uint32(len(p.features))
			p.features = append(p.features, uint32(s.Feature()))
		}
		var a asked
		if p.questions != nil {
			a.at, a.key = p.questions.Of(s)
		}
		p.asks = append(p.asks, a)
	}
	g := &grower{plan: p, slots: slots, latest: make([]int, len(p.features))}
	for t := range f.NumTrees() {
		g.tree(t)
	}
	if f.Average {
		for o := range p.base {
			p.base[o] /= float64(f.NumRounds())
		}
	}
	return p
}

// mirrored tells whether the second value of every leaf is what the first lacks to 1, as in a forest of two classes.
func mirrored(f *model.Forest) bool {
	const near = 1e-12
	for row := range f.Rows() {
		if d := value(f, row, 0) + value(f, row, 1) - 1; !(d > -near && d < near) {
			return false
		}
	}
	return true
}

// value is an output's value in a row of leaf values.
func value(f *model.Forest, row, output int) float64 {
	if f.Single {
		return float64(f.Values32[row*f.Width+output])
	}
	return f.Values[row*f.Width+output]
}
