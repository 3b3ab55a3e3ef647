package link

// Sum adds the numbers in the order in which numpy's sum does along the last axis, on which the bits of
// the result depend: one after the other below 8 numbers, in 8 interleaved sums up to 128, and by halves
// beyond ("pairwise summation").
func Sum(a []float64) float64 {
	const block = 128
	n := len(a)
	switch {
	case n < 8:
		var s float64
		for _, v := range a {
			s += v
		}
		return s
	case n <= block:
		r := [8]float64(a[:8])
		i := 8
		for ; i+8 <= n; i += 8 {
			for k := range r {
				r[k] += a[i+k]
			}
		}
		s := ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
		for ; i < n; i++ {
			s += a[i]
		}
		return s
	default:
		half := n / 2
		half -= half % 8
		return Sum(a[:half]) + Sum(a[half:])
	}
}
