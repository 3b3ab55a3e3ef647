package shap

import (
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// grower lays out trees.
type grower struct {
	*plan
	slots  map[int]uint32 // accumulators by feature
	path   []edge         // to the node that is laid out
	known  int            // features of the path
	latest []int          // by accumulator: the last edge of the path that is of its feature, counted from 1
	ends   []uint32
	mean   []float64
}

// edge is a step down from a split.
type edge struct {
	phi    uint32  // the accumulator of its feature
	node   uint32  // the split, counted from the tree's first
	side   uint8   // onRight when the step is to the right
	z      float64 // what all steps of this feature up to this one have left of the cover
	before int     // the edge of this feature before it, counted from 1; 0: there is none
}

// part is a subtree that is still to be laid out.
type part struct {
	k, l, end uint32 // as package model has it
	depth     int
	parent    uint32
	side      uint8 // of the parent
}

// ratio is what of a cover is another's. What no sample reached has no share in anything.
func ratio(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return part / whole
}

// tree lays out a tree.
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
	depth, distinct := g.lay(&t, splits, int(from.Split+from.Leaf))
	g.exits(&t, splits)
	for o, mean := range g.means(&t, splits) {
		g.base[t.out+o] += mean
	}
	n := (distinct + 1) / 2
	t.passes = (n + maxPoints - 1) / maxPoints
	t.points = (n + t.passes - 1) / t.passes
	if all := t.points * t.passes; g.rules[all].at == nil {
		at, weights := points(all)
		g.rules[all] = rule{at, weights}
	}
	for i := t.first; i < t.end; i++ { // from numbers to places
		n := &g.nodes[i]
		n.table *= uint32(2 * t.points * 8)
		n.above *= uint32(2 * t.points * 8)
		n.slot *= uint32(t.points * lanes * 8)
		n.phi *= lanes * 8
		n.leaf[0] *= 8
		n.leaf[1] *= 8
	}
	g.most.nodes = max(g.most.nodes, len(splits))
	g.most.tables = max(g.most.tables, (tables+len(t.repeats))*2*t.points)
	g.most.slots = max(g.most.slots, (depth+1)*t.points*lanes)
	g.trees = append(g.trees, t)
}

// lay makes the nodes of a tree, in one pass over its splits in preorder. It gives the number of splits on the longest
// path, and the largest number of features of a path, which is taken for 1 if it is 0.
func (g *grower) lay(t *tree, splits []model.Split, covers int) (depth, distinct int) {
	distinct = 1
	if len(splits) == 0 {
		return 0, distinct
	}
	g.path, g.known = g.path[:0], 0
	waiting := []part{{end: uint32(len(splits))}} // the subtrees that are still to be laid out, the next one last
	for len(waiting) > 0 {
		at := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		s := splits[at.k]
		n := node{z: 1, slot: uint32(at.depth + 1), phi: g.slots[s.Feature()], above: 1}
		if at.depth > 0 {
			for len(g.path) >= at.depth {
				g.pop()
			}
			g.push(t, at, &n)
		}
		if i := g.latest[n.phi]; i > 0 {
			e := &g.path[i-1]
			n.same, n.table, n.sameSide = e.node+1, tables+uint32(len(t.repeats)), e.side
			t.repeats = append(t.repeats, e.z)
		} else {
			distinct = max(distinct, g.known+1)
		}
		depth = max(depth, at.depth+1)
		left := part{at.k + 1, at.l, s.Right, at.depth + 1, at.k, 0}
		right := part{s.Right, at.l + s.Right - at.k, at.end, at.depth + 1, at.k, onRight}
		cover := func(p part) float64 { return g.f.Cover(covers + int(p.k+p.l)) }
		n.left, n.right = ratio(cover(left), cover(at)), ratio(cover(right), cover(at))
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
		g.nodes = append(g.nodes, n)
	}
	for len(g.path) > 0 {
		g.pop()
	}
	return depth, distinct
}

// push adds the step from a node's parent to the path, and notes in the node what it has from there.
func (g *grower) push(t *tree, at part, n *node) {
	parent := &g.nodes[t.first+int(at.parent)]
	n.parent, n.above, n.side, n.z = at.parent+1, parent.table, at.side, parent.left
	if at.side == onRight {
		n.z = parent.right
	}
	e := edge{phi: parent.phi, node: at.parent, side: at.side, z: n.z, before: g.latest[parent.phi]}
	if e.before == 0 {
		g.known++
	} else {
		e.z *= t.repeats[parent.table-tables]
	}
	g.path = append(g.path, e)
	g.latest[e.phi] = len(g.path)
}

// pop takes the last step of the path back.
func (g *grower) pop() {
	last := g.path[len(g.path)-1]
	g.path = g.path[:len(g.path)-1]
	g.latest[last.phi] = last.before
	if last.before == 0 {
		g.known--
	}
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
