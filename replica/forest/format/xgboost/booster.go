package xgboost

import (
	"fmt"
	"math"
	"strconv"
	text "strings"

	"github.com/coppice-mesh/coppice/replica/forest/libm"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// objective says how an objective's margins and scores belong together.
type objective struct {
	link     model.LinkName
	base     func(score float32) float32 // the inverse link of the base; nil: as it is
	classify bool
	index    bool // predict gives the index of the class
}

// logit is -log(1/p - 1), in float32 as XGBoost has it.
func logit(p float32) float32 { return -libm.Log32(1/p - 1) }

// version is that of the XGBoost that saved a model.
type version []int32

// since tells whether it is this one or a later one.
func (v version) since(major, minor int32) bool {
	return v[0] > major || (v[0] == major && v[1] >= minor)
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

var objectives = map[string]objective{
	"reg:squarederror":     {link: model.Identity},
	"reg:linear":           {link: model.Identity},
	"reg:squaredlogerror":  {link: model.Identity},
	"reg:pseudohubererror": {link: model.Identity},
	"reg:absoluteerror":    {link: model.Identity},
	"reg:quantileerror":    {link: model.Identity},
	"reg:expectileerror":   {link: model.Identity},
	"reg:logistic":         {link: model.Sigmoid, base: logit},
	"reg:gamma":            {link: model.Exp, base: libm.Log32},
	"reg:tweedie":          {link: model.Exp, base: libm.Log32},
	"count:poisson":        {link: model.Exp, base: libm.Log32},
	"survival:cox":         {link: model.Exp, base: libm.Log32},
	"survival:aft":         {link: model.ExpDouble, base: libm.Log32},
	"binary:logistic":      {link: model.Sigmoid, base: logit, classify: true},
	"binary:logitraw":      {link: model.Identity}, // its base is a margin, unlike those of the other logistic ones
	"binary:hinge":         {link: model.Step, classify: true},
	"multi:softprob":       {link: model.Softmax, classify: true},
	"multi:softmax":        {link: model.Softmax, classify: true, index: true},
	"rank:pairwise":        {link: model.Identity},
	"rank:ndcg":            {link: model.Identity},
	"rank:map":             {link: model.Identity},
}

// booster understands a whole document, which was read from size bytes.
func booster(doc object, size int) (*model.Model, error) {
	learner, err := field[object](doc, "the document", "learner")
	if err != nil {
		return nil, err
	}
	saved, err := versionOf(doc)
	if err != nil {
		return nil, err
	}
	obj, name, err := objectiveOf(learner)
	if err != nil {
		return nil, err
	}
	b := &importer{room: roomBase + roomPerByte*size}
	if err := b.shape(learner); err != nil {
		return nil, err
	}
	if err := scoresOf(name, saved, b.groups); err != nil {
		return nil, err
	}
	m := &model.Model{Meta: model.Meta{
		Task: model.Regress, Features: b.features, Missing: true, Infinite: true,
		Link: model.Link{Name: obj.link}, Predict: model.PredictScores, LeafType: "f4", LeafShape: model.LeafSqueezed,
		Lost:   []string{"gain and base weight of nodes", "training parameters", "attributes"},
		Source: model.Source{Library: "XGBoost", Version: saved.String(), Objective: name},
	}}
	if obj.link == model.Sigmoid {
		m.Meta.Link.Scale = 1
	}
	if err := features(&m.Meta, learner); err != nil {
		return nil, err
	}
	if obj.classify {
		classes(&m.Meta, obj, b.groups)
	}
	if err := b.trees(learner); err != nil {
		return nil, err
	}
	m.Meta.Source.Kind = b.kind
	m.Meta.Lost = append(m.Meta.Lost, b.lost...)
	if m.Forest, err = b.b.Forest(); err != nil {
		return nil, err
	}
	if !m.Forest.HasCovers() {
		m.Meta.Lost = append(m.Meta.Lost, model.LostCovers)
	}
	m.Forest.Round = b.round
	if m.Forest.Base, err = bases(learner, obj, saved, b.groups); err != nil {
		return nil, err
	}
	m.Meta.Best = best(learner, m.Forest.NumRounds())
	return m, nil
}

func versionOf(doc object) (version, error) {
	v, err := ints(doc, "the document", "version")
	if err != nil {
		return nil, err
	}
	if len(v) != 3 {
		return nil, fmt.Errorf("%w: the version has %d numbers, expected 3", ErrMalformed, len(v))
	}
	return v, nil
}

// scoresOf refuses objectives that make scores of all margins of a row together, in a way that no link does.
func scoresOf(name string, saved version, groups int) error {
	switch {
	case groups == 1:
	case name == "reg:expectileerror":
		return fmt.Errorf("%w: %s with %d expectiles, of which each is a sum of margins; one is read", ErrUnsupported, name, groups)
	case name == "reg:quantileerror" && saved.since(3, 4):
		return fmt.Errorf("%w: %s of XGBoost %v with %d quantiles, which that version sorts; one is read, and so are several up to 3.3",
			ErrUnsupported, name, saved, groups)
	}
	return nil
}

func objectiveOf(learner object) (objective, string, error) {
	o, err := field[object](learner, "learner", "objective")
	if err != nil {
		return objective{}, "", err
	}
	name, err := field[string](o, "learner.objective", "name")
	if err != nil {
		return objective{}, "", err
	}
	obj, ok := objectives[name]
	if !ok {
		return obj, name, fmt.Errorf("%w: the objective %.80q is not known, so neither is what its scores are", ErrUnsupported, name)
	}
	return obj, name, nil
}

// features fills in the names of the features.
func features(meta *model.Meta, learner object) error {
	names, err := strings(learner, "learner", "feature_names")
	if err != nil {
		return err
	}
	if len(names) != 0 && len(names) != meta.Features {
		return fmt.Errorf("%w: %d feature names for %d features", ErrMalformed, len(names), meta.Features)
	}
	if len(names) > 0 {
		meta.Names = names
	}
	types, err := strings(learner, "learner", "feature_types")
	if err != nil {
		return err
	}
	if len(types) > 0 {
		meta.Lost = append(meta.Lost, "feature types")
	}
	return nil
}

// classes numbers the classes as XGBoost does.
func classes(meta *model.Meta, obj objective, groups int) {
	n := groups
	if obj.link != model.Softmax {
		if groups > 1 {
			return // several targets, each with a probability of its own
		}
		n = 2
	}
	meta.Task, meta.ClassKind = model.Classify, "int"
	for i := range n {
		meta.Classes = append(meta.Classes, strconv.Itoa(i))
	}
	if obj.index {
		meta.Predict, meta.ByMargin = model.PredictIndex, model.Positive
	}
}

// least is how far a probability stays from 0 and 1 before XGBoost 3.2 and later make a margin of it.
const least float32 = 1e-6

// bases are the margins that the sums begin with.
func bases(learner object, obj objective, saved version, groups int) ([]float64, error) {
	param, err := field[object](learner, "learner", "learner_model_param")
	if err != nil {
		return nil, err
	}
	s, err := field[string](param, "learner_model_param", "base_score")
	if err != nil {
		return nil, err
	}
	list := text.Split(text.TrimSuffix(text.TrimPrefix(text.TrimSpace(s), "["), "]"), ",")
	if len(list) != 1 && len(list) != groups {
		return nil, fmt.Errorf("%w: base_score has %d values for %d outputs", ErrMalformed, len(list), groups)
	}
	out := make([]float64, groups)
	for i := range out {
		item := list[min(i, len(list)-1)]
		v, err := strconv.ParseFloat(text.TrimSpace(item), 32)
		if err != nil {
			return nil, fmt.Errorf("%w: base_score is %.80q", ErrMalformed, s)
		}
		margin := float32(v)
		if obj.link == model.Sigmoid && saved.since(3, 2) && margin >= 0 && margin <= 1 {
			margin = min(max(margin, least), 1-least)
		}
		if obj.base != nil {
			margin = obj.base(margin)
		}
		// Before 3.2 a logistic objective refuses 0 and 1, whose margins are infinite.
		if margin != margin || (obj.link == model.Sigmoid && math.IsInf(float64(margin), 0)) {
			return nil, fmt.Errorf("%w: base_score %.40q is not one of the objective's scores", ErrMalformed, item)
		}
		out[i] = float64(margin)
	}
	return out, nil
}

// best is the number of rounds up to the best one, or 0.
func best(learner object, rounds int) int {
	attributes, _ := learner["attributes"].(object)
	s, _ := attributes["best_iteration"].(string)
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n >= rounds {
		return 0
	}
	return n + 1
}
