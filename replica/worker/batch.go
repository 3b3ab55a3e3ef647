package worker

import (
	"fmt"
	"math"
	"time"

	"github.com/coppice-mesh/coppice/proto/frame"
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
	jobs   []*job
	rows   []float32
	scores []float64
	again  []float64 // what WORK_MEDIUM and WORK_HEAVY compute besides
	leaves []int64
	out    []byte
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
		s.run(&b)
		b.trim()
	}
}

// trim gives back what an unusually large batch needed.
func (b *batch) trim() {
	if cap(b.rows) > keepValues {
		b.rows = nil
	}
	if cap(b.scores) > keepValues {
		b.scores, b.again = nil, nil
	}
	if cap(b.leaves) > keepValues {
		b.leaves = nil
	}
	if cap(b.out) > 8*keepValues {
		b.out = nil
	}
}

// run decodes the rows of all jobs into one matrix, evaluates it, and answers each job.
func (s *Server) run(b *batch) {
	m := b.jobs[0].model
	features, k, trees := m.Forest.NumFeatures(), m.Forest.NumOutputs(), m.Forest.NumTrees()
	batched := time.Now()
	b.rows = b.rows[:0]
	live := b.jobs[:0]
	want := outputs(0)
	for _, j := range b.jobs {
		j.rec.Batched = batched
		if code, msg := j.ended(batched); code != codes.OK {
			s.finish(j, code, msg, nil)
			continue
		}
		j.first = len(b.rows) / features
		if code, msg := b.decode(j, features); code != codes.OK {
			b.rows = b.rows[:j.first*features]
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
		s.set.Failpoint(b.rows)
	}
	n := len(b.rows) / features
	b.scores = grow(b.scores, n*k)
	if want&wantLeaf != 0 {
		b.leaves = grow(b.leaves, n*trees)
	}
	started := time.Now()
	err := s.evaluate(b, m, live, n, want)
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
			err := s.repeat(b, j)
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
	m := j.model
	k, trees := m.Forest.NumOutputs(), m.Forest.NumTrees()
	var leaves []int64
	if j.want&wantLeaf != 0 {
		leaves = b.leaves[j.first*trees : (j.first+j.req.Rows)*trees]
	}
	b.out = appendResponse(b.out[:0], m, j.requestID, j.req.Rows, j.want, j.req.Tensor != nil,
		b.scores[j.first*k:(j.first+j.req.Rows)*k], leaves)
	payload := b.out
	if len(payload) > frame.ChunkBytes {
		b.out = nil // it is sent in chunks, from this memory
	}
	s.finish(j, codes.OK, "", payload)
}

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

// decode appends the job's rows to the batch and refuses values that the model cannot take.
func (b *batch) decode(j *job, features int) (codes.Code, string) {
	start := len(b.rows)
	var overflow int
	if t := j.req.Tensor; t != nil {
		b.rows, overflow = t.AppendFloat32(b.rows)
	} else {
		var err error
		if b.rows, overflow, err = j.req.AppendInstances(b.rows, features); err != nil {
			return codes.InvalidArgument, err.Error()
		}
	}
	missing := j.model.Forest.TakesMissing()
	if overflow >= 0 {
		return codes.InvalidArgument, fmt.Sprintf("row %d, feature %s: the value is too large for float32, which model %q compares in",
			overflow/features, j.model.featureName(overflow%features), j.model.Name)
	}
	for i, v := range b.rows[start:] {
		if v-v == 0 { // finite
			continue
		}
		what := "an infinity"
		if math.IsNaN(float64(v)) {
			if missing {
				continue
			}
			what = "NaN"
		}
		return codes.InvalidArgument, fmt.Sprintf("row %d, feature %s: %s, which model %q does not take",
			i/features, j.model.featureName(i%features), what, j.model.Name)
	}
	return codes.OK, ""
}

// evaluate fills scores and leaves for all rows, in blocks. It stops early when nobody waits for any of the
// jobs.
func (s *Server) evaluate(b *batch, m *Model, jobs []*job, n int, want outputs) error {
	features, k, trees := m.Forest.NumFeatures(), m.Forest.NumOutputs(), m.Forest.NumTrees()
	for i := 0; i < n; i += blockRows {
		end := min(i+blockRows, n)
		if err := m.Forest.Predict(b.scores[i*k:end*k], b.rows[i*features:end*features]); err != nil {
			return err
		}
		if want&wantLeaf != 0 {
			if err := m.Forest.Leaves(b.leaves[i*trees:end*trees], b.rows[i*features:end*features]); err != nil {
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
func (s *Server) repeat(b *batch, j *job) error {
	f := j.model.Forest
	features, k := f.NumFeatures(), f.NumOutputs()
	rows := b.rows[j.first*features : (j.first+j.req.Rows)*features]
	b.again = grow(b.again, min(j.req.Rows, blockRows)*k)
	for range frame.WorkFactor(j.req.Work) - 1 {
		for i := 0; i < j.req.Rows; i += blockRows {
			end := min(i+blockRows, j.req.Rows)
			if err := f.Predict(b.again[:(end-i)*k], rows[i*features:end*features]); err != nil {
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
