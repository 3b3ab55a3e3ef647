// Package load sends predictions to a gateway at a steady rate and measures how they are answered.
//
// It is an open loop: a request is sent when its time has come, whether or not those before it have been
// answered, and its latency counts from that intended time. A server that stalls is so measured as its users
// would see it.
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// Target answers predictions. Do may be called by many goroutines at once.
type Target interface {
	Do(ctx context.Context, req *coppicev1.PredictRequest) (*coppicev1.PredictResponse, error)
}

// Checker says whether an answer is right.
type Checker interface {
	// Check returns an error that describes the difference for an answer that is wrong. rows are the indices
	// of the request's rows in the input.
	Check(res *coppicev1.PredictResponse, rows []int) error
}

// Config describes a load.
type Config struct {
	Rate     float64       // requests a second, more than 0
	Duration time.Duration // more than 0
	Model    string
	Rows     int // rows a request, at least 1
	// Works are the classes of work, one of which is drawn for each request. Empty: none is asked for.
	Works []coppicev1.Work
	// Poisson draws the times between requests from an exponential distribution; else they are equal.
	Poisson bool
	Seed    uint64
	// Timeout is the deadline of each request, from its intended time.
	Timeout time.Duration
	// MaxOutstanding bounds the requests without an answer; those over it are counted as unsent.
	MaxOutstanding int
	// Tensor sends rows as a raw tensor instead of instances.
	Tensor bool
}

// Validate says what is wrong with a Config.
func (c Config) Validate() error {
	switch {
	case !(c.Rate > 0) || c.Rate > 1e6:
		return fmt.Errorf("rate is %v requests a second, it must be more than 0 and at most 1000000", c.Rate)
	case c.Duration <= 0 || c.Duration > 24*time.Hour:
		return fmt.Errorf("duration is %v, it must be more than 0 and at most 24h", c.Duration)
	case c.Rows < 1 || c.Rows > 1<<20:
		return fmt.Errorf("rows is %d, it must be 1 to %d", c.Rows, 1<<20)
	case c.Timeout <= 0:
		return fmt.Errorf("timeout is %v, it must be more than 0", c.Timeout)
	case c.MaxOutstanding < 1:
		return fmt.Errorf("max outstanding is %d, it must be at least 1", c.MaxOutstanding)
	}
	return nil
}

// Report is the outcome of a load. Latencies are in seconds, counted from the intended time of sending.
type Report struct {
	Model       string             `json:"model"`
	Version     string             `json:"version,omitempty"`
	Rate        float64            `json:"rate"`
	Duration    float64            `json:"duration_s"`
	Intended    int64              `json:"intended"`
	Sent        int64              `json:"sent"`
	OK          int64              `json:"ok"`
	Failed      int64              `json:"failed"`
	Wrong       int64              `json:"wrong"`
	Unsent      int64              `json:"unsent"`
	Errors      map[string]int64   `json:"errors,omitempty"` // by gRPC code
	FirstErrors []string           `json:"first_errors,omitempty"`
	Achieved    float64            `json:"achieved_rate"` // good answers a second
	Verified    bool               `json:"verified"`
	Latency     Latency            `json:"latency_s"`
	ByWork      map[string]Latency `json:"by_work,omitempty"`
}

// Good tells whether every intended request got a right answer.
func (r *Report) Good() bool {
	return r.Failed == 0 && r.Wrong == 0 && r.Unsent == 0 && r.OK == r.Intended
}

// Latency is a distribution.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
}

// maxFirstErrors bounds the errors that a report quotes.
const maxFirstErrors = 5

// run is a load under way.
type run struct {
	cfg    Config
	target Target
	input  *Input
	check  Checker

	outstanding atomic.Int64
	done        atomic.Int64

	mu     sync.Mutex
	report Report
	all    histogram
	byWork map[coppicev1.Work]*histogram
}

// Progress is told from time to time how far a load is.
type Progress func(elapsed time.Duration, sent, done, failed int64)

// Run sends the load and waits for all answers. It ends early, with what it has, when ctx is done. check and
// progress may be nil.
func Run(ctx context.Context, cfg Config, target Target, input *Input, check Checker, progress Progress) (*Report, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &run{cfg: cfg, target: target, input: input, check: check, byWork: map[coppicev1.Work]*histogram{}}
	r.report = Report{Model: cfg.Model, Rate: cfg.Rate, Errors: map[string]int64{}, Verified: check != nil}
	random := rand.New(rand.NewPCG(cfg.Seed, 0x9e3779b97f4a7c15))
	start := time.Now()
	var flying sync.WaitGroup
	var tick <-chan time.Time
	if progress != nil {
		t := time.NewTicker(250 * time.Millisecond)
		defer t.Stop()
		tick = t.C
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	due := time.Duration(0)
	var sent int64
send:
	for {
		if cfg.Poisson {
			due += time.Duration(random.ExpFloat64() / cfg.Rate * float64(time.Second))
		} else {
			due = time.Duration(float64(sent+r.report.Unsent) / cfg.Rate * float64(time.Second))
		}
		if due >= cfg.Duration {
			break
		}
		for {
			wait := due - time.Since(start)
			if wait <= 0 {
				break
			}
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-tick:
				progress(time.Since(start), sent, r.done.Load(), r.failed())
			case <-ctx.Done():
				break send
			}
		}
		if ctx.Err() != nil {
			break
		}
		work := coppicev1.Work_WORK_UNSPECIFIED
		if len(cfg.Works) > 0 {
			work = cfg.Works[random.IntN(len(cfg.Works))]
		}
		first := random.IntN(input.Len())
		if r.outstanding.Load() >= int64(cfg.MaxOutstanding) {
			r.mu.Lock()
			r.report.Unsent++
			r.mu.Unlock()
			continue
		}
		sent++
		r.outstanding.Add(1)
		intended := start.Add(due)
		flying.Go(func() {
			defer r.outstanding.Add(-1)
			r.one(ctx, intended, first, work)
		})
	}
	waited := make(chan struct{})
	go func() {
		flying.Wait()
		close(waited)
	}()
	for done := false; !done; {
		select {
		case <-waited:
			done = true
		case <-tick:
			progress(time.Since(start), sent, r.done.Load(), r.failed())
		}
	}
	elapsed := min(time.Since(start), max(cfg.Duration, due))
	r.report.Sent = sent
	r.report.Intended = sent + r.report.Unsent
	r.report.Duration = elapsed.Seconds()
	r.report.Achieved = float64(r.report.OK) / elapsed.Seconds()
	r.report.Latency = r.all.latency()
	if len(cfg.Works) > 0 {
		r.report.ByWork = map[string]Latency{}
		for w, h := range r.byWork {
			r.report.ByWork[w.String()] = h.latency()
		}
	}
	return &r.report, nil
}

func (r *run) failed() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report.Failed + r.report.Wrong
}

// one sends one request and books its answer.
func (r *run) one(ctx context.Context, intended time.Time, first int, work coppicev1.Work) {
	// The end of the load does not cut off what is on its way: only the deadline does.
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), intended.Add(r.cfg.Timeout))
	defer cancel()
	req, rows := r.input.Request(first, r.cfg.Rows, r.cfg.Tensor)
	req.Model, req.Work = r.cfg.Model, work
	res, err := r.target.Do(ctx, req)
	took := time.Since(intended)
	var wrong error
	if err == nil && r.check != nil {
		wrong = r.check.Check(res, rows)
	}
	r.done.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.report.Failed++
		r.report.Errors[code(err).String()]++
		r.quote(err)
		return
	case wrong != nil:
		r.report.Wrong++
		r.quote(wrong)
	default:
		r.report.OK++
	}
	r.report.Model, r.report.Version = res.GetModel(), res.GetVersion()
	r.all.record(took)
	if len(r.cfg.Works) > 0 {
		h := r.byWork[work]
		if h == nil {
			h = &histogram{}
			r.byWork[work] = h
		}
		h.record(took)
	}
}

func code(err error) codes.Code {
	if errors.Is(err, context.DeadlineExceeded) {
		return codes.DeadlineExceeded
	}
	return status.Code(err)
}

func (r *run) quote(err error) {
	if len(r.report.FirstErrors) < maxFirstErrors {
		r.report.FirstErrors = append(r.report.FirstErrors, err.Error())
	}
}
