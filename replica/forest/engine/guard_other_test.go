//go:build !linux

package engine

import "testing"

func pages(_ testing.TB, size, _ int) []byte { return make([]byte, size) }
