package shap

import "math"

// points are the abscissas and weights of the Gauss-Legendre rule of n points on [0, 1], ascending. It integrates
// polynomials of a degree up to 2n-1 exactly.
func points(n int) (at, weights []float64) {
	at, weights = make([]float64, n), make([]float64, n)
	for i := range (n + 1) / 2 {
		// The i-th root of the Legendre polynomial by Newton's method, from a guess that is close to it.
		x := math.Cos(math.Pi * (float64(i) + 0.75) / (float64(n) + 0.5))
		var slope float64
		for range 20 {
			p, before := 1.0, 0.0
			for k := range n {
				p, before = (float64(float64(2*k+1)*x*p)-float64(float64(k)*before))/float64(k+1), p
			}
			slope = float64(n) * (float64(x*p) - before) / (float64(x*x) - 1)
			step := p / slope
			x -= step
			if math.Abs(step) < 1e-16 {
				break
			}
		}
		w := 1 / float64((1-float64(x*x))*float64(slope*slope))
		at[i], at[n-1-i] = (1-x)/2, (1+x)/2
		weights[i], weights[n-1-i] = w, w
	}
	return at, weights
}
