package lightgbm

import (
	"fmt"
	"math"
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// The bits of a node's decision_type; above them are two that say what is missing.
const (
	categorical = 1 << 0
	defaultLeft = 1 << 1

	missingNone = 0
	missingZero = 1
	missingNaN  = 2
)

// importer turns trees into the canonical form, one after the other.
type importer struct {
	b        *model.Builder
	features int
	visited  []bool
	stack    []int
}

// trees reads the trees up to the line that ends them, and gives their number.
func (im *importer) trees(l *lines, per int) (int, error) {
	for t := 0; ; {
		line, ok := l.next()
		switch {
		case !ok:
			return 0, fmt.Errorf("%w: it ends after line %d, behind %d trees, without \"end of trees\"", ErrMalformed, l.n, t)
		case len(line) == 0:
			continue
		case string(line) == "end of trees":
			if t == 0 || t%per != 0 {
				return 0, fmt.Errorf("%w: line %d: %d trees are not whole iterations of %d", ErrMalformed, l.n, t, per)
			}
			return t, nil
		case string(line) != fmt.Sprintf("Tree=%d", t):
			return 0, fmt.Errorf("%w: line %d is %.40q, expected Tree=%d or \"end of trees\"", ErrMalformed, l.n, line, t)
		}
		s, err := l.read(fmt.Sprintf("tree %d", t))
		if err != nil {
			return 0, err
		}
		if err := im.b.Output(t % per); err != nil {
			return 0, err
		}
		if err := im.tree(s); err != nil {
			return 0, err
		}
		t++
	}
}

// nodes are the arrays of one tree: an entry a split, and those of leaves an entry a leaf.
type nodes struct {
	left, right, feature, decision []int
	threshold                      []float64
	sets                           [][]uint32
	values                         []float64
	covers, leafCovers             []float64 // of splits and leaves; nil when the file has none
	linear                         *linear
}

// linear are the terms of the leaves of one tree.
type linear struct {
	constant []float64
	features [][]uint32
	coeffs   [][]float64
}

func (im *importer) read(s *section) (*nodes, error) {
	leaves, err := s.int("num_leaves", 1, model.MaxSplits)
	if err != nil {
		return nil, err
	}
	n := &nodes{}
	if n.values, err = s.floats("leaf_value", leaves); err != nil {
		return nil, err
	}
	for _, a := range []struct {
		key  string
		into *[]int
	}{{"left_child", &n.left}, {"right_child", &n.right}, {"split_feature", &n.feature}, {"decision_type", &n.decision}} {
		if leaves == 1 {
			break // what stands there means nothing
		}
		if *a.into, err = s.ints(a.key, leaves-1); err != nil {
			return nil, err
		}
	}
	if leaves > 1 {
		if n.threshold, err = s.floats("threshold", leaves-1); err != nil {
			return nil, err
		}
	}
	if n.sets, err = sets(s); err != nil {
		return nil, err
	}
	if n.covers, n.leafCovers, err = covers(s, leaves); err != nil {
		return nil, err
	}
	if s.has("is_linear") && string(s.values["is_linear"]) != "0" {
		n.linear, err = im.linear(s, leaves)
	}
	return n, err
}

// covers reads how many samples reached each split and each leaf.
func covers(s *section, leaves int) (splits, each []float64, err error) {
	if leaves == 1 {
		return nil, []float64{1}, nil // what stands there means nothing, and neither does a cover without others
	}
	if !s.has("internal_count") || !s.has("leaf_count") {
		return nil, nil, nil
	}
	if splits, err = s.floats("internal_count", leaves-1); err != nil {
		return nil, nil, err
	}
	each, err = s.floats("leaf_count", leaves)
	return splits, each, err
}

// sets reads the sets of categories that nodes refer to.
func sets(s *section) ([][]uint32, error) {
	count, err := s.int("num_cat", 0, model.MaxSplits)
	if err != nil || count == 0 {
		return nil, err
	}
	ends, err := s.ints("cat_boundaries", count+1)
	if err != nil {
		return nil, err
	}
	for i := range count {
		if ends[0] != 0 || ends[i+1] < ends[i] {
			return nil, s.fail("cat_boundaries", "do not ascend from 0: %d, %d", ends[i], ends[i+1])
		}
	}
	words, err := s.words("cat_threshold", ends[count])
	if err != nil {
		return nil, err
	}
	out := make([][]uint32, count)
	for i := range out {
		out[i] = words[ends[i]:ends[i+1]]
	}
	return out, nil
}

func (im *importer) linear(s *section, leaves int) (*linear, error) {
	l := &linear{features: make([][]uint32, leaves), coeffs: make([][]float64, leaves)}
	var err error
	if l.constant, err = s.floats("leaf_const", leaves); err != nil {
		return nil, err
	}
	counts, err := s.ints("num_features", leaves)
	if err != nil {
		return nil, err
	}
	total := 0
	for i, n := range counts {
		if n < 0 || n > im.features {
			return nil, s.fail("num_features", "says that leaf %d has %d terms, there are %d features", i, n, im.features)
		}
		total += n
	}
	features, err := s.words("leaf_features", total)
	if err != nil {
		return nil, err
	}
	coeffs, err := s.floats("leaf_coeff", total)
	if err != nil {
		return nil, err
	}
	for i, n := range counts {
		l.features[i], features = features[:n], features[n:]
		l.coeffs[i], coeffs = coeffs[:n], coeffs[n:]
		for _, f := range l.features[i] {
			if int(f) >= im.features {
				return nil, s.fail("leaf_features", "has feature %d of %d", f, im.features)
			}
		}
	}
	return l, nil
}

// tree gives the nodes to the builder in preorder. A child that is negative is the leaf of its complement.
func (im *importer) tree(s *section) error {
	n, err := im.read(s)
	if err != nil {
		return err
	}
	splits, leaves := len(n.left), len(n.values)
	im.visited = append(im.visited[:0], make([]bool, splits+leaves)...) // splits, then leaves
	im.stack = append(im.stack[:0], 0)
	if splits == 0 {
		im.stack[0] = -1
	}
	for len(im.stack) > 0 {
		id := im.stack[len(im.stack)-1]
		im.stack = im.stack[:len(im.stack)-1]
		at, what := id, id
		if id < 0 {
			at, what = splits+^id, ^id
		}
		if im.visited[at] {
			return s.fail("left_child", "and right_child reach node or leaf %d twice", what)
		}
		im.visited[at] = true
		if id < 0 {
			if err := im.addLeaf(n, ^id); err != nil {
				return fmt.Errorf("%s, leaf %d: %w", s.name, ^id, err)
			}
			if n.leafCovers != nil {
				im.b.Cover(n.leafCovers[^id])
			}
			continue
		}
		for _, child := range []int{n.right[id], n.left[id]} {
			if child >= splits || child < -leaves {
				return s.fail("left_child", "or right_child of node %d is %d, there are %d nodes and %d leaves", id, child, splits, leaves)
			}
			im.stack = append(im.stack, child)
		}
		if err := im.addSplit(n, id); err != nil {
			return fmt.Errorf("%s, node %d: %w", s.name, id, err)
		}
		if n.covers != nil {
			im.b.Cover(n.covers[id])
		}
	}
	switch i := slices.Index(im.visited, false); {
	case i >= splits:
		return s.fail("left_child", "and right_child do not reach leaf %d of %d", i-splits, leaves)
	case i >= 0:
		return s.fail("left_child", "and right_child do not reach node %d of %d", i, splits)
	}
	return nil
}

func (im *importer) addSplit(n *nodes, id int) error {
	feature := n.feature[id]
	if feature < 0 || feature >= im.features {
		return fmt.Errorf("%w: it compares feature %d of %d", ErrMalformed, feature, im.features)
	}
	decision := n.decision[id]
	if decision&categorical != 0 {
		i := n.threshold[id]
		if !(i >= 0 && i < float64(len(n.sets))) {
			return fmt.Errorf("%w: it has the set of categories %v of %d", ErrMalformed, i, len(n.sets))
		}
		return im.b.SplitSet(feature, n.sets[int(i)], 0) // NaN goes right
	}
	t := n.threshold[id]
	var flags model.Flags
	switch missing := decision >> 2 & 3; missing {
	case missingNone:
		if t >= 0 { // NaN is 0
			flags = model.MissingLeft
		}
	case missingZero, missingNaN:
		if decision&defaultLeft != 0 {
			flags = model.MissingLeft
		}
		if missing == missingZero {
			flags |= model.ZeroMissing
		}
	default:
		return fmt.Errorf("%w: decision_type is %d", ErrMalformed, decision)
	}
	return im.b.Split(feature, outsideZero(t), flags)
}

// outsideZero moves a threshold out of the range in which every value is taken for 0.
func outsideZero(t float64) float64 {
	switch {
	case t >= 0 && t < model.NearZero:
		return model.NearZero
	case t < 0 && t >= -model.NearZero:
		return math.Nextafter(-model.NearZero, math.Inf(-1))
	}
	return t
}

func (im *importer) addLeaf(n *nodes, id int) error {
	v := n.values[id]
	if math.IsInf(v, 0) {
		return fmt.Errorf("%w: its value is %v", ErrMalformed, v)
	}
	var err error
	if n.linear != nil {
		for _, term := range append([]float64{n.linear.constant[id]}, n.linear.coeffs[id]...) {
			if math.IsInf(term, 0) {
				return fmt.Errorf("%w: a term of its linear model is %v", ErrMalformed, term)
			}
		}
		err = im.b.LinearLeaf(v, n.linear.constant[id], n.linear.features[id], n.linear.coeffs[id])
	} else {
		err = im.b.Leaf(v)
	}
	im.b.LeafID(uint32(id))
	return err
}
