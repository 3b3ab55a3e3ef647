package train

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
)

// columns is the data as splits are searched in it: each value as its rank among the different values of its
// feature. Ranks sort faster than floats, since few bits tell them apart, and compare the same.
type columns struct {
	n      int         // rows
	ranks  []uint32    // by feature, then by row
	values [][]float32 // by feature: its different values, ascending
}

// of is the ranks of one feature, by row.
func (c *columns) of(feature int32) []uint32 {
	return c.ranks[int(feature)*c.n : (int(feature)+1)*c.n]
}

func newColumns(ctx context.Context, d *Data, workers int) (*columns, error) {
	c := &columns{n: d.Len(), ranks: make([]uint32, len(d.Rows)), values: make([][]float32, d.Features)}
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(workers, d.Features) {
		group.Go(func() {
			buf := newSorter(c.n)
			for ctx.Err() == nil {
				f := int(next.Add(1)) - 1
				if f >= d.Features {
					return
				}
				c.values[f] = rank(c.of(int32(f)), d.Rows[f:], d.Features, buf)
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return c, nil
}

// rank writes the rank of every stride-th value, and returns the different values in ascending order.
func rank(dst []uint32, column []float32, stride int, buf *sorter) []float32 {
	items := buf.items[:len(dst)]
	lo, hi := uint32(math.MaxUint32), uint32(0)
	for i := range items {
		k := ordered(column[i*stride])
		lo, hi = min(lo, k), max(hi, k)
		items[i] = uint64(k)<<32 | uint64(i)
	}
	items = buf.sort(items, lo, hi)
	distinct := 1
	for i := 1; i < len(items); i++ {
		if items[i]>>32 != items[i-1]>>32 {
			distinct++
		}
	}
	values := make([]float32, 0, distinct)
	for i, it := range items {
		row := uint32(it)
		if i == 0 || it>>32 != items[i-1]>>32 {
			// Adding 0 makes 0 of -0: which of the two came first must not matter.
			values = append(values, column[int(row)*stride]+0)
		}
		dst[row] = uint32(len(values) - 1)
	}
	return values
}

// ordered maps finite floats to integers in the same order, and -0 and 0 to the same.
func ordered(v float32) uint32 {
	b := math.Float32bits(v + 0)
	if b>>31 != 0 {
		return ^b
	}
	return b | 1<<31
}
