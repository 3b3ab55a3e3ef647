package engine

import (
	"runtime"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/internal/race"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// mold makes a forest of as many trees that are alike in size, quickly: full to a depth, or chains.
type mold struct {
	name                  string
	trees, depth, outputs int
	width                 int // 0: 1
	features              int // that are asked one after the other
	chain                 bool
	input                 model.Input
	single                bool
	distinct              bool // each split has a threshold of its own
	sparse                bool // features are spread over all that there may be
	share                 bool // all leaves give the same values
	zero                  bool // values near zero are missing
}

func (m mold) forest(t testing.TB) (*model.Forest, int) {
	splits := 1<<m.depth - 1
	if m.chain {
		splits = m.depth
	}
	total := m.trees * splits
	f := &model.Forest{Input: m.input, Single: m.single, Outputs: m.outputs, Width: max(m.width, 1), Round: 1, Depth: m.depth}
	if f.Input == "" {
		f.Input = model.Float32
	}
	f.Splits = make([]model.Split, 0, total)
	step := 1
	if m.sparse {
		step = model.MaxFeatures / m.features
	}
	if f.Input == model.Float64 {
		n := 100
		if m.distinct {
			n = total
		}
		for i := range n {
			f.Thresholds = append(f.Thresholds, float64(i)/3)
		}
	}
	var flags uint32
	if m.zero {
		flags = uint32(model.ZeroMissing)
	}
	for range m.trees {
		f.Trees = append(f.Trees, model.Tree{Split: uint32(len(f.Splits)), Leaf: uint32(len(f.Splits) + len(f.Trees))})
		first := len(f.Splits)
		var grow func(n int) // splits
		grow = func(n int) {
			for ; n > 0; n-- {
				i := len(f.Splits)
				s := model.Split{Bits: uint32(i%m.features*step) | flags, Value: uint32(i % 100)}
				if m.distinct {
					s.Value = uint32(i)
				}
				if f.Input == model.Float32 {
					s.Value += 0x3f800000
				}
				f.Splits = append(f.Splits, s)
				if m.chain {
					grow(n - 1)
					f.Splits[i].Right = uint32(len(f.Splits) - first)
					return
				}
				grow(n / 2)
				f.Splits[i].Right = uint32(len(f.Splits) - first)
				n -= n / 2
			}
		}
		grow(splits)
	}
	f.Trees = append(f.Trees, model.Tree{Split: uint32(len(f.Splits)), Leaf: uint32(len(f.Splits) + m.trees)})
	rows := f.NumLeaves()
	if m.share {
		f.Leaves, rows = make([]uint32, rows), 1
	}
	if f.Single {
		f.Values32 = make([]float32, rows*f.Width)
	} else {
		f.Values = make([]float64, rows*f.Width)
	}
	if f.Width < f.Outputs {
		for i := range m.trees {
			f.First = append(f.First, uint32(i%f.Outputs))
		}
	}
	if m.zero {
		f.Uses = model.ZeroMissing
	}
	features := (m.features-1)*step + 1
	v := model.Model{Forest: *f, Meta: model.Meta{Task: model.Regress, Features: features, Link: model.Link{Name: model.Identity}, Predict: model.PredictScores}}
	if err := v.Validate(); err != nil {
		t.Fatal(m.name, err)
	}
	return f, features
}

// TestLayoutMemory: what forests of any form take to lay out, what their layouts take and what a call takes is bounded by
// their size, which is about that of their file.
func TestLayoutMemory(t *testing.T) {
	if race.Enabled {
		t.Skip("it takes memory of its own")
	}
	for _, m := range []mold{
		{name: "leaves", trees: 60000, outputs: 1, features: 1},
		{name: "stumps", trees: 1 << 16, depth: 1, outputs: 1, features: 30},
		{name: "stumps with thresholds of their own", trees: 1 << 16, depth: 1, outputs: 1, features: 30, distinct: true},
		{name: "the same in float64", trees: 1 << 16, depth: 1, outputs: 1, features: 30, distinct: true, input: model.Float64},
		{name: "stumps with ranks of words", trees: 60000, depth: 1, outputs: 1, features: 60, distinct: true},
		{name: "stumps with features of their own", trees: 1 << 18, depth: 1, outputs: 1, features: 1 << 18, single: true},
		{name: "small trees of many features", trees: 1 << 15, depth: 2, outputs: 1, features: 3 << 15, single: true},
		{name: "small trees of features far apart", trees: 1 << 14, depth: 3, outputs: 1, features: 1 << 14, single: true, sparse: true},
		{name: "the same in float64, zero is missing", trees: 1 << 14, depth: 3, outputs: 1, features: 1 << 14, input: model.Float64, sparse: true, zero: true},
		{name: "large trees of many features", trees: 64, depth: 9, outputs: 1, features: 1 << 15, single: true},
		{name: "large trees", trees: 64, depth: 12, outputs: 1, features: 30, single: true, distinct: true},
		{name: "shallow trees", trees: 2048, depth: 6, outputs: 1, features: 30, single: true},
		{name: "shallow trees with thresholds of their own", trees: 2048, depth: 6, outputs: 1, features: 30, single: true, distinct: true},
		{name: "chains", trees: 64, depth: 4096, chain: true, outputs: 1, features: 30, distinct: true},
		{name: "chains that are sliced", trees: 500, depth: 255, chain: true, outputs: 1, features: 30, distinct: true},
		{name: "many outputs", trees: 1 << 15, depth: 3, outputs: 1 << 16, features: 30, single: true},
		{name: "as many as are sliced", trees: 1 << 13, depth: 5, outputs: 1 << 12, features: 30},
		{name: "vectors", trees: 1, depth: 6, outputs: 1 << 16, width: 1 << 16, features: 30},
		{name: "vectors that leaves share", trees: 100, depth: 3, outputs: 1 << 16, width: 1 << 16, features: 30, share: true},
	} {
		f, features := m.forest(t)
		var before, laid, called runtime.MemStats
		runtime.ReadMemStats(&before)
		layouts := allLayouts(f)
		runtime.ReadMemStats(&laid)
		took, size := int(laid.TotalAlloc-before.TotalAlloc), f.Bytes()
		if most := 64<<20 + 30*size; took > most {
			t.Errorf("%s, %d bytes: laid out in %d, at most %d", m.name, size, took, most)
		}
		rows, dst := make([]float32, features), make([]float64, m.outputs)
		for name, l := range layouts {
			if most := tableBytes + 12*size; l.bytes() > most {
				t.Errorf("%s, %d bytes, %s: it takes %d, at most %d", m.name, size, name, l.bytes(), most)
			}
			k, _ := l.kernels()
			runtime.ReadMemStats(&laid)
			k.Margins(dst, rows, features)
			runtime.ReadMemStats(&called)
			if took, most := int(called.TotalAlloc-laid.TotalAlloc), 24<<20+4*size; took > most {
				t.Errorf("%s, %d bytes, %s: a row takes %d, at most %d", m.name, size, name, took, most)
			}
		}
	}
}
