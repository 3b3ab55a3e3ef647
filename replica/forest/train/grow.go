package train

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// tree is a grown tree.
type tree struct {
	nodes  []node    // in preorder
	values []float64 // of the mixed leaves, in their order: one value a class, or the mean target
}

// node is a split when feature is not negative, or a leaf.
type node struct {
	feature   int32
	threshold float32
	weight    uint32 // rows that reach it, as often as they were drawn
}

// mixedLeaf is the feature of a leaf whose values stand in tree.values. The numbers below it are leaves with a
// single class: they are most, and their values would be mostly zeros.
const mixedLeaf = -1

func classLeaf(class int32, weight uint32) node {
	return node{feature: mixedLeaf - 1 - class, weight: weight}
}

func (n node) class() int32 { return mixedLeaf - 1 - n.feature }

// cancelStep is the number of values that are sorted between two looks at the context, some 10 ms of work.
const cancelStep = 1 << 19

// grower grows one tree at a time. Its buffers serve all trees of a worker, so that a node allocates nothing.
type grower struct {
	cfg    Config
	data   *Data
	cols   *columns
	chacha *rand.ChaCha8
	random *rand.Rand

	count    []uint16 // by row: how often the bootstrap drew it
	rows     []uint32 // the rows of the tree; those of a node stand together, ascending
	spare    []uint32
	features []int32 // in an order that changes; see best
	stack    []todo
	nodes    []node
	values   []float64
	sorter   *sorter
	room     *atomic.Int64 // for values of all trees
	idle     int           // values sorted since ctx was looked at

	// Of the node that is looked at. What is by place is so by the place in its rows.
	weight int64 // rows, as often as they were drawn
	pure   bool  // all rows have the same label or target
	// A classifier's.
	tags    []uint32 // by place: label<<16 | count
	tagged  int      // how many tags are set
	total   []int64  // by class: weight
	left    []int64  // by class: weight to the left of a split; all 0 between uses
	squares int64    // sum of the squares of total
	// A regressor's.
	mean float64
	devs []dev // by place
}

// dev is what a row adds to the sums on its side of a split.
type dev struct{ sum, weight float64 } // count * (target - mean), count

// todo is a subtree to grow.
type todo struct {
	from, to  int // of grower.rows
	depth     int // splits above it
	constants int // features known to have a single value in it
}

func newGrower(cfg Config, data *Data, cols *columns, room *atomic.Int64) *grower {
	n := cols.n
	g := &grower{
		cfg: cfg, data: data, cols: cols, chacha: rand.NewChaCha8([32]byte{}),
		count: make([]uint16, n), rows: make([]uint32, 0, n), spare: make([]uint32, n),
		features: make([]int32, data.Features), sorter: newSorter(n), room: room,
	}
	g.random = rand.New(g.chacha)
	if cfg.Task == model.Classify {
		g.tags = make([]uint32, n)
		g.total, g.left = make([]int64, len(data.Classes)), make([]int64, len(data.Classes))
	} else {
		g.devs = make([]dev, n)
	}
	return g
}

// grow grows the tree of a seed. It fails when ctx is done, or with ErrTooLarge when there is no room.
func (g *grower) grow(ctx context.Context, seed [32]byte) (*tree, error) {
	g.chacha.Seed(seed)
	g.sample()
	for i := range g.features {
		g.features[i] = int32(i)
	}
	g.nodes, g.values = g.nodes[:0], g.values[:0]
	g.stack = append(g.stack[:0], todo{to: len(g.rows)})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for len(g.stack) > 0 {
		at := g.stack[len(g.stack)-1]
		g.stack = g.stack[:len(g.stack)-1]
		rows := g.rows[at.from:at.to]
		g.look(rows)
		s := split{feature: -1}
		if !g.pure && at.depth < g.cfg.MaxDepth && len(rows) >= max(g.cfg.MinSplit, 2*g.cfg.MinLeaf) {
			var err error
			if s, err = g.best(ctx, rows, &at.constants); err != nil {
				return nil, err
			}
		}
		if s.feature < 0 {
			if err := g.leaf(rows); err != nil {
				return nil, err
			}
			continue
		}
		values := g.cols.values[s.feature]
		g.nodes = append(g.nodes, node{s.feature, between(values[s.low], values[s.high]), uint32(g.weight)})
		mid := at.from + g.partition(rows, s)
		g.stack = append(g.stack,
			todo{mid, at.to, at.depth + 1, at.constants},
			todo{at.from, mid, at.depth + 1, at.constants})
	}
	return &tree{nodes: slices.Clone(g.nodes), values: slices.Clone(g.values)}, nil
}

// sample draws the rows of the tree.
func (g *grower) sample() {
	n := g.cols.n
	if g.cfg.NoBootstrap {
		for i := range g.count {
			g.count[i] = 1
		}
	} else {
		clear(g.count)
		for range n {
			c := &g.count[g.random.IntN(n)]
			if *c < math.MaxUint16 { // as it is: more than 8 has a chance of 1 in a million
				*c++
			}
		}
	}
	g.rows = g.rows[:0]
	for i, c := range g.count {
		if c > 0 {
			g.rows = append(g.rows, uint32(i))
		}
	}
}

// look sets what the grower knows of a node with these rows.
func (g *grower) look(rows []uint32) {
	g.weight, g.pure = 0, true
	if g.cfg.Task == model.Regress {
		g.lookRegress(rows)
		return
	}
	// Only what the last node counted: of many classes few are in a node.
	for _, tag := range g.tags[:g.tagged] {
		g.total[tag>>16] = 0
	}
	g.tagged = len(rows)
	g.squares = 0
	first := g.data.Labels[rows[0]]
	for i, r := range rows {
		label, w := g.data.Labels[r], int64(g.count[r])
		g.pure = g.pure && label == first
		g.tags[i] = uint32(label)<<16 | uint32(w)
		g.squares += w * (2*g.total[label] + w)
		g.total[label] += w
		g.weight += w
	}
}

func (g *grower) lookRegress(rows []uint32) {
	first, sum := g.data.Targets[rows[0]], 0.0
	for _, r := range rows {
		y, w := g.data.Targets[r], g.count[r]
		g.pure = g.pure && y == first
		sum += float64(float64(w) * y)
		g.weight += int64(w)
	}
	g.mean = sum / float64(g.weight)
	if g.pure {
		g.mean = first // the rounding of sum may have lost it
		return
	}
	// Around the mean, sums lose the fewest digits.
	for i, r := range rows {
		w := float64(g.count[r])
		g.devs[i] = dev{float64(w * (g.data.Targets[r] - g.mean)), w}
	}
}

// leaf makes a leaf of the node that was looked at.
func (g *grower) leaf(rows []uint32) error {
	switch {
	case g.cfg.Task == model.Regress:
		g.nodes = append(g.nodes, node{feature: mixedLeaf, weight: uint32(g.weight)})
		g.values = append(g.values, g.mean)
	case g.pure:
		g.nodes = append(g.nodes, classLeaf(g.data.Labels[rows[0]], uint32(g.weight)))
	default:
		if g.room.Add(-int64(len(g.total))) < 0 {
			return ErrTooLarge
		}
		g.nodes = append(g.nodes, node{feature: mixedLeaf, weight: uint32(g.weight)})
		for _, w := range g.total {
			g.values = append(g.values, float64(w)/float64(g.weight))
		}
	}
	return nil
}

// split sends rows whose rank is at most low to the left. There is none when feature is negative.
type split struct {
	feature   int32
	low, high uint32 // the ranks on both sides of it
	gain      float64
}

// best searches the split that makes the children purest, the first of equal ones, among features drawn without
// replacement: MaxFeatures of them, and more as long as all those had a single value.
//
// constants is the number of features that are known to have a single value in the node, and is raised by those
// that are found: they are the first of g.features. Below the node nothing moves them, so every subtree finds
// there the ones of its parent.
func (g *grower) best(ctx context.Context, rows []uint32, constants *int) (split, error) {
	best := split{feature: -1, gain: math.Inf(-1)}
	known := *constants // of those, how many were not drawn
	from, to := *constants, len(g.features)
	varied := false
	for tried := 0; from < to && (tried < g.cfg.MaxFeatures || !varied); tried++ {
		j := g.random.IntN(known + to - from)
		if j < known {
			known--
			continue
		}
		j += from - known
		f := g.features[j]
		items, ok, err := g.sorted(ctx, f, rows)
		if err != nil {
			return best, err
		}
		if !ok {
			g.features[j], g.features[from] = g.features[from], f
			from++
			continue
		}
		to--
		g.features[j], g.features[to] = g.features[to], f
		varied = true
		if s := g.scan(items); s.gain > best.gain {
			best = s
			best.feature = f
		}
	}
	*constants = from
	return best, nil
}

// sorted is a feature of these rows in ascending order: ranks in the upper half, in the lower the tags of a
// classifier or the places of a regressor. It returns false when all are equal.
func (g *grower) sorted(ctx context.Context, f int32, rows []uint32) ([]uint64, bool, error) {
	if g.idle += len(rows); g.idle > cancelStep {
		if g.idle = 0; ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
	}
	ranks := g.cols.of(f)
	items := g.sorter.items[:len(rows)]
	lo, hi := uint32(math.MaxUint32), uint32(0)
	if g.cfg.Task == model.Regress {
		for i, r := range rows {
			k := ranks[r]
			lo, hi = min(lo, k), max(hi, k)
			items[i] = uint64(k)<<32 | uint64(i)
		}
	} else {
		tags := g.tags[:len(rows)]
		for i, r := range rows {
			k := ranks[r]
			lo, hi = min(lo, k), max(hi, k)
			items[i] = uint64(k)<<32 | uint64(tags[i])
		}
	}
	if lo == hi {
		return nil, false, nil
	}
	return g.sorter.sort(items, lo, hi), true, nil
}

// scan looks at every place between two different ranks. Gains are comparable between the splits of one node:
// the higher, the purer the children.
func (g *grower) scan(items []uint64) split {
	switch {
	case g.cfg.Task == model.Regress:
		return g.scanRegress(items)
	case len(g.total) == 2:
		return g.scanBinary(items)
	default:
		return g.scanClassify(items)
	}
}

// scanClassify maximises the sum over both children of (sum of squared class weights) / weight, which is what
// minimising the mean Gini impurity comes to.
func (g *grower) scanClassify(items []uint64) split {
	best := split{feature: -1, gain: math.Inf(-1)}
	minLeaf := g.cfg.MinLeaf
	var wl, squaresLeft int64
	squaresRight := g.squares
	for i := range len(items) - 1 {
		it, next := items[i], items[i+1]
		w, c := int64(it&0xffff), it>>16&0xffff
		// (a+w)^2 = a^2 + w(2a+w)
		l := g.left[c]
		r := g.total[c] - l
		squaresLeft += w * (2*l + w)
		squaresRight -= w * (2*r - w)
		g.left[c] = l + w
		wl += w
		if it>>32 == next>>32 || i+1 < minLeaf || len(items)-1-i < minLeaf {
			continue
		}
		if gain := float64(squaresLeft)/float64(wl) + float64(squaresRight)/float64(g.weight-wl); gain > best.gain {
			best = split{low: uint32(it >> 32), high: uint32(next >> 32), gain: gain}
		}
	}
	for _, it := range items {
		g.left[it>>16&0xffff] = 0
	}
	return best
}

// scanBinary is scanClassify for two classes. There the measure differs only by constants of the node from
// d^2 / (weight left * weight right), where d is how much of the second class is on the left beyond its share.
func (g *grower) scanBinary(items []uint64) split {
	best := split{feature: -1, gain: math.Inf(-1)}
	minLeaf := g.cfg.MinLeaf
	all, ones := g.weight, g.total[1]
	var wl, left int64
	for i := range len(items) - 1 {
		it, next := items[i], items[i+1]
		w := int64(it & 0xffff)
		wl += w
		left += w * int64(it>>16&1)
		if it>>32 == next>>32 || i+1 < minLeaf || len(items)-1-i < minLeaf {
			continue
		}
		d := float64(left*all - wl*ones)
		if gain := d * d / (float64(wl) * float64(all-wl)); gain > best.gain {
			best = split{low: uint32(it >> 32), high: uint32(next >> 32), gain: gain}
		}
	}
	return best
}

// scanRegress maximises the sum over both children of sum^2 / weight, which is what minimising the squared
// error comes to. Around the mean the sums of both children are opposite, so that differs only by a constant of
// the node from sum^2 / (weight left * weight right).
func (g *grower) scanRegress(items []uint64) split {
	best := split{feature: -1, gain: math.Inf(-1)}
	minLeaf := g.cfg.MinLeaf
	devs := g.devs[:len(items)]
	all := float64(g.weight)
	wl, left := 0.0, 0.0
	for i := range len(items) - 1 {
		it, next := items[i], items[i+1]
		d := &devs[uint32(it)]
		left += d.sum
		wl += d.weight
		if it>>32 == next>>32 || i+1 < minLeaf || len(items)-1-i < minLeaf {
			continue
		}
		if gain := left * left / (wl * (all - wl)); gain > best.gain {
			best = split{low: uint32(it >> 32), high: uint32(next >> 32), gain: gain}
		}
	}
	return best
}

// between is the middle of a and b, a < b, such that a <= between < b.
func between(a, b float32) float32 {
	mid := float32(float64(a)/2 + float64(b)/2)
	if mid >= b || mid < a {
		return a
	}
	return mid
}

// partition puts the rows that go to the left before the others, keeps their order, and returns their number.
func (g *grower) partition(rows []uint32, s split) int {
	ranks := g.cols.of(s.feature)
	spare := g.spare[:len(rows)]
	left, right := 0, 0
	for _, r := range rows {
		// Both are written and one is counted: which way a row goes is hard to predict.
		rows[left], spare[right] = r, r
		l := 0
		if ranks[r] <= s.low {
			l = 1
		}
		left += l
		right += 1 - l
	}
	copy(rows[left:], spare[:right])
	return left
}
