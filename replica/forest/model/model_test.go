package model

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

// stump is a classifier of two trees: one split, and a leaf alone.
func stump(t testing.TB) *Model {
	t.Helper()
	b := NewBuilder(2)
	for _, err := range []error{b.Split(2, 1.5, true), b.Leaf(1, 0), b.Leaf(0, 1), b.Leaf(1, 0)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	return &Model{Meta: Meta{Task: Classify, Features: 3, Classes: []string{"a", "b"}}, Forest: f}
}

func TestBuilder(t *testing.T) {
	f := stump(t).Forest
	want := Forest{
		Trees:   []Tree{{0, 0}, {1, 2}, {1, 3}},
		Splits:  []Split{{1.5, 2 | MissingLeft, 1}},
		Leaves:  []uint32{0, 1, 0},
		Values:  []float64{1, 0, 0, 1},
		Outputs: 2, Depth: 1,
	}
	if !slices.Equal(f.Trees, want.Trees) || !slices.Equal(f.Splits, want.Splits) || !slices.Equal(f.Leaves, want.Leaves) ||
		!slices.Equal(f.Values, want.Values) || f.Depth != want.Depth {
		t.Errorf("got %+v, want %+v", f, want)
	}
	if s := f.Splits[0]; s.Feature() != 2 || !s.MissingLeft() || f.NumTrees() != 2 || f.NumNodes() != 4 {
		t.Errorf("%+v", f)
	}
}

func TestBuilderErrors(t *testing.T) {
	b := NewBuilder(1)
	for name, err := range map[string]error{
		"feature":   b.Split(-1, 0, false),
		"too large": b.Split(MaxFeatures, 0, false),
		"NaN":       b.Split(0, float32(math.NaN()), false),
		"values":    NewBuilder(2).Leaf(1),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b = NewBuilder(1)
	if err := b.Split(0, 0, false); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Forest(); !errors.Is(err, ErrBuild) {
		t.Errorf("a split without children: %v", err)
	}
	b = NewBuilder(1)
	for range MaxDepth {
		if err := b.Split(0, 0, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Split(0, 0, false); !errors.Is(err, ErrInvalid) {
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
		{"leaves", func(m *Model) { m.Forest.Leaves = m.Forest.Leaves[:2] }, "2 leaves for 1 splits"},
		{"values", func(m *Model) { m.Forest.Values = m.Forest.Values[:3] }, "3 leaf values"},
		{"no values", func(m *Model) { m.Forest.Values = nil }, "0 leaf values"},
		{"leaf ids", func(m *Model) { m.Forest.LeafIDs = []uint32{1} }, "1 leaf ids for 3 leaves"},
		{"leaf row", func(m *Model) { m.Forest.Leaves[1] = 2 }, "leaf 1 gives row 2 of 2"},
		{"value", func(m *Model) { m.Forest.Values[3] = math.NaN() }, "leaf value 3"},
		{"right", func(m *Model) { m.Forest.Splits[0].Right = 0 }, "split 0: the right child is split 0"},
		{"right beyond", func(m *Model) { m.Forest.Splits[0].Right = 2 }, "split 0: the right child is split 2"},
		{"feature", func(m *Model) { m.Forest.Splits[0].Bits = 3 }, "feature 3 of 3"},
		{"threshold", func(m *Model) { m.Forest.Splits[0].Threshold = float32(math.NaN()) }, "NaN"},
		{"depth", func(m *Model) { m.Forest.Depth = 2 }, "said to be 2 and is 1"},
		{"depth beyond", func(m *Model) { m.Forest.Depth = MaxDepth + 1 }, "depth"},
		{"first tree", func(m *Model) { m.Forest.Trees[0].Split = 1 }, "tree 0"},
		{"tree ends before it begins", func(m *Model) { m.Forest.Trees[1] = Tree{5, 6} }, "tree 0"},
		{"totals", func(m *Model) { m.Forest.Trees[2] = Tree{0, 2} }, "tree 1"},
		{"golden", func(m *Model) { m.Golden.Rows = []float32{1, 2} }, "golden"},
		{"golden outputs", func(m *Model) { m.Golden.Rows = []float32{1, 2, 3} }, "golden"},
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
			f := Forest{Outputs: 1, Depth: depth, Values: []float64{1}, Leaves: make([]uint32, depth+1), Trees: []Tree{{}, {uint32(depth), uint32(depth + 1)}}}
			for k := range depth {
				right := uint32(k + 1) // the left child is a leaf
				if left {
					right = uint32(depth) // the right child is a leaf
				}
				f.Splits = append(f.Splits, Split{Right: right})
			}
			m := &Model{Meta: Meta{Task: Regress, Features: 1}, Forest: f}
			if err := m.Validate(); (err == nil) != (depth == MaxDepth) {
				t.Errorf("left %v, depth %d: %v", left, depth, err)
			}
		}
	}
}
