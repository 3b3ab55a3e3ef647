// Package link makes scores from margins, in the precision and the order of operations of the library that trained
// the model.
//
//   - XGBoost, whose margins are float32: glibc's expf; a sigmoid is 1/(exp(-x)+1+1e-16) in float32, the sum of a softmax
//     is kept in float64.
//   - LightGBM and scikit-learn, whose margins are float64: glibc's exp. Where scikit-learn goes through NumPy's exp (softmax, means of
//     Poisson and gamma models) or its power (isolation forests), the bits are those on processors with AVX-512. Up to scikit-learn
//     1.3, GradientBoosting's softmax goes through NumPy's log, which moves it by up to as many units in the last place as
//     the logarithm of the classes' weights is large.
package link

import (
	"math"
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/libm"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// Apply replaces the margins of one row of a forest of so many rounds by its scores. With single they are float32, kept
// as float64.
func Apply(l model.Link, single bool, rounds int, x []float64) {
	if single {
		apply32(l, x)
		return
	}
	if l.Mean {
		for i := range x {
			x[i] /= float64(rounds)
		}
	}
	switch l.Name {
	case model.Sigmoid:
		for i, v := range x {
			x[i] = 1 / (1 + libm.Exp(-l.Scale*v))
		}
	case model.Softmax:
		softmax(x, libm.Exp)
	case model.SoftmaxNumPy:
		softmax(x, libm.NumPyExp)
	case model.SoftmaxPairs:
		softmaxPairs(x)
	case model.SoftmaxLog:
		softmaxLog(x)
	case model.Exp:
		for i, v := range x {
			x[i] = libm.Exp(v)
		}
	case model.ExpNumPy:
		for i, v := range x {
			x[i] = libm.NumPyExp(v)
		}
	case model.Step:
		step(x)
	case model.Square:
		for i, v := range x {
			x[i] = math.Copysign(v*v, v)
		}
	case model.Softplus:
		for i, v := range x {
			x[i] = libm.Log1p(libm.Exp(v))
		}
	case model.Isolation:
		x[0] = Isolation(l, x[0]) - l.Offset
	}
}

// Isolation is the score_samples of an isolation forest, for the sum x of the depths.
func Isolation(l model.Link, x float64) float64 {
	if l.Scale == 0 {
		return -0.5 // a forest grown on one sample, whose depths say nothing
	}
	return -libm.NumPyPower2(-(x / l.Scale))
}

func softmax(x []float64, exp func(float64) float64) {
	top := slices.Max(x)
	sum := 0.0
	for i, v := range x {
		x[i] = exp(v - top)
		sum += x[i]
	}
	for i := range x {
		x[i] /= sum
	}
}

func softmaxPairs(x []float64) {
	top := slices.Max(x)
	for i, v := range x {
		x[i] = libm.NumPyExp(v - top)
	}
	sum := Sum(x)
	for i := range x {
		x[i] /= sum
	}
}

func softmaxLog(x []float64) {
	top := slices.Max(x)
	var few [32]float64 // classes, most often: no allocation
	e := append(few[:0], x...)
	for i, v := range e {
		e[i] = libm.NumPyExp(v - top)
	}
	total := libm.Log(Sum(e)) + top
	for i, v := range x {
		x[i] = libm.NumPyExp(v - total)
	}
}

func step(x []float64) {
	for i, v := range x {
		x[i] = 0
		if v > 0 {
			x[i] = 1
		}
	}
}

func apply32(l model.Link, x []float64) {
	switch l.Name {
	case model.Sigmoid:
		for i, v := range x {
			x[i] = float64(sigmoid32(float32(v)))
		}
	case model.Softmax:
		softmax32(x)
	case model.Exp:
		for i, v := range x {
			x[i] = float64(libm.Exp32(float32(v)))
		}
	case model.ExpDouble:
		for i, v := range x {
			x[i] = float64(float32(libm.Exp(v)))
		}
	case model.Step:
		step(x)
	case model.Square:
		for i, v := range x {
			x[i] = math.Copysign(float64(float32(v)*float32(v)), v)
		}
	case model.Softplus:
		for i, v := range x {
			x[i] = float64(float32(libm.Log1p(float64(libm.Exp32(float32(v))))))
		}
	}
}

// sigmoid32 is XGBoost's. Its exponent is capped so that expf does not overflow.
func sigmoid32(x float32) float32 {
	const most = 88.7
	e := libm.Exp32(min(-x, most))
	return 1 / (e + 1 + 1e-16)
}

// softmax32 is XGBoost's: the sum is float64, the division float32.
func softmax32(x []float64) {
	top := float32(x[0])
	for _, v := range x[1:] {
		top = max(top, float32(v))
	}
	sum := 0.0
	for i, v := range x {
		e := libm.Exp32(float32(v) - top)
		x[i] = float64(e)
		sum += float64(e)
	}
	for i, v := range x {
		x[i] = float64(float32(v) / float32(sum))
	}
}
