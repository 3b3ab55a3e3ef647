//go:build !amd64 || purego

package engine

import "github.com/coppice-mesh/coppice/replica/forest/model"

// permuteForest is of amd64 alone.
type permuteForest struct{}

func permutes() bool { return false }

func newPermuteForest(*model.Forest) *permuteForest { return nil }

func (*permuteForest) bytes() int { return 0 }

type permute[T Row] struct{ *permuteForest }

func (permute[T]) Margins([]float64, []T, int) {}

func (permute[T]) Leaves([]int64, []T, int) {}
