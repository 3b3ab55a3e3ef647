package xgboost

import (
	"fmt"
	"math"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// importer turns trees into the canonical form, one after the other.
type importer struct {
	b        *model.Builder
	features int
	groups   int // margins of a row
	width    int // values of a leaf: 1, or groups for leaves that are vectors
	round    int // trees of a boosting round
	kind     string
	lost     []string

	weights []float32 // of the trees of a DART booster
	visited []bool
	taken   []bool // leaves of several values
	stack   []int32
	leaf    []float64
	words   []uint32
	room    int // words that sets may still have
}

// A set is as large as its highest category, whatever little the file says of it: all together have a room of roomBase
// words and roomPerByte for each byte of the file. That is some 25,000 categories for each node, of 100 bytes or more.
const (
	roomBase    = 1 << 22
	roomPerByte = 8
)

// shape reads how many features and outputs there are.
func (im *importer) shape(learner object) error {
	const path = "learner_model_param"
	param, err := field[object](learner, "learner", path)
	if err != nil {
		return err
	}
	if im.features, err = intText(param, path, "num_feature", 0); err != nil {
		return err
	}
	if im.features < 1 || im.features > model.MaxFeatures {
		return fmt.Errorf("%w: num_feature is %d, a model may have 1 to %d", ErrMalformed, im.features, model.MaxFeatures)
	}
	classes, err := intText(param, path, "num_class", 0)
	if err != nil {
		return err
	}
	targets, err := intText(param, path, "num_target", 1)
	if err != nil {
		return err
	}
	if im.groups = max(classes, targets, 1); im.groups > model.MaxOutputs {
		return fmt.Errorf("%w: %d outputs, a model may have up to %d", ErrMalformed, im.groups, model.MaxOutputs)
	}
	if classes > 1 && targets > 1 {
		return fmt.Errorf("%w: %d classes of %d targets", ErrUnsupported, classes, targets)
	}
	return nil
}

// trees reads the booster's trees.
func (im *importer) trees(learner object) error {
	gb, err := field[object](learner, "learner", "gradient_booster")
	if err != nil {
		return err
	}
	if im.kind, err = field[string](gb, "gradient_booster", "name"); err != nil {
		return err
	}
	if im.kind != "gbtree" && im.kind != "dart" {
		return fmt.Errorf("%w: the booster %.40q is not one of trees; gbtree and dart are read", ErrUnsupported, im.kind)
	}
	// The weights of trees stand where DART boosters had them up to 3.2, and 3.3; since 3.4 in the model. A gbtree has
	// some when it was trained with drop-out, since 3.3.
	holder := gb
	if im.kind == "dart" {
		if gb, err = field[object](gb, "gradient_booster", "gbtree"); err != nil {
			return err
		}
	}
	m, err := field[object](gb, "gradient_booster", "model")
	if err != nil {
		return err
	}
	if _, ok := holder["weight_drop"]; !ok && im.kind == "gbtree" {
		holder = m
	}
	if _, ok := holder["weight_drop"]; ok || im.kind == "dart" {
		if im.weights, err = floats(holder, "gradient_booster", "weight_drop"); err != nil {
			return err
		}
		if im.weights == nil {
			im.weights = []float32{}
		}
	}
	var trees list
	if v, ok := m["trees"]; !ok || !empty(v) {
		if trees, err = field[list](m, "model", "trees"); err != nil {
			return err
		}
	}
	groups, err := im.rounds(m, len(trees))
	if err != nil {
		return err
	}
	if cats, ok := m["cats"].(object); ok && !empty(cats["enc"]) {
		im.lost = append(im.lost, "names of categories: rows hold their codes")
	}
	for i, v := range trees {
		o, ok := v.(object)
		if !ok {
			return fmt.Errorf("tree %d: %w: it is %s", i, ErrMalformed, describe(v))
		}
		if i == 0 {
			if err := im.begin(o); err != nil {
				return fmt.Errorf("tree 0: %w", err)
			}
		}
		first := int(groups[i])
		if im.width > 1 {
			first = 0
		}
		if err := im.b.Output(first); err != nil {
			return fmt.Errorf("tree %d: %w", i, err)
		}
		weight := float32(1)
		if im.weights != nil {
			weight = im.weights[i]
		}
		if err := im.tree(o, weight); err != nil {
			return fmt.Errorf("tree %d: %w", i, err)
		}
	}
	if im.groups > 1 && im.width == 1 && im.groups != len(distinct(groups)) {
		return fmt.Errorf("%w: the trees add to %d of %d outputs", ErrUnsupported, len(distinct(groups)), im.groups)
	}
	return nil
}

func distinct(v []int32) map[int32]bool {
	seen := map[int32]bool{}
	for _, x := range v {
		seen[x] = true
	}
	return seen
}

// rounds reads which trees belong together, and gives the group of every tree.
func (im *importer) rounds(m object, trees int) ([]int32, error) {
	const path = "gbtree_model_param"
	param, err := field[object](m, "model", path)
	if err != nil {
		return nil, err
	}
	claimed, err := intText(param, path, "num_trees", trees)
	if err != nil {
		return nil, err
	}
	groups, err := ints(m, "model", "tree_info")
	if err != nil {
		return nil, err
	}
	switch {
	case claimed != trees:
		return nil, fmt.Errorf("%w: num_trees is %d, there are %d trees", ErrMalformed, claimed, trees)
	case len(groups) != trees:
		return nil, fmt.Errorf("%w: tree_info has %d entries for %d trees", ErrMalformed, len(groups), trees)
	case trees < 1 || trees > model.MaxTrees:
		return nil, fmt.Errorf("%w: %d trees, a model may have 1 to %d", ErrUnsupported, trees, model.MaxTrees)
	case im.weights != nil && len(im.weights) != trees:
		return nil, fmt.Errorf("%w: weight_drop has %d weights for %d trees", ErrMalformed, len(im.weights), trees)
	}
	for i, g := range groups {
		if g < 0 || int(g) >= im.groups {
			return nil, fmt.Errorf("%w: tree %d is of output %d, there are %d", ErrMalformed, i, g, im.groups)
		}
	}
	im.round = trees // unless they fall into equal rounds
	if _, ok := m["iteration_indptr"]; ok {
		starts, err := ints(m, "model", "iteration_indptr")
		if err != nil {
			return nil, err
		}
		if len(starts) < 2 || starts[0] != 0 || int(starts[len(starts)-1]) != trees {
			return nil, fmt.Errorf("%w: iteration_indptr does not divide %d trees", ErrMalformed, trees)
		}
		im.round = int(starts[1])
		for i := range starts[1:] {
			if int(starts[i+1])-int(starts[i]) != im.round || im.round < 1 {
				im.round = trees
				im.lost = append(im.lost, "boosting rounds, which are of different sizes")
				break
			}
		}
		return groups, nil
	}
	parallel, err := intText(param, path, "num_parallel_tree", 1)
	if err != nil {
		return nil, err
	}
	if n := max(parallel, 1) * im.groups; trees%n == 0 {
		im.round = n
	}
	return groups, nil
}

// begin makes the builder, by the first tree.
func (im *importer) begin(o object) error {
	param, err := field[object](o, "it", "tree_param")
	if err != nil {
		return err
	}
	n, err := intText(param, "tree_param", "size_leaf_vector", 1)
	if err != nil {
		return err
	}
	if im.width = max(n, 1); im.width != 1 && im.width != im.groups {
		return fmt.Errorf("%w: leaves of %d values for %d outputs", ErrMalformed, im.width, im.groups)
	}
	im.leaf = make([]float64, im.width)
	im.b = model.NewBuilder(model.Shape{Outputs: im.groups, Width: im.width, Input: model.Float32, Single: true, Categories: model.Floor})
	return nil
}

// nodes are the arrays of one tree, an entry a node.
type nodes struct {
	left, right, feature, missingLeft, kind []int32
	threshold                               []float32
	sets                                    map[int32][]int32 // categories, by node
	leaves                                  []float32         // width values each
	covers                                  []float32         // nil when the file has none
	byLeaf                                  bool              // leaves are numbered by their right child, not by their node
}

func (im *importer) read(o object) (*nodes, error) {
	var n nodes
	var err error
	for _, a := range []struct {
		key  string
		into *[]int32
	}{
		{"left_children", &n.left},
		{"right_children", &n.right},
		{"split_indices", &n.feature},
		{"default_left", &n.missingLeft},
		{"split_type", &n.kind},
	} {
		if _, ok := o[a.key]; !ok && a.key == "split_type" {
			n.kind = make([]int32, len(n.left))
			continue
		}
		if *a.into, err = ints(o, "it", a.key); err != nil {
			return nil, err
		}
		if len(*a.into) != len(n.left) {
			return nil, fmt.Errorf("%w: left_children has %d entries, %s %d", ErrMalformed, len(n.left), a.key, len(*a.into))
		}
	}
	if n.threshold, err = floats(o, "it", "split_conditions"); err != nil {
		return nil, err
	}
	if len(n.threshold) != len(n.left) {
		return nil, fmt.Errorf("%w: left_children has %d entries, split_conditions %d", ErrMalformed, len(n.left), len(n.threshold))
	}
	if _, ok := o["sum_hessian"]; ok {
		if n.covers, err = floats(o, "it", "sum_hessian"); err != nil {
			return nil, err
		}
		if len(n.covers) != len(n.left) {
			return nil, fmt.Errorf("%w: left_children has %d entries, sum_hessian %d", ErrMalformed, len(n.left), len(n.covers))
		}
	}
	param, err := field[object](o, "it", "tree_param")
	if err != nil {
		return nil, err
	}
	claimed, err := intText(param, "tree_param", "num_nodes", len(n.left))
	if err != nil {
		return nil, err
	}
	width, err := intText(param, "tree_param", "size_leaf_vector", 1)
	if err != nil {
		return nil, err
	}
	switch {
	case claimed != len(n.left) || claimed < 1:
		return nil, fmt.Errorf("%w: num_nodes is %d, left_children has %d entries", ErrMalformed, claimed, len(n.left))
	case max(width, 1) != im.width:
		return nil, fmt.Errorf("%w: leaves of %d values, those of the first tree have %d", ErrMalformed, width, im.width)
	}
	if im.width > 1 {
		if err := im.readVectors(o, &n); err != nil {
			return nil, err
		}
	} else {
		n.leaves = n.threshold
	}
	n.sets, err = sets(o, len(n.left))
	return &n, err
}

// readVectors reads leaves of several values: of every node up to XGBoost 3.0, of the leaves alone since.
func (im *importer) readVectors(o object, n *nodes) error {
	key := "base_weights"
	if _, ok := o["leaf_weights"]; ok {
		key, n.byLeaf = "leaf_weights", true
	}
	var err error
	if n.leaves, err = floats(o, "it", key); err != nil {
		return err
	}
	if len(n.leaves)%im.width != 0 || (!n.byLeaf && len(n.leaves) != len(n.left)*im.width) {
		return fmt.Errorf("%w: %s has %d values for %d nodes and %d outputs", ErrMalformed, key, len(n.leaves), len(n.left), im.width)
	}
	return nil
}

// sets reads the categories of the nodes that have some.
func sets(o object, count int) (map[int32][]int32, error) {
	if v, ok := o["categories_nodes"]; !ok || empty(v) {
		return nil, nil
	}
	at := map[string][]int32{}
	for _, key := range []string{"categories_nodes", "categories_segments", "categories_sizes", "categories"} {
		var err error
		if at[key], err = ints(o, "it", key); err != nil {
			return nil, err
		}
	}
	ids, starts, lengths, all := at["categories_nodes"], at["categories_segments"], at["categories_sizes"], at["categories"]
	if len(starts) != len(ids) || len(lengths) != len(ids) {
		return nil, fmt.Errorf("%w: %d categories_nodes, %d categories_segments and %d categories_sizes", ErrMalformed, len(ids), len(starts), len(lengths))
	}
	out := map[int32][]int32{}
	total := 0
	for i, id := range ids {
		from, n := int(starts[i]), int(lengths[i])
		if id < 0 || int(id) >= count || from < 0 || n < 0 || from+n > len(all) {
			return nil, fmt.Errorf("%w: node %d of %d has the categories %d to %d of %d", ErrMalformed, id, count, from, from+n, len(all))
		}
		if _, twice := out[id]; twice {
			return nil, fmt.Errorf("%w: node %d has two sets of categories", ErrMalformed, id)
		}
		if total += n; total > len(all) { // or a short file would take long to read
			return nil, fmt.Errorf("%w: the nodes up to %d have %d categories together, there are %d", ErrMalformed, id, total, len(all))
		}
		out[id] = all[from : from+n]
	}
	return out, nil
}

// tree gives the nodes to the builder in preorder. Nodes that no path reaches were pruned.
func (im *importer) tree(o object, weight float32) error {
	n, err := im.read(o)
	if err != nil {
		return err
	}
	im.visited = append(im.visited[:0], make([]bool, len(n.left))...)
	if n.byLeaf {
		im.taken = append(im.taken[:0], make([]bool, len(n.leaves)/im.width)...)
	}
	im.stack = append(im.stack[:0], 0)
	for len(im.stack) > 0 {
		id := im.stack[len(im.stack)-1]
		im.stack = im.stack[:len(im.stack)-1]
		if im.visited[id] {
			return fmt.Errorf("%w: node %d is the child of two nodes, or of its own descendant", ErrMalformed, id)
		}
		im.visited[id] = true
		if n.left[id] == -1 {
			if err := im.addLeaf(n, id, weight); err != nil {
				return fmt.Errorf("node %d: %w", id, err)
			}
			im.addCover(n, id)
			continue
		}
		for _, child := range []int32{n.right[id], n.left[id]} {
			if child < 0 || int(child) >= len(n.left) {
				return fmt.Errorf("node %d: %w: its child is node %d of %d", id, ErrMalformed, child, len(n.left))
			}
			im.stack = append(im.stack, child)
		}
		if err := im.addSplit(n, id); err != nil {
			return fmt.Errorf("node %d: %w", id, err)
		}
		im.addCover(n, id)
	}
	return nil
}

// addCover adds the cover of the node that was added last. It is not checked: without covers that make sense, which an
// objective of the user's own may leave, a model predicts all the same.
func (im *importer) addCover(n *nodes, id int32) {
	if n.covers != nil {
		im.b.Cover(float64(n.covers[id]))
	}
}

func (im *importer) addSplit(n *nodes, id int32) error {
	feature := int(n.feature[id])
	if feature < 0 || feature >= im.features {
		return fmt.Errorf("%w: it compares feature %d of %d", ErrMalformed, feature, im.features)
	}
	var flags model.Flags
	if n.missingLeft[id] != 0 {
		flags = model.MissingLeft
	}
	if n.kind[id] == 1 {
		set, ok := n.sets[id]
		if !ok {
			return fmt.Errorf("%w: it compares categories and has none", ErrMalformed)
		}
		return im.addSet(feature, set, flags)
	}
	t := n.threshold[id]
	switch {
	case n.kind[id] != 0:
		return fmt.Errorf("%w: split_type %d, expected 0 or 1", ErrUnsupported, n.kind[id])
	case t != t:
		return fmt.Errorf("%w: its threshold is NaN", ErrMalformed)
	case math.IsInf(float64(t), -1): // nothing is below it
		return im.b.SplitSet(feature, nil, flags)
	}
	return im.b.Split(feature, float64(math.Nextafter32(t, float32(math.Inf(-1)))), flags)
}

// addSet adds a split that sends the categories to the right.
func (im *importer) addSet(feature int, categories []int32, flags model.Flags) error {
	im.words = im.words[:0]
	for _, c := range categories {
		if c < 0 || c >= model.MaxCategory {
			return fmt.Errorf("%w: category %d, expected 0 to %d", ErrMalformed, c, model.MaxCategory-1)
		}
		if short := int(c)/32 + 1 - len(im.words); short > 0 {
			im.words = append(im.words, make([]uint32, short)...)
		}
		im.words[c/32] |= 1 << (c % 32)
	}
	if im.room -= len(im.words); im.room < 0 {
		return fmt.Errorf("%w: the sets of categories up to here are too large for a file of this size", ErrUnsupported)
	}
	return im.b.SplitSet(feature, im.words, flags|model.SetRight)
}

func (im *importer) addLeaf(n *nodes, id int32, weight float32) error {
	at := int(id)
	if n.byLeaf {
		at = int(n.right[id])
	}
	if at < 0 || (at+1)*im.width > len(n.leaves) {
		return fmt.Errorf("%w: leaf %d of %d", ErrMalformed, at, len(n.leaves)/im.width)
	}
	if n.byLeaf {
		if im.taken[at] {
			return fmt.Errorf("%w: leaf %d is that of two nodes", ErrMalformed, at)
		}
		im.taken[at] = true
	}
	for k, v := range n.leaves[at*im.width : (at+1)*im.width] {
		if v-v != 0 {
			return fmt.Errorf("%w: its leaf value is %v, expected a finite one", ErrMalformed, v)
		}
		if v *= weight; v-v != 0 {
			return fmt.Errorf("%w: its leaf value times the tree's weight %v is %v, expected a finite one", ErrMalformed, weight, v)
		}
		im.leaf[k] = float64(v)
	}
	if err := im.b.Leaf(im.leaf...); err != nil {
		return err
	}
	im.b.LeafID(uint32(id))
	return nil
}
