package worker

import "sync"

// queue holds the jobs that wait for an executor, in the order of their arrival.
type queue struct {
	mu     sync.Mutex
	filled sync.Cond
	jobs   []*job // a ring: n jobs from head on
	head   int
	n      int
	closed bool
}

func newQueue(capacity int) *queue {
	q := &queue{jobs: make([]*job, capacity)}
	q.filled.L = &q.mu
	return q
}

// put adds a job, or tells that the queue is full or closed.
func (q *queue) put(j *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.n == len(q.jobs) {
		return false
	}
	q.jobs[(q.head+q.n)%len(q.jobs)] = j
	q.n++
	if q.n == 1 {
		q.filled.Signal()
	}
	return true
}

// take waits for jobs and appends the first one and those behind it of the same model, up to maxRows rows
// in all but always at least one job. It returns nothing once the queue is closed and empty.
func (q *queue) take(dst []*job, maxRows int) []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == 0 {
		if q.closed {
			return dst
		}
		q.filled.Wait()
	}
	rows := 0
	for q.n > 0 {
		j := q.jobs[q.head]
		if len(dst) > 0 && (j.model != dst[0].model || rows+j.req.Rows > maxRows) {
			break
		}
		rows += j.req.Rows
		dst = append(dst, j)
		q.jobs[q.head] = nil
		q.head = (q.head + 1) % len(q.jobs)
		q.n--
	}
	if q.n > 0 {
		q.filled.Signal() // for another executor
	}
	return dst
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n
}

// close lets the executors end once the queue is empty.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.filled.Broadcast()
}
