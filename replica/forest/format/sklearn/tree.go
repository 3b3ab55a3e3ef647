package sklearn

import (
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/link"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// leafKind says what the leaves hold.
type leafKind int

const (
	means     leafKind = iota // of a regressor's target
	counts                    // of samples a class, weighted: predict_proba divides them by their sum
	fractions                 // of samples a class: predict_proba gives them as they are
	either                    // counts or fractions, told apart by the first tree's root
)

// noChild is what a leaf has for children.
const noChild = -1

// importer turns trees into the canonical form, one after the other.
type importer struct {
	b        *model.Builder
	features int   // that the trees have
	widths   []int // values of a leaf, for each target
	leaves   leafKind
	alone    bool    // the only tree, not of a forest
	in       *inputs // what becomes of a row before the trees see it
	subset   []int   // features of the tree that comes, among those of the forest; nil: all of them
	// value makes what a leaf of one value adds to the sum. Nil: its value.
	value   func(l leaf) (float64, error)
	covered bool // the covers of nodes are kept
	// budget is what the arrays of all trees may still take, in bytes. Objects of a pickle may be referred
	// to many times, and a small file could mean the same large tree a million times over.
	budget int64

	visited []uint64 // a bit a node
	stack   []visit  // nodes still to visit, the next one last
	leaf    []float64
}

// leaf is what is known of a leaf.
type leaf struct {
	visit
	value   float64
	samples int64
}

// visit is a node and the number of nodes on the path to it, with it.
type visit struct{ id, path int }

// reserve makes room for the nodes that the trees of a file claim, up to what a file of size bytes has room for.
func (im *importer) reserve(trees []*pickle.Dict, size int64) {
	const nodeBytes = 64 // of a node in every version; its values come on top
	var nodes int64
	for _, t := range trees {
		v, _ := t.Get("tree_")
		if o, ok := v.(*pickle.Object); ok {
			state, _ := o.State.(*pickle.Dict)
			n, _ := intOf(state, "node_count")
			nodes = min(nodes+max(0, min(n, size)), size/nodeBytes)
		}
	}
	im.covered = nodes <= model.MaxCovered
	// A full binary tree has one leaf more than splits.
	splits := int(nodes) / 2
	im.b.Grow(splits, splits+len(trees))
}

// tree adds sklearn.tree._tree.Tree(n_features, n_classes, n_outputs) with its state.
func (im *importer) tree(v any) error {
	o, ok := v.(*pickle.Object)
	if !ok || o.Class.String() != treeName {
		return fmt.Errorf("%w: tree_ is %s, not a %s", ErrMalformed, pickle.Describe(v), treeName)
	}
	if err := im.header(o); err != nil {
		return err
	}
	state, ok := o.State.(*pickle.Dict)
	if !ok {
		return fmt.Errorf("%w: the state of a Tree is %s", ErrMalformed, pickle.Describe(o.State))
	}
	n, err := intOf(state, "node_count")
	if err != nil {
		return err
	}
	nodes, err := arrayOf(state, "nodes")
	if err != nil {
		return err
	}
	values, err := arrayOf(state, "values")
	if err != nil {
		return err
	}
	if len(nodes.shape) != 1 || int64(nodes.count) != n || n < 1 {
		return fmt.Errorf("%w: node_count is %d and nodes has the shape %v", ErrMalformed, n, nodes.shape)
	}
	if want := []int{nodes.count, len(im.widths), slices.Max(im.widths)}; !slices.Equal(values.shape, want) {
		return fmt.Errorf("%w: values has the shape %v, expected %v", ErrMalformed, values.shape, want)
	}
	if values.dtype.kind != 'f' || values.dtype.size != 8 {
		return fmt.Errorf("%w: values of type %s, expected <f8", ErrUnsupported, values.dtype)
	}
	if im.budget -= int64(len(nodes.data)) + int64(len(values.data)); im.budget < 0 {
		return fmt.Errorf("%w: the trees up to here hold more nodes than the file has bytes for", pickle.ErrLimit)
	}
	cols, err := columnsOf(nodes)
	if err != nil {
		return err
	}
	if im.leaves == either {
		im.leaf = im.leaf[:0]
		im.leaves = counts
		if isOne(im.row(0, 0, values)) {
			im.leaves = fractions
		}
	}
	return im.walk(cols, values)
}

// header checks what the tree was made with.
func (im *importer) header(o *pickle.Object) error {
	if len(o.Args) != 3 {
		return fmt.Errorf("%w: a Tree with %d arguments, expected 3", ErrMalformed, len(o.Args))
	}
	features, err := parseInt(o.Args[0])
	if err != nil {
		return err
	}
	if features != int64(im.features) {
		return fmt.Errorf("%w: n_features is %d, the forest has %d", ErrMalformed, features, im.features)
	}
	outputs, err := parseInt(o.Args[2])
	if err != nil {
		return err
	}
	if outputs != int64(len(im.widths)) {
		return fmt.Errorf("%w: n_outputs is %d, the forest has %d", ErrMalformed, outputs, len(im.widths))
	}
	a, err := parseArray(o.Args[1])
	if err != nil {
		return err
	}
	k := a.dtype.kind
	same := a.count == len(im.widths) && (k == 'i' || k == 'u')
	for i := 0; same && i < a.count; i++ {
		same = a.dtype.int(a.item(i)) == int64(im.widths[i])
	}
	if !same {
		return fmt.Errorf("%w: n_classes of the tree and of the forest, which has %v, differ", ErrMalformed, im.widths)
	}
	return nil
}

// column is one field of all nodes.
type column struct {
	dtype  dtype
	data   []byte // from the field of the first node on
	stride int
}

func (c column) int(i int) int64     { return c.dtype.int(c.data[i*c.stride:]) }
func (c column) float(i int) float64 { return c.dtype.float(c.data[i*c.stride:]) }

// columns are the fields that a prediction needs. Versions of scikit-learn differ in the other ones, in
// the order, and in whether there is missingLeft.
type columns struct {
	n                    int
	left, right, feature column
	threshold            column
	samples, weight      column
	missingLeft          *column
}

func columnsOf(nodes *array) (columns, error) {
	c := columns{n: nodes.count}
	get := func(name, kinds string) (column, error) { return columnOf(nodes, name, kinds) }
	var err error
	if c.left, err = get("left_child", "i"); err != nil {
		return c, err
	}
	if c.right, err = get("right_child", "i"); err != nil {
		return c, err
	}
	if c.feature, err = get("feature", "i"); err != nil {
		return c, err
	}
	if c.threshold, err = get("threshold", "f"); err != nil {
		return c, err
	}
	if _, ok := nodes.dtype.fields["n_node_samples"]; ok {
		if c.samples, err = get("n_node_samples", "i"); err != nil {
			return c, err
		}
	}
	if _, ok := nodes.dtype.fields["weighted_n_node_samples"]; ok {
		if c.weight, err = get("weighted_n_node_samples", "f"); err != nil {
			return c, err
		}
	}
	if _, ok := nodes.dtype.fields["missing_go_to_left"]; ok {
		m, err := get("missing_go_to_left", "uib")
		if err != nil {
			return c, err
		}
		c.missingLeft = &m
	}
	return c, nil
}

// walk gives the nodes to the builder in preorder. Each node is reached at most once, and all are.
func (im *importer) walk(c columns, values *array) error {
	words := (c.n + 63) / 64
	if cap(im.visited) < words {
		im.visited = make([]uint64, words)
	}
	im.visited = im.visited[:words]
	clear(im.visited)
	im.stack = append(im.stack[:0], visit{0, 1})
	order := 0
	for len(im.stack) > 0 {
		at := im.stack[len(im.stack)-1]
		id := at.id
		im.stack = im.stack[:len(im.stack)-1]
		if im.visited[id/64]&(1<<(id%64)) != 0 {
			return fmt.Errorf("%w: node %d is the child of two nodes, or of its own descendant", ErrMalformed, id)
		}
		im.visited[id/64] |= 1 << (id % 64)
		order++
		left, right := c.left.int(id), c.right.int(id)
		if left == noChild && right == noChild {
			if err := im.addLeaf(c, at, values); err != nil {
				return fmt.Errorf("node %d: %w", id, err)
			}
			im.addCover(c, id)
			continue
		}
		if err := im.addSplit(c, id, left, right); err != nil {
			return fmt.Errorf("node %d: %w", id, err)
		}
		im.addCover(c, id)
		im.stack = append(im.stack, visit{int(right), at.path + 1}, visit{int(left), at.path + 1})
	}
	if order < c.n {
		return fmt.Errorf("%w: node %d is the child of no node", ErrMalformed, im.unvisited())
	}
	return nil
}

// addCover adds the cover of the node that was added last.
func (im *importer) addCover(c columns, id int) {
	if im.covered && c.weight.data != nil {
		im.b.Cover(c.weight.float(id))
	}
}

// unvisited is the first node that was not visited.
func (im *importer) unvisited() int {
	for w, word := range im.visited {
		if word != math.MaxUint64 {
			return 64*w + bits.TrailingZeros64(^word)
		}
	}
	return 64 * len(im.visited)
}

func (im *importer) addSplit(c columns, id int, left, right int64) error {
	for _, child := range []struct {
		side string
		id   int64
	}{{"left", left}, {"right", right}} {
		if child.id < 0 || child.id >= int64(c.n) {
			return fmt.Errorf("%w: its %s child is node %d of %d", ErrMalformed, child.side, child.id, c.n)
		}
	}
	feature := c.feature.int(id)
	if feature < 0 || feature >= int64(im.features) {
		return fmt.Errorf("%w: it compares feature %d of %d", ErrMalformed, feature, im.features)
	}
	threshold := c.threshold.float(id)
	if math.IsNaN(threshold) {
		return fmt.Errorf("%w: its threshold is NaN", ErrMalformed)
	}
	if im.subset != nil {
		feature = int64(im.subset[feature])
	}
	missingLeft := c.missingLeft != nil && c.missingLeft.int(id) != 0
	return im.in.split(im.b, int(feature), threshold, true, missingLeft)
}

func (im *importer) addLeaf(c columns, at visit, values *array) error {
	im.leaf = im.leaf[:0]
	for target := range im.widths {
		row := im.row(at.id, target, values)
		for k, v := range row {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("%w: value %d of the leaf is %v", ErrMalformed, k, v)
			}
		}
		switch im.leaves {
		case counts:
			total := link.Sum(row)
			if total == 0 {
				total = 1
			}
			best := argmax(row)
			for k := range row {
				row[k] /= total
			}
			// A tree alone chooses by the counts, a forest by the fractions, of which two may round to the same.
			if im.alone && argmax(row) != best {
				return fmt.Errorf("%w: of its classes, %d has the largest weight and %d the largest probability", ErrUnsupported, best, argmax(row))
			}
		case fractions:
			if !isOne(row) {
				return fmt.Errorf("%w: the fractions of its classes add up to %v", ErrMalformed, link.Sum(row))
			}
		}
	}
	if im.value != nil {
		var samples int64
		if c.samples.data != nil {
			samples = c.samples.int(at.id)
		}
		var err error
		if im.leaf[0], err = im.value(leaf{at, im.leaf[0], samples}); err != nil {
			return err
		}
	}
	if err := im.b.Leaf(im.leaf...); err != nil {
		return err
	}
	im.b.LeafID(uint32(at.id))
	return nil
}

// row appends the values of a node for one target to the leaf, and gives them.
func (im *importer) row(id, target int, values *array) []float64 {
	from := len(im.leaf)
	first := (id*values.shape[1] + target) * values.shape[2]
	for k := range im.widths[target] {
		im.leaf = append(im.leaf, values.dtype.float(values.item(first+k)))
	}
	return im.leaf[from:]
}

// argmax is the first of the largest numbers.
func argmax(v []float64) int {
	best := 0
	for i := range v {
		if v[i] > v[best] {
			best = i
		}
	}
	return best
}

// isOne tells whether fractions add up to 1, as near as weights and rounding let them. Counts do not.
func isOne(row []float64) bool {
	var total, size float64
	for _, v := range row {
		total += v
		size += math.Abs(v)
	}
	return math.Abs(total-1) <= 1e-3*max(size, 1)
}
