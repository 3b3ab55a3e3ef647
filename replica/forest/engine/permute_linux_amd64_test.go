//go:build !purego

package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/engine/internal/simd"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// atEnd has a copy of values at the end of a page that no page follows: reading or writing beyond it ends the test.
func atEnd[E any](t *testing.T, values []E) []E {
	t.Helper()
	at := guarded[E](t, len(values), false)
	copy(at, values)
	return at
}

// TestPermuteMemory: the loops read and write what they are given and nothing beyond.
func TestPermuteMemory(t *testing.T) {
	if !permutes() {
		t.Skip("the processor has not what it takes")
	}
	random := rand.New(rand.NewPCG(5, 5))
	for n := 1; n <= 70; n++ {
		t.Run(fmt.Sprintf("columns %d", n), func(t *testing.T) {
			columnsOf(t, random, n, 16, toLeft, toRight, order32, simd.PermuteColumns)
			columnsOf(t, random, n, 8, math.MinInt64, math.MaxInt64, order64, simd.PermuteColumnsWide)
		})
	}
	for _, n := range []int{1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 4095, 4096, 4097, 65535} {
		t.Run(fmt.Sprintf("keys %d", n), func(t *testing.T) {
			if n <= maxRank {
				keysOf(t, random, n, math.MaxInt32, simd.PermuteRanks)
				keysOf(t, random, n, math.MaxInt64, simd.PermuteRanksWide)
			}
			keysOf(t, random, n, math.MaxInt32, simd.PermuteWordRanks)
			keysOf(t, random, n, math.MaxInt64, simd.PermuteWordRanksWide)
		})
	}
	for n := range 70 {
		t.Run(fmt.Sprintf("heaps %d", n), func(t *testing.T) { heapsOf(t, random, n) })
		t.Run(fmt.Sprintf("blocks %d", n), func(t *testing.T) {
			blocksOf(t, random, n, false)
			blocksOf(t, random, n, true)
		})
	}
}

func columnsOf[I int32 | int64, F float32 | float64](t *testing.T, random *rand.Rand, n, full int, least, most I, order func(F) I,
	run func(dst *I, row *F, feature *uint32, missing *I, zero *F, n int),
) {
	features := 1 + random.IntN(300)
	row := atEnd(t, make([]F, features))
	for i, v := range drawRows(random, features, 1) {
		row[i] = F(v)
	}
	a := &permuteAsk[I, F]{}
	feature := make([]uint32, n)
	for i := range feature {
		feature[i] = uint32(random.IntN(features))
	}
	feature[0] = uint32(features - 1)
	for range (n + full - 1) / full * full {
		a.add(&column{missingLeft: random.IntN(2) == 0, zeroMissing: random.IntN(2) == 0}, least, most)
	}
	dst := atEnd(t, make([]I, len(a.zero)))
	run(&dst[0], &row[0], &atEnd(t, feature)[0], &atEnd(t, a.missing)[0], &atEnd(t, a.zero)[0], n)
	for i, got := range dst[:n] {
		v := row[feature[i]]
		want := order(v)
		if math.IsNaN(float64(v)) || max(v, -v) <= a.zero[i] {
			want = a.missing[i]
		}
		if got != want {
			t.Fatalf("column %d is %d for %v, want %d", i, got, v, want)
		}
	}
}

func keysOf[I int32 | int64](t *testing.T, random *rand.Rand, n int, most I,
	run func(dst *uint16, columns *I, pieces *[6]uint32, keys *I, n int),
) {
	keys := make([]I, n)
	for i := range keys {
		keys[i] = I(random.IntN(4 * n))
	}
	slices.Sort(keys)
	a := &permuteAsk[I, float32]{}
	levels := a.addKeys(keys, most)
	values := []I{-most - 1, most, keys[0], keys[n-1], keys[n-1] + 1}
	for range 50 {
		values = append(values, I(random.IntN(4*n)))
	}
	pieces := make([][6]uint32, len(values))
	for i := range pieces {
		pieces[i] = [6]uint32{uint32(i), uint32(len(levels))}
		for l, at := range levels {
			pieces[i][2+l] = uint32(at)
		}
	}
	dst := atEnd(t, make([]uint16, len(values)))
	run(&dst[0], &atEnd(t, values)[0], &atEnd(t, pieces)[0], &atEnd(t, a.keys)[0], len(values))
	for i, v := range values {
		if want, _ := slices.BinarySearch(keys, v); int(dst[i]) != want {
			t.Fatalf("rank %d of %v, want %d", dst[i], v, want)
		}
	}
}

// drawBytes are ranks or keys that are often the same.
func drawBytes(random *rand.Rand, to []byte) {
	for i := range to {
		to[i] = byte(random.IntN(256))
	}
}

// drawRanks gives the ranks of permuteRows rows, at the end of a page.
func drawRanks(t *testing.T, random *rand.Rand, most int) [][permutePieces]uint16 {
	ranks := make([][permutePieces]uint16, permuteRows)
	for i := range ranks {
		for k := range ranks[i] {
			ranks[i][k] = uint16(random.IntN(most + 1))
		}
	}
	return atEnd(t, ranks)
}

func heapsOf(t *testing.T, random *rand.Rand, n int) {
	heaps, ranks := make([][128]byte, n), drawRanks(t, random, maxRank)
	for i := range heaps {
		drawBytes(random, heaps[i][:])
		for k := range heapLeaves {
			heaps[i][k] %= permutePieces
		}
	}
	want := func(row, i int) uint32 {
		h, k := heaps[i], 1
		for k < heapLeaves {
			k *= 2
			if ranks[row][h[k/2]] > uint16(h[heapLeaves+k/2]) {
				k++
			}
		}
		return uint32(i*heapLeaves + k - heapLeaves)
	}
	at := unsafe.SliceData(atEnd(t, heaps))
	masks, slots := atEnd(t, make([]uint64, fill32(n))), atEnd(t, make([]uint32, fill32(n)))
	simd.PermuteHeaps(unsafe.SliceData(masks), at, (*[1][permutePieces]uint16)(ranks[permuteRows-1:]), n)
	simd.PermuteHeapLeaves(unsafe.SliceData(slots), unsafe.SliceData(masks), n)
	for i := range n {
		if slots[i] != want(permuteRows-1, i) {
			t.Fatalf("slot %d is %d, want %d", i, slots[i], want(permuteRows-1, i))
		}
	}
	full := (n + 3) &^ 3 * permuteRows
	masks, slots = atEnd(t, make([]uint64, full)), atEnd(t, make([]uint32, full))
	simd.PermuteHeapRows(unsafe.SliceData(masks), at, (*[permuteRows][permutePieces]uint16)(ranks), n)
	simd.PermuteHeapLeafRows(unsafe.SliceData(slots), unsafe.SliceData(masks), n)
	for i, slot := range slots[:n*permuteRows] {
		if w := want(i%permuteRows, i/permuteRows); slot != w {
			t.Fatalf("slot %d of row %d is %d, want %d", i/permuteRows, i%permuteRows, slot, w)
		}
	}
}

func blocksOf(t *testing.T, random *rand.Rand, n int, words bool) {
	most, pieces := maxRank, permutePieces
	if words {
		most, pieces = math.MaxUint16, permuteWords
	}
	p := planter{permuteForest: &permuteForest{f: &model.Forest{Width: 1, Values: []float64{0}}, words: words}}
	q := planter{permuteForest: &permuteForest{f: p.f, words: words}}
	ranks := drawRanks(t, random, most)
	var roots []*plot
	var grow func(splits int) *plot
	grow = func(splits int) *plot {
		if splits == 0 {
			return &plot{}
		}
		left := random.IntN(splits)
		return &plot{
			piece: uint16(random.IntN(pieces)), key: uint16(random.IntN(most + 1)), splits: splits,
			left: grow(left), right: grow(splits - 1 - left),
		}
	}
	var offsets []uint32
	for range n {
		roots = append(roots, grow(1+random.IntN(blockSplits)))
		offsets = append(offsets, p.block(roots[len(roots)-1]))
		q.root(roots[len(roots)-1])
	}
	want := func(row, i int) uint32 {
		exit, to := 0, roots[i]
		for to.left != nil {
			if ranks[row][to.piece] > to.key {
				to = to.right
			} else {
				to = to.left
			}
		}
		for _, before := range roots[:i] {
			exit += before.splits + 1
		}
		for level := []*plot{roots[i]}; level[0] != to; level = level[1:] { // exits are numbered level by level
			if level[0].left == nil {
				exit++
			} else {
				level = append(level, level[0].left, level[0].right)
			}
		}
		return uint32(exit)
	}
	check := func(how string, slots []uint32, rows int) {
		t.Helper()
		for i, slot := range slots[:n*rows] {
			row := permuteRows - rows + i%rows
			if w := want(row, i/rows); slot != w {
				t.Fatalf("%s, words %v: block %d of row %d ends at %d, want %d", how, words, i/rows, row, slot, w)
			}
		}
	}
	one, all := (*[1][permutePieces]uint16)(ranks[permuteRows-1:]), (*[permuteRows][permutePieces]uint16)(ranks)
	run, begin, beginRows := simd.PermuteBlocks, simd.PermuteRoots, simd.PermuteRootRows
	if words {
		run, begin, beginRows = simd.PermuteWordBlocks, simd.PermuteWordRoots, simd.PermuteWordRootRows
	}
	blocks, at := atEnd(t, append(p.blocks, make([]byte, 128)...)), unsafe.SliceData(atEnd(t, offsets))
	masks, shapes := atEnd(t, make([]uint64, fill32(n))), atEnd(t, make([]uint64, fill32(n)))
	bases, slots := atEnd(t, make([]uint32, fill32(n))), atEnd(t, make([]uint32, fill32(n)))
	run(unsafe.SliceData(masks), unsafe.SliceData(shapes), unsafe.SliceData(bases), &blocks[0], at, one, n)
	simd.PermuteBlockExits(unsafe.SliceData(slots), unsafe.SliceData(masks), unsafe.SliceData(shapes), unsafe.SliceData(bases), n)
	check("blocks", slots, 1)

	rootRanks := unsafe.SliceData(atEnd(t, q.roots.ranks))
	copy(shapes, q.roots.shapes)
	copy(bases, q.roots.bases)
	clear(slots)
	begin(unsafe.SliceData(masks), rootRanks, one, n)
	simd.PermuteBlockExits(unsafe.SliceData(slots), unsafe.SliceData(masks), unsafe.SliceData(shapes), unsafe.SliceData(bases), n)
	check("roots", slots, 1)

	full := (n + 3) &^ 3
	masks, slots = atEnd(t, make([]uint64, full*permuteRows)), atEnd(t, make([]uint32, full*permuteRows))
	beginRows(unsafe.SliceData(masks), rootRanks, all, n)
	simd.PermuteBlockExitRows(unsafe.SliceData(slots), unsafe.SliceData(masks), unsafe.SliceData(atEnd(t, shapes[:full])),
		unsafe.SliceData(atEnd(t, bases[:full])), n)
	check("rows of roots", slots, permuteRows)
}

// TestPermuteShapes compares permute with the reference on trees of all depths and forms, of 1 to 300 features and with
// few or very many keys.
func TestPermuteShapes(t *testing.T) {
	if !permutes() {
		t.Skip("the processor has not what it takes")
	}
	bytes, words, deep := 0, 0, 0
	for seed := range uint64(240) {
		random := rand.New(rand.NewPCG(seed, 6))
		s := model.Shape{Outputs: 1 + random.IntN(6), Single: seed%2 == 0, Input: []model.Input{model.Float32, model.Float64}[seed/2%2]}
		s.Width = []int{1, s.Outputs}[random.IntN(2)]
		features := []int{1, 2, 16, 17, 28, 50, 64, 90, 128, 300}[seed/4%10]
		most := []int{8, 300, 1 << 20}[random.IntN(3)]
		full := random.IntN(2) == 0
		b := model.NewBuilder(s)
		values := make([]float64, s.Width)
		var grow func(depth int) error
		grow = func(depth int) error {
			if depth == 0 || (!full && random.IntN(5) == 0) {
				for i := range values {
					values[i] = drawValue(random, s.Single)
				}
				return b.Leaf(values...)
			}
			v := float64(random.IntN(most)) / 1e6
			if s.Input == model.Float32 {
				v = float64(float32(v))
			}
			if err := b.Split(random.IntN(features), v, []model.Flags{0, model.MissingLeft}[random.IntN(16)/15]); err != nil {
				return err
			}
			// One side of trees that are not full may be deep and the other not.
			other := depth - 1
			if !full {
				other = random.IntN(depth)
			}
			if err := grow(depth - 1); err != nil {
				return err
			}
			return grow(other)
		}
		for range 1 + random.IntN(40) {
			if err := grow(int(seed % 13)); err != nil {
				t.Fatal(err)
			}
		}
		f, err := b.Forest()
		if err != nil {
			t.Fatal(err)
		}
		w := newPermuteForest(&parts{f: &f})
		if w == nil {
			continue
		}
		if deep += len(w.deep); w.words {
			words++
		} else {
			bytes++
		}
		rows := make([]float64, (2*permuteRows+3)*features)
		for i := range rows {
			if rows[i] = float64(random.IntN(most)) / 1e6; random.IntN(8) == 0 {
				rows[i] = math.NaN()
			}
		}
		same(t, seed, &f, w, rows, features)
		same(t, seed, &f, w, toFloat32(rows), features)
	}
	if bytes == 0 || words == 0 || deep == 0 {
		t.Errorf("%d forests of bytes and %d of words, and %d trees of several blocks", bytes, words, deep)
	}
}

func same[T Row](t *testing.T, seed uint64, f *model.Forest, w *permuteForest, rows []T, features int) {
	t.Helper()
	n := len(rows) / features
	want, wantLeaves := make([]float64, n*f.Outputs), make([]int64, n*f.NumTrees())
	scalar[T]{f}.Margins(want, rows, features)
	scalar[T]{f}.Leaves(wantLeaves, rows, features)
	for _, size := range []int{0, 1, permuteLeast, permuteRows, permuteRows + permuteLeast, n} {
		check(t, fmt.Sprintf("seed %d, %d rows", seed, size), Kernel[T](permute[T]{w}), atEnd(t, rows[:size*features]), features,
			want[:size*f.Outputs], wantLeaves[:size*f.NumTrees()])
	}
}
