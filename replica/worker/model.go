package worker

import (
	"math"
	"slices"
	"strconv"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"
)

// Forest is what the worker needs of a model. Its methods may be called by several goroutines at once.
// *forest.Model is one.
type Forest interface {
	NumFeatures() int
	NumOutputs() int
	NumTrees() int
	// Classes is nil for a regressor.
	Classes() []string
	// FeatureName is the name of a feature, or empty.
	FeatureName(i int) string
	// TakesMissing tells whether rows may hold NaN.
	TakesMissing() bool
	// Predict writes NumOutputs values for each row.
	Predict(dst []float64, rows []float32) error
	// Leaves writes NumTrees leaf ids for each row.
	Leaves(dst []int64, rows []float32) error
}

// Model is one version of a named model, ready to be served.
type Model struct {
	Name    string
	Version string
	SHA256  string
	Forest  Forest

	// prefix is the beginning of every answer, encoded once: model, version and classes.
	prefix []byte
	// labels are the classes, encoded as the label field of a Prediction.
	labels [][]byte
}

// NewModel prepares a model for serving.
func NewModel(name, version, sha256 string, f Forest) *Model {
	m := &Model{Name: name, Version: version, SHA256: sha256, Forest: f}
	m.prefix = appendString(m.prefix, 1, name)
	m.prefix = appendString(m.prefix, 2, version)
	for _, c := range f.Classes() {
		m.prefix = protowire.AppendTag(m.prefix, 4, protowire.BytesType)
		m.prefix = protowire.AppendString(m.prefix, c)
		m.labels = append(m.labels, appendString(nil, 1, c))
	}
	return m
}

// featureName is how errors call a feature.
func (m *Model) featureName(i int) string {
	if name := m.Forest.FeatureName(i); name != "" {
		return strconv.Itoa(i) + " (" + strconv.Quote(name) + ")"
	}
	return strconv.Itoa(i)
}

// Table is the set of models that a worker serves. Readers take no lock.
type Table struct {
	p atomic.Pointer[map[string][]*Model]
} // by version: names may share one

// Get returns the model of a version, or nil. name decides when several models have the same version; empty
// takes any of them.
func (t *Table) Get(version, name []byte) *Model {
	m := t.p.Load()
	if m == nil {
		return nil
	}
	for _, v := range (*m)[string(version)] {
		if len(name) == 0 || v.Name == string(name) {
			return v
		}
	}
	return nil
}

// Set replaces the models.
func (t *Table) Set(models []*Model) {
	m := make(map[string][]*Model, len(models))
	for _, v := range models {
		m[v.Version] = append(m[v.Version], v)
	}
	t.p.Store(&m)
}

// Hashes lists the SHA-256 of the models, sorted.
func (t *Table) Hashes() []string {
	m := t.p.Load()
	if m == nil {
		return nil
	}
	var out []string
	for _, models := range *m {
		for _, v := range models {
			out = append(out, v.SHA256)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// argmax is the index of the largest score, the first of equal ones, as numpy has it.
func argmax(scores []float64) int {
	best := 0
	for i, s := range scores {
		if s > scores[best] || (math.IsNaN(s) && !math.IsNaN(scores[best])) {
			best = i
		}
	}
	return best
}
