package shap

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/internal/race"
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
				Values(e, got, rows, s.features, s.features, 1)
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

// textbook is TreeSHAP as it was published (Lundberg, Erion and Lee, "Consistent Individualized Feature Attribution for
// Tree Ensembles", algorithm 2), for forests that brute cannot go through: their paths have too many features.
func textbook(f *model.Forest, row []float64) []float64 {
	features := len(row)
	out := make([]float64, f.Outputs*(features+1))
	type element struct {
		feature         int
		zero, one, part float64
	}
	for tree := range f.NumTrees() {
		at := f.Trees[tree]
		splits := f.Splits[at.Split:f.Trees[tree+1].Split]
		cover := func(k, l uint32) float64 { return f.Cover(int(at.Split + at.Leaf + k + l)) }
		first := 0
		if f.First != nil {
			first = int(f.First[tree])
		}
		extend := func(m []element, zero, one float64, feature int) []element {
			n := len(m)
			m = append(append([]element{}, m...), element{feature, zero, one, 0})
			if n == 0 {
				m[0].part = 1
			}
			for i := n - 1; i >= 0; i-- {
				m[i+1].part += one * m[i].part * float64(i+1) / float64(n+1)
				m[i].part = zero * m[i].part * float64(n-i) / float64(n+1)
			}
			return m
		}
		unwind := func(m []element, i int) []element {
			n := len(m) - 1
			one, zero, next := m[i].one, m[i].zero, m[n].part
			m = append([]element{}, m...)
			for j := n - 1; j >= 0; j-- {
				if one != 0 {
					was := m[j].part
					m[j].part = next * float64(n+1) / (float64(j+1) * one)
					next = was - m[j].part*zero*float64(n-j)/float64(n+1)
				} else {
					m[j].part = m[j].part * float64(n+1) / (zero * float64(n-j))
				}
			}
			for j := i; j < n; j++ {
				m[j].feature, m[j].zero, m[j].one = m[j+1].feature, m[j+1].zero, m[j+1].one
			}
			return m[:n]
		}
		var below func(k, l, end uint32, m []element, zero, one float64, feature int)
		below = func(k, l, end uint32, m []element, zero, one float64, feature int) {
			m = extend(m, zero, one, feature)
			if k == end {
				for i := 1; i < len(m); i++ {
					w := 0.0
					for _, e := range unwind(m, i) {
						w += e.part
					}
					for o := range f.Width {
						out[(first+o)*(features+1)+m[i].feature] += w * (m[i].one - m[i].zero) * value(f, f.Row(int(at.Leaf+l)), o)
					}
				}
				return
			}
			s := splits[k]
			left, right := 0.0, 1.0
			if engine.GoesLeft(f, s, row[s.Feature()]) {
				left, right = 1, 0
			}
			zero, one = 1, 1
			for i := 1; i < len(m); i++ {
				if m[i].feature == s.Feature() {
					zero, one = m[i].zero, m[i].one
					m = unwind(m, i)
					break
				}
			}
			all := cover(k, l)
			below(k+1, l, s.Right, m, zero*cover(k+1, l)/all, one*left, s.Feature())
			below(s.Right, l+s.Right-k, end, m, zero*cover(s.Right, l+s.Right-k)/all, one*right, s.Feature())
		}
		below(0, 0, uint32(len(splits)), nil, 1, 1, -1)
		for o := range f.Width {
			mean := make([]float64, f.Width)
			descend(f, tree, row, func(int) bool { return false }, mean)
			out[(first+o)*(features+1)+features] += mean[o]
		}
	}
	for o := range f.Outputs {
		phi := out[o*(features+1) : (o+1)*(features+1)]
		if f.Base != nil {
			phi[features] += f.Base[o]
		}
		if f.Average {
			for i := range phi {
				phi[i] /= float64(f.NumRounds())
			}
		}
	}
	return out
}

// wide are forests with more features on a path than brute can take.
var wide = map[string]style{
	"one pass":        {trees: 3, depth: 12, features: 40, width: 1, outputs: 1, chain: true},
	"two passes":      {trees: 3, depth: 30, features: 28, width: 1, outputs: 1, chain: true, missing: true},
	"several passes":  {trees: 2, depth: 120, features: 90, width: 2, outputs: 2, chain: true, average: true},
	"a usual booster": {trees: 20, depth: 6, features: 28, width: 1, outputs: 1, single: true, missing: true},
}

// TestTextbook compares contributions with the published algorithm.
func TestTextbook(t *testing.T) {
	for name, s := range wide {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(7, 7))
			f := grow(t, s, random)
			e, err := New(f)
			if err != nil {
				t.Fatal(err)
			}
			rows := rowsOf(9, s.features, random)
			each := s.outputs * (s.features + 1)
			got := make([]float64, 9*each)
			Values(e, got, rows, s.features, s.features, 1)
			for i := range 9 {
				for j, want := range textbook(f, rows[i*s.features:(i+1)*s.features]) {
					if d := got[i*each+j] - want; !(math.Abs(d) < 1e-9) {
						t.Fatalf("row %d, value %d: %v, want %v", i, j, got[i*each+j], want)
					}
				}
			}
		})
	}
}

// explained are the contributions of rows as bits.
func explained[T engine.Row](t *testing.T, f *model.Forest, rows []T, features, threads int, code engine.ShapCode) []uint64 {
	t.Helper()
	e, err := New(f)
	if err != nil {
		t.Fatal(err)
	}
	e.Prepare()
	e.plan.code = code
	dst := make([]float64, len(rows)/features*f.Outputs*(features+1))
	Values(e, dst, rows, features, features, threads)
	bits := make([]uint64, len(dst))
	for i, v := range dst {
		bits[i] = math.Float64bits(v)
	}
	return bits
}

// TestSameBits: contributions depend on neither the processor, threads, the rows beside a row, nor on their type.
func TestSameBits(t *testing.T) {
	all := map[string]style{}
	maps.Copy(all, styles)
	maps.Copy(all, wide)
	for points := 1; points <= maxPoints; points++ {
		all[fmt.Sprintf("%d points", points)] = style{trees: 2, depth: 2*points + 3, features: 2 * points, width: 1, outputs: 1, chain: true, missing: true}
	}
	for name, s := range all {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(3, 3))
			f := grow(t, s, random)
			const most = 8*blockGroups*2 + 3
			rows := rowsOf(most, s.features, random)
			rows32 := make([]float32, len(rows))
			for i, v := range rows {
				rows32[i] = float32(v)
			}
			each := s.outputs * (s.features + 1)
			want := explained(t, f, rows, s.features, 1, engine.ShapCode{})
			for _, code := range engine.ShapCodes() {
				if got := explained(t, f, rows, s.features, 1, code); !slices.Equal(got, want) {
					t.Fatalf("%s: other bits", code.Name)
				}
			}
			var code engine.ShapCode
			if codes := engine.ShapCodes(); len(codes) > 0 {
				code = codes[0]
			}
			for _, n := range []int{0, 1, 7, 8, 9, 16, 8 * blockGroups, 8*blockGroups + 1, most} {
				for _, threads := range []int{1, 2, 3, 64} {
					if got := explained(t, f, rows[:n*s.features], s.features, threads, code); !slices.Equal(got, want[:n*each]) {
						t.Fatalf("%d rows, %d threads: other bits", n, threads)
					}
				}
			}
			if got := explained(t, f, rows32, s.features, 2, code); !slices.Equal(got, want) {
				t.Fatal("float32 rows: other bits")
			}
		})
	}
}

// TestRounds: the contributions of all rounds are the sums of those of some, without the base.
func TestRounds(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	f := grow(t, style{trees: 12, depth: 5, features: 6, width: 1, outputs: 3, missing: true}, random)
	rows := rowsOf(20, 6, random)
	value := func(f model.Forest) []float64 {
		e, err := New(&f)
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]float64, 20*3*7)
		Values(e, dst, rows, 6, 6, 1)
		return dst
	}
	all, first, last := value(*f), value(f.Slice(0, 1)), value(f.Slice(1, f.NumRounds()))
	for i, v := range all {
		sum := first[i] + last[i]
		if i%7 == 6 && f.Base != nil {
			sum -= f.Base[i/7%3]
		}
		if math.Abs(v-sum) > 1e-12 {
			t.Fatalf("value %d: %v, of the rounds %v", i, v, sum)
		}
	}
}

// TestMirror: the second of two classes has what the first has, the other way round.
func TestMirror(t *testing.T) {
	b := model.NewBuilder(model.Shape{Outputs: 2})
	for _, err := range []error{b.Split(1, 0.5, 0), b.Leaf(0.25, 0.75), b.Split(0, 1, 0), b.Leaf(1, 0), b.Leaf(1./3, 2./3)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	f.Covers = []float64{10, 4, 6, 1, 5}
	e, err := New(&f)
	if err != nil {
		t.Fatal(err)
	}
	row := []float64{3, 1}
	got := make([]float64, 6)
	Values(e, got, row, 2, 2, 1)
	if !e.plan.mirror {
		t.Error("it is not seen to have two classes")
	}
	for i, want := range brute(&f, row) {
		if math.Abs(got[i]-want) > 1e-15 {
			t.Errorf("value %d: %v, want %v", i, got[i], want)
		}
	}
}

// TestNone: forests without covers and with linear leaves have no contributions.
func TestNone(t *testing.T) {
	f := grow(t, styles["plain"], rand.New(rand.NewPCG(1, 1)))
	f.Covers, f.Covers32 = nil, nil
	if _, err := New(f); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	f = grow(t, styles["plain"], rand.New(rand.NewPCG(1, 1)))
	f.Linear = &model.Linear{}
	if _, err := New(f); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	f = &model.Forest{Trees: []model.Tree{{}, {Split: maxSplits + 1, Leaf: maxSplits + 2}}, Covers: []float64{1}}
	if _, err := New(f); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

// TestAllocations: on one thread nothing is allocated.
func TestAllocations(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector empties pools")
	}
	random := rand.New(rand.NewPCG(1, 1))
	f := grow(t, styles["plain"], random)
	e, err := New(f)
	if err != nil {
		t.Fatal(err)
	}
	rows, dst := rowsOf(300, 5, random), make([]float64, 300*6)
	if n := testing.AllocsPerRun(100, func() { Values(e, dst, rows, 5, 5, 1) }); n >= 1 {
		t.Errorf("%v allocations a call", n)
	}
}

// TestNodeLayout: assembly knows where the fields of a node are.
func TestNodeLayout(t *testing.T) {
	var n node
	for name, at := range map[string][2]uintptr{
		"z": {unsafe.Offsetof(n.z), 0}, "left": {unsafe.Offsetof(n.left), 8}, "right": {unsafe.Offsetof(n.right), 16},
		"table": {unsafe.Offsetof(n.table), 24}, "above": {unsafe.Offsetof(n.above), 28}, "phi": {unsafe.Offsetof(n.phi), 32},
		"slot": {unsafe.Offsetof(n.slot), 36}, "same": {unsafe.Offsetof(n.same), 40}, "parent": {unsafe.Offsetof(n.parent), 44},
		"leaf": {unsafe.Offsetof(n.leaf), 48}, "exits": {unsafe.Offsetof(n.exits), 56}, "sameSide": {unsafe.Offsetof(n.sameSide), 58},
		"side": {unsafe.Offsetof(n.side), 59}, "all": {unsafe.Sizeof(n), nodeBytes},
		"laneBits.met": {unsafe.Offsetof(laneBits{}.met), 1}, "laneBits": {unsafe.Sizeof(laneBits{}), 2}, "asked": {unsafe.Sizeof(asked{}), 8},
	} {
		if at[0] != at[1] {
			t.Errorf("%s is at %d, assembly has it at %d", name, at[0], at[1])
		}
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
}
