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
	at := int(n.slot) / 8
	for q := range p.points {
		before, c := values(p.c, at-(p.points-q)*lanes), values(p.c, at+q*lanes)
		for lane := range uint(rows) & (2*lanes - 1) {
			was, x := before[lane%lanes], keep(tau[q], above>>lane)
			gain := keep(was*x, here>>lane)
			c[lane%lanes] = math.FMA(n.z, math.FMA(-was, x, was), gain)
		}
	}
}

// values are those of all lanes from a place on.
func values(s []float64, at int) *[lanes]float64 { return (*[lanes]float64)(s[at : at+lanes]) }

// choose is a if the lowest bit is set, and else b.
func choose(a, b float64, bits uint8) float64 {
	x, y := math.Float64bits(a), math.Float64bits(b)
	return math.Float64frombits(y ^ (x^y)&-uint64(bits&1))
}

// keep is a number if the lowest bit is set, and else 0, without a jump: which it is cannot be foreseen.
func keep(v float64, bits uint8) float64 {
	return math.Float64frombits(math.Float64bits(v) & -uint64(bits&1))
}

// exit adds what a split gives to its feature, and completes the split, whose subtrees are complete.
func (p *pass) exit(k, rows int) {
	n := &p.nodes[k]
	met, left := p.lanes[k+1].met, p.lanes[k+1].left
	tau := p.tables[n.table/8:]
	kappa := tau[p.points:]
	slot := p.points * lanes
	at := 2 * int(n.slot) / 8
	to := at
	if n.side == onRight {
		to += slot
	}
	var below [2]*[lanes]float64
	var leaf [2][lanes]float64
	for child := range below {
		if n.exits>>child&1 != 0 {
			for lane := range leaf[child] {
				leaf[child][lane] = p.values[n.leaf[child]/8]
			}
			below[child] = &leaf[child]
		}
	}
	var sum [lanes]float64
	for q := range p.points {
		l, r := below[0], below[1]
		if l == nil {
			l = values(p.t, at+2*slot+q*lanes)
		}
		if r == nil {
			r = values(p.t, at+3*slot+q*lanes)
		}
		c, t := values(p.c, int(n.slot)/8+q*lanes), values(p.t, to+q*lanes)
		for lane := range uint(rows) & (2*lanes - 1) {
			i := lane % lanes
			mean := math.FMA(n.right, r[i], n.left*l[i])
			gain := choose(l[i], r[i], left>>lane) - mean
			sum[i] = math.FMA(c[i]*keep(kappa[q], met>>lane), gain, sum[i])
			t[i] = math.FMA(keep(tau[q], met>>lane), gain, mean)
		}
	}
	phi := values(p.phi, int(n.phi)/8)
	for lane := range uint(rows) & (2*lanes - 1) {
		phi[lane%lanes] += sum[lane%lanes]
	}
}
