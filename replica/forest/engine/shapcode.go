package engine

// ShapCode is package shap's inner loop in the instructions of a processor.
type ShapCode struct {
	Name    string
	Answers func(lanes *byte, asks, columns *int32, n int)
	// Passes are by their number of points, from 1 on.
	Passes [9]ShapPass
}

// ShapPass is a pass of a number of points.
type ShapPass = func(nodes *byte, n int, lanes *byte, tables, c, t, phi, values *float64)
