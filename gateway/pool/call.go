package pool

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/coppice-mesh/coppice/balancer/pick"
)

// Errors that end a call.
var (
	// ErrNoReplica: no replica became ready in the time that a request waits for one.
	ErrNoReplica = errors.New("no replica is ready")
	// ErrDeadline: the call's deadline passed.
	ErrDeadline = errors.New("deadline exceeded")
	// ErrCancelled: the caller went.
	ErrCancelled = errors.New("cancelled by the caller")
	// ErrPoison: the request was in flight on two replicas that died.
	ErrPoison = errors.New("two replicas died with this request in flight")
	// ErrAnswer: the replica answered with what is no answer.
	ErrAnswer = errors.New("the replica's answer is broken")
	// ErrStopped: the pool was shut down.
	ErrStopped = errors.New("the gateway is stopping")
)

// RemoteError is a replica's refusal of a request.
type RemoteError struct {
	Code    codes.Code
	Message string
}

func (e *RemoteError) Error() string { return fmt.Sprintf("%s (%v)", e.Message, e.Code) }

// Attempt is one replica that a call was sent to.
type Attempt struct {
	Replica string
	Sent    time.Time
	Ended   time.Time
	// Why it ended without an answer: "died", "refused", or empty.
	Why string
}

// maxAttempts bounds the attempts of a call: two that may die with it, and a few that refuse it unevaluated.
const maxAttempts = 8

// Call is a request on its way through the pool. The caller sets the first fields and gives it to Do.
type Call struct {
	// Payload is the encoded PredictRequest, passed on as it is. It must not change before the call ends.
	Payload []byte
	// Version is the model version that answers, on whatever replica.
	Version string
	// Cost is the work that the request is.
	Cost int64
	// Deadline is when the caller stops waiting.
	Deadline time.Time
	// RequestID goes to the replica, which repeats it in its answer.
	RequestID []byte
	// Traceparent and Tracestate are of the gateway's span, when the request is sampled.
	Traceparent, Tracestate []byte
	// Done is called exactly once, when the call has ended, from any goroutine. It must not block. After it
	// began, Reply, Err and the times may be read.
	Done func(*Call)

	// Reply is the encoded PredictResponse, nil when Err is set.
	Reply []byte
	Err   error
	// Arrived is when Do was called, Admitted when the call was let in, Ended when it ended.
	Arrived, Admitted, Ended time.Time

	mu       sync.Mutex
	over     bool
	on       *conn // where it is in flight
	id       uint64
	tried    [maxAttempts]*pick.Load
	attempts [maxAttempts]Attempt
	n        int // attempts so far
	deaths   int
	turn     time.Time // until then it goes only where no other call is that a replica died with
	guest    bool      // it is the guest of the replica that it is in flight on
	waiting  bool      // for a replica, or for its turn
}

// alone tells whether the call must not go where another is that a replica died with. The caller holds the lock.
func (c *Call) alone(now time.Time) bool { return c.deaths > 0 && now.Before(c.turn) }

// Attempts are the replicas that the call was sent to, once it has ended.
func (c *Call) Attempts() []Attempt { return c.attempts[:c.n] }

// Deaths is the number of replicas that died with the call in flight.
func (c *Call) Deaths() int { return c.deaths }

// Fail ends a call that was not given to a pool, or that a pool did not let in.
func (c *Call) Fail(err error) {
	c.mu.Lock()
	c.over = true
	c.Err, c.Ended = err, time.Now()
	c.mu.Unlock()
	c.Done(c)
}
