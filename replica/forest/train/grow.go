package train

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// grown is a node of a tree in preorder: a leaf when it has values.
type grown struct {
	feature   int32
	threshold float32
	values    []float64
}

// pair is a row's value of one feature, for sorting.
type pair struct {
	v   float32
	row int32
}

// grower grows one tree at a time. Its buffers serve all trees of a worker.
type grower struct {
	cfg     Config
	data    *Data
	columns []float32
	n       int

	count    []int32 // how often the bootstrap drew a row
	rows     []int32 // the rows of the tree, those of a node together
	features []int32
	pairs    []pair
	left     []float64 // per class: weight to the left of a split
	total    []float64
	nodes    []grown
}

func newGrower(cfg Config, data *Data, columns []float32) *grower {
	g := &grower{cfg: cfg, data: data, columns: columns, n: data.Len()}
	g.count = make([]int32, g.n)
	g.features = make([]int32, data.Features)
	g.pairs = make([]pair, g.n)
	k := max(len(data.Classes), 1)
	g.left, g.total = make([]float64, k), make([]float64, k)
	return g
}

// grow draws the rows of a tree and splits them until nothing is left to split.
func (g *grower) grow(random *rand.Rand) []grown {
	clear(g.count)
	if g.cfg.NoBootstrap {
		for i := range g.count {
			g.count[i] = 1
		}
	} else {
		for range g.n {
			g.count[random.IntN(g.n)]++
		}
	}
	g.rows = g.rows[:0]
	for i, c := range g.count {
		if c > 0 {
			g.rows = append(g.rows, int32(i))
		}
	}
	for i := range g.features {
		g.features[i] = int32(i)
	}
	g.nodes = nil
	type todo struct{ from, to, depth int }
	stack := []todo{{0, len(g.rows), 0}}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		rows := g.rows[at.from:at.to]
		s, ok := split{}, false
		if at.depth < g.maxDepth() {
			s, ok = g.best(rows, random)
		}
		if !ok {
			g.nodes = append(g.nodes, grown{values: g.leaf(rows)})
			continue
		}
		mid := at.from + g.partition(rows, s)
		g.nodes = append(g.nodes, grown{feature: s.feature, threshold: s.threshold})
		stack = append(stack, todo{mid, at.to, at.depth + 1}, todo{at.from, mid, at.depth + 1})
	}
	return g.nodes
}

func (g *grower) maxDepth() int {
	if g.cfg.MaxDepth > 0 {
		return g.cfg.MaxDepth
	}
	return model.MaxDepth
}

// leaf is what a leaf of these rows predicts: the share of each class, or the mean.
func (g *grower) leaf(rows []int32) []float64 {
	if g.cfg.Task == model.Regress {
		sum, weight := 0.0, 0.0
		for _, r := range rows {
			w := float64(g.count[r])
			sum += float64(w * g.data.Targets[r])
			weight += w
		}
		return []float64{sum / weight}
	}
	out := make([]float64, len(g.data.Classes))
	weight := 0.0
	for _, r := range rows {
		w := float64(g.count[r])
		out[g.data.Labels[r]] += w
		weight += w
	}
	for i := range out {
		out[i] /= weight
	}
	return out
}

// split sends rows whose feature is at most the threshold to the left.
type split struct {
	feature   int32
	threshold float32
	gain      float64
}

// best searches the split that makes the children purest, among features drawn without replacement until
// MaxFeatures that have more than one value were tried. It returns false when the node is to be a leaf.
func (g *grower) best(rows []int32, random *rand.Rand) (best split, ok bool) {
	weight := 0.0
	for _, r := range rows {
		weight += float64(g.count[r])
	}
	if int(weight) < g.cfg.MinSplit || g.pure(rows) {
		return best, false
	}
	tried := 0
	for i := 0; i < len(g.features) && tried < g.cfg.MaxFeatures; i++ {
		j := i + random.IntN(len(g.features)-i)
		g.features[i], g.features[j] = g.features[j], g.features[i]
		f := g.features[i]
		pairs := g.sorted(f, rows)
		if pairs[0].v == pairs[len(pairs)-1].v {
			continue
		}
		tried++
		s, found := g.scan(pairs, weight)
		if found && (!ok || s.gain > best.gain) {
			best, ok = s, true
			best.feature = f
		}
	}
	return best, ok
}

// sorted are a feature's values of these rows in ascending order.
func (g *grower) sorted(f int32, rows []int32) []pair {
	column := g.columns[int(f)*g.n : (int(f)+1)*g.n]
	pairs := g.pairs[:len(rows)]
	for i, r := range rows {
		pairs[i] = pair{column[r], r}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		switch {
		case a.v < b.v:
			return -1
		case a.v > b.v:
			return 1
		}
		return int(a.row) - int(b.row)
	})
	return pairs
}

// pure tells whether all rows have the same label or target.
func (g *grower) pure(rows []int32) bool {
	if g.cfg.Task == model.Regress {
		for _, r := range rows[1:] {
			if g.data.Targets[r] != g.data.Targets[rows[0]] {
				return false
			}
		}
		return true
	}
	for _, r := range rows[1:] {
		if g.data.Labels[r] != g.data.Labels[rows[0]] {
			return false
		}
	}
	return true
}

// scan looks at every place between two different values. Its gain is comparable between the splits of one
// node: the higher, the purer the children.
func (g *grower) scan(pairs []pair, weight float64) (split, bool) {
	if g.cfg.Task == model.Regress {
		return g.scanRegress(pairs, weight)
	}
	return g.scanClassify(pairs, weight)
}

// scanClassify maximises the sum over both children of (sum of squared class weights) / weight, which is what
// minimising the mean Gini impurity comes to.
func (g *grower) scanClassify(pairs []pair, weight float64) (best split, ok bool) {
	clear(g.left)
	clear(g.total)
	for _, p := range pairs {
		g.total[g.data.Labels[p.row]] += float64(g.count[p.row])
	}
	squaresLeft, squaresRight := 0.0, 0.0
	for _, w := range g.total {
		squaresRight += float64(w * w)
	}
	minLeaf := float64(g.cfg.MinLeaf)
	wl := 0.0
	for i := range len(pairs) - 1 {
		p := pairs[i]
		w, c := float64(g.count[p.row]), g.data.Labels[p.row]
		// (a+w)^2 = a^2 + w(2a+w); all are whole numbers, so the sums are exact.
		l := g.left[c]
		r := g.total[c] - l
		squaresLeft += float64(w * (2*l + w))
		squaresRight -= float64(w * (2*r - w))
		g.left[c] = l + w
		wl += w
		if p.v == pairs[i+1].v || wl < minLeaf || weight-wl < minLeaf {
			continue
		}
		if gain := squaresLeft/wl + squaresRight/(weight-wl); !ok || gain > best.gain {
			best, ok = split{threshold: between(p.v, pairs[i+1].v), gain: gain}, true
		}
	}
	return best, ok
}

// scanRegress maximises the sum over both children of sum^2 / weight, which is what minimising the squared
// error comes to.
func (g *grower) scanRegress(pairs []pair, weight float64) (best split, ok bool) {
	total := 0.0
	for _, p := range pairs {
		total += float64(float64(g.count[p.row]) * g.data.Targets[p.row])
	}
	// Sums around the mean lose fewer digits.
	mean := total / weight
	minLeaf := float64(g.cfg.MinLeaf)
	wl, left := 0.0, 0.0
	rest := 0.0
	for _, p := range pairs {
		rest += float64(float64(g.count[p.row]) * (g.data.Targets[p.row] - mean))
	}
	for i := range len(pairs) - 1 {
		p := pairs[i]
		w := float64(g.count[p.row])
		left += float64(w * (g.data.Targets[p.row] - mean))
		wl += w
		if p.v == pairs[i+1].v || wl < minLeaf || weight-wl < minLeaf {
			continue
		}
		right := rest - left
		if gain := float64(left*left)/wl + float64(right*right)/(weight-wl); !ok || gain > best.gain {
			best, ok = split{threshold: between(p.v, pairs[i+1].v), gain: gain}, true
		}
	}
	return best, ok
}

// between is the middle of a and b, a < b, such that a <= between < b.
func between(a, b float32) float32 {
	mid := float32(float64(a)/2 + float64(b)/2)
	if mid >= b || math.IsInf(float64(mid), 0) || mid < a {
		return a
	}
	return mid
}

// partition puts the rows that go to the left before the others, keeps their order, and returns their number.
func (g *grower) partition(rows []int32, s split) int {
	column := g.columns[int(s.feature)*g.n : (int(s.feature)+1)*g.n]
	left := 0
	rest := g.pairs[:0]
	for _, r := range rows {
		if column[r] <= s.threshold {
			rows[left] = r
			left++
		} else {
			rest = append(rest, pair{row: r})
		}
	}
	for i, p := range rest {
		rows[left+i] = p.row
	}
	return left
}
