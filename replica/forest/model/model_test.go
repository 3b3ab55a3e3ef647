package model

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// stump is a classifier of two trees: one split, and a leaf alone.
func stump(t testing.TB) *Model {
	t.Helper()
	b := NewBuilder(Shape{Outputs: 2})
	for _, err := range []error{b.Split(2, 1.5, MissingLeft), b.Leaf(1, 0), b.Leaf(0, 1), b.Leaf(1, 0)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	return &Model{Meta: Meta{Link: Link{Name: Identity}, Predict: PredictScores, Task: Classify, Features: 3, Classes: []string{"a", "b"}}, Forest: f}
}

func TestBuilder(t *testing.T) {
	f := stump(t).Forest
	want := Forest{
		Trees:   []Tree{{0, 0}, {1, 2}, {1, 3}},
		Splits:  []Split{{math.Float32bits(1.5), 2 | uint32(MissingLeft), 1}},
		Leaves:  []uint32{0, 1, 0},
		Values:  []float64{1, 0, 0, 1},
		Outputs: 2, Depth: 1,
	}
	if !slices.Equal(f.Trees, want.Trees) || !slices.Equal(f.Splits, want.Splits) || !slices.Equal(f.Leaves, want.Leaves) ||
		!slices.Equal(f.Values, want.Values) || f.Depth != want.Depth {
		t.Errorf("got %+v, want %+v", f, want)
	}
	if s := f.Splits[0]; s.Feature() != 2 || !s.Has(MissingLeft) || f.NumTrees() != 2 || f.NumNodes() != 4 {
		t.Errorf("%+v", f)
	}
}

func TestBuilderErrors(t *testing.T) {
	b := NewBuilder(Shape{Outputs: 1})
	for name, err := range map[string]error{
		"feature":   b.Split(-1, 0, 0),
		"too large": b.Split(MaxFeatures, 0, 0),
		"NaN":       b.Split(0, math.NaN(), 0),
		"values":    NewBuilder(Shape{Outputs: 2}).Leaf(1),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b = NewBuilder(Shape{Outputs: 1})
	if err := b.Split(0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Forest(); !errors.Is(err, ErrBuild) {
		t.Errorf("a split without children: %v", err)
	}
	b = NewBuilder(Shape{Outputs: 1})
	for range MaxDepth {
		if err := b.Split(0, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Split(0, 0, 0); !errors.Is(err, ErrInvalid) {
		t.Errorf("one split too deep: %v", err)
	}
}

func TestValidate(t *testing.T) {
	if err := stump(t).Validate(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*Model)
		say    string
	}{
		{"no features", func(m *Model) { m.Meta.Features = 0 }, "0 features"},
		{"too many features", func(m *Model) { m.Meta.Features = MaxFeatures + 1 }, "features"},
		{"outputs", func(m *Model) { m.Forest.Outputs = 0 }, "0 outputs"},
		{"names", func(m *Model) { m.Meta.Names = []string{"a"} }, "1 feature names for 3 features"},
		{"classes", func(m *Model) { m.Meta.Classes = []string{"a"} }, "1 classes for 2 outputs"},
		{"task", func(m *Model) { m.Meta.Task = "rank" }, `task "rank"`},
		{"regressor with classes", func(m *Model) { m.Meta.Task = Regress }, "a regressor"},
		{"no trees", func(m *Model) { m.Forest.Trees = nil }, "0 trees"},
		{"leaves", func(m *Model) { m.Forest.Leaves = m.Forest.Leaves[:2] }, "there are 3 leaves"},
		{"values", func(m *Model) { m.Forest.Values = m.Forest.Values[:3] }, "3 leaf values"},
		{"no values", func(m *Model) { m.Forest.Values = nil }, "0 leaf values"},
		{"leaf ids", func(m *Model) { m.Forest.LeafIDs = []uint32{1} }, "1 leaf ids for 3 leaves"},
		{"covers", func(m *Model) { m.Forest.Covers = make([]float64, 3) }, "3 covers for 4 nodes"},
		{"covers of float32", func(m *Model) { m.Forest.Covers32 = make([]float32, 5) }, "5 covers for 4 nodes"},
		{"no covers", func(m *Model) { m.Forest.Covers = []float64{} }, "0 covers for 4 nodes"},
		{"covers twice", func(m *Model) { m.Forest.Covers, m.Forest.Covers32 = make([]float64, 4), make([]float32, 4) }, "both types"},
		{"negative cover", func(m *Model) { m.Forest.Covers = []float64{1, 0, -1, 1} }, "cover 2 is -1"},
		{"NaN cover", func(m *Model) { m.Forest.Covers32 = []float32{1, float32(math.NaN()), 1, 1} }, "cover 1 is NaN"},
		{"infinite cover", func(m *Model) { m.Forest.Covers = []float64{math.Inf(1), 0, 1, 1} }, "cover 0 is +Inf"},
		{"leaf row", func(m *Model) { m.Forest.Leaves[1] = 2 }, "leaf 1 gives row 2 of 2"},
		{"value", func(m *Model) { m.Forest.Values[3] = math.NaN() }, "leaf value 3"},
		{"right", func(m *Model) { m.Forest.Splits[0].Right = 0 }, "split 0: the right child is split 0"},
		{"right beyond", func(m *Model) { m.Forest.Splits[0].Right = 2 }, "split 0: the right child is split 2"},
		{"feature", func(m *Model) { m.Forest.Splits[0].Bits = 3 }, "feature 3 of 3"},
		{"threshold", func(m *Model) { m.Forest.Splits[0].Value = math.Float32bits(float32(math.NaN())) }, "NaN"},
		{"depth", func(m *Model) { m.Forest.Depth = 2 }, "said to be 2 and is 1"},
		{"depth beyond", func(m *Model) { m.Forest.Depth = MaxDepth + 1 }, "depth"},
		{"first tree", func(m *Model) { m.Forest.Trees[0].Split = 1 }, "tree 0"},
		{"tree ends before it begins", func(m *Model) { m.Forest.Trees[1] = Tree{5, 6} }, "tree 0"},
		{"totals", func(m *Model) { m.Forest.Trees[2] = Tree{0, 2} }, "tree 1"},
		{"golden", func(m *Model) { m.Golden.Rows = []float64{1, 2} }, "golden"},
		{"more golden rows", func(m *Model) {
			m.Golden = Golden{make([]float64, 3*(MaxGoldenRows+1)), make([]float64, 2*(MaxGoldenRows+1))}
		}, "65 golden rows"},
		{"a golden row's outputs", func(m *Model) { m.Golden = Golden{make([]float64, 3), make([]float64, 1)} }, "golden"},
		{"feature names in Latin-1", func(m *Model) { m.Meta.Names = []string{"a", "\xe9", "c"} }, `feature 1 is not UTF-8: "\xe9"`},
		{"classes in Latin-1", func(m *Model) { m.Meta.Classes[1] = "\xe9" }, "class 1 is not UTF-8"},
		{"source in Latin-1", func(m *Model) { m.Meta.Source.Version = "\xe9" }, "not UTF-8"},
		{"too many outputs", func(m *Model) { m.Forest.Outputs = MaxOutputs + 1 }, "65537 outputs"},
		{"totals alone", func(m *Model) { m.Forest.Trees = m.Forest.Trees[:1] }, "0 trees"},
		{"too many trees", func(m *Model) { m.Forest.Trees = make([]Tree, MaxTrees+2) }, "1048577 trees"},
		{"infinite value", func(m *Model) { m.Forest.Values[0] = math.Inf(-1) }, "leaf value 0 is -Inf"},
		{"negative depth", func(m *Model) { m.Forest.Depth = -1 }, "depth -1"},
		{"totals beyond", func(m *Model) { m.Forest.Trees[2] = Tree{1 << 31, 1<<31 + 2} }, "tree 1"},
		{"a tree's leaves", func(m *Model) { m.Forest.Trees[1].Leaf = 1 }, "tree 0 has splits 0 to 1 and leaves 0 to 1"},
		{"golden outputs", func(m *Model) { m.Golden.Rows = []float64{1, 2, 3} }, "golden"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := stump(t)
			tt.change(m)
			if err := m.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("got %v, want …%s…", err, tt.say)
			}
		})
	}
}

// TestValidateChain: the deepest chains that are allowed, to either side, and one split more.
func TestValidateChain(t *testing.T) {
	for _, left := range []bool{true, false} {
		for _, depth := range []int{MaxDepth, MaxDepth + 1} {
			f := Forest{Input: Float32, Width: 1, Round: 1, Outputs: 1, Depth: depth, Values: []float64{1}, Leaves: make([]uint32, depth+1), Trees: []Tree{{}, {uint32(depth), uint32(depth + 1)}}}
			for k := range depth {
				right := uint32(k + 1) // the left child is a leaf
				if left {
					right = uint32(depth) // the right child is a leaf
				}
				f.Splits = append(f.Splits, Split{Right: right})
			}
			m := &Model{Meta: Meta{Link: Link{Name: Identity}, Predict: PredictScores, Task: Regress, Features: 1}, Forest: f}
			if err := m.Validate(); (err == nil) != (depth == MaxDepth) {
				t.Errorf("left %v, depth %d: %v", left, depth, err)
			}
		}
	}
}

// TestBuilderShapes: trees of every shape of up to five splits come back from the arrays as they went in.
func TestBuilderShapes(t *testing.T) {
	for splits := range 6 {
		for _, shape := range shapes(splits) {
			b := NewBuilder(Shape{Outputs: 1})
			leaf := 0.0
			add(t, b, shape, &leaf)
			if err := b.Leaf(-1); err != nil { // another tree behind it
				t.Fatal(err)
			}
			f, err := b.Forest()
			if err != nil {
				t.Fatal(err)
			}
			m := &Model{Meta: Meta{Link: Link{Name: Identity}, Predict: PredictScores, Task: Regress, Features: 1}, Forest: f}
			if err := m.Validate(); err != nil {
				t.Fatalf("%v: %v", shape, err)
			}
			if got := read(&f, 0, 0, f.Trees[1].Split); got.String() != shape.String() || f.Depth != shape.depth() {
				t.Errorf("got %v of depth %d, want %v of depth %d", got, f.Depth, shape, shape.depth())
			}
		}
	}
}

// tree is a node: a leaf when it is nil.
type tree [2]*tree

func (n *tree) String() string {
	if n == nil {
		return "."
	}
	return "(" + n[0].String() + n[1].String() + ")"
}

func (n *tree) depth() int {
	if n == nil {
		return 0
	}
	return 1 + max(n[0].depth(), n[1].depth())
}

// shapes are all trees of so many splits.
func shapes(splits int) []*tree {
	if splits == 0 {
		return []*tree{nil}
	}
	var out []*tree
	for left := range splits {
		for _, l := range shapes(left) {
			for _, r := range shapes(splits - 1 - left) {
				out = append(out, &tree{l, r})
			}
		}
	}
	return out
}

func add(t *testing.T, b *Builder, n *tree, leaf *float64) {
	t.Helper()
	var err error
	if n == nil {
		err = b.Leaf(*leaf)
		*leaf++
	} else {
		err = b.Split(0, 0, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if n != nil {
		add(t, b, n[0], leaf)
		add(t, b, n[1], leaf)
	}
}

// read walks the arrays of the first tree as the package comment says.
func read(f *Forest, k, l, end uint32) *tree {
	if k == end {
		if f.Values[f.Row(int(l))] != float64(l) {
			return &tree{} // not what went in
		}
		return nil
	}
	right := f.Splits[k].Right
	return &tree{read(f, k+1, l, right), read(f, right, l+right-k, end)}
}

// TestBuilderLeafIDs: all leaves have an id or none; ids in preorder are not kept.
func TestBuilderLeafIDs(t *testing.T) {
	for _, tt := range []struct {
		ids  []uint32
		want []uint32
		err  error
	}{{[]uint32{1}, nil, ErrBuild}, {[]uint32{1, 2}, nil, nil}, {[]uint32{7, 5}, []uint32{7, 5}, nil}} {
		b := NewBuilder(Shape{Outputs: 1})
		if err := b.Split(0, 0, 0); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if err := b.Leaf(float64(i)); err != nil {
				t.Fatal(err)
			}
			if i < len(tt.ids) {
				b.LeafID(tt.ids[i])
			}
		}
		f, err := b.Forest()
		if !errors.Is(err, tt.err) || (err == nil && !slices.Equal(f.LeafIDs, tt.want)) {
			t.Errorf("%v: got %v, %v", tt.ids, f.LeafIDs, err)
		}
	}
}

// TestBuilderCovers: a forest has covers when all nodes have one that makes sense, in float32 when that holds them.
func TestBuilderCovers(t *testing.T) {
	for _, tt := range []struct {
		covers []float64
		single []float32
		double []float64
	}{
		{nil, nil, nil},
		{[]float64{4, 3}, nil, nil},
		{[]float64{4, 3, -1}, nil, nil},
		{[]float64{4, 3, math.NaN()}, nil, nil},
		{[]float64{4, 3, math.Inf(1)}, nil, nil},
		{[]float64{4, 3, 0}, []float32{4, 3, 0}, nil},
		{[]float64{1 << 25, 1<<25 - 1, 1}, nil, []float64{1 << 25, 1<<25 - 1, 1}},
	} {
		b := NewBuilder(Shape{Outputs: 1})
		for i := range 3 {
			add := b.Leaf
			if i == 0 {
				add = func(...float64) error { return b.Split(0, 0, 0) }
			}
			if err := add(1); err != nil {
				t.Fatal(err)
			}
			if i < len(tt.covers) {
				b.Cover(tt.covers[i])
			}
		}
		f, err := b.Forest()
		if err != nil || !slices.Equal(f.Covers, tt.double) || !slices.Equal(f.Covers32, tt.single) || f.HasCovers() != (tt.double != nil || tt.single != nil) {
			t.Errorf("%v: got %v and %v, %v", tt.covers, f.Covers, f.Covers32, err)
		}
		for i := range 3 {
			if f.HasCovers() && f.Cover(i) != tt.covers[i] {
				t.Errorf("%v: cover %d is %v", tt.covers, i, f.Cover(i))
			}
		}
	}
}

// TestBuilderZeros: leaves are equal when their bits are.
func TestBuilderZeros(t *testing.T) {
	b := NewBuilder(Shape{Outputs: 1})
	for _, v := range []float64{0, math.Copysign(0, -1), 0} {
		if err := b.Leaf(v); err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	if f.Row(0) == f.Row(1) || math.Signbit(f.Values[f.Row(0)]) || !math.Signbit(f.Values[f.Row(1)]) || math.Signbit(f.Values[f.Row(2)]) {
		t.Errorf("%+v", f)
	}
}

// BenchmarkValidate has forests of 4 million nodes, in few large trees and in many small ones, beside one pass
// over their bytes.
func BenchmarkValidate(b *testing.B) {
	for _, depth := range []int{1, 4, 15, 20} {
		builder := NewBuilder(Shape{Outputs: 2})
		var grow func(d int) error
		grow = func(d int) error {
			if d == depth {
				return builder.Leaf(float64(d&1), float64(1-d&1))
			}
			if err := builder.Split(d, float64(d), Flags(d%2)*MissingLeft); err != nil {
				return err
			}
			if err := grow(d + 1); err != nil {
				return err
			}
			return grow(d + 1)
		}
		for range min(4<<20>>(depth+1), MaxTrees) {
			if err := grow(0); err != nil {
				b.Fatal(err)
			}
		}
		f, err := builder.Forest()
		if err != nil {
			b.Fatal(err)
		}
		m := &Model{Meta: Meta{Link: Link{Name: Identity}, Predict: PredictScores, Task: Classify, Features: depth, Classes: []string{"a", "b"}}, Forest: f}
		run := func(name string, pass func() error) {
			b.Run(fmt.Sprintf("depth=%d/%s", depth, name), func(b *testing.B) {
				for b.Loop() {
					if err := pass(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(f.NumNodes()), "ns/node")
			})
		}
		run("validate", m.Validate)
		run("pass", func() error {
			sum := uint32(0)
			for i := range f.Splits {
				sum += f.Splits[i].Right
			}
			for _, row := range f.Leaves {
				sum += row
			}
			if sum == 0 {
				return ErrInvalid
			}
			return nil
		})
	}
}
