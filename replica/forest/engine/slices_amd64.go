//go:build !purego

package engine

import (
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/engine/internal/simd"
)

// vbmiOrder is how rows stand after the bytes of planes, and then those of values, were unpacked: in the assembly a
// vector of indices has 16 rows in each of its four lanes, and one of sums 4 or 2.
var vbmiOrder = func() *order {
	o := new(order)
	for r := range maxRows {
		lane, j, i := r/128, r/16%8, r%16
		o.index[r] = uint16(64*j + 16*lane + i)
		o.sum32[r] = uint16(64*j + 16*(i/4) + 4*lane + i%4)
		o.sum64[r] = uint16(64*j + 8*(i/2) + 2*lane + i%2)
	}
	return o
}()

// words is the number of words of a slice.
func (l level) words() int {
	switch {
	case l >= levelAVX512:
		return 8
	case l >= levelAVX2:
		return 4
	}
	return 1
}

func (l level) order() *order {
	if l >= levelVBMI {
		return vbmiOrder
	}
	return plainOrder
}

func bytesOf[V any](p *V) *byte { return (*byte)(unsafe.Pointer(p)) }

func (l level) planes(all bitset, heap []uint16, depth int, p *planes) {
	switch {
	case l >= levelAVX512:
		simd.Planes512(bytesOf(&all[0]), &heap[0], depth, bytesOf(p))
	case l >= levelAVX2:
		simd.Planes256(bytesOf(&all[0]), &heap[0], depth, bytesOf(p))
	default:
		goPlanes(all, heap, depth, p)
	}
}

func (l level) circuit(all bitset, gates []gate, free int) {
	switch {
	case len(gates) == 0:
	case l >= levelAVX512:
		simd.Circuit512(bytesOf(&all[0]), &gates[0].which, len(gates), free)
	case l >= levelAVX2:
		simd.Circuit256(bytesOf(&all[0]), &gates[0].which, len(gates), free)
	default:
		goCircuit(all, gates, free)
	}
}

// rankPlanes is where the bits of ranks stand in the scratch memory of assembly: behind what it needs itself.
const rankPlanes = (maxRank + 1 - sliceBits) * maxRows / 64

// aboveOne is simd.Above for slices of a word: answer i is whether the rank is above i, of which bit b of each row stands
// in word 8b of the planes. For ranks of one bit more, b, the answers are those of before or b, and then those and b.
func aboveOne(planes []uint64, levels int, s *answerScratch, answers bitset) {
	a := (*[maxRank + 1]uint64)(s[:])
	a[0] = 0
	for bit := range levels {
		up, n := planes[bit*maxRows/64], 1<<bit
		low, high := a[:n], a[n:2*n]
		for i, v := range low {
			high[i], low[i] = up&v, up|v
		}
	}
	copy(answers, a[:])
}

func (l level) answer32(x *[maxRows]float32, k *keys[float32, int32], missing int32, s *answerScratch, answers bitset, words int) {
	p := s[rankPlanes:]
	switch {
	case l < levelAVX512:
		goAnswer(x, k.cells, missing > 0, s, answers, words)
	case words == 1:
		simd.Bits32(&x[0], &k.heap[0], k.levels, missing, bytesOf(&p[0]), 1)
		aboveOne(p, k.levels, s, answers)
	default:
		simd.Bits32(&x[0], &k.heap[0], k.levels, missing, bytesOf(&p[0]), words)
		simd.Above(bytesOf(&p[0]), k.levels, bytesOf(s), bytesOf(&answers[0]), len(answers)/words)
	}
}

func (l level) answer64(x *[maxRows]float64, k *keys[float64, int64], missing int64, s *answerScratch, answers bitset, words int) {
	p := s[rankPlanes:]
	switch {
	case l < levelAVX512:
		goAnswer(x, k.cells, missing > 0, s, answers, words)
	case words == 1:
		simd.Bits64(&x[0], &k.heap[0], k.levels, missing, bytesOf(&p[0]), 1)
		aboveOne(p, k.levels, s, answers)
	default:
		simd.Bits64(&x[0], &k.heap[0], k.levels, missing, bytesOf(&p[0]), words)
		simd.Above(bytesOf(&p[0]), k.levels, bytesOf(s), bytesOf(&answers[0]), len(answers)/words)
	}
}

// transpose turns values of rows, from a feature on, into columns, each of maxRows values. It takes whole groups of
// 16 rows alone, and up to 16 features.
func (l level) transpose(rows []float32, features, from, values, n int, columns []float32) (done int) {
	if l < levelAVX512 {
		return 0
	}
	for ; done+16 <= n; done += 16 {
		row := (*uint32)(unsafe.Pointer(&rows[done*features+from]))
		simd.Transpose32(row, 4*features, values, (*uint32)(unsafe.Pointer(&columns[done])))
	}
	return done
}

func (l level) index(p *planes, index *[maxRows]byte) {
	switch {
	case l >= levelVBMI:
		simd.Index(bytesOf(p), &index[0])
	case l >= levelAVX512:
		simd.Index512NoGFNI(bytesOf(p), &index[0])
	default:
		goIndex(p, index, l.words())
	}
}

func (l level) add32(sums *[maxRows]float32, p *planes, t *leafTable, bits int) {
	switch {
	case l >= levelVBMI && bits <= 6:
		simd.AddFloats64(&sums[0], bytesOf(p), &t.bytes[0])
	case l >= levelVBMI:
		simd.AddFloats256(&sums[0], bytesOf(p), &t.bytes[0])
	case l >= levelAVX512:
		var index [maxRows]byte
		l.index(p, &index)
		simd.GatherFloats512(&sums[0], &index[0], &t.floats[0])
	default:
		goAdd(sums, p, t.floats, l.words())
	}
}

func (l level) add64(sums *[maxRows]float64, p *planes, t *leafTable, bits int) {
	switch {
	case l >= levelVBMI && bits <= 6:
		simd.AddDoubles64(&sums[0], bytesOf(p), &t.bytes[0])
	case l >= levelVBMI:
		simd.AddDoubles256(&sums[0], bytesOf(p), &t.bytes[0])
	case l >= levelAVX512:
		var index [maxRows]byte
		l.index(p, &index)
		simd.GatherDoubles512(&sums[0], &index[0], &t.doubles[0])
	default:
		goAdd(sums, p, t.doubles, l.words())
	}
}
