//go:build !amd64 || purego

package engine

// ShapCodes has nothing to list.
func ShapCodes() []ShapCode { return nil }
