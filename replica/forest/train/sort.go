package train

import "math/bits"

// smallSort is the length up to which inserting is faster than counting.
const smallSort = 40

// sorter sorts items, each a key in the upper 32 bits and something else in the lower, by their keys. It keeps
// the order of those with equal keys.
type sorter struct{ items, spare []uint64 }

func newSorter(n int) *sorter {
	return &sorter{items: make([]uint64, n), spare: make([]uint64, n)}
}

// sort sorts items, the beginning of s.items, whose smallest and largest keys are lo and hi. The result is
// valid until the next sort, and lies in either buffer.
func (s *sorter) sort(items []uint64, lo, hi uint32) []uint64 {
	if len(items) <= smallSort {
		insertionSort(items)
		return items
	}
	// As many passes of as few bits as tell lo and hi apart: at most 8 bits, or the counters would cost
	// more than the items.
	width := bits.Len32(hi - lo)
	passes := (width + 7) / 8
	if passes == 0 {
		return items
	}
	digit := (width + passes - 1) / passes
	mask := uint32(1)<<digit - 1
	spare := s.spare[:len(items)]
	var count [256]uint32
	for p := range passes {
		shift := p * digit
		clear(count[:mask+1])
		for _, it := range items {
			count[uint8((uint32(it>>32)-lo)>>shift&mask)]++
		}
		at := uint32(0)
		for i, c := range count[:mask+1] {
			count[i] = at
			at += c
		}
		for _, it := range items {
			c := &count[uint8((uint32(it>>32)-lo)>>shift&mask)]
			spare[*c] = it
			*c++
		}
		items, spare = spare, items
	}
	return items
}

func insertionSort(items []uint64) {
	for i := 1; i < len(items); i++ {
		it := items[i]
		j := i
		for j > 0 && items[j-1]>>32 > it>>32 {
			items[j] = items[j-1]
			j--
		}
		items[j] = it
	}
}
