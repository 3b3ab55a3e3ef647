// Package route resolves what a request asks for, a model's name and perhaps a version, to the version that
// answers it.
package route

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// minPrefix is the number of digits from which on the beginning of a version names it.
const minPrefix = 8

// maxListed bounds the models that an error lists.
const maxListed = 10

// Errors of Resolve.
var (
	// ErrUnknown is wrapped by the error about a model or a version that is not served.
	ErrUnknown = errors.New("not served")
	// ErrAmbiguous is wrapped by the error about a request that could mean several.
	ErrAmbiguous = errors.New("several are possible")
)

// Table is the models that are served. It is immutable; the zero Table serves none.
type Table struct {
	models []*coppicev1.ServedModel // sorted by name
	byName map[string]*coppicev1.ServedModel
}

// New makes a Table.
func New(models []*coppicev1.ServedModel) *Table {
	t := &Table{models: slices.Clone(models), byName: map[string]*coppicev1.ServedModel{}}
	slices.SortFunc(t.models, func(a, b *coppicev1.ServedModel) int { return strings.Compare(a.GetName(), b.GetName()) })
	for _, m := range models {
		t.byName[m.GetName()] = m
	}
	return t
}

// Models are the models, sorted by name. The slice must not be changed.
func (t *Table) Models() []*coppicev1.ServedModel { return t.models }

// Resolve finds the model for a name, which may be empty when one is served, and a version, which may be
// empty or the beginning of one. It allocates nothing unless it fails.
func (t *Table) Resolve(name, version []byte) (*coppicev1.ServedModel, error) {
	var m *coppicev1.ServedModel
	switch {
	case len(name) > 0:
		m = t.byName[string(name)]
	case len(t.models) == 1:
		m = t.models[0]
	case len(t.models) > 1:
		return nil, fmt.Errorf("%w: no model is named and %d are served: %s", ErrAmbiguous, len(t.models), t.list())
	}
	if m == nil {
		return nil, fmt.Errorf("model %q is %w; served are: %s", name, ErrUnknown, t.list())
	}
	if len(version) == 0 || string(version) == m.GetVersion() || string(version) == m.GetSha256() {
		return m, nil
	}
	if len(version) >= minPrefix && strings.HasPrefix(m.GetSha256(), string(version)) {
		return m, nil
	}
	return nil, fmt.Errorf("version %q of model %q is %w; version %q is", version, m.GetName(), ErrUnknown, m.GetVersion())
}

func (t *Table) list() string {
	if len(t.models) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, m := range t.models {
		if i == maxListed {
			fmt.Fprintf(&b, " and %d more", len(t.models)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", m.GetName())
	}
	return b.String()
}
