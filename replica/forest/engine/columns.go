package engine

import (
	"math"
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// column is what splits ask of a feature, as a whole number that they compare with <=: a float32's place in the order
// of all float32, or a float64's rank among the feature's thresholds, or toLeft, or toRight.
type column struct {
	feature     int
	missingLeft bool
	zeroMissing bool
	ranks       []float64 // the feature's thresholds, ascending: their number below the value is the column
	set         bool
	narrow      bool     // the value is rounded to float32 first
	words       []uint32 // of the set
	setRight    bool
	how         model.Categories
}

// columns are those of a forest.
type columns []column

const (
	// maxSetColumns bounds the columns of sets, which are worked out for every row, needed by its walks or not.
	maxSetColumns = 64
	// maxColumns bounds all: those of some rows are kept for the next call.
	maxColumns = 1 << 17
)

// ask tells which column a split asks, and for what.
type ask struct {
	f       *model.Forest
	columns columns
	index   map[columnKey]uint32
	// quick has the columns of splits without sets, from 1 on, for features up to quickFeatures.
	quick []uint32
	homes []home // of each threshold of a forest that has a table of them
}

// home is a feature that has a threshold, most often the only one, and the threshold's rank there.
type home struct {
	feature uint32
	rank    int32
}

// quickFeatures bounds the table that spares the splits of all but very wide forests a look at a map.
const quickFeatures = 1 << 14

// quickKey is where a split's column is in ask.quick, if it is there.
func quickKey(s model.Split) (int, bool) {
	key := s.Feature() << 2
	if s.Has(model.MissingLeft) {
		key++
	}
	if s.Has(model.ZeroMissing) {
		key += 2
	}
	return key, s.Feature() < quickFeatures && !s.Has(model.Set)
}

type columnKey struct {
	feature uint32
	flags   model.Flags
	set     uint32
}

func keyOf(s model.Split) columnKey {
	k := columnKey{feature: uint32(s.Feature()), flags: model.Flags(s.Bits) & (model.MissingLeft | model.ZeroMissing)}
	if s.Has(model.Set) {
		k.flags, k.set = model.Flags(s.Bits)&(model.MissingLeft|model.Set|model.SetRight), s.Value
	}
	return k
}

// newAsk finds the columns of a forest, or gives nil when they are too many.
func newAsk(f *model.Forest) *ask {
	a := &ask{f: f, index: map[columnKey]uint32{}}
	splits := f.Splits[f.Trees[0].Split:f.Trees[f.NumTrees()].Split]
	sets := 0
	for _, s := range splits {
		quick, ok := quickKey(s)
		if ok && quick < len(a.quick) && a.quick[quick] != 0 {
			continue
		}
		k := keyOf(s)
		if _, ok := a.index[k]; ok {
			continue
		}
		c := column{feature: s.Feature(), narrow: f.Input == model.Float32, missingLeft: s.Has(model.MissingLeft), zeroMissing: s.Has(model.ZeroMissing)}
		if s.Has(model.Set) {
			if sets++; sets > maxSetColumns {
				return nil
			}
			c.set, c.words, c.setRight, c.how = true, f.Set(s.Value), s.Has(model.SetRight), f.Categories
		}
		if len(a.columns) == maxColumns {
			return nil
		}
		a.index[k] = uint32(len(a.columns))
		a.columns = append(a.columns, c)
		if ok {
			for len(a.quick) <= quick {
				a.quick = append(a.quick, 0)
			}
			a.quick[quick] = uint32(len(a.columns))
		}
	}
	if f.Input == model.Float64 {
		a.rank(splits)
	}
	return a
}

// rank finds the thresholds of each feature. For that it puts the splits into the order of their thresholds, by counting.
func (a *ask) rank(splits []model.Split) {
	ends := make([]uint32, len(a.f.Thresholds)+1)
	for _, s := range splits {
		if !s.Has(model.Set) {
			ends[s.Value+1]++
		}
	}
	for i := range a.f.Thresholds {
		ends[i+1] += ends[i]
	}
	ordered := make([]uint32, ends[len(a.f.Thresholds)]) // columns
	for _, s := range splits {
		if !s.Has(model.Set) {
			ordered[ends[s.Value]] = a.column(s)
			ends[s.Value]++
		}
	}
	number, numbers := map[int]int{}, make([]int, len(a.columns)) // of features
	for i, c := range a.columns {
		n, ok := number[c.feature]
		if !ok {
			n = len(number)
			number[c.feature] = n
		}
		numbers[i] = n
	}
	ranks := make([][]float64, len(number))
	a.homes = make([]home, len(a.f.Thresholds))
	from := uint32(0)
	for i, v := range a.f.Thresholds {
		for _, c := range ordered[from:ends[i]] {
			of := &ranks[numbers[c]]
			if n := len(*of); n == 0 || (*of)[n-1] != v {
				a.homes[i] = home{uint32(a.columns[c].feature), int32(n)}
				*of = append(*of, v)
			}
		}
		from = ends[i]
	}
	for i := range a.columns {
		if c := &a.columns[i]; !c.set {
			c.ranks = ranks[numbers[i]]
		}
	}
}

// column is the column that a split asks.
func (a *ask) column(s model.Split) uint32 {
	if quick, ok := quickKey(s); ok {
		return a.quick[quick] - 1
	}
	return a.index[keyOf(s)]
}

// question is the column that a split asks and the value up to which it goes left.
func (a *ask) question(s model.Split) asking {
	i := a.column(s)
	c := &a.columns[i]
	switch {
	case c.set:
		return asking{i, 0}
	case c.ranks != nil:
		if h := a.homes[s.Value]; h.feature == uint32(c.feature) {
			return asking{i, h.rank}
		}
		rank, _ := slices.BinarySearch(c.ranks, a.f.Threshold(s))
		return asking{i, int32(rank)}
	}
	return asking{i, order32(s.Threshold32())}
}

const (
	toLeft  = math.MinInt32 // is below every threshold
	toRight = math.MaxInt32 // is above every threshold: above that of +Inf, and above every rank
)

// order32 is a float32's place in the order of all float32: it has the order of the values. Both zeros have the same.
func order32(v float32) int32 {
	i := int32(math.Float32bits(v + 0)) // -0 + 0 is 0
	return i ^ i>>31&math.MaxInt32
}

// unorder32 is the float32 at a place.
func unorder32(at int32) float32 { return math.Float32frombits(uint32(at ^ at>>31&math.MaxInt32)) }

// order64 is order32 for float64.
func order64(v float64) int64 {
	i := int64(math.Float64bits(v + 0))
	return i ^ i>>63&math.MaxInt64
}

// floor32 is the largest float32 that is not above a number: a float32 is <= the one exactly when it is <= the other.
func floor32(v float64) float32 {
	f := float32(v)
	if float64(f) > v {
		f = math.Nextafter32(f, float32(math.Inf(-1)))
	}
	return f
}

// value works out one column.
func value[T Row](c *column, v T) int32 {
	x := float64(v)
	if c.narrow {
		x = float64(float32(v))
	}
	switch {
	case isMissing(c, v):
		if c.missingLeft {
			return toLeft
		}
		return toRight
	case c.set:
		if in(c.words, c.how, x) != c.setRight {
			return toLeft
		}
		return toRight
	case c.ranks != nil:
		return int32(below(c.ranks, x))
	}
	return order32(float32(x))
}

// isMissing tells whether a value is missing.
func isMissing[T Row](c *column, v T) bool {
	x := float64(v)
	if c.narrow {
		x = float64(float32(v))
	}
	return x != x || (c.zeroMissing && x >= -model.NearZero && x <= model.NearZero)
}

// below is the number of elements of an ascending slice that are less than x.
func below(a []float64, x float64) int {
	low := 0
	for n := len(a); n > 0; {
		half := n / 2
		if a[low+half] < x {
			low += half + 1
			n -= half + 1
		} else {
			n = half
		}
	}
	return low
}
