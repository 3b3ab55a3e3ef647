package train

import (
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// The size of the demo data.
const (
	DemoRows     = 2000
	DemoFeatures = 20

	demoInformative = 8
	demoRedundant   = 4
	demoClusters    = 4
	demoSeparation  = 1.5 // half the edge of the cube
	demoFlips       = 100 // one label in so many is wrong
)

// Demo is a data set for a first forest: two classes, each of two clusters around different corners of a cube in
// 8 dimensions, stretched at random; 4 features that are mixtures of those 8, and 8 that mean nothing, all in a
// random order; and 1 label in 100 wrong. It is the same every time.
func Demo() *Data {
	random := rand.New(rand.NewPCG(20, 2000))
	uniform := func() float64 { return 2*random.Float64() - 1 }
	var corners [demoClusters]uint64 // a bit for the side in each dimension
	for i := range corners {
		for {
			corners[i] = random.Uint64N(1 << demoInformative)
			if !slices.Contains(corners[:i], corners[i]) {
				break
			}
		}
	}
	var stretch [demoClusters][demoInformative][demoInformative]float64
	for c := range stretch {
		for i := range stretch[c] {
			for j := range stretch[c][i] {
				stretch[c][i][j] = uniform()
			}
		}
	}
	var mix [demoRedundant][demoInformative]float64
	for i := range mix {
		for j := range mix[i] {
			mix[i][j] = uniform()
		}
	}
	order := random.Perm(DemoFeatures)

	d := &Data{
		Rows: make([]float32, DemoRows*DemoFeatures), Features: DemoFeatures,
		Labels: make([]int32, DemoRows), Classes: []string{"0", "1"}, ClassKind: "int",
	}
	for j := range DemoFeatures {
		d.Names = append(d.Names, "f"+strconv.Itoa(j))
	}
	for i := range DemoRows {
		c := i % demoClusters
		var normal, inner [demoInformative]float64
		for j := range normal {
			normal[j] = random.NormFloat64()
		}
		for j := range inner {
			inner[j] = dot(&stretch[c][j], &normal) - demoSeparation
			if corners[c]>>j&1 != 0 {
				inner[j] += 2 * demoSeparation
			}
		}
		values := append(make([]float64, 0, DemoFeatures), inner[:]...)
		for j := range mix {
			values = append(values, dot(&mix[j], &inner))
		}
		for len(values) < DemoFeatures {
			values = append(values, random.NormFloat64())
		}
		for j, v := range values {
			d.Rows[i*DemoFeatures+order[j]] = float32(v)
		}
		d.Labels[i] = int32(c % 2)
		if random.IntN(demoFlips) == 0 {
			d.Labels[i] = 1 - d.Labels[i]
		}
	}
	return d
}

func dot(a, b *[demoInformative]float64) (sum float64) {
	for i := range a {
		sum += float64(a[i] * b[i]) // rounded before it is added, as on machines without a fused operation
	}
	return sum
}

// DemoConfig is how the demo forest is grown.
func DemoConfig() Config {
	return Config{Task: model.Classify, Trees: 100, Seed: 1}
}
