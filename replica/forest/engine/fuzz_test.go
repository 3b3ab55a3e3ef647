package engine

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// recipe is what a fuzzer gives: bytes, each a choice, and zeros behind them.
type recipe []byte

func (r *recipe) next(n int) int {
	if len(*r) == 0 {
		return 0
	}
	b := (*r)[0]
	*r = (*r)[1:]
	return int(b) % n
}

// number is one of few, one at the edges, or any.
func (r *recipe) number() float64 {
	switch k := r.next(64); {
	case k < 16:
		return float64(k-8) / 2
	case k < 16+len(extremes):
		return extremes[k-16]
	case k < 60:
		return float64(r.next(256)) / 16
	}
	var b [8]byte
	*r = (*r)[copy(b[:], *r):]
	if v := math.Float64frombits(binary.LittleEndian.Uint64(b[:])); v == v {
		return v
	}
	return 0
}

// finite is a number that a leaf may have.
func (r *recipe) finite(single bool) float64 {
	v := r.number()
	if single {
		v = float64(float32(v))
	}
	if v-v != 0 {
		return 1
	}
	return v
}

// maxFuzzNodes bounds a forest of the fuzzer, whose work it is to find forms and not sizes.
const maxFuzzNodes = 3000

// cook makes a forest of a recipe, which any bytes are.
func cook(t *testing.T, r *recipe) *grower {
	s := model.Shape{
		Outputs: 1 + r.next(7), Single: r.next(2) == 1,
		Input:      []model.Input{model.Float32, model.Float64}[r.next(2)],
		Categories: []model.Categories{"", model.Truncate, model.Floor, model.Whole}[r.next(4)],
	}
	s.Width = []int{1, s.Outputs}[r.next(2)]
	g := newGrower(t, rand.New(rand.NewPCG(uint64(r.next(256)), 11)), s, 1+r.next(20))
	if r.next(8) == 7 {
		g.features *= 1 + r.next(100)
	}
	g.zero = r.next(2) == 1
	many := r.next(4) == 3
	nodes := 0
	left := func(n int) bool { nodes += n; return nodes < maxFuzzNodes }
	var tree func(depth int)
	tree = func(depth int) {
		if depth == 300 || !left(1) {
			g.leaf()
			return
		}
		switch r.next(8) {
		case 0, 1:
			g.value = func() float64 { return r.finite(s.Single) }
			g.leaf()
			g.value = func() float64 { return drawValue(g.random, s.Single) }
		case 2, 3, 4:
			flags := model.Flags(0)
			for i, flag := range []model.Flags{model.MissingLeft, model.ZeroMissing} {
				if k := r.next(4); k == 3 && (i == 0 || g.zero) {
					flags |= flag
				}
			}
			g.compare(r.next(g.features), r.number(), flags)
			tree(depth + 1)
			tree(depth + 1)
		case 5:
			g.split()
			tree(depth + 1)
			tree(depth + 1)
		case 6:
			if d := r.next(10); left(1 << d) {
				g.full(d)
			} else {
				g.leaf()
			}
		case 7:
			if n := r.next(256) * (1 + r.next(3)); left(n) {
				g.tree(n)
			} else {
				g.leaf()
			}
		}
	}
	for trees := 1 + r.next(40); trees > 0; trees-- {
		if s.Width < s.Outputs {
			g.must(g.Output(r.next(s.Outputs)))
		}
		if many && r.next(2) == 1 && left(63) {
			g.full(5)
		}
		tree(0)
	}
	return g
}

// FuzzKernels compares all kernels at all levels with the scalar one, on forests and rows that a fuzzer makes up.
func FuzzKernels(f *testing.F) {
	random := rand.New(rand.NewPCG(12, 12))
	for n := range 60 {
		data := make([]byte, 4*n)
		for i := range data {
			data[i] = byte(random.IntN(256))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := recipe(data)
		g := cook(t, &r)
		forest := g.forest()
		forest.Average = r.next(2) == 1
		if r.next(2) == 1 {
			for range forest.Outputs {
				forest.Base = append(forest.Base, r.finite(forest.Single))
			}
		}
		if r.next(4) == 3 && forest.Leaves == nil { // rows of values in another order than leaves
			forest.Leaves = make([]uint32, forest.NumLeaves())
			for i := range forest.Leaves {
				forest.Leaves[i] = uint32(g.random.IntN(len(forest.Leaves)))
			}
		}
		rows := g.rows([]int{1, 2, 5, 6, 7, 8, 9, 15, 16, 17, 33, 65, 130, 300, 513}[r.next(15)])
		for i := range min(len(rows), len(r)) {
			rows[i] = r.number()
		}
		detected := highest
		defer func() { highest = detected }()
		for _, l := range slices.Backward(levels()) {
			highest = l
			agree(t, l.String(), forest, rows, g.features)
		}
	})
}
