package engine

import "math/bits"

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

// goPlanes evaluates a tree that is a heap, full to its depth, of the numbers of slices: the children of split i are 2i
// and 2i+1. The path from the root is the index.
func goPlanes(all bitset, heap []uint16, depth int, p *planes) {
	words := (*[maxSlices]uint64)(all)
	var u [maxLeaves / 2]uint64
	var path [sliceBits]uint64
	path[0] = words[heap[1]]
	for level := 1; level < depth; level++ {
		n := 1 << level // splits of the level
		splits, up := heap[n:2*n], path[level-1]
		for k := range n / 2 {
			u[k] = mux(up, words[splits[2*k+1]], words[splits[2*k]])
		}
		for l := level - 2; l >= 0; l-- {
			up := path[l]
			for k := range 1 << l {
				u[k] = mux(up, u[2*k+1], u[2*k])
			}
		}
		path[level] = u[0]
	}
	for bit := range sliceBits {
		p[bit] = 0
		if bit < depth {
			p[bit] = path[depth-1-bit]
		}
	}
}

// goCircuit evaluates gates into the slices from free on.
func goCircuit(all bitset, gates []gate, free int) {
	words, to := (*[maxSlices]uint64)(all), uint16(free)
	for _, g := range gates {
		words[to] = mux(words[g.which], words[g.right], words[g.left])
		to++
	}
}

// goAnswer32 answers the questions of keys for the values of rows. The keys are a heap of levels levels, in which
// those that are too many are the largest number. A value that is not a number stands for missing.
func goAnswer32(x *[maxRows]float32, table *[maxRank + 1]int32, levels int, missing int32, s *answerScratch, answers bitset, words int) {
	var o [together]int32
	for r := 0; r < 64*words; r += together {
		for i, v := range x[r : r+together] {
			if o[i] = order32(v); v != v {
				o[i] = missing
			}
		}
		down(&o, table, levels, r, s, words)
	}
	scan(s, answers, words)
}

// goAnswer64 is goAnswer32 for float64.
func goAnswer64(x *[maxRows]float64, table *[maxRank + 1]int64, levels int, missing int64, s *answerScratch, answers bitset, words int) {
	var o [together]int64
	for r := 0; r < 64*words; r += together {
		for i, v := range x[r : r+together] {
			if o[i] = order64(v); v != v {
				o[i] = missing
			}
		}
		down(&o, table, levels, r, s, words)
	}
	scan(s, answers, words)
}

// answerScratch has the rows of each rank: all of them are 0 before and after. Assembly keeps something else there.
type answerScratch [(maxRank + 1) * maxRows / 64]uint64

// together is the number of searches that wait for memory together.
const together = 8

// down finds the ranks of several values, of rows from r on: the numbers of keys that are less.
func down[N int32 | int64](x *[together]N, table *[maxRank + 1]N, levels, r int, s *answerScratch, words int) {
	at := [together]uint32{1, 1, 1, 1, 1, 1, 1, 1}
	for range levels {
		for i := range at {
			up := uint32(0)
			if x[i] > table[uint8(at[i])] {
				up = 1
			}
			at[i] = at[i]<<1 | up
		}
	}
	for i := range at {
		s[int(uint8(at[i]-1<<levels))*words+r/64] |= 1 << ((r + i) % 64)
	}
}

// scan makes answers of the rows of each rank: question i sends to the right those whose rank is above i.
func scan(s *answerScratch, answers bitset, words int) {
	for w := range words {
		at := len(answers) + w
		right := s[at]
		s[at] = 0
		for at -= words; at >= 0; at -= words {
			answers[at] = right
			right |= s[at]
			s[at] = 0
		}
	}
}

// heapOf puts ascending keys, at most maxRank, into the order in which down searches, and gives the number of levels.
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

// spread has the bits of a byte as the lowest bits of eight bytes.
var spread = func() (t [256]uint64) {
	for b := range t {
		for i := range 8 {
			t[b] |= uint64(b>>i&1) << (8 * i)
		}
	}
	return t
}()

// eight gives the indices of rows 8g to 8g+7, a byte each.
func (p *planes) eight(g, bits int) uint64 {
	x := uint64(0)
	for b := bits - 1; b >= 0; b-- {
		x = x<<1 | spread[uint8(p[b]>>(8*g))]
	}
	return x
}

// goIndex writes the indices of the rows.
func goIndex(p *planes, index *[maxRows]byte, bits int) {
	for g := range 8 {
		x := p.eight(g, bits)
		for i := range 8 {
			index[8*g+i] = byte(x >> (8 * i))
		}
	}
}

// goAdd adds to each sum what the index of its row chooses.
func goAdd[V float32 | float64](sums *[maxRows]V, p *planes, values *[maxLeaves]V, bits int) {
	for g := range 8 {
		x := p.eight(g, bits)
		s := (*[8]V)(sums[8*g:])
		for i := range s {
			s[i] += values[uint8(x>>(8*i))]
		}
	}
}
