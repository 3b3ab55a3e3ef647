package forest

import (
	"slices"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// Info says what a model is.
type Info struct {
	Library     string      `json:"library"`
	Version     string      `json:"library_version"`
	Kind        string      `json:"kind"`
	Objective   string      `json:"objective,omitempty"`
	Task        model.Task  `json:"task"`
	Link        model.Link  `json:"link"`
	Input       model.Input `json:"input"`
	Features    int         `json:"features"`
	Names       []string    `json:"feature_names,omitempty"`
	Classes     []string    `json:"classes,omitempty"`
	ClassKind   string      `json:"class_kind,omitempty"`
	Targets     int         `json:"targets"`
	Margins     int         `json:"margins"`
	Scores      int         `json:"scores"`
	Outputs     []string    `json:"outputs"` // the kinds that Output takes
	Missing     bool        `json:"takes_missing"`
	Infinite    bool        `json:"takes_infinite"`
	ZeroMissing bool        `json:"zero_is_missing"`
	Categorical []int       `json:"categorical_features,omitempty"`
	Linear      bool        `json:"linear_leaves"`
	Rounds      int         `json:"rounds"`
	Best        int         `json:"best_round,omitempty"`
	Trees       int         `json:"trees"`
	Nodes       int         `json:"nodes"`
	Leaves      int         `json:"leaves"`
	Depth       int         `json:"depth"`
	Golden      int         `json:"golden_rows"`
	Lost        []string    `json:"not_preserved,omitempty"`
	SourceSum   string      `json:"source_sha256,omitempty"`
}

// Info says what the model is.
func (m *Model) Info() Info {
	meta, f := &m.m.Meta, &m.m.Forest
	info := Info{
		Library: meta.Source.Library, Version: meta.Source.Version, Kind: meta.Source.Kind, Objective: meta.Source.Objective, SourceSum: meta.Source.SHA256,
		Task: meta.Task, Link: meta.Link, Input: f.Input,
		Features: meta.Features, Names: slices.Clone(meta.Names), Classes: slices.Clone(meta.Classes), ClassKind: meta.ClassKind,
		Targets: m.NumTargets(), Margins: m.NumMargins(), Scores: m.NumScores(),
		Missing: meta.Missing, Infinite: meta.Infinite, ZeroMissing: f.Uses&model.ZeroMissing != 0, Categorical: m.categorical(), Linear: f.Linear != nil,
		Rounds: f.NumRounds(), Best: meta.Best, Trees: f.NumTrees(), Nodes: f.NumNodes(), Leaves: f.NumLeaves(), Depth: f.Depth,
		Golden: len(m.m.Golden.Rows) / meta.Features, Lost: slices.Clone(meta.Lost),
	}
	for _, o := range m.Outputs() {
		info.Outputs = append(info.Outputs, o.Kind)
	}
	return info
}

// categorical lists the features that splits compare with sets.
func (m *Model) categorical() []int {
	if m.m.Forest.Uses&model.Set == 0 {
		return nil
	}
	seen := map[int]bool{}
	for _, s := range m.m.Forest.Splits {
		if s.Has(model.Set) {
			seen[s.Feature()] = true
		}
	}
	var out []int
	for f := range seen {
		out = append(out, f)
	}
	slices.Sort(out)
	return out
}
