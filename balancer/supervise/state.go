package supervise

import (
	"fmt"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// State is where a replica stands in its life.
type State uint8

// The states of a replica.
const (
	// Starting: launched or joining; it gets no requests yet.
	Starting State = iota + 1
	// Ready: it gets requests.
	Ready
	// Suspect: its heartbeats are late; it gets requests only if no other replica can take them.
	Suspect
	// Draining: it gets no new requests and finishes those that it has.
	Draining
	// Exited: gone, for good.
	Exited
)

// States lists all states.
func States() []State { return []State{Starting, Ready, Suspect, Draining, Exited} }

func (s State) String() string {
	switch s {
	case Starting:
		return "starting"
	case Ready:
		return "ready"
	case Suspect:
		return "suspect"
	case Draining:
		return "draining"
	case Exited:
		return "exited"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Proto is the state's name on the wire.
func (s State) Proto() coppicev1.ReplicaState { return coppicev1.ReplicaState(s) }

// event is something that happened to a replica.
type event uint8

const (
	// loaded: a heartbeat came, and every model is there.
	loaded event = iota + 1
	// partial: a heartbeat came, and models are missing.
	partial
	// late: heartbeats are overdue, or the stream that carries them broke.
	late
	// leave: the replica is to go.
	leave
	// gone: the process has ended, or the pool has given the replica up.
	gone
)

func (e event) String() string {
	return [...]string{"", "loaded", "partial", "late", "leave", "gone"}[e]
}

// transitions is the life of a replica. What is not in it changes nothing: no event brings a replica back from
// Draining or Exited, because others have acted on these.
var transitions = map[State]map[event]State{
	Starting: {loaded: Ready, leave: Draining, gone: Exited},
	Ready:    {partial: Starting, late: Suspect, leave: Draining, gone: Exited},
	Suspect:  {loaded: Ready, partial: Starting, leave: Draining, gone: Exited},
	Draining: {gone: Exited},
}

// after is the state that follows when e happens.
func (s State) after(e event) State {
	if next, ok := transitions[s][e]; ok {
		return next
	}
	return s
}
