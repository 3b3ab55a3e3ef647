package train

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

func grow(t testing.TB, cfg Config, d *Data) *model.Model {
	t.Helper()
	m, err := Forest(context.Background(), cfg, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func encode(t testing.TB, m *model.Model) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := coppice.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func scores(m *model.Model, rows []float32) []float64 {
	out := make([]float64, len(rows)/m.Meta.Features*m.Forest.Outputs)
	engine.New(&m.Forest).Scores(out, rows, m.Meta.Features)
	return out
}

func accuracy(m *model.Model, d *Data) float64 {
	s := scores(m, d.Rows)
	k, right := m.Forest.Outputs, 0
	for i, l := range d.Labels {
		best := 0
		for c := range k {
			if s[i*k+c] > s[i*k+best] {
				best = c
			}
		}
		if best == int(l) {
			right++
		}
	}
	return float64(right) / float64(d.Len())
}

// TestDeterministic grows the same forest on different numbers of cores.
func TestDeterministic(t *testing.T) {
	d := Demo()
	cfg := DemoConfig()
	cfg.Trees = 20
	var first []byte
	for _, workers := range []int{1, 2, 7} {
		cfg.Workers = workers
		b := encode(t, grow(t, cfg, d))
		if first == nil {
			first = b
		}
		if !bytes.Equal(b, first) {
			t.Errorf("with %d workers the forest is another one", workers)
		}
	}
	cfg.Seed++
	if bytes.Equal(encode(t, grow(t, cfg, d)), first) {
		t.Error("another seed gives the same forest")
	}
}

// TestFitsTrainingData: an unlimited tree on all rows says what it was told.
func TestFitsTrainingData(t *testing.T) {
	d := Demo()
	if got := accuracy(grow(t, Config{Task: model.Classify, Trees: 1, NoBootstrap: true}, d), d); got != 1 {
		t.Errorf("accuracy on the training data is %v, want 1", got)
	}
	r := regression(300, 1)
	m := grow(t, Config{Task: model.Regress, Trees: 1, NoBootstrap: true}, r)
	for i, got := range scores(m, r.Rows) {
		if got != r.Targets[i] {
			t.Fatalf("row %d: %v, want %v", i, got, r.Targets[i])
		}
	}
}

// regression is Friedman's first function with noise.
func regression(n int, seed uint64) *Data {
	random := rand.New(rand.NewPCG(seed, 0))
	d := &Data{Features: 10}
	for range n {
		x := make([]float64, 10)
		for j := range x {
			x[j] = float64(float32(random.Float64()))
			d.Rows = append(d.Rows, float32(x[j]))
		}
		d.Targets = append(d.Targets, 10*math.Sin(math.Pi*x[0]*x[1])+20*(x[2]-0.5)*(x[2]-0.5)+10*x[3]+5*x[4]+random.NormFloat64())
	}
	return d
}

// TestQuality holds floors on unseen rows; docs/performance.md has the comparison with scikit-learn that they
// come from.
func TestQuality(t *testing.T) {
	demo := Demo()
	half := *demo
	cut := DemoRows / 2
	half.Rows, half.Labels = demo.Rows[:cut*DemoFeatures], demo.Labels[:cut]
	rest := *demo
	rest.Rows, rest.Labels = demo.Rows[cut*DemoFeatures:], demo.Labels[cut:]
	if got := accuracy(grow(t, DemoConfig(), &half), &rest); got < 0.93 {
		t.Errorf("accuracy on unseen rows is %v, want at least 0.93", got)
	}
	train, test := regression(600, 2), regression(600, 3)
	m := grow(t, Config{Task: model.Regress, Trees: 100}, train)
	var mean, errs, spread float64
	for _, y := range test.Targets {
		mean += y / float64(len(test.Targets))
	}
	for i, got := range scores(m, test.Rows) {
		errs += (got - test.Targets[i]) * (got - test.Targets[i])
		spread += (test.Targets[i] - mean) * (test.Targets[i] - mean)
	}
	if r2 := 1 - errs/spread; r2 < 0.80 {
		t.Errorf("R2 on unseen rows is %v, want at least 0.80", r2)
	}
}

func TestLimits(t *testing.T) {
	d := Demo()
	m := grow(t, Config{Task: model.Classify, Trees: 5, MaxDepth: 3}, d)
	if m.Forest.Depth != 3 {
		t.Errorf("depth is %d, want 3", m.Forest.Depth)
	}
	m = grow(t, Config{Task: model.Classify, Trees: 1, MinLeaf: 100, NoBootstrap: true}, d)
	counts := map[int64]int{}
	leaf := make([]int64, 1)
	for i := range d.Len() {
		engine.New(&m.Forest).Leaves(leaf, d.Rows[i*d.Features:(i+1)*d.Features], d.Features)
		counts[leaf[0]]++
	}
	for id, n := range counts {
		if n < 100 {
			t.Errorf("leaf %d has %d rows, want at least 100", id, n)
		}
	}
}

func TestDegenerate(t *testing.T) {
	for _, tt := range []struct {
		name string
		task model.Task
		d    *Data
		want []float64
	}{
		{"one row", model.Classify, &Data{Rows: []float32{1}, Features: 1, Labels: []int32{0}, Classes: []string{"a"}}, []float64{1}},
		{"one class", model.Classify, &Data{Rows: []float32{1, 2}, Features: 1, Labels: []int32{1, 1}, Classes: []string{"a", "b"}}, []float64{0, 1, 0, 1}},
		{"equal rows, different labels", model.Classify, &Data{Rows: []float32{1, 1}, Features: 1, Labels: []int32{0, 1}, Classes: []string{"a", "b"}}, []float64{.5, .5, .5, .5}},
		{"constant feature", model.Regress, &Data{Rows: []float32{1, 5, 1, 6}, Features: 2, Targets: []float64{1, 2}}, []float64{1, 2}},
		{"neighbouring floats", model.Regress, &Data{Rows: []float32{1, math.Nextafter32(1, 2)}, Features: 1, Targets: []float64{1, 2}}, []float64{1, 2}},
		{"the largest floats", model.Regress, &Data{Rows: []float32{-math.MaxFloat32, math.MaxFloat32}, Features: 1, Targets: []float64{1, 2}}, []float64{1, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := grow(t, Config{Task: tt.task, Trees: 3, NoBootstrap: true}, tt.d)
			for i, got := range scores(m, tt.d.Rows) {
				if math.Abs(got-tt.want[i]) > 1e-12 {
					t.Errorf("score %d is %v, want %v", i, got, tt.want[i])
				}
			}
		})
	}
}

func TestErrors(t *testing.T) {
	good := Demo()
	for _, tt := range []struct {
		name string
		cfg  Config
		data func(*Data)
		want error
		say  string
	}{
		{"trees", Config{Task: model.Classify, Trees: -1}, nil, ErrConfig, "-1 trees"},
		{"depth", Config{Task: model.Classify, MaxDepth: -1}, nil, ErrConfig, "depth -1"},
		{"features", Config{Task: model.Classify, MaxFeatures: 21}, nil, ErrConfig, "21 features"},
		{"task", Config{}, nil, ErrConfig, "task"},
		{"NaN", Config{Task: model.Classify}, func(d *Data) { d.Rows[21] = float32(math.NaN()) }, ErrData, `row 1, feature "f1" is NaN`},
		{"label", Config{Task: model.Classify}, func(d *Data) { d.Labels[3] = 2 }, ErrData, "row 3"},
		{"no rows", Config{Task: model.Classify}, func(d *Data) { d.Rows = nil }, ErrData, "rows"},
		{"no targets", Config{Task: model.Regress}, nil, ErrData, "0 targets for 2000 rows"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := *good
			d.Rows, d.Labels = append([]float32(nil), good.Rows...), append([]int32(nil), good.Labels...)
			if tt.data != nil {
				tt.data(&d)
			}
			_, err := Forest(context.Background(), tt.cfg, &d, nil)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("got %v, want …%s…", err, tt.say)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Forest(ctx, DemoConfig(), Demo(), func(done, _ int) {
		if done == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkDemo(b *testing.B) {
	d := Demo()
	for b.Loop() {
		grow(b, DemoConfig(), d)
	}
	b.ReportMetric(float64(b.N)*DemoRows*100/b.Elapsed().Seconds(), "rows*trees/s")
}
