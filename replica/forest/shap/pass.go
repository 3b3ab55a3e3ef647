package shap

import "math"

// pass is what one pass of a tree over the rows of some lanes reads and writes.
type pass struct {
	nodes  []node
	points int
	masks  []byte    // of no node and then of each: the lanes whose row goes left
	met    []byte    // the same: the lanes whose row meets all that the path asks of the node's feature
	tables []float64 // of each table: τ of each point, then κ
	c, t   []float64 // slots of C, of lanes values a point, and two of T for each of them
	phi    []float64 // accumulators of lanes values
	values []float64 // of the leaves
}

// run is a pass in Go, for the first lanes. That in assembly gives the same bits.
func (p *pass) run(rows int) {
	for k := range p.nodes {
		p.enter(k, rows)
		for i, n := k, p.nodes[k].exits; n > 0; n-- {
			p.exit(i, rows)
			i = int(p.nodes[i].parent) - 1
		}
	}
}

// enter finds the products with which the subtrees of a split begin.
func (p *pass) enter(k, rows int) {
	n := &p.nodes[k]
	p.met[k+1] = p.met[n.same] & (p.masks[n.same] ^ side(n.flags, sameRight))
	above := p.met[n.parent]
	here := above & (p.masks[n.parent] ^ side(n.flags, isRight))
	tau := p.tables[n.above/8:]
	c := p.c[n.slot/8:]
	parent := p.c[int(n.slot)/8-p.points*lanes:]
	for lane := range rows {
		for q := range p.points {
			was, x, gain := parent[q*lanes+lane], 0.0, 0.0
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
	met, left := p.met[k+1], p.masks[k+1]
	tau := p.tables[n.table/8:]
	kappa := tau[p.points:]
	c := p.c[n.slot/8:]
	slot := p.points * lanes
	t := p.t[2*n.slot/8:]
	l, r := t[2*slot:], t[3*slot:]
	if n.flags&isRight != 0 {
		t = t[slot:]
	}
	for lane := range rows {
		sum := 0.0
		for q := range p.points {
			at := q*lanes + lane
			var below [2]float64
			if n.flags&leftLeaf != 0 {
				below[0] = p.values[n.leaf[0]/8]
			} else {
				below[0] = l[at]
			}
			if n.flags&rightLeaf != 0 {
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

// side is all lanes when a flag says that they are those that do not go left.
func side(flags, flag uint32) byte {
	if flags&flag != 0 {
		return 0xff
	}
	return 0
}
