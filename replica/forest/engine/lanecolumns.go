package engine

import (
	"math"
	"math/bits"
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// laneColumns are the columns of a forest as lanes read them: as uint32, in groups of laneCount rows. Where of a feature
// what is missing goes to the left in some splits and to the right in others, there are two columns, which differ only
// in rows that miss something. Blocks of rows that do not have but one: the narrow form.
type laneColumns struct {
	columns      []laneColumn
	plain        bool // all are those of float32 features
	leaf         word // the column of leaves, behind all others, in a word
	narrow, wide form
}

// laneColumn is a column and, when it has two, that of what goes right when it is missing.
type laneColumn struct {
	column
	two bool
}

// form is how columns of rows are laid out, and how words name them: group values for laneCount rows, first columns from
// 0 and second ones from second.
type form struct {
	column, left  bitField
	second, group int
}

// sign turns the order of int32 into that of uint32.
const sign = 1 << 31

// newLaneColumns finds the columns of lanes, and for each that ask knows the bits of a word that name it.
func newLaneColumns(a *ask) (c laneColumns, bitsOf []word) {
	keys := make([]columnKey, len(a.columns))
	for key, i := range a.index {
		key.flags &^= model.MissingLeft
		keys[i] = key
	}
	c.plain = true
	number, places, two := make(map[columnKey]int, len(keys)), make([]int, len(keys)), 0
	c.columns = make([]laneColumn, 0, len(keys))
	for i, key := range keys {
		from := a.columns[i]
		n, ok := number[key]
		if !ok {
			n = len(c.columns)
			number[key], c.columns = n, append(c.columns, laneColumn{column: from})
		} else {
			c.columns[n].two, c.columns[n].missingLeft, two = true, false, 1
		}
		places[i] = n
		c.plain = c.plain && from.narrow && !from.set && !from.zeroMissing
	}
	// A word names a column by its place in words of two values, so that eight times that is its address.
	n, scale := len(c.columns), laneCount/2
	size := bits.Len(uint(n * scale))
	at := 64 - 1 - two - size
	left := newBitField(leftFirst, max(at-32, 0))
	c.leaf = word(n*scale) << at
	c.narrow = form{column: newBitField(at, size), left: left, group: (n + 1) * laneCount}
	c.wide = c.narrow
	if two == 1 {
		c.wide.column = newBitField(at, size+1)
		c.wide.second = 2 << size
		c.wide.group += c.wide.second
	}
	for i, place := range places {
		b := word(place*scale) << at
		if c.columns[place].two && a.columns[i].missingLeft {
			b |= 1 << (at + size)
		}
		bitsOf = append(bitsOf, b)
	}
	return c, bitsOf
}

// fill works out the columns of rows into dst, which it makes longer if need be, and tells in which form they are. Rows
// that the last laneCount lack go left everywhere.
func fill[T Row](c *laneColumns, dst []uint32, rows []T, features int) ([]uint32, *form) {
	groups := (len(rows)/features + laneCount - 1) / laneCount
	dst = slices.Grow(dst[:0], groups*c.narrow.group)[:groups*c.narrow.group]
	if fillNarrow(c, dst, rows, features) {
		return dst, &c.narrow
	}
	dst = slices.Grow(dst[:0], groups*c.wide.group)[:groups*c.wide.group]
	clear(dst)
	for i := range len(rows) / features {
		row, to := rows[i*features:(i+1)*features], dst[i/laneCount*c.wide.group+i%laneCount:]
		for k := range c.columns {
			from := &c.columns[k]
			v := uint32(value(&from.column, row[from.feature])) ^ sign
			to[k*laneCount] = v
			if from.two && !isMissing(&from.column, row[from.feature]) {
				to[c.wide.second+k*laneCount] = v
			}
		}
	}
	return dst, &c.wide
}

// fillNarrow gives up when it finds a value that two columns take differently.
func fillNarrow[T Row](c *laneColumns, dst []uint32, rows []T, features int) bool {
	if single, ok := any(rows).([]float32); ok && c.plain {
		return fillPlain(c, dst, single, features)
	}
	clear(dst)
	for i := range len(rows) / features {
		row, to := rows[i*features:(i+1)*features], dst[i/laneCount*c.narrow.group+i%laneCount:]
		for k := range c.columns {
			from := &c.columns[k]
			if from.two && isMissing(&from.column, row[from.feature]) {
				return false
			}
			to[k*laneCount] = uint32(value(&from.column, row[from.feature])) ^ sign
		}
	}
	return true
}

// fillPlain is fillNarrow for float32 features.
func fillPlain(c *laneColumns, dst []uint32, rows []float32, features int) bool {
	n := len(rows) / features
	if n%laneCount != 0 {
		clear(dst[n/laneCount*c.narrow.group:])
	}
	for i := range n {
		row, to := rows[i*features:(i+1)*features], dst[i/laneCount*c.narrow.group+i%laneCount:]
		to[len(c.columns)*laneCount] = 0
		for k := range c.columns {
			from := &c.columns[k]
			v := row[from.feature]
			order := math.Float32bits(v + 0) // -0 + 0 is 0
			order ^= uint32(int32(order)>>31) | sign
			if v != v {
				if from.two {
					return false
				}
				order = math.MaxUint32
				if from.missingLeft {
					order = 0
				}
			}
			to[k*laneCount] = order
		}
	}
	return true
}
