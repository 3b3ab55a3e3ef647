//go:build !purego

package engine

import "github.com/coppice-mesh/coppice/replica/forest/engine/internal/simd"

// ShapAnswers is package shap's answers in assembly, or nil when it has to be that in Go.
func ShapAnswers() func(lanes *byte, asks, columns *int32, n int) {
	if highest < levelAVX512 {
		return nil
	}
	return simd.ShapAnswers
}

// ShapPass gives package shap's pass of a number of points in assembly, or nil when it has to be the one in Go.
func ShapPass(points int) func(nodes *byte, n int, lanes *byte, tables, c, t, phi, values *float64) {
	if highest < levelAVX512 {
		return nil
	}
	return [...]func(nodes *byte, n int, lanes *byte, tables, c, t, phi, values *float64){
		1: simd.Shap1, 2: simd.Shap2, 3: simd.Shap3, 4: simd.Shap4, 5: simd.Shap5, 6: simd.Shap6, 7: simd.Shap7, 8: simd.Shap8,
	}[points]
}
