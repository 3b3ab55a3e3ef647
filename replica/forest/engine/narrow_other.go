//go:build !amd64 || purego

package engine

// narrowForest is of AVX-512 alone.
type narrowForest struct{}

type narrow[T Row] struct{ *narrowForest }

func newNarrowForest(*laneForest) *narrowForest { return nil }

func (*narrowForest) bytes() int { return 0 }

func (narrow[T]) Margins([]float64, []T, int) {}

func (narrow[T]) Leaves([]int64, []T, int) {}
