//go:build !race

// Package race tells tests whether the race detector watches.
package race

// Enabled tells whether the race detector watches.
const Enabled = false
