package worker

import (
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/coppice-mesh/coppice/replica/forest/model"
	"google.golang.org/protobuf/encoding/protowire"
)

// Forest is what the worker needs of a model. Its methods may be called by several goroutines at once.
// *forest.Model is one.
type Forest interface {
	// Input is the type in which the model compares, and so the one in which its rows are decoded.
	Input() model.Input
	NumFeatures() int
	NumMargins() int
	NumScores() int
	NumTargets() int
	NumTrees() int
	// Classes is nil for a regressor.
	Classes() []string
	// FeatureName is the name of a feature, or empty.
	FeatureName(i int) string
	// TakesMissing tells whether rows may hold NaN.
	TakesMissing() bool
	// TakesInfinite tells whether rows may hold infinities.
	TakesInfinite() bool
	// Margins writes NumMargins values for each row.
	Margins(dst []float64, rows []float32) error
	Margins64(dst, rows []float64) error
	// Scores makes NumScores values for each row of its margins.
	Scores(dst, margins []float64) error
	// LabelOf is the index of the class that is predicted for one target of a row.
	LabelOf(target int, margins, scores []float64) int
	// Leaves writes NumTrees leaf ids for each row.
	Leaves(dst []int64, rows []float32) error
	Leaves64(dst []int64, rows []float64) error
}

// Model is one version of a named model, ready to be served.
type Model struct {
	Name    string
	Version string
	SHA256  string
	Forest  Forest

	// prefix is the beginning of every answer, encoded once: model, version and classes.
	prefix []byte
	// labels are the classes, encoded as the label field of a Prediction, or as one of its labels when there are several
	// targets.
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
		if f.NumTargets() == 1 {
			m.labels = append(m.labels, appendString(nil, predictionLabel, c))
		} else { // an element of a list has its place even when it is empty
			m.labels = append(m.labels, protowire.AppendString(protowire.AppendTag(nil, predictionLabels, protowire.BytesType), c))
		}
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
