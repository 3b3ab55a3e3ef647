package train

import (
	"fmt"
	"math/rand/v2"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// The size of the demo data.
const (
	DemoRows     = 2000
	DemoFeatures = 20

	demoInformative = 8
	demoRedundant   = 4
	demoClusters    = 2 // of each class
)

// Demo is a data set for a first forest: two classes, each of two clusters around corners of a cube in 8
// dimensions, 4 features that are mixtures of those, 8 that mean nothing, and 1 label in 100 wrong. It is the
// same every time.
func Demo() *Data {
	random := rand.New(rand.NewPCG(20, 2000))
	var centres [2 * demoClusters][demoInformative]float64
	for c := range centres {
		for j := range demoInformative {
			centres[c][j] = 1.2
			if random.IntN(2) == 0 {
				centres[c][j] = -1.2
			}
		}
	}
	var mix [demoRedundant][demoInformative]float64
	for i := range mix {
		for j := range mix[i] {
			mix[i][j] = 2*random.Float64() - 1
		}
	}
	d := &Data{Features: DemoFeatures, Classes: []string{"0", "1"}, ClassKind: "int"}
	for j := range DemoFeatures {
		d.Names = append(d.Names, fmt.Sprintf("f%d", j))
	}
	for i := range DemoRows {
		cluster := i % len(centres)
		var inner [demoInformative]float64
		for j := range inner {
			inner[j] = centres[cluster][j] + random.NormFloat64()
			d.Rows = append(d.Rows, float32(inner[j]))
		}
		for _, weights := range mix {
			sum := 0.0
			for j, w := range weights {
				sum += float64(w * inner[j])
			}
			d.Rows = append(d.Rows, float32(sum))
		}
		for range DemoFeatures - demoInformative - demoRedundant {
			d.Rows = append(d.Rows, float32(random.NormFloat64()))
		}
		label := int32(cluster % 2)
		if random.IntN(100) == 0 {
			label = 1 - label
		}
		d.Labels = append(d.Labels, label)
	}
	return d
}

// DemoConfig is how the demo forest is grown.
func DemoConfig() Config {
	return Config{Task: model.Classify, Trees: 100, Seed: 1}
}
