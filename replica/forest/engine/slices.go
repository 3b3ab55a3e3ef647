package engine

import (
	"math"
	"math/bits"
	"slices"
	"unsafe"
)

// The primitives of the sliced kernel, in Go, for blocks of 64 rows. On some processors assembly for larger blocks takes
// their place (slices_amd64.go); it gives the same answers, though rows may stand in another order.

const (
	maxRows   = 512 // of a block at any level
	sliceBits = 8   // of the index of a leaf
	maxLeaves = 1 << sliceBits
	maxSlices = 1 << 16 // that a gate can name
)

// bitset has slices, each a bit for every row of a block: row r is bit r%64 of word r/64 of the slice. A level has as
// many words a slice as its registers hold.
type bitset []uint64

// planes are the bits of an index for each row, the lowest first: as many slices as an index has bits.
type planes [sliceBits * maxRows / 64]uint64

// order says where the rows of a block stand among indices and among sums.
type order struct{ index, sum32, sum64 [maxRows]uint16 }

// plainOrder is that of the rows themselves.
var plainOrder = func() *order {
	o := new(order)
	for r := range maxRows {
		o.index[r], o.sum32[r], o.sum64[r] = uint16(r), uint16(r), uint16(r)
	}
	return o
}()

// mux has the bits of a where which has ones, and those of b elsewhere.
func mux(which, a, b uint64) uint64 { return b ^ which&(a^b) }

// turned is where goPlanes wants what stands at a place of a heap: the bits of the place in its level are turned around,
// so that the first steps of a path choose among neighbours. What stands there then is at the place again.
func turned(at int) int {
	level := bits.Len(uint(at)) - 1
	first := 1 << level
	return first + int(bits.Reverse64(uint64(at-first))>>(64-level))
}

// turn gives a heap as a level's planes want it.
func (l level) turn(heap []uint16) []uint16 {
	if l != levelGo {
		return heap
	}
	to := make([]uint16, len(heap))
	for at := 1; at < len(heap); at++ {
		to[turned(at)] = heap[at]
	}
	return to
}

// goPlanes evaluates a tree that is a heap, full to its depth, of the numbers of slices: the children of split i are 2i
// and 2i+1, before places were turned. The path from the root is the index. All choices by its first three steps come
// first: they leave a heap of the levels below. So few steps wait for the one before.
func goPlanes(all bitset, heap []uint16, depth int, p *planes) {
	words := (*[maxSlices]uint64)(all)
	var path [sliceBits]uint64
	path[0] = words[heap[1]]
	if depth > 1 {
		path[1] = mux(path[0], words[heap[3]], words[heap[2]])
	}
	if depth > 2 {
		h := (*[8]uint16)(heap)
		path[2] = quad(path[1], path[0], words[h[4]], words[h[5]], words[h[6]], words[h[7]])
	}
	if depth > 3 {
		var u [maxLeaves / 8]uint64
		for k := 1; k < 1<<depth/8; k++ {
			u[k%len(u)] = eighth(words, (*[8]uint16)(heap[8*k:]), path[2], path[1], path[0])
		}
		path[3] = u[1]
		path[4] = mux(path[3], u[3], u[2])
		path[5] = quad(path[4], path[3], u[4], u[5], u[6], u[7])
		if depth > 6 {
			a, b, c := path[5], path[4], path[3]
			path[6] = mux(a, quad(b, c, u[12], u[13], u[14], u[15]), quad(b, c, u[8], u[9], u[10], u[11]))
			low := mux(a, quad(b, c, u[20], u[21], u[22], u[23]), quad(b, c, u[16], u[17], u[18], u[19]))
			high := mux(a, quad(b, c, u[28], u[29], u[30], u[31]), quad(b, c, u[24], u[25], u[26], u[27]))
			path[7] = mux(path[6], high, low)
		}
	}
	for bit := range sliceBits {
		p[bit] = 0
		if bit < depth {
			p[bit] = path[depth-1-bit]
		}
	}
}

// quad chooses one of four, the last of the two steps by a.
func quad(a, b, v0, v1, v2, v3 uint64) uint64 { return mux(a, mux(b, v3, v2), mux(b, v1, v0)) }

// eighth chooses one of eight slices.
func eighth(words *[maxSlices]uint64, h *[8]uint16, a, b, c uint64) uint64 {
	v0 := mux(c, words[h[1]], words[h[0]])
	v1 := mux(c, words[h[3]], words[h[2]])
	v2 := mux(c, words[h[5]], words[h[4]])
	v3 := mux(c, words[h[7]], words[h[6]])
	return quad(a, b, v0, v1, v2, v3)
}

// goCircuit evaluates gates into the slices from free on.
func goCircuit(all bitset, gates []gate, free int) {
	words, to := (*[maxSlices]uint64)(all), uint16(free)
	for _, g := range gates {
		words[to] = mux(words[g.which], words[g.right], words[g.left])
		to++
	}
}

// goAnswer answers the questions of keys for the values of rows. A value that is not a number is missing, and goes
// right or left.
func goAnswer[V float32 | float64](x *[maxRows]V, c *cells[V], right bool, s *answerScratch, answers bitset, words int) {
	missing := 0
	if right {
		missing = len(answers) / words
	}
	low, scale, half, shift := c.low, c.scale, c.half, bits.Len(uint(words))-1
	for w := range words {
		for r, v := range (*[64]V)(x[64*w:]) {
			rank := missing
			if v == v { //nolint:gocritic // only what is not a number does not
				cell := 0
				if at := (v - low) * scale; at >= lastCell {
					cell = lastCell
				} else if at > 0 {
					cell = int(at)
				}
				rank = int(c.first[cell&lastCell])
				for step := half; step > 2; step >>= 1 {
					rank += above(v, c.keys[(rank+step-1)%len(c.keys)]) * step
				}
				rank &= maxRank
				if half > 1 {
					rank += 2 * above(v, c.keys[rank+1])
				}
				rank += above(v, c.keys[rank])
			}
			s[uint(rank<<(shift&63)+w)%uint(len(s))] |= 1 << (r & 63)
		}
	}
	scan(s, answers, words)
	clear(s[:len(answers)+words])
}

// above is 1 when a value is above a key, and else 0.
func above[V float32 | float64](v, key V) int {
	if v > key {
		return 1
	}
	return 0
}

// answerScratch has the rows of each rank: all of them are 0 before and after. Assembly keeps something else there.
type answerScratch [(maxRank + 1) * maxRows / 64]uint64

// scan makes answers of the rows of each rank: question i sends to the right those whose rank is above i.
func scan(s *answerScratch, answers bitset, words int) {
	n := len(answers)
	ranks := s[:n+words]
	switch words {
	case 4:
		r := (*[4]uint64)(ranks[n:])
		r0, r1, r2, r3 := r[0], r[1], r[2], r[3]
		for n >= 4 {
			n -= 4
			to, from := (*[4]uint64)(answers[n:]), (*[4]uint64)(ranks[n:])
			to[0], to[1], to[2], to[3] = r0, r1, r2, r3
			r0, r1, r2, r3 = r0|from[0], r1|from[1], r2|from[2], r3|from[3]
		}
	default:
		right := ranks[n]
		for n >= 4 {
			n -= 4
			to, from := (*[4]uint64)(answers[n:]), (*[4]uint64)(ranks[n:])
			to[3] = right
			right |= from[3]
			to[2] = right
			right |= from[2]
			to[1] = right
			right |= from[1]
			to[0] = right
			right |= from[0]
		}
		for n--; n >= 0; n-- {
			answers[n] = right
			right |= ranks[n]
		}
	}
}

// keys are those of a piece, ascending, as its questions are answered: Go has cells, assembly has a heap.
type keys[V float32 | float64, N int32 | int64] struct {
	cells *cells[V]
	heap  *[maxRank + 1]N
	// levels are those of the heap.
	levels int
}

func newKeys[V float32 | float64, N int32 | int64](l level, ascending []V, order func(V) N, most N) (k keys[V, N]) {
	if l < levelAVX512 {
		k.cells = newCells(ascending)
		return k
	}
	ordered := make([]N, len(ascending))
	for i, v := range ascending {
		ordered[i] = order(v)
	}
	k.heap, k.levels = heapOf(ordered, most)
	return k
}

// bytes is what they take.
func (k *keys[V, N]) bytes() int {
	switch {
	case k == nil:
		return 0
	case k.cells != nil:
		return int(unsafe.Sizeof(*k.cells))
	}
	return int(unsafe.Sizeof(*k.heap))
}

// cells cut the range of keys, at most maxRank, into parts of the same width, so that the search for the rank of a
// value begins near its end. How a value's cell is computed does not matter, as long as a larger value is in no
// lower cell: the rounding of every step keeps the order.
type cells[V float32 | float64] struct {
	low, scale V
	half       int                  // the first step of the search in a cell, half of the most keys of one
	first      [lastCell + 1]uint8  // the keys in all cells before
	keys       [2 * (maxRank + 1)]V // and then what no value is above
}

const lastCell = 511

func newCells[V float32 | float64](ascending []V) *cells[V] {
	c := &cells[V]{}
	inf := V(math.Inf(1))
	for i := range c.keys {
		c.keys[i] = inf
	}
	copy(c.keys[:], ascending)
	var finite []V
	for _, k := range ascending {
		if !math.IsInf(float64(k), 0) {
			finite = append(finite, k)
		}
	}
	if len(finite) > 0 {
		c.low = finite[0]
		if scale := lastCell / (finite[len(finite)-1] - c.low); scale < inf {
			c.scale = scale
		}
	}
	var n [lastCell + 1]int
	for _, k := range ascending {
		n[c.cell(k)]++
	}
	before := 0
	for i := range n {
		c.first[i] = uint8(before)
		before += n[i]
	}
	c.half = 1 << bits.Len(uint(slices.Max(n[:]))) / 2
	return c
}

func (c *cells[V]) cell(v V) int {
	at := (v - c.low) * c.scale
	switch {
	case at >= lastCell:
		return lastCell
	case at > 0:
		return int(at)
	}
	return 0
}

// heapOf puts ascending keys, at most maxRank, into the order of a heap, in which those that are too many are the
// largest number, and gives the number of levels.
func heapOf[N int32 | int64](keys []N, most N) (table *[maxRank + 1]N, levels int) {
	table, levels = new([maxRank + 1]N), bits.Len(uint(len(keys)))
	next := 0
	var place func(at int)
	place = func(at int) {
		if at >= 1<<levels {
			return
		}
		place(2 * at)
		table[at] = most
		if next < len(keys) {
			table[at] = keys[next]
			next++
		}
		place(2*at + 1)
	}
	place(1)
	return table, levels
}

// indices gives x the indices of 64 rows, whose bits stand in a word of each plane: those of row 8g+j are byte g of word
// j. In three steps every pair of words swaps the bits that stand at each other's place.
func (p *planes) indices(x *[8]uint64, w, words int) {
	x0, x1, x2, x3 := p[w], p[words+w], p[2*words+w], p[3*words+w]
	x4, x5, x6, x7 := p[4*words+w], p[5*words+w], p[6*words+w], p[7*words+w]
	const m4, m2, m1 = 0x0f0f0f0f0f0f0f0f, 0x3333333333333333, 0x5555555555555555
	x0, x4 = swap(x0, x4, 4, m4)
	x1, x5 = swap(x1, x5, 4, m4)
	x2, x6 = swap(x2, x6, 4, m4)
	x3, x7 = swap(x3, x7, 4, m4)
	x0, x2 = swap(x0, x2, 2, m2)
	x1, x3 = swap(x1, x3, 2, m2)
	x4, x6 = swap(x4, x6, 2, m2)
	x5, x7 = swap(x5, x7, 2, m2)
	x[0], x[1] = swap(x0, x1, 1, m1)
	x[2], x[3] = swap(x2, x3, 1, m1)
	x[4], x[5] = swap(x4, x5, 1, m1)
	x[6], x[7] = swap(x6, x7, 1, m1)
}

// swap exchanges bits of a that stand n above those of mask with the bits of b there.
func swap(a, b uint64, n uint, mask uint64) (uint64, uint64) {
	t := (a>>(n&7) ^ b) & mask
	return a ^ t<<(n&7), b ^ t
}

// goIndex writes the indices of the rows.
func goIndex(p *planes, index *[maxRows]byte, words int) {
	var eight [8]uint64
	for w := range words {
		p.indices(&eight, w, words)
		for j, x := range eight {
			to := (*[57]byte)(index[64*w+j:])
			for g := range 8 {
				to[8*g] = byte(x >> (8 * g))
			}
		}
	}
}

// goAdd adds to each sum what the index of its row chooses.
func goAdd[V float32 | float64](sums *[maxRows]V, p *planes, values *[maxLeaves]V, words int) {
	var eight [8]uint64
	for w := range words {
		p.indices(&eight, w, words)
		group := (*[64]V)(sums[64*w:])
		for j := range eight {
			x, s := eight[j], (*[57]V)(group[j:])
			s[0] += values[uint8(x)]
			s[8] += values[uint8(x>>8)]
			s[16] += values[uint8(x>>16)]
			s[24] += values[uint8(x>>24)]
			s[32] += values[uint8(x>>32)]
			s[40] += values[uint8(x>>40)]
			s[48] += values[uint8(x>>48)]
			s[56] += values[uint8(x>>56)]
		}
	}
}
