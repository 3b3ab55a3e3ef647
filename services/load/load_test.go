package load

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestHistogram compares quantiles with those of the sorted values.
func TestHistogram(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var all []time.Duration
	for range 100_000 {
		d := time.Duration(math.Exp(random.NormFloat64()*2) * float64(time.Millisecond))
		h.record(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := float64(all[int(math.Ceil(q*float64(len(all))))-1])
		if got := float64(h.quantile(q)); got < want || got > want*(1+1.0/subBuckets) {
			t.Errorf("quantile %v is %v, want %v to 1/%d more", q, got, want, subBuckets)
		}
	}
	for _, v := range []uint64{0, 1, 63, 64, 65, 127, 128, 1 << 40, math.MaxInt64} {
		i := bucket(v)
		if upper(i) < v || (i > 0 && upper(i-1) >= v) {
			t.Errorf("%d is in bucket %d, which ends at %d", v, i, upper(i))
		}
	}
}

// fake answers with the sum of each row, or fails.
type fake struct {
	mu    sync.Mutex
	delay time.Duration
	fail  map[int]error // by number of the request
	wrong map[int]bool
	n     int
	works map[coppicev1.Work]int
}

func (f *fake) Do(_ context.Context, req *coppicev1.PredictRequest) (*coppicev1.PredictResponse, error) {
	f.mu.Lock()
	n := f.n
	f.n++
	if f.works == nil {
		f.works = map[coppicev1.Work]int{}
	}
	f.works[req.GetWork()]++
	f.mu.Unlock()
	time.Sleep(f.delay)
	if err := f.fail[n]; err != nil {
		return nil, err
	}
	res := &coppicev1.PredictResponse{Model: "m", Version: "v"}
	for _, in := range req.GetInstances() {
		sum := 0.0
		for _, v := range in.GetValues() {
			sum += v
		}
		if f.wrong[n] {
			sum = math.Nextafter(sum, 1e9)
		}
		res.Predictions = append(res.Predictions, &coppicev1.Prediction{Value: &sum})
	}
	return res, nil
}

func config() Config {
	return Config{Rate: 500, Duration: 200 * time.Millisecond, Rows: 2, Timeout: time.Second, MaxOutstanding: 1000, Seed: 3}
}

func expected(in *Input) *Expected {
	e := &Expected{Outputs: 1}
	for i := range in.Len() {
		sum := 0.0
		for _, v := range in.rows[i*in.features : (i+1)*in.features] {
			sum += float64(v)
		}
		e.Scores = append(e.Scores, sum)
	}
	return e
}

func TestRun(t *testing.T) {
	in, err := RandomInput(16, 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{fail: map[int]error{3: status.Error(codes.Unavailable, "gone")}, wrong: map[int]bool{5: true, 6: true}}
	cfg := config()
	cfg.Works = []coppicev1.Work{coppicev1.Work_WORK_LIGHT, coppicev1.Work_WORK_HEAVY}
	r, err := Run(context.Background(), cfg, f, in, expected(in), func(time.Duration, int64, int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	if r.Model != "m" || r.Version != "v" || r.Intended != 100 || r.Sent != 100 || r.OK != 97 || r.Failed != 1 || r.Wrong != 2 || r.Unsent != 0 || r.Good() {
		t.Errorf("report: %+v", r)
	}
	if r.Errors["Unavailable"] != 1 || len(r.FirstErrors) != 3 {
		t.Errorf("errors: %v %q", r.Errors, r.FirstErrors)
	}
	if !strings.Contains(strings.Join(r.FirstErrors, "\n"), "score 0 is") {
		t.Errorf("no error shows the bits: %q", r.FirstErrors)
	}
	if len(f.works) != 2 || r.ByWork["WORK_LIGHT"].Count+r.ByWork["WORK_HEAVY"].Count != 99 {
		t.Errorf("works: %v, %v", f.works, r.ByWork)
	}
}

// TestOpenLoop sees that a slow server does not slow the load down, and that what it could not take in time
// is counted.
func TestOpenLoop(t *testing.T) {
	in, err := RandomInput(16, 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config()
	cfg.MaxOutstanding = 30
	r, err := Run(context.Background(), cfg, &fake{delay: 400 * time.Millisecond}, in, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Intended != 100 || r.Sent != 30 || r.Unsent != 70 || r.OK != 30 {
		t.Errorf("report: %+v", r)
	}
	if r.Latency.P50 < 0.4 {
		t.Errorf("p50 is %v s, each answer took 0.4 s", r.Latency.P50)
	}
}

func TestValidate(t *testing.T) {
	for _, change := range []func(*Config){
		func(c *Config) { c.Rate = 0 },
		func(c *Config) { c.Rate = math.NaN() },
		func(c *Config) { c.Duration = 0 },
		func(c *Config) { c.Rows = 0 },
		func(c *Config) { c.Timeout = 0 },
		func(c *Config) { c.MaxOutstanding = 0 },
	} {
		cfg := config()
		change(&cfg)
		if cfg.Validate() == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
