//go:build !amd64 || purego

package engine

func (level) order() *order { return plainOrder }

func (level) planes(words []slice, heap []uint16, depth, n int, p *planes) {
	goPlanes(words, heap, depth, n, p)
}

func (level) circuit(words []slice, gates []gate, free, n int) { goCircuit(words, gates, free, n) }

func (level) answer32(x *[sliceRows]float32, table *[maxRank + 1]int32, levels int, missing int32, s *answerScratch, answers []slice, n int) {
	goAnswer32(x, table, levels, missing, s, answers, n)
}

func (level) answer64(x *[sliceRows]float64, table *[maxRank + 1]int64, levels int, missing int64, s *answerScratch, answers []slice, n int) {
	goAnswer64(x, table, levels, missing, s, answers, n)
}

func (level) transpose([]float32, int, int, int, int, []float32) int { return 0 }

func (level) index(p *planes, index *[sliceRows]byte, bits, n int) { goIndex(p, index, bits, n) }

func (level) add32(sums *[sliceRows]float32, p *planes, t *leafTable, bits, n int) {
	goAdd(sums, p, t.floats, bits, n)
}

func (level) add64(sums *[sliceRows]float64, p *planes, t *leafTable, bits, n int) {
	goAdd(sums, p, t.doubles, bits, n)
}
