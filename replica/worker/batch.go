package worker

import (
	"fmt"
	"math"
	"time"

	"github.com/coppice-mesh/coppice/proto/frame"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"google.golang.org/grpc/codes"
)

const (
	// blockRows is the number of rows that are evaluated between two looks at cancellation and deadline.
	blockRows = 1024
	// keepValues bounds what an executor keeps of its buffers from one batch to the next.
	keepValues = 1 << 20
)

// batch is the memory of one executor.
type batch struct {
	jobs    []*job
	rows32  []float32 // of a model that compares float32
	rows64  []float64 // of one that compares float64
	margins []float64
	scores  []float64
	again   []float64 // what WORK_MEDIUM and WORK_HEAVY compute besides
	leaves  []int64
	out     []byte
}

// rows are those of a batch in the type in which its model compares, and the model's functions for it.
type rows[T frame.Value] struct {
	kept    *[]T // memory for them that outlives the batch
	all     []T  // in kept or, where nothing has to be copied, in the only request's message
	margins func(dst []float64, rows []T) error
	leaves  func(dst []int64, rows []T) error
}

// execute evaluates batches until the queue is closed and empty.
func (s *Server) execute() {
	var b batch
	for {
		clear(b.jobs)
		b.jobs = s.queue.take(b.jobs[:0], s.cfg.MaxBatchRows)
		if len(b.jobs) == 0 {
			return
		}
		if f := b.jobs[0].model.Forest; f.Input() == model.Float64 {
			run(s, &b, rows[float64]{&b.rows64, nil, f.Margins64, f.Leaves64})
		} else {
			run(s, &b, rows[float32]{&b.rows32, nil, f.Margins, f.Leaves})
		}
		b.trim()
	}
}

// trim gives back what an unusually large batch needed.
func (b *batch) trim() {
	if cap(b.rows32) > keepValues {
		b.rows32 = nil
	}
	if cap(b.rows64) > keepValues {
		b.rows64 = nil
	}
	if cap(b.scores) > keepValues || cap(b.margins) > keepValues {
		b.scores, b.margins, b.again = nil, nil, nil
	}
	if cap(b.leaves) > keepValues {
		b.leaves = nil
	}
	if cap(b.out) > 8*keepValues {
		b.out = nil
	}
}

// run decodes the rows of all jobs into one matrix, evaluates it, and answers each job.
func run[T frame.Value](s *Server, b *batch, r rows[T]) {
	f := b.jobs[0].model.Forest
	features := f.NumFeatures()
	batched := time.Now()
	alone := len(b.jobs) == 1
	live := b.jobs[:0]
	want := outputs(0)
	for _, j := range b.jobs {
		j.rec.Batched = batched
		if code, msg := j.ended(batched); code != codes.OK {
			s.finish(j, code, msg, nil)
			continue
		}
		j.first = len(r.all) / features
		if code, msg := r.add(j, features, alone); code != codes.OK {
			r.all = r.all[:j.first*features]
			s.finish(j, code, msg, nil)
			continue
		}
		want |= j.want
		live = append(live, j)
	}
	if len(live) == 0 {
		return
	}
	if s.set.Failpoint != nil {
		single, _ := any(r.all).([]float32)
		s.set.Failpoint(single)
	}
	n := len(r.all) / features
	b.margins, b.scores = grow(b.margins, n*f.NumMargins()), grow(b.scores, n*f.NumScores())
	if want&wantLeaf != 0 {
		b.leaves = grow(b.leaves, n*f.NumTrees())
	}
	started := time.Now()
	err := evaluate(b, r, f, live, n, want)
	done := time.Now()
	for i, j := range live {
		j.rec.Evaluated, j.rec.Done = started, done
		j.rec.BatchRequests, j.rec.BatchRows, j.rec.BatchFirst = len(live), n, i == 0
		if frame.WorkFactor(j.req.Work) == 1 || err != nil {
			s.answer(b, j, err)
		}
	}
	// Whoever asked for more work waits for it alone.
	for _, j := range live {
		if frame.WorkFactor(j.req.Work) > 1 && err == nil {
			err := repeat(b, r, j)
			j.rec.Done = time.Now()
			s.answer(b, j, err)
		}
	}
}

// answer ends a job whose rows were evaluated.
func (s *Server) answer(b *batch, j *job, err error) {
	if code, msg := j.ended(j.rec.Done); code != codes.OK {
		s.finish(j, code, msg, nil)
		return
	}
	if err != nil {
		s.finish(j, codes.Internal, err.Error(), nil)
		return
	}
	f := j.model.Forest
	res := results{f: f, rows: j.req.Rows, margins: part(b.margins, j, f.NumMargins()), scores: part(b.scores, j, f.NumScores())}
	if j.want&wantLeaf != 0 {
		res.leaves = part(b.leaves, j, f.NumTrees())
	}
	b.out = appendResponse(b.out[:0], j.model, j.requestID, j.want, j.req.Tensor != nil, res)
	payload := b.out
	if len(payload) > frame.ChunkBytes {
		b.out = nil // it is sent in chunks, from this memory
	}
	s.finish(j, codes.OK, "", payload)
}

// part cuts the job's rows out of what the batch has n values a row of.
func part[T any](all []T, j *job, n int) []T { return all[j.first*n : (j.first+j.req.Rows)*n] }

// ended tells whether nobody waits for the job any more.
func (j *job) ended(now time.Time) (codes.Code, string) {
	if j.cancelled.Load() {
		return codes.Canceled, "cancelled by the caller"
	}
	if !j.deadline.IsZero() && now.After(j.deadline) {
		return codes.DeadlineExceeded, fmt.Sprintf("the deadline passed at the replica, %v after the request arrived", now.Sub(j.rec.Arrived).Round(time.Microsecond))
	}
	return codes.OK, ""
}

// add takes the job's rows into the batch and refuses values that the model cannot take. The rows of a job that is alone
// in its batch stay where they are, if they have the model's type.
func (r *rows[T]) add(j *job, features int, alone bool) (codes.Code, string) {
	t := j.req.Tensor
	if t != nil && alone {
		if r.all = frame.View[T](t); r.all != nil {
			return check(r.all, -1, j, features)
		}
	}
	start := len(r.all)
	r.all = (*r.kept)[:start]
	var overflow int
	var err error
	if t != nil {
		r.all, overflow = frame.AppendTensor(r.all, t)
	} else {
		r.all, overflow, err = frame.AppendInstances(r.all, &j.req, features)
	}
	*r.kept = r.all
	if err != nil {
		return codes.InvalidArgument, err.Error()
	}
	return check(r.all[start:], overflow, j, features)
}

// check refuses values that the job's model cannot take. overflow is the index of the first that was too large for it,
// or -1.
func check[T frame.Value](rows []T, overflow int, j *job, features int) (codes.Code, string) {
	missing, infinite := j.model.Forest.TakesMissing(), j.model.Forest.TakesInfinite()
	if overflow >= 0 && !infinite {
		return codes.InvalidArgument, fmt.Sprintf("row %d, feature %s: the value is too large for float32, which model %q compares in",
			overflow/features, j.model.featureName(overflow%features), j.model.Name)
	}
	if missing && infinite || finite(rows) {
		return codes.OK, ""
	}
	for i, v := range rows {
		what, allowed := "an infinity", infinite
		if x := float64(v); math.IsNaN(x) {
			what, allowed = "NaN", missing
		} else if math.Abs(x) <= math.MaxFloat64 { // finite
			continue
		}
		if allowed {
			continue
		}
		return codes.InvalidArgument, fmt.Sprintf("row %d, feature %s: %s, which model %q does not take",
			i/features, j.model.featureName(i%features), what, j.model.Name)
	}
	return codes.OK, ""
}

// finite tells whether all values are, which is the rule: their exponents are not all ones, so that one more does not
// carry into the sign. It has no branch for each of them.
func finite[T frame.Value](rows []T) bool {
	switch rows := any(rows).(type) {
	case []float32:
		var carry uint32
		for _, v := range rows {
			carry |= math.Float32bits(v)&^(1<<31) + 1<<23
		}
		return carry>>31 == 0
	case []float64:
		var carry uint64
		for _, v := range rows {
			carry |= math.Float64bits(v)&^(1<<63) + 1<<52
		}
		return carry>>63 == 0
	}
	return false
}

// evaluate fills margins, scores and leaves for all rows, in blocks. It stops early when nobody waits for any of the
// jobs.
func evaluate[T frame.Value](b *batch, r rows[T], f Forest, jobs []*job, n int, want outputs) error {
	features, k, scores, trees := f.NumFeatures(), f.NumMargins(), f.NumScores(), f.NumTrees()
	for i := 0; i < n; i += blockRows {
		end := min(i+blockRows, n)
		block := r.all[i*features : end*features]
		if err := r.margins(b.margins[i*k:end*k], block); err != nil {
			return err
		}
		if err := f.Scores(b.scores[i*scores:end*scores], b.margins[i*k:end*k]); err != nil {
			return err
		}
		if want&wantLeaf != 0 {
			if err := r.leaves(b.leaves[i*trees:end*trees], block); err != nil {
				return err
			}
		}
		if end < n && abandoned(jobs) {
			return nil
		}
	}
	return nil
}

// repeat evaluates the rows of one job again, as often as its work asks for.
func repeat[T frame.Value](b *batch, r rows[T], j *job) error {
	f := j.model.Forest
	features, k := f.NumFeatures(), f.NumMargins()
	own := part(r.all, j, features)
	b.again = grow(b.again, min(j.req.Rows, blockRows)*k)
	for range frame.WorkFactor(j.req.Work) - 1 {
		for i := 0; i < j.req.Rows; i += blockRows {
			end := min(i+blockRows, j.req.Rows)
			if err := r.margins(b.again[:(end-i)*k], own[i*features:end*features]); err != nil {
				return err
			}
			if code, _ := j.ended(time.Now()); code != codes.OK {
				return nil
			}
		}
	}
	return nil
}

func abandoned(jobs []*job) bool {
	now := time.Now()
	for _, j := range jobs {
		if code, _ := j.ended(now); code == codes.OK {
			return false
		}
	}
	return true
}

// grow returns a slice of n values, reusing s's memory where it is large enough.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
