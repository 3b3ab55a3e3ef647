//go:build !amd64 || purego

package engine

// permuteForest is of amd64 alone.
type permuteForest struct{}

func permutes() bool { return false }

func newPermuteForest(*parts) *permuteForest { return nil }

func (*permuteForest) bytes() int { return 0 }

func (*permuteForest) kernels() (Kernel[float32], Kernel[float64]) { return nil, nil }

func (*permuteForest) cost(int) float64 { return 0 }

func (*permuteForest) shares() []Share { return nil }
