package libm

import "math"

// Power2 is 2^x, as NumPy's power(2.0, x) on an x86-64 processor with AVX-512, for |x| up to 1000; Exp2 beyond.
//
// It was found from that function's answers alone: x is k/16 + r, with r from 0 to 1/16, and 2^r is 1 + r p(r), where p is of degree 5 with
// coefficients for the least error in that interval. It gave the same bits for 190 million random arguments from -20 to 0, and
// for 426,005 arguments at which a unit in the last place of p's inner sums shows.
func Power2(x float64) float64 {
	if !(math.Abs(x) <= 1000) {
		return Exp2(x)
	}
	const (
		c1 = 0x1.62e42fefa398bp-1
		c2 = 0x1.ebfbdff84554dp-3
		c3 = 0x1.c6b08d4ad8eb9p-5
		c4 = 0x1.3b2ad1b14ebaap-7
		c5 = 0x1.5d7472783d27bp-10
		c6 = 0x1.4a1d7f58c2c10p-13
	)
	kd := math.Floor(x*16) / 16
	r := x - kd
	if kd+r > x { // r is rounded down; it is exact but for x from -1/32 to 0
		r = math.Float64frombits(math.Float64bits(r) - 1)
	}
	k := int(kd * size64)
	e := &pow2[uint(k)%size64]
	s := math.Float64frombits(e.scale + uint64(k)<<(52-bits64))
	r2 := float64(r * r)
	p := math.FMA(math.FMA(math.FMA(c6, r, c5), r2, math.FMA(c4, r, c3)), r2, math.FMA(c2, r, c1))
	return math.FMA(s, math.FMA(p, r, e.tail), s)
}
