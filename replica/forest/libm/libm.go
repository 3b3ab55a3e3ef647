// Package libm has the exponential and logarithm functions that other libraries' predictions pass through, with the bits of
// glibc 2.28 and later on x86-64, on every processor.
//
// Go's math.Exp is another function: its results differ from glibc's in the last bit for some arguments, and between
// processors. glibc's are not correctly rounded either (their error is up to 0.511 units in the last place for exp),
// so that equality takes the same algorithm: a table of 2^(k/N) and a polynomial, as published with Arm's optimized
// routines. glibc evaluates exp with fused multiply-add where the processor has it, which shows in some
// last bits: so does this package, by math.FMA, which gives the same bits everywhere. Its exp2 does not.
//
//   - Exp32 and Log32 were compared with glibc's expf and logf on all float32
//   - Exp and Exp2 were on millions of random arguments; testdata/glibc.c writes what the tests compare with
//   - NumPyPower2 and NumPyExp are not glibc's but NumPy's, with AVX-512
//   - Log1p and Log differ from glibc's in the last bit for about one argument in 3000
package libm

import "math"

const (
	bits32 = 5 // log2 of the table's size for float32
	size32 = 1 << bits32
	bits64 = 7
	size64 = 1 << bits64
	// round, added and taken away again, rounds to an integer, and leaves it in the low bits meanwhile.
	round = 0x1.8p52
)

// table32 has the bits of 2^(k/32), less k/32 in the exponent.
var table32 = func() (t [size32]uint64) {
	for k := range t {
		t[k] = pow2[k*size64/size32].scale + (uint64(k)<<52)/size64*(size64/size32) - (uint64(k)<<52)/size32
	}
	return t
}()

// Exp32 is e^x, as glibc's expf.
func Exp32(x float32) float32 {
	switch {
	case x != x:
		return x
	case x > 0x1.62e42ep6:
		return float32(math.Inf(1))
	case x < -0x1.9fe368p6:
		return 0
	}
	const (
		c0 = 0x1.c6af84b912394p-5 / size32 / size32 / size32
		c1 = 0x1.ebfce50fac4f3p-3 / size32 / size32
		c2 = 0x1.62e42ff0c52d6p-1 / size32
	)
	const scaledInverse = float64(0x1.71547652b82fep+0 * size32)
	kd := math.FMA(scaledInverse, float64(x), round)
	k := math.Float64bits(kd)
	kd -= round
	r := math.FMA(scaledInverse, float64(x), -kd)
	s := math.Float64frombits(table32[k%size32] + k<<(52-bits32))
	p := math.FMA(c0, r, c1)
	y := math.FMA(c2, r, 1)
	y = math.FMA(p, float64(r*r), y)
	return float32(float64(y * s))
}

// Log32 is the natural logarithm, as glibc's logf.
func Log32(x float32) float32 {
	ix := math.Float32bits(x)
	switch {
	case x == 1:
		return 0
	case ix-0x00800000 < 0x7f800000-0x00800000: // normal and positive
	case x == 0:
		return float32(math.Inf(-1))
	case ix == 0x7f800000 || x != x:
		return x
	case ix&0x80000000 != 0:
		return float32(math.NaN())
	default: // denormal
		ix = math.Float32bits(x*0x1p23) - 23<<23
	}
	const offset = 0x3f330000
	tmp := ix - offset
	i := tmp >> (23 - 4) % 16
	k := int32(tmp) >> 23
	z := float64(math.Float32frombits(ix - tmp&0xff800000))
	r := math.FMA(z, log32[i].inverse, -1)
	y0 := math.FMA(float64(k), 0x1.62e42fefa39efp-1, log32[i].log)
	r2 := float64(r * r)
	y := math.FMA(0x1.5575b0be00b6ap-2, r, -0x1.ffffef20a4123p-2)
	y = math.FMA(-0x1.00ea348b88334p-2, r2, y)
	return float32(math.FMA(y, r2, y0+r))
}

// log32 has, for 16 intervals of [2/3, 4/3), the inverse of a number in it and the logarithm of that number.
var log32 = [16]struct{ inverse, log float64 }{
	{0x1.661ec79f8f3bep+0, -0x1.57bf7808caadep-2},
	{0x1.571ed4aaf883dp+0, -0x1.2bef0a7c06ddbp-2},
	{0x1.49539f0f010bp+0, -0x1.01eae7f513a67p-2},
	{0x1.3c995b0b80385p+0, -0x1.b31d8a68224e9p-3},
	{0x1.30d190c8864a5p+0, -0x1.6574f0ac07758p-3},
	{0x1.25e227b0b8eap+0, -0x1.1aa2bc79c81p-3},
	{0x1.1bb4a4a1a343fp+0, -0x1.a4e76ce8c0e5ep-4},
	{0x1.12358f08ae5bap+0, -0x1.1973c5a611cccp-4},
	{0x1.0953f419900a7p+0, -0x1.252f438e10c1ep-5},
	{0x1p+0, 0x0p+0},
	{0x1.e608cfd9a47acp-1, 0x1.aa5aa5df25984p-5},
	{0x1.ca4b31f026aap-1, 0x1.c5e53aa362eb4p-4},
	{0x1.b2036576afce6p-1, 0x1.526e57720db08p-3},
	{0x1.9c2d163a1aa2dp-1, 0x1.bc2860d22477p-3},
	{0x1.886e6037841edp-1, 0x1.1058bc8a07ee1p-2},
	{0x1.767dcf5534862p-1, 0x1.4043057b6ee09p-2},
}

// top is the sign and the exponent of a number.
func top(x float64) uint32 { return uint32(math.Float64bits(x) >> 52) }

// Exp is e^x, as glibc's exp.
func Exp(x float64) float64 {
	exponent := top(x) & 0x7ff
	special := false
	if exponent-(1023-54) >= (1023+9)-(1023-54) { // tiny, or at least 512
		switch {
		case exponent < 1023-54:
			return 1 + x
		case exponent >= 1023+10: // at least 1024
			switch {
			case math.IsInf(x, -1):
				return 0
			case exponent == 0x7ff:
				return 1 + x
			case x < 0:
				return 0
			}
			return math.Inf(1)
		}
		special = true
	}
	const (
		c2 = 0x1.ffffffffffdbdp-2
		c3 = 0x1.555555555543cp-3
		c4 = 0x1.55555cf172b91p-5
		c5 = 0x1.1111167a4d017p-7
	)
	kd := math.FMA(0x1.71547652b82fep0*size64, x, round)
	k := math.Float64bits(kd)
	kd -= round
	r := math.FMA(kd, -0x1.62e42fefa0000p-8, x)
	r = math.FMA(kd, -0x1.cf79abc9e3b39p-47, r)
	e := &pow2[k%size64]
	scale := e.scale + k<<(52-bits64)
	r2 := float64(r * r)
	tmp := math.FMA(r2, math.FMA(r, c3, c2), e.tail+r)
	tmp = math.FMA(float64(r2*r2), math.FMA(r, c5, c4), tmp)
	if special && k&0x80000000 == 0 {
		s := math.Float64frombits(scale - 1009<<52)
		return 0x1p1009 * math.FMA(s, tmp, s)
	}
	if special {
		return scaled(tmp, scale, k)
	}
	s := math.Float64frombits(scale)
	return math.FMA(s, tmp, s)
}

// Exp2 is 2^x, as glibc's exp2.
func Exp2(x float64) float64 {
	exponent := top(x) & 0x7ff
	special := false
	if exponent-(1023-54) >= (1023+9)-(1023-54) {
		switch {
		case exponent < 1023-54:
			return 1 + x
		case exponent >= 1023+10:
			switch {
			case math.IsInf(x, -1):
				return 0
			case exponent == 0x7ff:
				return 1 + x
			case x >= 1024:
				return math.Inf(1)
			case x <= -1075:
				return 0
			}
		}
		special = math.Abs(x) > 928
	}
	const (
		c1 = 0x1.62e42fefa39efp-1
		c2 = 0x1.ebfbdff82c424p-3
		c3 = 0x1.c6b08d70cf4b5p-5
		c4 = 0x1.3b2abd24650ccp-7
		c5 = 0x1.5d7e09b4e3a84p-10
	)
	kd := x + float64(round)/size64
	k := math.Float64bits(kd)
	kd -= float64(round) / size64
	r := x - kd
	e := &pow2[k%size64]
	scale := e.scale + k<<(52-bits64)
	r2 := float64(r * r)
	tmp := e.tail + float64(r*c1) + float64(r2*(c2+float64(r*c3))) + float64(float64(r2*r2)*(c4+float64(r*c5)))
	if special {
		return scaled(tmp, scale, k)
	}
	s := math.Float64frombits(scale)
	return s + float64(s*tmp)
}

// scaled is s + s*tmp for a scale s whose exponent k overflowed or underflowed, or may when tmp is added.
func scaled(tmp float64, scale, k uint64) float64 {
	if k&0x80000000 == 0 { // the exponent is too large by up to 460
		s := math.Float64frombits(scale - 1009<<52)
		return 0x1p1009 * (s + float64(s*tmp))
	}
	s := math.Float64frombits(scale + 1022<<52)
	y := s + float64(s*tmp)
	if y < 1 { // rounded where a denormal ends, and only there
		lo := s - y + float64(s*tmp)
		hi := 1 + y
		lo = 1 - hi + y + lo
		y = (hi + lo) - 1
	}
	return 0x1p-1022 * y
}

// Log1p is log(1+x) for x > -1, as glibc's log1p: 1+x is 2^k(1+f), and log(1+f) is f - s(f - R(s²)) with s = f/(2+f).
func Log1p(x float64) float64 {
	const (
		ln2Hi = 6.93147180369123816490e-01
		ln2Lo = 1.90821492927058770002e-10
	)
	switch {
	case x < -1 || x != x:
		return math.NaN()
	case x == -1:
		return math.Inf(-1)
	case math.IsInf(x, 1):
		return x
	}
	k, f, c := 0, x, 0.0
	high := uint32(1)
	switch ax := math.Abs(x); {
	case ax < 0x1p-54:
		return x
	case ax < 0x1p-29:
		return x - float64(x*x)*0.5
	case x >= -0.2928932011127472 && x <= 0.41421365737915033: // 1+x is from sqrt(2)/2 to sqrt(2)
	default:
		u := x
		if x < 0x1p53 {
			u = 1 + x
		}
		b := math.Float64bits(u)
		k = int(b>>52) - 1023
		if x < 0x1p53 {
			c = 1 - (u - x)
			if k <= 0 {
				c = x - (u - 1)
			}
			c /= u
		}
		const half = 0x6a09e // of the upper bits of sqrt(2)
		high = uint32(b>>32) & 0xfffff
		if high < half {
			u = math.Float64frombits(b&(1<<52-1) | 1023<<52)
		} else {
			k++
			u = math.Float64frombits(b&(1<<52-1) | 1022<<52)
			high = (0x00100000 - high) >> 2
		}
		f = u - 1
	}
	hfsq := 0.5 * f * f
	if high == 0 { // |f| < 2^-20
		if f == 0 {
			if k == 0 {
				return 0
			}
			c += float64(float64(k) * ln2Lo)
			return float64(float64(k)*ln2Hi) + c
		}
		r := hfsq * (1 - 0.66666666666666666*f)
		if k == 0 {
			return f - r
		}
		return float64(float64(k)*ln2Hi) - ((r - (float64(float64(k)*ln2Lo) + c)) - f)
	}
	s := f / (2 + f)
	z := float64(s * s)
	z2 := float64(z * z)
	z4 := float64(z2 * z2)
	z6 := float64(z4 * z2)
	r := float64(z*6.666666666666735130e-01) +
		float64(z2*(3.999999999940941908e-01+float64(z*2.857142874366239149e-01))) +
		float64(z4*(2.222219843214978396e-01+float64(z*1.818357216161805012e-01))) +
		float64(z6*(1.531383769920937332e-01+float64(z*1.479819860511658591e-01)))
	if k == 0 {
		return f - (hfsq - float64(s*(hfsq+r)))
	}
	return float64(float64(k)*ln2Hi) - ((hfsq - (float64(s*(hfsq+r)) + (float64(float64(k)*ln2Lo) + c))) - f)
}
