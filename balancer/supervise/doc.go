// Package supervise keeps the replicas of a pool: it launches as many as are wanted, watches over them, takes
// them out without losing a request, and finds them again after it was killed itself.
//
// A replica is a member of the pool from its launch, or its first Join, until it is gone. state.go has its life
// as a table; the rest acts on it:
//
//   - supervisor.go  the loop: lateness, launches, restarts, the view that gateways get
//   - join.go        the control streams of replicas
//   - drain.go       taking a replica out; the end of the pool
//   - adopt.go       the members that an earlier balancer left
//   - spawner.go     what launches workers; one package a way of launching
//
// A replica sends a heartbeat every 100 ms. One that is late is suspect: gateways prefer others. A spawned one
// that is silent for the lease is killed and replaced, one that joined by itself is forgotten; both can tell
// that they were, because their control stream is gone or their secret is refused.
package supervise
