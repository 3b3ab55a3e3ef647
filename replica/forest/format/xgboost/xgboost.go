// Package xgboost imports boosted trees that XGBoost 1.7 to 3.x saved as JSON or UBJSON.
//
//	json.go, ubjson.go   the two encodings, into one form
//	document.go          that form, and what is taken out of it
//	booster.go           the booster, its objective and its bases
//	tree.go              one tree, to the canonical form
//
// # Exactness
//
// XGBoost compares float32 with <, so a threshold becomes the float32 before it, with <=. It adds float32: first the
// base, then the leaves in the order of the trees; a booster trained with drop-out multiplies each leaf by its tree's
// weight, which is done here once. The base is stored as a score and made a margin by the objective's inverse link, in float32 with
// glibc's logf. NaN goes where the node says. A value that is a category of the node's set goes right; every other
// one, also one that is no category, goes left.
//
// Answers are those of Booster.predict, which uses all boosting rounds, and which are the same for one row and for many.
package xgboost

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
	// ErrMalformed is wrapped when the file is cut off, is not JSON or UBJSON, or its parts contradict each other.
	ErrMalformed = errors.New("malformed XGBoost model")
	// ErrUnsupported is wrapped when the file is sound and holds something else than trees of a known objective.
	ErrUnsupported = errors.New("unsupported XGBoost model")
)

// keys are those by which a model is known: one of them stands at its beginning.
var keys = []string{"learner", "gradient_booster", "learner_model_param", "version"}

// DetectJSON tells whether a file begins like a model in JSON.
func DetectJSON(head []byte) bool {
	head = bytes.TrimLeft(head, " \t\r\n")
	if len(head) == 0 || head[0] != '{' {
		return false
	}
	for _, k := range keys[:3] {
		if bytes.Contains(head, []byte(`"`+k+`"`)) {
			return true
		}
	}
	return false
}

// DetectUBJSON tells whether a file begins like a model in UBJSON: an object whose first key, with a length of type L,
// is one of a model's.
func DetectUBJSON(head []byte) bool {
	if len(head) < 10 || head[0] != '{' || head[1] != 'L' {
		return false
	}
	for _, k := range keys {
		if bytes.HasPrefix(head[10:], []byte(k)) {
			return true
		}
	}
	return false
}

// ImportJSON reads a model in JSON from the bytes of a file. Memory and time stay within a small multiple of len(data).
// The model does not alias data, has no golden rows, and has not been validated.
func ImportJSON(data []byte) (*model.Model, error) { return load(data, "XGBoost JSON", readJSON) }

// ImportUBJSON is ImportJSON for UBJSON.
func ImportUBJSON(data []byte) (*model.Model, error) { return load(data, "XGBoost UBJSON", readUBJSON) }

func load(data []byte, format string, read func([]byte) (object, error)) (*model.Model, error) {
	doc, err := read(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", format, err)
	}
	m, err := booster(doc, len(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", format, err)
	}
	sum := sha256.Sum256(data)
	m.Meta.Source.SHA256 = hex.EncodeToString(sum[:])
	return m, nil
}
