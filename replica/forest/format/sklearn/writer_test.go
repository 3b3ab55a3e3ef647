package sklearn_test

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
)

// The tests write pickles of their own, to say what scikit-learn never would.
type (
	tuple  []any
	list   []any
	pair   struct{ key, value any }
	dict   []pair
	global string // module.name
	object struct {
		class global
		args  tuple
		state any // nil for none
	}
	again int // what was remembered at this place
	// remembered is a value that again can refer to; places count up from 0 as they are written.
	remembered struct{ value any }
	// selfish is an object, remembered first, whose state may refer to it.
	selfish func(me again) object
	// followed is an object with raw bytes after it.
	followed struct {
		value object
		raw   []byte
	}
)

// pickled writes a value as a pickle of protocol 4.
func pickled(v any) []byte {
	b := write([]byte{0x80, 4}, v)
	return append(b, '.')
}

func write(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, 'N')
	case bool:
		if v {
			return append(b, 0x88)
		}
		return append(b, 0x89)
	case int:
		b = append(b, 0x8a, 8)
		return binary.LittleEndian.AppendUint64(b, uint64(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 'G'), math.Float64bits(v))
	case string:
		b = binary.LittleEndian.AppendUint32(append(b, 'X'), uint32(len(v)))
		return append(b, v...)
	case []byte:
		b = binary.LittleEndian.AppendUint32(append(b, 'B'), uint32(len(v)))
		return append(b, v...)
	case tuple:
		b = append(b, '(')
		for _, x := range v {
			b = write(b, x)
		}
		return append(b, 't')
	case list:
		b = append(b, ']', '(')
		for _, x := range v {
			b = write(b, x)
		}
		return append(b, 'e')
	case dict:
		b = append(b, '}', '(')
		for _, p := range v {
			b = write(write(b, p.key), p.value)
		}
		return append(b, 'u')
	case global:
		i := strings.LastIndexByte(string(v), '.')
		return append(b, "c"+string(v[:i])+"\n"+string(v[i+1:])+"\n"...)
	case object:
		b = append(write(write(b, v.class), v.args), 'R')
		if v.state != nil {
			b = append(write(b, v.state), 'b')
		}
		return b
	case remembered:
		return append(write(b, v.value), 0x94)
	case selfish:
		o := v(0)
		b = append(write(write(b, o.class), o.args), 'R', 0x94)
		return append(write(b, o.state), 'b')
	case followed:
		return append(write(b, v.value), v.raw...)
	case again:
		return binary.LittleEndian.AppendUint32(append(b, 'j'), uint32(v))
	}
	panic("no such value in a pickle")
}

// scalarType is a dtype such as "<f8".
func scalarType(name string) object {
	return object{"numpy.dtype", tuple{name[1:], false, true}, tuple{3, name[:1], nil, nil, nil, -1, -1, 0}}
}

// arrayOf is an array by its raw bytes.
func arrayOf(typ any, data []byte, shape ...int) object {
	dims := make(tuple, len(shape))
	for i, n := range shape {
		dims[i] = n
	}
	return object{"numpy.core.multiarray._reconstruct", tuple{global("numpy.ndarray"), tuple{0}, []byte("b")}, tuple{1, dims, typ, false, data}}
}

// ints is an array of int64.
func ints(v ...int) object {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, uint64(x))
	}
	return arrayOf(scalarType("<i8"), b, len(v))
}

// testNode is a node of a tree; leaves have -1 for children.
type testNode struct {
	left, right, feature int
	threshold            float64
	missingLeft          bool
	value                []float64
}

// testField is a field of the nodes' dtype.
type testField struct {
	name, typ string
	offset    int
}

// fields are the nodes' as of scikit-learn 1.3, without those that nothing needs.
var fields = []testField{
	{"left_child", "<i8", 0}, {"right_child", "<i8", 8}, {"feature", "<i8", 16}, {"threshold", "<f8", 24}, {"missing_go_to_left", "<u1", 56},
}

// testForest is a forest in the shape in which scikit-learn saves it. A function of each test changes it.
type testForest struct {
	class    global
	version  any
	features any
	outputs  any
	classes  any // an array
	nClasses any // nil for a regressor's forest
	names    any // nil for none
	criteria string
	extra    dict
	trees    []*testTree
	trailing []byte
	// estimators takes the place of the trees.
	estimators any
}

type testTree struct {
	fields   []testField
	size     int // bytes of a node
	nodes    []testNode
	width    int // values a leaf
	features any
	outputs  any
	classes  any
	count    any // node_count
	shape    []int
	valueTyp string
	nodeTyp  any
}

// classifier is a sound forest of two trees over 3 features: a split over a split, and a leaf.
func classifier() *testForest {
	two := func(nodes ...testNode) *testTree {
		return &testTree{fields: fields, size: 64, nodes: nodes, width: 2, features: 3, outputs: 1, classes: ints(2), valueTyp: "<f8"}
	}
	return &testForest{
		class: "sklearn.ensemble._forest.RandomForestClassifier", version: "1.6.1", features: 3, outputs: 1, nClasses: 2, classes: ints(0, 1), criteria: "gini",
		trees: []*testTree{
			two(
				testNode{1, 4, 2, 0.1, true, []float64{0.5, 0.5}},
				testNode{2, 3, 0, -7, false, []float64{0.5, 0.5}},
				testNode{-1, -1, -2, -2, false, []float64{1, 0}},
				testNode{-1, -1, -2, -2, false, []float64{0.25, 0.75}},
				testNode{-1, -1, -2, -2, false, []float64{0, 1}},
			),
			two(testNode{-1, -1, -2, -2, false, []float64{0.5, 0.5}}),
		},
	}
}

// file is the pickle of a forest.
func (f *testForest) file() []byte {
	return append(pickled(object{f.class, tuple{}, f.state()}), f.trailing...)
}

// state has a forest's attributes.
func (f *testForest) state() dict {
	est := f.estimators
	if est == nil {
		l := list{}
		for _, t := range f.trees {
			l = append(l, f.estimator(t.object()))
		}
		est = l
	}
	state := dict{
		{"n_features_in_", f.features},
		{"n_outputs_", f.outputs},
		{"classes_", f.classes},
		{"n_classes_", f.nClasses},
		{"estimators_", est},
		{"_sklearn_version", f.version},
	}
	if f.names != nil {
		state = append(state, pair{"feature_names_in_", f.names})
	}
	return append(state, f.extra...)
}

// estimator is the tree's estimator.
func (f *testForest) estimator(tree any) object {
	return object{"sklearn.tree._classes.DecisionTreeClassifier", tuple{}, dict{{"criterion", f.criteria}, {"splitter", "best"}, {"monotonic_cst", nil}, {"tree_", tree}}}
}

// object is sklearn.tree._tree.Tree.
func (t *testTree) object() object {
	names := make(tuple, len(t.fields))
	defs := make(dict, len(t.fields))
	for i, f := range t.fields {
		names[i] = f.name
		defs[i] = pair{f.name, tuple{scalarType(f.typ), f.offset}}
	}
	typ := t.nodeTyp
	if typ == nil {
		typ = object{"numpy.dtype", tuple{"V" + strconv.Itoa(t.size), false, true}, tuple{3, "|", nil, names, defs, t.size, 1, 16}}
	}
	data := make([]byte, t.size*len(t.nodes))
	var values []byte
	for i, n := range t.nodes {
		missing := 0
		if n.missingLeft {
			missing = 1
		}
		for _, f := range t.fields {
			at := data[i*t.size+f.offset:]
			switch f.name {
			case "left_child":
				put(at, f.typ, n.left)
			case "right_child":
				put(at, f.typ, n.right)
			case "feature":
				put(at, f.typ, n.feature)
			case "threshold":
				put(at, f.typ, int(math.Float64bits(n.threshold)))
			case "missing_go_to_left":
				put(at, f.typ, missing)
			}
		}
		for k := range t.width {
			v := 0.0
			if k < len(n.value) {
				v = n.value[k]
			}
			bits := make([]byte, 8)
			put(bits, t.valueTyp, int(math.Float64bits(v)))
			values = append(values, bits...)
		}
	}
	shape := t.shape
	if shape == nil {
		shape = []int{len(t.nodes), 1, t.width}
	}
	count := t.count
	if count == nil {
		count = len(t.nodes)
	}
	return object{"sklearn.tree._tree.Tree", tuple{t.features, t.classes, t.outputs}, dict{
		{"max_depth", 2},
		{"node_count", count},
		{"nodes", arrayOf(typ, data, len(t.nodes))},
		{"values", arrayOf(scalarType(t.valueTyp), values, shape...)},
	}}
}

// put writes a number in the byte order and width of a type.
func put(at []byte, typ string, v int) {
	width := int(typ[2] - '0')
	for i := range width {
		j := i
		if typ[0] == '>' {
			j = width - 1 - i
		}
		at[j] = byte(v >> (8 * i))
	}
}
