// Package lightgbm imports models that LightGBM 3 and 4 saved as text, versions v3 and v4.
//
//	text.go       the file's lines
//	booster.go    the header: objective, classes, features
//	tree.go       one tree, to the canonical form
//
// # Exactness
//
// LightGBM compares float64 with <= and adds float64 in the order of the trees. When it reads a row, it takes values of at
// most 1e-35 (as a float32) for 0: thresholds in that range are moved to its ends, which no other value can tell. What is
// missing depends on the node: nothing (NaN is 0), NaN, or zero (and NaN). A value whose integer part is in a node's set of
// categories goes left; every other one, also NaN and what is negative, right. Numbers are read as the nearest
// float64.
//
// Answers are those of Booster.predict with all iterations, which are the same for one row and for many.
package lightgbm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// Errors that every refusal wraps one of; a tree that the canonical form cannot hold is refused with model.ErrInvalid.
var (
	// ErrMalformed is wrapped when the file is cut off or its parts contradict each other.
	ErrMalformed = errors.New("malformed LightGBM model")
	// ErrUnsupported is wrapped when the file is sound and of another version or objective.
	ErrUnsupported = errors.New("unsupported LightGBM model")
)

// Detect tells whether a file begins like a model.
func Detect(head []byte) bool {
	return bytes.HasPrefix(head, []byte("tree\n")) || bytes.HasPrefix(head, []byte("tree\r\n"))
}

// Import reads a model from the bytes of a file. Memory and time stay within a small multiple of len(data). The model does
// not alias data, has no golden rows, and has not been validated.
func Import(data []byte) (*model.Model, error) {
	m, err := load(data)
	if err != nil {
		return nil, fmt.Errorf("LightGBM text: %w", err)
	}
	sum := sha256.Sum256(data)
	m.Meta.Source.SHA256 = hex.EncodeToString(sum[:])
	return m, nil
}
