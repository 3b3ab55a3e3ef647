package engine

import "math/bits"

// The primitives of the sliced kernel, in Go. On some processors assembly takes their place (slices_amd64.go); it gives
// the same answers, though rows may stand in another order.

const (
	sliceRows  = 512 // of a block
	sliceWords = sliceRows / 64
	sliceBits  = 8 // of the index of a leaf
	maxLeaves  = 1 << sliceBits
	maxWords   = 1 << 16 // that a gate can name
)

// slice has a bit for each row of a block: row r is bit r%64 of word r/64.
type slice [sliceWords]uint64

// planes are the bits of an index for each row, the lowest first.
type planes [sliceBits]slice

// order says where the rows of a block stand among indices and among sums.
type order struct{ index, sum32, sum64 [sliceRows]uint16 }

// plainOrder is that of the rows themselves.
var plainOrder = func() *order {
	o := new(order)
	for r := range sliceRows {
		o.index[r], o.sum32[r], o.sum64[r] = uint16(r), uint16(r), uint16(r)
	}
	return o
}()

// mux has the bits of a where which has ones, and those of b elsewhere.
func mux(which, a, b uint64) uint64 { return b ^ which&(a^b) }

// goPlanes evaluates a tree that is a heap, full to its depth, of the numbers of slices: the children of split i are 2i
// and 2i+1. The path from the root is the index. Only the first n words are worked out.
func goPlanes(words []slice, heap []uint16, depth, n int, p *planes) {
	var u [maxLeaves / 2]uint64
	var path [sliceBits]uint64
	for i := range n {
		path[0] = words[heap[1]][i]
		for level := 1; level < depth; level++ {
			k := 1 << level // splits of the level
			splits, up := heap[k:2*k], path[level-1]
			for j := range k / 2 {
				u[j] = mux(up, words[splits[2*j+1]][i], words[splits[2*j]][i])
			}
			for l := level - 2; l >= 0; l-- {
				up := path[l]
				for j := range 1 << l {
					u[j] = mux(up, u[2*j+1], u[2*j])
				}
			}
			path[level] = u[0]
		}
		for bit := range sliceBits {
			p[bit][i] = 0
			if bit < depth {
				p[bit][i] = path[depth-1-bit]
			}
		}
	}
}

// goCircuit evaluates gates into the slices from free on.
func goCircuit(words []slice, gates []gate, free, n int) {
	for _, g := range gates {
		which, right, left, to := &words[g.which], &words[g.right], &words[g.left], &words[free]
		for i := range n {
			to[i] = mux(which[i], right[i], left[i])
		}
		free++
	}
}

// goAnswer32 answers the questions of keys for the values of rows. The keys are a heap of levels levels, in which
// those that are too many are the largest number. A value that is not a number stands for missing.
func goAnswer32(x *[sliceRows]float32, table *[maxRank + 1]int32, levels int, missing int32, s *answerScratch, answers []slice, n int) {
	var o [together]int32
	for r := 0; r < 64*n; r += together {
		for i, v := range x[r : r+together] {
			if o[i] = order32(v); v != v {
				o[i] = missing
			}
		}
		down(&o, table, levels, r, s)
	}
	scan(s, answers, n)
}

// goAnswer64 is goAnswer32 for float64.
func goAnswer64(x *[sliceRows]float64, table *[maxRank + 1]int64, levels int, missing int64, s *answerScratch, answers []slice, n int) {
	var o [together]int64
	for r := 0; r < 64*n; r += together {
		for i, v := range x[r : r+together] {
			if o[i] = order64(v); v != v {
				o[i] = missing
			}
		}
		down(&o, table, levels, r, s)
	}
	scan(s, answers, n)
}

// answerScratch has the rows of each rank: all of them are 0 before and after. Assembly keeps something else there.
type answerScratch [maxRank + 1]slice

// together is the number of searches that wait for memory together.
const together = 8

// down finds the ranks of several values, of rows from r on: the numbers of keys that are less.
func down[N int32 | int64](x *[together]N, table *[maxRank + 1]N, levels, r int, s *answerScratch) {
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
		s[uint8(at[i]-1<<levels)][r/64] |= 1 << ((r + i) % 64)
	}
}

// scan makes answers of the rows of each rank: question i sends to the right those whose rank is above i.
func scan(s *answerScratch, answers []slice, n int) {
	k := len(answers)
	right := s[k]
	s[k] = slice{}
	for k--; k >= 0; k-- {
		for i := range n {
			answers[k][i] = right[i]
			right[i] |= s[k][i]
			s[k][i] = 0
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
		x = x<<1 | spread[uint8(p[b][g/8]>>(8*(g%8)))]
	}
	return x
}

// goIndex writes the indices of the rows of the first n words.
func goIndex(p *planes, index *[sliceRows]byte, bits, n int) {
	for g := range 8 * n {
		x := p.eight(g, bits)
		for i := range 8 {
			index[8*g+i] = byte(x >> (8 * i))
		}
	}
}

// goAdd adds to each sum what the index of its row chooses.
func goAdd[V float32 | float64](sums *[sliceRows]V, p *planes, values *[maxLeaves]V, bits, n int) {
	for g := range 8 * n {
		x := p.eight(g, bits)
		s := (*[8]V)(sums[8*g:])
		for i := range s {
			s[i] += values[uint8(x>>(8*i))]
		}
	}
}
