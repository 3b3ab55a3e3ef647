package shap

import (
	"math/rand/v2"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
)

// BenchmarkValues explains rows with a forest of the size of a usual booster.
func BenchmarkValues(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 1))
	f := grow(b, style{trees: 500, depth: 6, features: 28, width: 1, outputs: 1, single: true}, random)
	const rows = 512
	x := rowsOf(rows, 28, random)
	dst := make([]float64, rows*29)
	for _, code := range append(engine.ShapCodes(), engine.ShapCode{Name: "go"}) {
		b.Run("code="+code.Name, func(b *testing.B) {
			e, err := New(f)
			if err != nil {
				b.Fatal(err)
			}
			e.Prepare()
			e.plan.code = code
			for b.Loop() {
				Values(e, dst, x, 28, 28, 1)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
		})
	}
}
