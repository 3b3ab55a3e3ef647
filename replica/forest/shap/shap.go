package shap

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// ErrNone is wrapped by the error about a forest that has no contributions.
var ErrNone = errors.New("no contributions")

// maxSplits is the largest number of splits of a tree: nodes have places of 32 bits.
const maxSplits = 1 << 24

// Explainer works out the contributions of one forest. Its methods may be called by several goroutines at once.
type Explainer struct {
	f       *model.Forest
	once    sync.Once
	plan    *plan
	scratch sync.Pool
}

// New makes the explainer of a valid forest. It does no work before Prepare. The error wraps ErrNone and says why the
// forest has no contributions.
func New(f *model.Forest) (*Explainer, error) {
	switch {
	case f.Linear != nil:
		return nil, fmt.Errorf("%w: its leaves are linear", ErrNone)
	case !f.HasCovers():
		return nil, fmt.Errorf("%w: the covers of its nodes are not known", ErrNone)
	}
	for t := range f.NumTrees() {
		if n := f.Trees[t+1].Split - f.Trees[t].Split; n > maxSplits {
			return nil, fmt.Errorf("%w: tree %d has %d splits, %d are possible", ErrNone, t, n, maxSplits)
		}
	}
	return &Explainer{f: f}, nil
}

// Prepare lays out the forest, some 100 bytes a split; without it the first call of Values does.
func (e *Explainer) Prepare() {
	e.once.Do(func() {
		e.plan = newPlan(e.f)
		e.scratch.New = func() any { return newScratch(e.plan) }
	})
}

// blockBytes bounds the accumulators of the rows that go through a tree before the next one's turn, and blockGroups
// their number, in lanes.
const (
	blockBytes  = 256 << 10
	blockGroups = 32
)

// scratch is what one call needs.
type scratch struct {
	pass
	columns []int32
	sums    []float64 // accumulators of a block
	block   int       // groups of lanes
}

func newScratch(p *plan) *scratch {
	s := &scratch{}
	group := p.outputs() * len(p.features) * lanes * 8
	if p.questions != nil {
		group += p.questions.Stride() * 4
	}
	s.block = max(1, min(blockGroups, blockBytes/max(group, 1)))
	if p.questions != nil {
		s.columns = make([]int32, s.block*p.questions.Stride())
	}
	s.sums = make([]float64, s.block*p.outputs()*len(p.features)*lanes)
	s.lanes = make([]laneBits, p.most.nodes+1)
	s.lanes[0] = laneBits{0xff, 0xff}
	s.tables = make([]float64, p.most.tables)
	s.c, s.t = make([]float64, p.most.slots), make([]float64, 2*p.most.slots+2*maxPoints*lanes)
	return s
}

// outputs is how many of the outputs are worked out.
func (p *plan) outputs() int {
	if p.mirror {
		return 1
	}
	return p.f.Outputs
}

// Values writes for each row and output what each feature contributes to the margin and then what the output is on
// average: Outputs times features+1 values a row, whose sum for an output is its margin up to rounding. rows is
// row-major: features values a row, and the next row begins stride values after it. The values do not depend on the rows beside a row, nor on the number of threads,
// over which the rows are divided.
func Values[T engine.Row](e *Explainer, dst []float64, rows []T, stride, features, threads int) {
	e.Prepare()
	n := len(rows) / stride
	each := e.f.Outputs * (features + 1)
	groups := (n + lanes - 1) / lanes
	threads = min(threads, groups)
	if threads <= 1 {
		explain(e, dst, rows, stride, features)
		return
	}
	// Several parts for each, since a thread may be held up.
	part := max(1, min(blockGroups, groups/(4*threads))) * lanes
	var next atomic.Int64
	var wait sync.WaitGroup
	for range threads {
		wait.Go(func() {
			for {
				to := int(next.Add(int64(part)))
				from := to - part
				if from >= n {
					return
				}
				to = min(to, n)
				explain(e, dst[from*each:to*each], rows[from*stride:to*stride], stride, features)
			}
		})
	}
	wait.Wait()
}

func explain[T engine.Row](e *Explainer, dst []float64, rows []T, stride, features int) {
	p := e.plan
	s, _ := e.scratch.Get().(*scratch)
	each := p.f.Outputs * (features + 1)
	for len(rows) > 0 {
		n := min(len(rows)/stride, s.block*lanes)
		block(p, s, rows[:n*stride], stride)
		for i := range n {
			p.gather(s, i, dst[i*each:(i+1)*each], features)
		}
		rows, dst = rows[n*stride:], dst[n*each:]
	}
	e.scratch.Put(s)
}

// block adds up what all trees give for some rows.
func block[T engine.Row](p *plan, s *scratch, rows []T, features int) {
	n := len(rows) / features
	groups := (n + lanes - 1) / lanes
	stride := 0
	if p.questions != nil {
		stride = p.questions.Stride()
		engine.Answer(p.questions, s.columns[:groups*stride], rows, features)
	}
	group := p.outputs() * len(p.features) * lanes
	clear(s.sums[:groups*group])
	for t := range p.trees {
		t := &p.trees[t]
		s.nodes, s.points, s.fast = p.nodes[t.first:t.end], t.points, p.code.Passes[t.points]
		for i := range t.passes {
			p.fill(s, t, i)
			for g := range groups {
				if p.questions != nil {
					p.answer(s.lanes[1:], p.asks[t.first:t.end], s.columns[g*stride:(g+1)*stride])
				} else {
					last := min((g+1)*lanes*features, len(rows))
					walk(p, s.lanes[1:], p.splits[t.first:t.end], rows[g*lanes*features:last], features)
				}
				for o := range min(p.f.Width, p.outputs()) {
					at := g*group + (t.out+o)*len(p.features)*lanes
					s.phi = s.sums[at : at+len(p.features)*lanes]
					s.values = p.values[t.values+o*t.leaves : t.values+(o+1)*t.leaves]
					s.run(min(lanes, n-g*lanes))
				}
			}
		}
	}
}

// fill makes the tables of a pass of a tree and the slot above its root.
func (p *plan) fill(s *scratch, t *tree, number int) {
	r := p.rules[t.points*t.passes]
	at, weights := r.at[number*t.points:(number+1)*t.points], r.weights[number*t.points:(number+1)*t.points]
	for q, w := range weights {
		for lane := range lanes {
			s.c[q*lanes+lane] = w
		}
	}
	fresh, zero := s.tables[:2*t.points], s.tables[2*t.points:4*t.points]
	clear(zero)
	for q, x := range at {
		fresh[q], fresh[t.points+q] = x, 1
	}
	for i, z := range t.repeats {
		table := s.tables[(tables+i)*2*t.points : (tables+i+1)*2*t.points]
		for q, x := range at {
			g := 1 / (float64(z*(1-x)) + x)
			table[q], table[t.points+q] = x*g, z*g*g
		}
	}
}

// answer finds which rows go left at each split.
func (p *plan) answer(bits []laneBits, asks []asked, columns []int32) {
	if p.code.Answers != nil && len(asks) > 0 {
		p.code.Answers(&bits[0].left, &asks[0].at, &columns[0], len(asks))
		return
	}
	for k, a := range asks {
		c := (*[lanes]int32)(columns[a.at:])
		m := byte(0)
		for lane, v := range c {
			if v <= a.key {
				m |= 1 << lane
			}
		}
		bits[k].left = m
	}
}

// walk is answer without columns.
func walk[T engine.Row](p *plan, bits []laneBits, splits []model.Split, rows []T, features int) {
	for k, s := range splits {
		m := byte(0)
		for lane, at := 0, s.Feature(); at < len(rows); lane, at = lane+1, at+features {
			if engine.GoesLeft(p.f, s, rows[at]) {
				m |= 1 << lane
			}
		}
		bits[k].left = m
	}
}

// gather writes what was added up for one row.
func (p *plan) gather(s *scratch, row int, dst []float64, features int) {
	f := p.f
	clear(dst)
	group := p.outputs() * len(p.features) * lanes
	at := row/lanes*group + row%lanes
	for o := range f.Outputs {
		out := dst[o*(features+1) : (o+1)*(features+1)]
		for i, feature := range p.features {
			if o >= p.outputs() {
				out[feature] = -dst[feature]
				continue
			}
			out[feature] = s.sums[at+(o*len(p.features)+i)*lanes]
			if f.Average {
				out[feature] /= float64(f.NumRounds())
			}
		}
		out[features] = p.base[o]
	}
}

// Bytes is the size of what Prepare made.
func (e *Explainer) Bytes() int {
	e.Prepare()
	p := e.plan
	n := nodeBytes*len(p.nodes) + 8*len(p.asks) + 8*len(p.values) + 4*len(p.features)
	for i := range p.trees {
		n += 8 * len(p.trees[i].repeats)
	}
	return n
}
