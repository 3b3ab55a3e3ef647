package train

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// BenchmarkForest trains forests on all cores. Its unit is a row that a tree learns from, rows*trees a second.
func BenchmarkForest(b *testing.B) {
	for _, rows := range []int{2000, 20000} {
		for _, features := range []int{20, 100} {
			for _, trees := range []int{10, 100} {
				if rows*features*trees > 40e6 {
					continue
				}
				d := blobs(rows, features)
				b.Run(fmt.Sprintf("classify/%dx%d/%d", rows, features, trees), func(b *testing.B) {
					bench(b, Config{Task: model.Classify, Trees: trees, Seed: 1}, d)
				})
			}
		}
	}
	for _, rows := range []int{2000, 20000} {
		d := friedman(rows, 1)
		b.Run(fmt.Sprintf("regress/%dx%d/10", rows, d.Features), func(b *testing.B) {
			bench(b, Config{Task: model.Regress, Trees: 10, Seed: 1}, d)
		})
	}
}

// BenchmarkDemo trains the demo forest: what a first start waits for.
func BenchmarkDemo(b *testing.B) {
	bench(b, DemoConfig(), Demo())
}

// BenchmarkOneCore is the reference for BenchmarkDemo: the same on one core.
func BenchmarkOneCore(b *testing.B) {
	cfg := DemoConfig()
	cfg.Workers = 1
	bench(b, cfg, Demo())
}

func bench(b *testing.B, cfg Config, d *Data) {
	b.ReportAllocs()
	for b.Loop() {
		grow(b, cfg, d)
	}
	b.ReportMetric(float64(b.N)*float64(d.Len())*float64(cfg.Trees)/b.Elapsed().Seconds(), "rows*trees/s")
}

// blobs is two clouds that overlap in every feature.
func blobs(rows, features int) *Data {
	random := rand.New(rand.NewPCG(1, 6))
	d := &Data{Features: features, Classes: []string{"a", "b"}}
	for i := range rows {
		label := i % 2
		for range features {
			d.Rows = append(d.Rows, float32(random.NormFloat64()+float64(label)/4))
		}
		d.Labels = append(d.Labels, int32(label))
	}
	return d
}
