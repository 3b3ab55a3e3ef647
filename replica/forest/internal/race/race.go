//go:build race

// Package race tells tests whether the race detector watches: a sync.Pool then forgets what it was given now and then,
// and what allocates nothing allocates.
package race

// Enabled tells whether the race detector watches.
const Enabled = true
