package libm

import "math"

// NumPyPower2 and NumPyExp have the bits of NumPy's power(2.0, x) and exp(x) on x86-64 processors with AVX-512. They were found
// from those functions' answers alone: the argument is k/16 + r in units of the base's logarithm, with r from 0 to 1/16, and the
// result 2^(k/16) (1 + r p(r)), where p is of degree 5 with coefficients for the least error in that interval. testdata/numpy.py
// writes what the tests compare with. Besides, all of these had the same bits: 190 million random arguments from -20 to 0 and
// 426,005 at which a unit in the last place of a sum inside of p shows, for power; 210 million from -700 to 0 and 305,999 for exp.

// NumPyPower2 is 2^x, for |x| up to 1000; Exp2 beyond.
func NumPyPower2(x float64) float64 {
	if !(math.Abs(x) <= 1000) {
		return Exp2(x)
	}
	k := math.Floor(x * 16)
	r := x - k/16
	if k/16+r > x { // r is rounded down; it is exact but for x from -1/32 to 0
		r = math.Float64frombits(math.Float64bits(r) - 1)
	}
	return sixteenths(int(k), r, &[6]float64{
		0x1.62e42fefa398bp-1, 0x1.ebfbdff84554dp-3, 0x1.c6b08d4ad8eb9p-5,
		0x1.3b2ad1b14ebaap-7, 0x1.5d7472783d27bp-10, 0x1.4a1d7f58c2c10p-13,
	})
}

// NumPyExp is e^x, for |x| up to 707; Exp beyond.
func NumPyExp(x float64) float64 {
	if !(math.Abs(x) <= 707) {
		return Exp(x)
	}
	const inverse = 0x1.71547652b82fep+4 // 16/log(2)
	k := math.Floor(x * inverse)
	if math.FMA(x, inverse, -k) < 0 { // the product was rounded up to k
		k--
	}
	r := math.FMA(k, -0x1.62e42fefa39efp-5, x)
	r = math.FMA(k, -0x1.abc9e3b39803fp-60, r)
	return sixteenths(int(k), r, &[6]float64{
		0x1.fffffffffff70p-1, 0x1.000000000d008p-1, 0x1.5555553939732p-3,
		0x1.55557242d68fep-5, 0x1.1101cbbc265c1p-7, 0x1.7411836940b40p-10,
	})
}

// sixteenths is 2^(k/16) (1 + r p(r)) for the coefficients c of p.
func sixteenths(k int, r float64, c *[6]float64) float64 {
	const step = size64 / 16
	e := &pow2[uint(k*step)%size64]
	s := math.Float64frombits(e.scale + uint64(k*step)<<(52-bits64))
	r2 := float64(r * r)
	p := math.FMA(math.FMA(c[5], r, c[4]), r2, math.FMA(c[3], r, c[2]))
	p = math.FMA(p, r2, math.FMA(c[1], r, c[0]))
	return math.FMA(s, math.FMA(p, r, e.tail), s)
}
