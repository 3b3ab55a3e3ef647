package shap

import (
	"math"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
)

// pass is what one pass of a tree over the rows of some lanes reads and writes.
type pass struct {
	nodes  []node
	points int
	fast   engine.ShapPass // nil: in Go
	lanes  []laneBits      // of no node, which all rows meet, and then of each
	tables []float64       // of each table: τ of each point, then κ
	c, t   []float64       // slots of C, of lanes values a point, and two of T for each of them
	phi    []float64       // accumulators of lanes values
	values []float64       // of the leaves
}

// laneBits are the rows, a bit each, that go left at a node, and those that meet all that the path to it asks of its
// feature.
type laneBits struct{ left, met uint8 }

// run is a pass, for the first lanes. In assembly it is one for all, with the same bits.
func (p *pass) run(rows int) {
	if p.fast != nil && len(p.nodes) > 0 {
		p.fast((*byte)(unsafe.Pointer(&p.nodes[0])), len(p.nodes), (*byte)(unsafe.Pointer(&p.lanes[0])), &p.tables[0], &p.c[0], &p.t[0], &p.phi[0], &p.values[0])
		return
	}
	for k := range p.nodes {
		p.enter(k, rows)
		for i, n := k, p.nodes[k].exits; n >= oneExit; n -= oneExit {
			p.exit(i, rows)
			i = int(p.nodes[i].parent) - 1
		}
	}
}

// enter finds the products with which the subtrees of a split begin.
func (p *pass) enter(k, rows int) {
	n := &p.nodes[k]
	same, parent := p.lanes[n.same], p.lanes[n.parent]
	p.lanes[k+1].met = same.met & (same.left ^ n.sameSide)
	above := parent.met
	here := above & (parent.left ^ n.side)
	tau := p.tables[n.above/8:]
	c := p.c[n.slot/8:]
	before := p.c[int(n.slot)/8-p.points*lanes:]
	for lane := range rows {
		for q := range p.points {
			was, x, gain := before[q*lanes+lane], 0.0, 0.0
			if above>>lane&1 != 0 {
				x = tau[q]
			}
			if here>>lane&1 != 0 {
				gain = was * x
			}
			c[q*lanes+lane] = math.FMA(n.z, math.FMA(-was, x, was), gain)
		}
	}
}

// exit adds what a split gives to its feature, and completes the split, whose subtrees are complete.
func (p *pass) exit(k, rows int) {
	n := &p.nodes[k]
	met, left := p.lanes[k+1].met, p.lanes[k+1].left
	tau := p.tables[n.table/8:]
	kappa := tau[p.points:]
	c := p.c[n.slot/8:]
	slot := p.points * lanes
	t := p.t[2*n.slot/8:]
	l, r := t[2*slot:], t[3*slot:]
	if n.side == onRight {
		t = t[slot:]
	}
	for lane := range rows {
		sum := 0.0
		for q := range p.points {
			at := q*lanes + lane
			var below [2]float64
			if n.exits&leftLeaf != 0 {
				below[0] = p.values[n.leaf[0]/8]
			} else {
				below[0] = l[at]
			}
			if n.exits&rightLeaf != 0 {
				below[1] = p.values[n.leaf[1]/8]
			} else {
				below[1] = r[at]
			}
			mean := math.FMA(n.right, below[1], n.left*below[0])
			hot := below[^left>>lane&1]
			x, y := 0.0, 0.0
			if met>>lane&1 != 0 {
				x, y = tau[q], kappa[q]
			}
			gain := hot - mean
			sum = math.FMA(c[at]*y, gain, sum)
			t[at] = math.FMA(x, gain, mean)
		}
		p.phi[int(n.phi)/8+lane] += sum
	}
}
