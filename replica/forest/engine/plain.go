package engine

import "github.com/coppice-mesh/coppice/replica/forest/model"

// plainScalar is scalar for forests that compare float32 with thresholds and do nothing else.
type plainScalar[T Row] struct{ scalar[T] }

// plain tells whether plainScalar is for a forest.
func plain(f *model.Forest) bool {
	return f.Input == model.Float32 && f.Uses&^model.MissingLeft == 0 && f.Linear == nil
}

func (s plainScalar[T]) Margins(dst []float64, rows []T, features int) {
	f := s.f
	for len(rows) > 0 {
		row, out := rows[:features], dst[:f.Outputs]
		begin(f, out)
		for t := range f.NumTrees() {
			add(f, t, plainWalk(f, t, row).leaf, out)
		}
		end(f, out)
		rows, dst = rows[features:], dst[f.Outputs:]
	}
}

func (s plainScalar[T]) Leaves(dst []int64, rows []T, features int) {
	f := s.f
	for len(rows) > 0 {
		for t := range f.NumTrees() {
			dst[t] = plainWalk(f, t, rows[:features]).id(f)
		}
		rows, dst = rows[features:], dst[f.NumTrees():]
	}
}

func plainWalk[T Row](f *model.Forest, t int, row []T) place {
	tree, next := f.Trees[t], f.Trees[t+1]
	splits := f.Splits[tree.Split:next.Split]
	k, l, end := uint32(0), uint32(0), uint32(len(splits))
	for k < end {
		s := &splits[k]
		v := float32(row[s.Feature()])
		if v <= s.Threshold32() || (v != v && s.Has(model.MissingLeft)) {
			k, end = k+1, s.Right
		} else {
			k, l = s.Right, l+s.Right-k
		}
	}
	return place{leaf: int(tree.Leaf + l), node: int(k + l)}
}

// plainForest is a forest as it is, whose splits do no more than compare.
type plainForest struct{ scalarForest }

// newPlainForest gives nil when a forest is not one.
func newPlainForest(f *model.Forest) *plainForest {
	if !plain(f) {
		return nil
	}
	return &plainForest{newScalarForest(f)}
}

func (w *plainForest) kernels() (Kernel[float32], Kernel[float64]) {
	return plainScalar[float32]{scalar[float32]{w.f}}, plainScalar[float64]{scalar[float64]{w.f}}
}

func (w *plainForest) cost(rows int) float64 { return float64(rows) * w.steps * plainStep }
