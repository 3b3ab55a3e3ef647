package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// levels are those that this processor has.
func levels() []level {
	var all []level
	for l := levelGo; l <= highest; l++ {
		all = append(all, l)
	}
	return all
}

// eachPlace calls a test for each level, with memory at both ends of its pages.
func eachPlace(t *testing.T, test func(t *testing.T, l level, random *rand.Rand, start bool)) {
	for _, l := range levels() {
		for _, start := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/%v", l, start), func(t *testing.T) {
				test(t, l, rand.New(rand.NewPCG(3, uint64(l))), start)
			})
		}
	}
}

// randomSlices gives memory for slices, of which the first n are random.
func randomSlices(t *testing.T, l level, random *rand.Rand, n int, start bool) bitset {
	size := n * l.words()
	if l == levelGo {
		size = maxSlices
	}
	s := guarded[uint64](t, size, start)
	for i := range n * l.words() {
		s[i] = random.Uint64()
	}
	return s
}

// bit is a row's bit of a slice.
func bit(l level, s []uint64, slice, r int) int { return int(s[slice*l.words()+r/64] >> (r % 64) & 1) }

func TestPlanes(t *testing.T) {
	eachPlace(t, func(t *testing.T, l level, random *rand.Rand, start bool) {
		for depth := 1; depth <= sliceBits; depth++ {
			words := randomSlices(t, l, random, 300, start)
			heap := guarded[uint16](t, 1<<depth, start)
			for i := range heap {
				heap[i] = uint16(random.IntN(300))
			}
			p := &guarded[planes](t, 1, start)[0]
			turned := guarded[uint16](t, 1<<depth, start)
			copy(turned, l.turn(heap))
			l.planes(words, turned, depth, p)
			for r := range 64 * l.words() {
				at := 1
				for range depth {
					at = 2*at + bit(l, words, int(heap[at]), r)
				}
				for b := range sliceBits {
					if got := bit(l, p[:], b, r); got != (at-1<<depth)>>b&1 {
						t.Fatalf("depth %d, row %d: bit %d is %d, the index is %d", depth, r, b, got, at-1<<depth)
					}
				}
			}
		}
	})
}

func TestCircuit(t *testing.T) {
	eachPlace(t, func(t *testing.T, l level, random *rand.Rand, start bool) {
		for _, n := range []int{0, 1, 2, 3, 50} {
			const free = 20
			words := randomSlices(t, l, random, free+n, start)
			gates := guarded[gate](t, n, start)
			for i := range gates {
				some := func() uint16 { return uint16(random.IntN(free + i)) }
				gates[i] = gate{some(), some(), some()}
			}
			want := slices.Clone(words)
			for i, g := range gates {
				for j := range l.words() {
					of := func(slice uint16) uint64 { return want[int(slice)*l.words()+j] }
					want[(free+i)*l.words()+j] = of(g.which)&of(g.right) | ^of(g.which)&of(g.left)
				}
			}
			l.circuit(words, gates, free)
			if !slices.Equal(words, want) {
				t.Fatalf("%d gates give something else", n)
			}
		}
	})
}

// TestAnswers asks up to 255 keys of values on them, beside them and beyond.
func TestAnswers(t *testing.T) {
	eachPlace(t, func(t *testing.T, l level, random *rand.Rand, start bool) {
		s := &guarded[answerScratch](t, 1, start)[0]
		for _, n := range []int{1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 63, 64, 100, 127, 128, 129, 191, 192, 193, 200, 254, 255} {
			thresholds := make([]float64, n)
			for i := range thresholds {
				thresholds[i] = float64(float32(random.NormFloat64()))
			}
			slices.Sort(thresholds)
			if n > 20 {
				thresholds[0], thresholds[n-1] = math.Inf(-1), math.Inf(1)
			}
			keys32 := toFloat32(thresholds)
			x32, x64 := &guarded[[maxRows]float32](t, 1, start)[0], &guarded[[maxRows]float64](t, 1, start)[0]
			special := []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.Copysign(0, -1), 1e-45, -1e-45}
			for r := range x32 {
				v := float32(thresholds[random.IntN(n)])
				switch r % 4 {
				case 0:
					v = math.Nextafter32(v, float32(math.Inf(1)))
				case 1:
					v = math.Nextafter32(v, float32(math.Inf(-1)))
				case 3:
					v = float32(special[random.IntN(len(special))])
				}
				x32[r], x64[r] = v, float64(v)
			}
			for _, missing := range []int{-1, 1} {
				words := []int{l.words(), 1}[random.IntN(2)]
				check := func(kind string, answers bitset) {
					t.Helper()
					for r, v := range x64[:64*words] {
						for i := range n {
							right := v > thresholds[i] || (v != v && missing > 0)
							if got := answers[i*words+r/64]>>(r%64)&1 == 1; got != right {
								t.Fatalf("%s, %d keys, row %d is %v, key %d is %v: right %v", kind, n, r, v, i, thresholds[i], got)
							}
						}
					}
				}
				k32, k64 := newKeys(l, keys32, order32, math.MaxInt32), newKeys(l, thresholds, order64, math.MaxInt64)
				if k32.heap != nil {
					guard32, guard64 := &guarded[[maxRank + 1]int32](t, 1, start)[0], &guarded[[maxRank + 1]int64](t, 1, start)[0]
					*guard32, *guard64 = *k32.heap, *k64.heap
					k32.heap, k64.heap = guard32, guard64
				}
				answers := guarded[uint64](t, n*words, start)
				l.answer32(x32, &k32, int32(missing*math.MaxInt32), s, answers, words)
				check("float32", answers)
				clear(answers)
				l.answer64(x64, &k64, int64(missing)*math.MaxInt64, s, answers, words)
				check("float64", answers)
			}
		}
	})
}

func TestTranspose(t *testing.T) {
	eachPlace(t, func(t *testing.T, l level, random *rand.Rand, start bool) {
		for _, features := range []int{1, 2, 5, 15, 16, 17, 28, 33} {
			for _, n := range []int{1, 15, 16, 17, 40, maxRows} {
				rows := guarded[float32](t, n*features, start)
				for i := range rows {
					rows[i] = random.Float32()
				}
				for from := 0; from < features; from += 5 {
					block := &guarded[[transposed][maxRows]float32](t, 1, start)[0]
					transpose(block, rows, rows, features, from, l, n)
					for f := from; f < min(features, from+transposed); f++ {
						for r := range n {
							if block[f-from][r] != rows[r*features+f] {
								t.Fatalf("%d features from %d, %d rows: row %d, feature %d is wrong", features, from, n, r, f)
							}
						}
					}
				}
			}
		}
	})
}

// TestAdd looks up what indices choose, in tables of both sizes and types.
func TestAdd(t *testing.T) {
	eachPlace(t, func(t *testing.T, l level, random *rand.Rand, start bool) {
		for bits := range sliceBits + 1 {
			p := &guarded[planes](t, 1, start)[0]
			for b := range bits {
				for j := range l.words() {
					p[b*l.words()+j] = random.Uint64()
				}
			}
			values := make([]float64, 1<<bits)
			for i := range values {
				values[i] = float64(random.Float32())
			}
			get := func(i int) float64 { return values[i] }
			t32, t64 := newLeafTable(l, true, bits, len(values), get), newLeafTable(l, false, bits, len(values), get)
			for _, table := range []*leafTable{&t32, &t64} {
				if table.bytes != nil {
					b := guarded[byte](t, len(table.bytes), start)
					copy(b, table.bytes)
					table.bytes = b
				}
			}
			sums32, sums64 := &guarded[[maxRows]float32](t, 1, start)[0], &guarded[[maxRows]float64](t, 1, start)[0]
			index := &guarded[[maxRows]byte](t, 1, start)[0]
			for i := range sums32 {
				sums32[i], sums64[i] = 1.5, 2.5
			}
			l.index(p, index)
			l.add32(sums32, p, &t32, bits)
			l.add64(sums64, p, &t64, bits)
			o := l.order()
			for r := range 64 * l.words() {
				want := 0
				for b := range bits {
					want |= bit(l, p[:], b, r) << b
				}
				if got := int(index[o.index[r]]); got != want {
					t.Fatalf("%d bits, row %d: index %d, want %d", bits, r, got, want)
				}
				if got := sums32[o.sum32[r]]; got != 1.5+float32(values[want]) {
					t.Fatalf("%d bits, row %d: float32 %v, want 1.5+%v", bits, r, got, values[want])
				}
				if got := sums64[o.sum64[r]]; got != 2.5+values[want] {
					t.Fatalf("%d bits, row %d: float64 %v, want 2.5+%v", bits, r, got, values[want])
				}
			}
		}
	})
}
