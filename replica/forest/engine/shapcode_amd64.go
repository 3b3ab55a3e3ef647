//go:build !purego

package engine

import (
	"golang.org/x/sys/cpu"

	"github.com/coppice-mesh/coppice/replica/forest/engine/internal/simd"
)

// ShapCodes lists what this processor can run, the fastest first. Without any, package shap's own code runs.
func ShapCodes() []ShapCode {
	var codes []ShapCode
	if highest >= levelAVX512 {
		codes = append(codes, ShapCode{"avx512", simd.ShapAnswers, [...]ShapPass{
			1: simd.Shap1, 2: simd.Shap2, 3: simd.Shap3, 4: simd.Shap4, 5: simd.Shap5, 6: simd.Shap6, 7: simd.Shap7, 8: simd.Shap8,
		}})
	}
	if highest >= levelAVX2 && cpu.X86.HasFMA {
		codes = append(codes, ShapCode{"avx2", simd.ShapAnswersAVX2, [...]ShapPass{
			1: simd.Shap1AVX2, 2: simd.Shap2AVX2, 3: simd.Shap3AVX2, 4: simd.Shap4AVX2,
			5: simd.Shap5AVX2, 6: simd.Shap6AVX2, 7: simd.Shap7AVX2, 8: simd.Shap8AVX2,
		}})
	}
	return codes
}
