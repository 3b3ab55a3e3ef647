package engine

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// textbook is a forest as a textbook has it: nodes with pointers and maps, walked by recursion. It is recorded while the
// forest is built and knows nothing of its arrays: what kernels are compared with.
type textbook struct {
	shape   model.Shape
	average bool
	base    []float64
	roots   []*textbookNode
	first   []int // output of each tree
}

// textbookNode is a leaf when it has no children.
type textbookNode struct {
	feature     int
	threshold   float64
	set         map[int]bool // nil: compare with the threshold
	setRight    bool
	missingLeft bool
	zeroMissing bool
	left, right *textbookNode

	values   []float64
	linear   bool
	constant float64
	features []uint32
	coeffs   []float64
	id       int64
}

// style says what a random forest may have.
type style struct {
	model.Shape
	zeroMissing, linear bool
}

// styles are all that a forest can be.
func styles() []style {
	var all []style
	for _, input := range []model.Input{model.Float32, model.Float64} {
		for _, single := range []bool{false, true} {
			for _, categories := range []model.Categories{"", model.Truncate, model.Floor, model.Whole} {
				for _, zero := range []bool{false, true} {
					for _, linear := range []bool{false, true} {
						if linear && single { // is no model
							continue
						}
						all = append(all, style{model.Shape{Input: input, Single: single, Categories: categories}, zero, linear})
					}
				}
			}
		}
	}
	return all
}

// drawThreshold gives one of few values, so that rows often lie on it.
func drawThreshold(random *rand.Rand, input model.Input) float64 {
	switch random.IntN(24) {
	case 0:
		return math.Inf(1)
	case 1:
		return math.Inf(-1)
	case 2:
		return math.Copysign(0, -1)
	case 3:
		return model.NearZero
	case 4:
		return -model.NearZero
	case 5:
		if input == model.Float64 {
			return 0.1 // no float32
		}
		return float64(float32(0.1))
	}
	return float64(random.IntN(9)-4) / 2
}

func drawValue(random *rand.Rand, single bool) float64 {
	v := math.Round(random.NormFloat64()*64) / 64 * math.Pi
	if single {
		v = float64(float32(v))
	}
	return v
}

// draw makes a random forest, twice.
func draw(t testing.TB, random *rand.Rand, s style, trees, depth, features int) (*model.Forest, *textbook) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	if s.linear {
		s.Width = 1
	}
	b := model.NewBuilder(s.Shape)
	book := &textbook{shape: s.Shape, average: random.IntN(2) == 0}
	ownIDs := random.IntN(2) == 0
	preorder := int64(0)
	var grow func(d int) *textbookNode
	grow = func(d int) *textbookNode {
		n := &textbookNode{id: preorder}
		preorder++
		if d == 0 || random.IntN(8) == 0 {
			for range s.Width {
				n.values = append(n.values, drawValue(random, s.Single))
			}
			if s.linear && random.IntN(4) != 0 {
				n.linear, n.constant = true, drawValue(random, false)
				for range random.IntN(4) {
					n.features = append(n.features, random.Uint32N(uint32(features)))
					n.coeffs = append(n.coeffs, drawValue(random, false)/3)
				}
				must(b.LinearLeaf(n.values[0], n.constant, n.features, n.coeffs))
			} else {
				must(b.Leaf(n.values...))
			}
			if ownIDs {
				n.id = int64(random.IntN(1000))
				b.LeafID(uint32(n.id))
			}
			return n
		}
		n.feature, n.missingLeft = random.IntN(features), random.IntN(2) == 0
		flags := model.Flags(0)
		if n.missingLeft {
			flags |= model.MissingLeft
		}
		if s.Categories != "" && random.IntN(3) == 0 {
			n.set, n.setRight = map[int]bool{}, random.IntN(2) == 0
			if n.setRight {
				flags |= model.SetRight
			}
			words := make([]uint32, random.IntN(4))
			for range random.IntN(32 * (len(words) + 1)) {
				if len(words) > 0 {
					c := random.IntN(32 * len(words))
					n.set[c] = true
					words[c/32] |= 1 << (c % 32)
				}
			}
			must(b.SplitSet(n.feature, words, flags))
		} else {
			n.threshold = drawThreshold(random, s.Input)
			if s.zeroMissing && random.IntN(2) == 0 {
				n.zeroMissing = true
				flags |= model.ZeroMissing
			}
			must(b.Split(n.feature, n.threshold, flags))
		}
		n.left = grow(d - 1)
		n.right = grow(d - 1)
		return n
	}
	for range trees {
		first := 0
		if s.Width < s.Outputs {
			first = random.IntN(s.Outputs)
		}
		must(b.Output(first))
		preorder = 0
		book.first = append(book.first, first)
		book.roots = append(book.roots, grow(depth))
	}
	f, err := b.Forest()
	must(err)
	f.Average = book.average
	if s.Outputs > s.Width && f.First == nil {
		f.First = make([]uint32, trees) // all of them 0
	}
	if random.IntN(2) == 0 {
		for range s.Outputs {
			f.Base = append(f.Base, drawValue(random, s.Single))
		}
		book.base = f.Base
	}
	m := model.Model{Forest: f, Meta: model.Meta{Task: model.Regress, Features: features, Link: model.Link{Name: model.Identity}, Predict: model.PredictScores}}
	must(m.Validate())
	return &f, book
}

// find is the leaf for a row.
func (b *textbook) find(n *textbookNode, row []float64) *textbookNode {
	if n.left == nil {
		return n
	}
	v := row[n.feature]
	var left bool
	switch {
	case math.IsNaN(v) || n.zeroMissing && math.Abs(v) <= model.NearZero:
		left = n.missingLeft
	case n.set != nil:
		c, ok := category(b.shape.Categories, v)
		left = (ok && n.set[c]) != n.setRight
	default:
		left = v <= n.threshold
	}
	if left {
		return b.find(n.left, row)
	}
	return b.find(n.right, row)
}

// category is the number of a value, if it has one. Sets of the tests hold none above 1000.
func category(how model.Categories, v float64) (int, bool) {
	if math.Abs(v) > 1000 {
		return 0, false
	}
	switch how {
	case model.Truncate:
		c := int(math.Trunc(v))
		return c, c >= 0
	case model.Floor:
		return int(math.Floor(v)), v >= 0
	default:
		return int(v), v >= 0 && v == math.Floor(v)
	}
}

// value is what a leaf gives to a row.
func (n *textbookNode) value(o int, row []float64) float64 {
	if !n.linear {
		return n.values[o]
	}
	sum := n.constant
	for i, f := range n.features {
		v := row[f]
		if math.IsNaN(v) {
			return n.values[0]
		}
		if math.Abs(v) <= model.NearZero {
			v = 0
		}
		product := n.coeffs[i] * v
		sum += float64(product)
	}
	return sum
}

// evaluate is what a kernel has to give for rows of float64, or of float32 with the same values.
func (b *textbook) evaluate(rows []float64, features int) (margins []float64, leaves []int64) {
	round := func(v float64) float64 { return v }
	if b.shape.Single {
		round = func(v float64) float64 { return float64(float32(v)) }
	}
	for i := 0; i < len(rows); i += features {
		row := rows[i : i+features]
		compared := make([]float64, features)
		for j, v := range row {
			compared[j] = v
			if b.shape.Input == model.Float32 {
				compared[j] = float64(float32(v))
			}
		}
		sums := make([]float64, b.shape.Outputs)
		copy(sums, b.base)
		for t, root := range b.roots {
			at := b.find(root, compared)
			leaves = append(leaves, at.id)
			for o := range at.values {
				sums[b.first[t]+o] = round(sums[b.first[t]+o] + at.value(o, row))
			}
		}
		for _, sum := range sums {
			if b.average {
				sum = round(sum / float64(len(b.roots)))
			}
			margins = append(margins, sum)
		}
	}
	return margins, leaves
}

// drawRows gives values that lie on thresholds and beside them, categories of all kinds, and what is no number.
func drawRows(random *rand.Rand, n, features int) []float64 {
	rows := make([]float64, n*features)
	for i := range rows {
		switch random.IntN(16) {
		case 0:
			rows[i] = math.NaN()
		case 1:
			rows[i] = math.Inf(random.IntN(2)*2 - 1)
		case 2:
			rows[i] = math.Copysign(0, -1)
		case 3:
			rows[i] = math.Nextafter(drawThreshold(random, model.Float64), float64(random.IntN(3)-1)*10)
		case 4:
			rows[i] = float64(math.Nextafter32(float32(drawThreshold(random, model.Float32)), float32(random.IntN(3)-1)*10))
		case 5:
			rows[i] = float64(random.IntN(140)-10) + float64(random.IntN(2))*0.5
		case 6:
			rows[i] = []float64{-0.5, -1, -1.5, 1e300, -1e300, 1 << 31, 1 << 32, 1 << 63, 5e-324, 1e-40}[random.IntN(10)]
		default:
			rows[i] = drawThreshold(random, model.Float64)
		}
	}
	return rows
}

func toFloat32(rows []float64) []float32 {
	out := make([]float32, len(rows))
	for i, v := range rows {
		out[i] = float32(v)
	}
	return out
}

func toFloat64(rows []float32) []float64 {
	out := make([]float64, len(rows))
	for i, v := range rows {
		out[i] = float64(v)
	}
	return out
}
