package shap

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// style is a kind of forest to grow.
type style struct {
	trees, depth, features  int
	width, outputs          int // values of a leaf; outputs
	double, single, average bool
	missing, sets, zero     bool
	chain                   bool // one child of every split is a leaf
	empty                   bool // covers of 0
}

// grow makes a forest with random splits, leaves and covers.
func grow(t testing.TB, s style, random *rand.Rand) *model.Forest {
	t.Helper()
	shape := model.Shape{Outputs: s.outputs, Width: s.width, Input: model.Float32, Single: s.single, Categories: model.Floor}
	if s.double {
		shape.Input = model.Float64
	}
	b := model.NewBuilder(shape)
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var below func(depth int, cover float64)
	below = func(depth int, cover float64) {
		if depth == 0 || (!s.chain && random.IntN(8) == 0) {
			values := make([]float64, s.width)
			for i := range values {
				if values[i] = random.NormFloat64(); s.single {
					values[i] = float64(float32(values[i]))
				}
			}
			check(b.Leaf(values...))
			b.Cover(cover)
			return
		}
		var flags model.Flags
		if s.missing && random.IntN(2) == 0 {
			flags = model.MissingLeft
		}
		feature := random.IntN(s.features)
		switch {
		case s.sets && random.IntN(3) == 0:
			if random.IntN(2) == 0 {
				flags |= model.SetRight
			}
			check(b.SplitSet(feature, []uint32{random.Uint32() & 0xff}, flags))
		default:
			if s.zero && random.IntN(2) == 0 {
				flags |= model.ZeroMissing
			}
			check(b.Split(feature, float64(random.IntN(9)-2), flags))
		}
		b.Cover(cover)
		left := cover * random.Float64()
		if s.empty && random.IntN(3) == 0 {
			left = []float64{0, cover}[random.IntN(2)]
		}
		if s.chain && random.IntN(2) == 0 {
			below(0, left)
			below(depth-1, cover-left)
			return
		}
		below(depth-1, left)
		if s.chain {
			below(0, cover-left)
		} else {
			below(depth-1, cover-left)
		}
	}
	for i := range s.trees {
		if s.width < s.outputs {
			check(b.Output(i % s.outputs))
		}
		below(s.depth, 1000)
	}
	f, err := b.Forest()
	check(err)
	f.Average = s.average
	if s.outputs > 1 && s.width == 1 && s.trees%s.outputs == 0 {
		f.Round = s.outputs
	}
	if random.IntN(2) == 0 {
		f.Base = make([]float64, s.outputs)
		for i := range f.Base {
			f.Base[i] = float64(float32(random.NormFloat64()))
		}
	}
	m := &model.Model{Forest: f, Meta: model.Meta{Task: model.Regress, Features: s.features, Link: model.Link{Name: model.Identity}, Predict: model.PredictScores}}
	if f.SetStarts == nil {
		m.Forest.Categories = ""
	}
	check(m.Validate())
	return &m.Forest
}

// rowsOf draws rows for such forests.
func rowsOf(n, features int, random *rand.Rand) []float64 {
	rows := make([]float64, n*features)
	for i := range rows {
		switch random.IntN(10) {
		case 0:
			rows[i] = math.NaN()
		case 1:
			rows[i] = 0
		default:
			rows[i] = float64(float32(random.Float64()*9 - 1.5))
		}
	}
	return rows
}

// descend gives the values of the leaves of a tree for a row, weighted by how much of a row that has only the features of
// known falls into each: the definition of the game that contributions are the Shapley values of.
func descend(f *model.Forest, tree int, row []float64, known func(feature int) bool, out []float64) {
	at := f.Trees[tree]
	splits := f.Splits[at.Split:f.Trees[tree+1].Split]
	cover := func(k, l uint32) float64 { return f.Cover(int(at.Split + at.Leaf + k + l)) }
	var below func(k, l, end uint32, share float64)
	below = func(k, l, end uint32, share float64) {
		if k == end {
			for i := range f.Width {
				out[i] += share * value(f, f.Row(int(at.Leaf+l)), i)
			}
			return
		}
		s := splits[k]
		right := s.Right
		if known(s.Feature()) {
			if engine.GoesLeft(f, s, row[s.Feature()]) {
				below(k+1, l, right, share)
			} else {
				below(right, l+right-k, end, share)
			}
			return
		}
		all := cover(k, l)
		if all == 0 {
			return
		}
		below(k+1, l, right, share*cover(k+1, l)/all)
		below(right, l+right-k, end, share*cover(right, l+right-k)/all)
	}
	below(0, 0, uint32(len(splits)), 1)
}

// brute works contributions out by their definition: over all sets of features.
func brute(f *model.Forest, row []float64) []float64 {
	features := len(row)
	out := make([]float64, f.Outputs*(features+1))
	weight := make([]float64, features) // of a set of other features, by its size: s!(n-s-1)!/n!
	for s := range weight {
		weight[s] = 1 / float64(features)
		for i := 1; i <= s; i++ {
			weight[s] *= float64(i) / float64(features-i)
		}
	}
	given := make([][]float64, 1<<features)
	for set := range given {
		given[set] = make([]float64, f.Outputs)
		for tree := range f.NumTrees() {
			first := 0
			if f.First != nil {
				first = int(f.First[tree])
			}
			descend(f, tree, row, func(feature int) bool { return set>>feature&1 != 0 }, given[set][first:first+f.Width])
		}
	}
	for o := range f.Outputs {
		phi := out[o*(features+1):]
		for set, v := range given {
			for i := range features {
				if set>>i&1 == 0 {
					phi[i] += weight[bits.OnesCount(uint(set))] * (given[set|1<<i][o] - v[o])
				}
			}
		}
		phi[features] = given[0][o]
		if f.Base != nil {
			phi[features] += f.Base[o]
		}
		if f.Average {
			for i := range features + 1 {
				phi[i] /= float64(f.NumRounds())
			}
		}
	}
	return out
}

var styles = map[string]style{
	"plain":            {trees: 5, depth: 4, features: 5, width: 1, outputs: 1, single: true},
	"deep":             {trees: 3, depth: 9, features: 6, width: 1, outputs: 1},
	"one feature":      {trees: 4, depth: 5, features: 1, width: 1, outputs: 1},
	"two features":     {trees: 4, depth: 7, features: 2, width: 1, outputs: 1},
	"double, missing":  {trees: 5, depth: 5, features: 6, width: 1, outputs: 1, double: true, missing: true, zero: true},
	"sets":             {trees: 5, depth: 5, features: 6, width: 1, outputs: 1, missing: true, sets: true},
	"many sets":        {trees: 40, depth: 5, features: 6, width: 1, outputs: 1, missing: true, sets: true},
	"several outputs":  {trees: 6, depth: 4, features: 6, width: 1, outputs: 3, single: true},
	"vectors, average": {trees: 5, depth: 4, features: 6, width: 3, outputs: 3, average: true},
	"chains":           {trees: 3, depth: 12, features: 9, width: 1, outputs: 1, chain: true},
	"leaves alone":     {trees: 3, depth: 0, features: 3, width: 1, outputs: 1},
	"covers of 0":      {trees: 5, depth: 5, features: 6, width: 1, outputs: 1, empty: true},
}

// TestDefinition compares contributions with their definition, and their sums with margins.
func TestDefinition(t *testing.T) {
	for name, s := range styles {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(10) {
				random := rand.New(rand.NewPCG(seed, 1))
				f := grow(t, s, random)
				e, err := New(f)
				if err != nil {
					t.Fatal(err)
				}
				rows := rowsOf(11, s.features, random)
				each := s.outputs * (s.features + 1)
				got := make([]float64, 11*each)
				Values(e, got, rows, s.features, 1)
				margins := make([]float64, 11*s.outputs)
				engine.ByName[float64]("scalar", f).Margins(margins, rows, s.features)
				for i := range 11 {
					want := brute(f, rows[i*s.features:(i+1)*s.features])
					for j, v := range want {
						if d := got[i*each+j] - v; !(math.Abs(d) < 1e-12) {
							t.Fatalf("seed %d, row %d, value %d: %v, want %v", seed, i, j, got[i*each+j], v)
						}
					}
					for o := range s.outputs {
						sum := 0.0
						for _, v := range got[i*each+o*(s.features+1):][:s.features+1] {
							sum += v
						}
						if d := sum - margins[i*s.outputs+o]; !(math.Abs(d) < 1e-5) {
							t.Fatalf("seed %d, row %d, output %d: they add up to %v, the margin is %v", seed, i, o, sum, margins[i*s.outputs+o])
						}
					}
				}
			}
		})
	}
}

// TestRule integrates powers with as few points as do it exactly.
func TestRule(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 8, 16, 33, 256, 2048} {
		at, weights := points(n)
		for _, degree := range []int{0, 1, n, 2*n - 1} {
			sum := 0.0
			for i, x := range at {
				sum += weights[i] * math.Pow(x, float64(degree))
			}
			if want := 1 / float64(degree+1); !(math.Abs(sum/want-1) < 1e-11) {
				t.Errorf("%d points, degree %d: %v, want %v", n, degree, sum, want)
			}
		}
	}
	_ = fmt.Sprint
}
