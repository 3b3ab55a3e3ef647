package sklearn

import "math"

// oldLog stands for the logarithm of NumPy 1, through which scikit-learn before 1.4 goes when it predicts. Its last bit is
// not in the file: without AVX-512 it was the C library's, and with it a function of its own, off by one unit for one
// argument in five. This is the classical one of fdlibm, with the bits that the reference models have; for a prior for
// which it has others, all margins of the model are off by that unit.
//
// x is 2^k (1+f), and log(1+f) is f - f²/2 + s(f²/2 + R(s²)) with s = f/(2+f).
func oldLog(x float64) float64 {
	const (
		ln2Hi = 6.93147180369123816490e-01
		ln2Lo = 1.90821492927058770002e-10
	)
	m, exponent := math.Frexp(x)
	if m < math.Sqrt2/2 {
		m *= 2
		exponent--
	}
	f, k := m-1, float64(exponent)
	s := f / (2 + f)
	z := float64(s * s)
	w := float64(z * z)
	odd := 1.479819860511658591e-01
	for _, c := range []float64{1.818357216161805012e-01, 2.857142874366239149e-01, 6.666666666666735130e-01} {
		odd = c + float64(w*odd)
	}
	even := 1.531383769920937332e-01
	for _, c := range []float64{2.222219843214978396e-01, 3.999999999940941908e-01} {
		even = c + float64(w*even)
	}
	r := float64(z*odd) + float64(w*even)
	half := float64(0.5 * f * f)
	return float64(k*ln2Hi) - ((half - (float64(s*(half+r)) + float64(k*ln2Lo))) - f)
}
