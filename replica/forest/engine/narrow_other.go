//go:build !amd64 || purego

package engine

// narrowForest is of AVX-512 alone.
type narrowForest struct{}

func newNarrowForest(*parts) *narrowForest { return nil }

func (*narrowForest) bytes() int { return 0 }

func (*narrowForest) kernels() (Kernel[float32], Kernel[float64]) { return nil, nil }

func (*narrowForest) cost(int) float64 { return 0 }

func (*narrowForest) shares() []Share { return nil }
