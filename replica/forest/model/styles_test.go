package model

import (
	"errors"
	"math"
	"strings"
	"testing"
)

// rich is a regressor that has everything that float64 sums can have: two outputs of which a tree adds to one, a
// table of thresholds, sets, and linear leaves.
func rich(t testing.TB) *Model {
	t.Helper()
	b := NewBuilder(Shape{Outputs: 2, Width: 1, Input: Float64, Categories: Truncate})
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	must(b.Split(0, 0.1, ZeroMissing))
	must(b.LinearLeaf(1, 0.5, []uint32{1, 2}, []float64{2, 3}))
	must(b.SplitSet(1, []uint32{5, 1}, SetRight))
	must(b.Leaf(2))
	must(b.Leaf(3))
	must(b.Output(1))
	must(b.Split(2, 0.2, MissingLeft))
	must(b.SplitSet(0, nil, 0))
	must(b.Leaf(4))
	must(b.Leaf(5))
	must(b.Leaf(6))
	f, err := b.Forest()
	must(err)
	f.Base = []float64{1, 2}
	return &Model{Meta: Meta{Link: Link{Name: Identity}, Predict: PredictScores, Task: Regress, Features: 3}, Forest: f}
}

// single is a classifier with float32 sums.
func single(t testing.TB) *Model {
	t.Helper()
	b := NewBuilder(Shape{Outputs: 1, Single: true})
	for _, err := range []error{b.Split(0, 1.5, 0), b.Leaf(1), b.Leaf(0.5)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	f.Base = []float64{0.25}
	return &Model{Meta: Meta{
		Link: Link{Name: Sigmoid, Scale: 1}, Predict: PredictIndex, Task: Classify, Features: 1, Classes: []string{"0", "1"}, ByMargin: Positive,
	}, Forest: f}
}

// TestValidateStyles: what is refused in the parts that only some models have.
func TestValidateStyles(t *testing.T) {
	for name, m := range map[string]*Model{"rich": rich(t), "single": single(t)} {
		if err := m.Validate(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	inf, nan := math.Inf(1), math.NaN()
	for name, tt := range map[string]struct {
		of     func(testing.TB) *Model
		change func(*Model)
		say    string
	}{
		"input":                   {rich, func(m *Model) { m.Forest.Input = "float16" }, `input "float16"`},
		"width":                   {rich, func(m *Model) { m.Forest.Width = 3 }, "leaves of 3 values for 2 outputs"},
		"no width":                {rich, func(m *Model) { m.Forest.Width = 0 }, "leaves of 0 values"},
		"rounds":                  {rich, func(m *Model) { m.Forest.Round = 3 }, "2 trees are not whole rounds of 3"},
		"no rounds":               {rich, func(m *Model) { m.Forest.Round = 0 }, "rounds of 0"},
		"which output":            {rich, func(m *Model) { m.Forest.First = nil }, "nothing that says which of 2 outputs"},
		"first outputs":           {rich, func(m *Model) { m.Forest.First = m.Forest.First[:1] }, "1 first outputs for 2 trees"},
		"first output":            {rich, func(m *Model) { m.Forest.First[1] = 2 }, "tree 1 adds 1 values to the outputs from 2 on"},
		"first output wraps":      {rich, func(m *Model) { m.Forest.First[1] = math.MaxUint32 }, "from 4294967295 on"},
		"bases":                   {rich, func(m *Model) { m.Forest.Base = []float64{1} }, "1 bases for 2 outputs"},
		"base":                    {rich, func(m *Model) { m.Forest.Base[1] = nan }, "base 1 is NaN"},
		"values of both types":    {rich, func(m *Model) { m.Forest.Values32 = []float32{1} }, "both types"},
		"values of the other":     {single, func(m *Model) { m.Forest.Values = []float64{1} }, "both types"},
		"value":                   {single, func(m *Model) { m.Forest.Values32[1] = float32(inf) }, "leaf value 1 is +Inf"},
		"base in float32":         {single, func(m *Model) { m.Forest.Base[0] = 0.1 }, "base 0 is 0.1"},
		"table":                   {single, func(m *Model) { m.Forest.Thresholds = []float64{1} }, "a table of thresholds"},
		"threshold is NaN":        {rich, func(m *Model) { m.Forest.Thresholds[0] = nan }, "threshold 0 is NaN"},
		"threshold twice":         {rich, func(m *Model) { m.Forest.Thresholds[1] = 0.1 }, "threshold 1 is 0.1 and does not ascend"},
		"threshold of many":       {rich, func(m *Model) { m.Forest.Splits[0].Value = 2 }, "tree 0: split 0: threshold 2 of 2"},
		"categories":              {rich, func(m *Model) { m.Forest.Categories = "ceil" }, `categories "ceil"`},
		"no categories":           {rich, func(m *Model) { m.Forest.Categories = "" }, "sets in a forest without categories"},
		"sets begin":              {rich, func(m *Model) { m.Forest.SetStarts[0] = 1 }, "sets have the words 1 to 2"},
		"sets end":                {rich, func(m *Model) { m.Forest.SetWords = m.Forest.SetWords[:1] }, "sets have the words 0 to 2 of 1"},
		"sets ascend":             {rich, func(m *Model) { m.Forest.SetStarts[1] = 3 }, "have the words 3 to 2"},
		"words without sets":      {rich, func(m *Model) { m.Forest.SetStarts = nil }, "2 words of no sets"},
		"set of many":             {rich, func(m *Model) { m.Forest.Splits[1].Value = 2 }, "tree 0: split 1: set 2 of 2 sets"},
		"set of near zeros":       {rich, func(m *Model) { m.Forest.Splits[1].Bits |= uint32(ZeroMissing) }, "contradict"},
		"threshold to the right":  {rich, func(m *Model) { m.Forest.Splits[0].Bits |= uint32(SetRight) }, "contradict"},
		"unknown flag":            {rich, func(m *Model) { m.Forest.Splits[0].Bits |= 1 << 27 }, "are unknown"},
		"flags":                   {rich, func(m *Model) { m.Forest.Uses = 0 }, "flags are said to be 0x0"},
		"linear leaves":           {rich, func(m *Model) { m.Forest.Linear.Const = nil }, "0 linear leaves"},
		"linear terms":            {rich, func(m *Model) { m.Forest.Linear.Coeffs = []float64{1} }, "2 features and 1 coefficients"},
		"linear feature":          {rich, func(m *Model) { m.Forest.Linear.Features[1] = 3 }, "linear term 1 has feature 3 of 3"},
		"linear coefficient":      {rich, func(m *Model) { m.Forest.Linear.Coeffs[0] = inf }, "linear term 0 is +Inf"},
		"linear constant":         {rich, func(m *Model) { m.Forest.Linear.Const[0] = nan }, "linear term 0 is NaN"},
		"linear starts":           {rich, func(m *Model) { m.Forest.Linear.Starts[1] = 9 }, "have the terms 9 to 2"},
		"link":                    {rich, func(m *Model) { m.Meta.Link.Name = "probit" }, `link "probit"`},
		"link's scale":            {rich, func(m *Model) { m.Meta.Link.Scale = 2 }, "neither scale nor offset"},
		"sigmoid's scale":         {single, func(m *Model) { m.Meta.Link.Scale = 2 }, "scale above 0"},
		"float64 link in float32": {single, func(m *Model) { m.Meta.Link = Link{Name: SoftmaxLog} }, "float64 margins"},
		"float32 link in float64": {rich, func(m *Model) { m.Meta.Link = Link{Name: ExpDouble} }, "float32 margins"},
		"isolation":               {rich, func(m *Model) { m.Meta.Link = Link{Name: Isolation, Scale: 1} }, "one float64 output"},
		"isolation's offset":      {single, func(m *Model) { m.Meta.Link = Link{Name: Isolation, Scale: 1, Offset: inf} }, "one float64 output"},
		"predict":                 {rich, func(m *Model) { m.Meta.Predict = "median" }, `predict "median"`},
		"a regressor's label":     {rich, func(m *Model) { m.Meta.Predict = PredictLabel }, "regressor that predicts a label"},
		"signs":                   {rich, func(m *Model) { m.Meta.Predict = PredictSign }, "sign of 2 outputs"},
		"by margin":               {single, func(m *Model) { m.Meta.ByMargin = "odd" }, `"odd"`},
		"leaf shape":              {single, func(m *Model) { m.Meta.LeafShape = "cube" }, `leaf shape "cube"`},
		"leaf type":               {single, func(m *Model) { m.Meta.LeafType = "f2" }, `leaves of type "f2"`},
		"best":                    {single, func(m *Model) { m.Meta.Best = 2 }, "the best of 1 rounds is said to be 2"},
		"targets":                 {single, func(m *Model) { m.Meta.Targets = []int{2, 1} }, "for 1 outputs"},
		"a target of no classes":  {single, func(m *Model) { m.Meta.Targets = []int{1, 0} }, "target 1 has 0 classes"},
		"targets that wrap":       {single, func(m *Model) { m.Meta.Targets = []int{math.MaxInt, math.MaxInt, 3} }, "target 0 has"},
		"lost in Latin-1":         {single, func(m *Model) { m.Meta.Lost = []string{"\xe9"} }, "not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			m := tt.of(t)
			tt.change(m)
			if err := m.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("got %v, want …%s…", err, tt.say)
			}
		})
	}
}
