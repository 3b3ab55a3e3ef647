//go:build !linux

package engine

func wantHugePages([]word) {}
