//go:build !amd64 || purego

package engine

// words is the number of words of a slice.
func (level) words() int { return 1 }

func (level) order() *order { return plainOrder }

func (level) planes(all bitset, heap []uint16, depth int, p *planes) { goPlanes(all, heap, depth, p) }

func (level) circuit(all bitset, gates []gate, free int) { goCircuit(all, gates, free) }

func (level) answer32(x *[maxRows]float32, k *keys[float32, int32], missing int32, s *answerScratch, answers bitset, words int) {
	goAnswer(x, k.cells, missing > 0, s, answers, words)
}

func (level) answer64(x *[maxRows]float64, k *keys[float64, int64], missing int64, s *answerScratch, answers bitset, words int) {
	goAnswer(x, k.cells, missing > 0, s, answers, words)
}

func (level) transpose([]float32, int, int, int, int, []float32) int { return 0 }

func (level) index(p *planes, index *[maxRows]byte) { goIndex(p, index, 1) }

func (level) add32(sums *[maxRows]float32, p *planes, t *leafTable, bits int) {
	goAdd(sums, p, t.floats, 1)
}

func (level) add64(sums *[maxRows]float64, p *planes, t *leafTable, bits int) {
	goAdd(sums, p, t.doubles, 1)
}
