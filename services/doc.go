// Package services is the module of the coppice binary: its commands are in coppice, how they are
// configured is in config, and the tests of the whole mesh, with real processes, are in e2e.
package services
