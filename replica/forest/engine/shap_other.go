//go:build !amd64 || purego

package engine

// ShapAnswers has nothing to give.
func ShapAnswers() func(lanes *byte, asks, columns *int32, n int) { return nil }

// ShapPass has nothing to give.
func ShapPass(int) func(nodes *byte, n int, lanes *byte, tables, c, t, phi, values *float64) {
	return nil
}
