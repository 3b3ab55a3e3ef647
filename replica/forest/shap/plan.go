package shap

import (
	"slices"

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

// grower lays out trees.
type grower struct {
	*plan
	slots  map[int]uint32 // accumulators by feature
	path   []edge         // to the node that is laid out
	latest []int          // by accumulator: the last edge of the path that is of its feature, counted from 1
	ends   []uint32
	mean   []float64
}

// edge is a step down from a split.
type edge struct {
	phi    uint32  // the accumulator of its feature
	node   uint32  // the split, counted from the tree's first
	right  bool    // the step is to the right
	z      float64 // what all steps of this feature up to this one have left of the cover
	before int     // the edge of this feature before it, counted from 1; 0: there is none
}

// part is a subtree that is still to be laid out.
type part struct {
	k, l, end uint32 // as package model has it
	depth     int
	parent    uint32
	right     bool
}

// ratio is what of a cover is another's. What no sample reached has no share in anything.
func ratio(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return part / whole
}

// tree lays out a tree, in one pass over its splits in preorder.
func (g *grower) tree(number int) {
	f := g.f
	from, to := f.Trees[number], f.Trees[number+1]
	splits := f.Splits[from.Split:to.Split]
	t := tree{first: len(g.nodes), end: len(g.nodes) + len(splits), values: len(g.values), leaves: int(to.Leaf - from.Leaf)}
	if f.First != nil {
		t.out = int(f.First[number])
	}
	for o := range f.Width {
		for leaf := from.Leaf; leaf < to.Leaf; leaf++ {
			g.values = append(g.values, value(f, f.Row(int(leaf)), o))
		}
	}
	cover := func(k, l uint32) float64 { return f.Cover(int(from.Split + from.Leaf + k + l)) }
	distinct, most, depth := 0, 1, 0
	var waiting []part
	if len(splits) > 0 {
		waiting = append(waiting, part{end: uint32(len(splits))})
	}
	for len(waiting) > 0 {
		at := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		for len(g.path) > 0 && len(g.path) >= at.depth {
			distinct -= g.pop()
		}
		k := at.k
		s := splits[k]
		n := node{z: 1, slot: uint32(at.depth + 1), phi: g.slots[s.Feature()]}
		if at.depth > 0 {
			parent := &g.nodes[t.first+int(at.parent)]
			n.parent, n.above, n.z = at.parent+1, parent.table, parent.left
			if at.right {
				n.side = onRight
				n.z = parent.right
			}
			up := edge{phi: parent.phi, node: at.parent, right: at.right, z: n.z, before: g.latest[parent.phi]}
			if up.before == 0 {
				distinct++
			} else {
				up.z *= t.repeats[parent.table-tables]
			}
			g.path = append(g.path, up)
			g.latest[up.phi] = len(g.path)
		} else {
			n.above = 1 // nothing is above
		}
		if i := g.latest[n.phi]; i > 0 {
			e := &g.path[i-1]
			n.same, n.table = e.node+1, tables+uint32(len(t.repeats))
			if e.right {
				n.sameSide = onRight
			}
			t.repeats = append(t.repeats, e.z)
		} else {
			most = max(most, distinct+1)
		}
		whole := cover(k, at.l)
		left, right := part{k + 1, at.l, s.Right, at.depth + 1, k, false}, part{s.Right, at.l + s.Right - k, at.end, at.depth + 1, k, true}
		n.left, n.right = ratio(cover(left.k, left.l), whole), ratio(cover(right.k, right.l), whole)
		if right.k == right.end {
			n.exits |= rightLeaf
			n.leaf[1] = right.l
		} else {
			waiting = append(waiting, right)
		}
		if left.k == left.end {
			n.exits |= leftLeaf
			n.leaf[0] = left.l
		} else {
			waiting = append(waiting, left)
		}
		depth = max(depth, at.depth)
		g.nodes = append(g.nodes, n)
	}
	for len(g.path) > 0 {
		g.pop()
	}
	g.exits(&t, splits)
	n := (most + 1) / 2
	t.passes = (n + maxPoints - 1) / maxPoints
	t.points = (n + t.passes - 1) / t.passes
	if all := t.points * t.passes; g.rules[all].at == nil {
		at, weights := points(all)
		g.rules[all] = rule{at, weights}
	}
	for o, mean := range g.means(&t, splits) {
		g.base[t.out+o] += mean
	}
	for i := t.first; i < t.end; i++ {
		n := &g.nodes[i]
		n.table *= uint32(2 * t.points * 8)
		n.above *= uint32(2 * t.points * 8)
		n.slot *= uint32(t.points * lanes * 8)
		n.phi *= lanes * 8
		n.leaf[0], n.leaf[1] = n.leaf[0]*8, n.leaf[1]*8
	}
	g.most.nodes = max(g.most.nodes, len(splits))
	g.most.tables = max(g.most.tables, (tables+len(t.repeats))*2*t.points)
	g.most.slots = max(g.most.slots, (depth+2)*t.points*lanes)
	g.trees = append(g.trees, t)
}

// pop takes the last step of the path back, and gives how many features that leaves fewer.
func (g *grower) pop() int {
	last := g.path[len(g.path)-1]
	g.path = g.path[:len(g.path)-1]
	g.latest[last.phi] = last.before
	if last.before == 0 {
		return 1
	}
	return 0
}

// exits finds which splits are complete after which node: of the last node of a subtree, the subtree's root.
func (g *grower) exits(t *tree, splits []model.Split) {
	if len(splits) == 0 {
		return
	}
	g.ends = slices.Grow(g.ends[:0], len(splits))[:len(splits)]
	ends := g.ends // of each subtree, from the parents' down
	ends[0] = uint32(len(splits))
	for k := range splits {
		if right := splits[k].Right; right > uint32(k)+1 {
			ends[k+1] = right
		}
		if right := splits[k].Right; right < ends[k] {
			ends[right] = ends[k]
		}
		g.nodes[t.first+int(ends[k])-1].exits += oneExit
	}
}

// means is what a tree gives on average, for each value of its leaves.
func (g *grower) means(t *tree, splits []model.Split) []float64 {
	out := make([]float64, g.f.Width)
	if t.first == t.end {
		copy(out, g.values[t.values:])
		return out
	}
	g.mean = slices.Grow(g.mean[:0], len(splits))[:len(splits)]
	mean := g.mean
	for o := range out {
		values := g.values[t.values+o*t.leaves:]
		of := func(leaf bool, l, k uint32) float64 {
			if leaf {
				return values[l]
			}
			return mean[k]
		}
		for k := len(splits) - 1; k >= 0; k-- { // children before their parents
			n := &g.nodes[t.first+k]
			left := of(n.exits&leftLeaf != 0, n.leaf[0], uint32(k)+1)
			right := of(n.exits&rightLeaf != 0, n.leaf[1], splits[k].Right)
			mean[k] = float64(n.left*left) + float64(n.right*right)
		}
		out[o] = mean[0]
	}
	return out
}
