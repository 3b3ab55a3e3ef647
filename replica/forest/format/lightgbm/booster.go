package lightgbm

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// links are the functions that objectives make of their margins. All of them but those of classes also know "sqrt".
var links = map[string]model.LinkName{
	"":                     model.Identity, // an objective of the caller's own is not saved
	"none":                 model.Identity,
	"custom":               model.Identity,
	"regression":           model.Identity,
	"regression_l1":        model.Identity,
	"huber":                model.Identity,
	"fair":                 model.Identity,
	"quantile":             model.Identity,
	"mape":                 model.Identity,
	"lambdarank":           model.Identity,
	"rank_xendcg":          model.Identity,
	"poisson":              model.Exp,
	"gamma":                model.Exp,
	"tweedie":              model.Exp,
	"binary":               model.Sigmoid,
	"multiclassova":        model.Sigmoid,
	"cross_entropy":        model.Sigmoid,
	"cross_entropy_lambda": model.Softplus,
	"multiclass":           model.Softmax,
}

func load(data []byte) (*model.Model, error) {
	l := &lines{rest: data}
	if line, _ := l.next(); string(line) != "tree" {
		return nil, fmt.Errorf("%w: line 1 is %.40q, expected \"tree\"", ErrMalformed, line)
	}
	head, err := l.read("the header")
	if err != nil {
		return nil, err
	}
	version, err := head.text("version")
	if err != nil {
		return nil, err
	}
	if v := string(version); v != "v3" && v != "v4" {
		return nil, fmt.Errorf("%w: version %.40q, v3 and v4 are read", ErrUnsupported, v)
	}
	m := &model.Model{Meta: model.Meta{
		Task: model.Regress, Missing: true, Infinite: true, Predict: model.PredictScores, LeafType: "i4",
		Lost:   []string{"gain, weight and value of nodes", "feature importances", "training parameters", "ranges of features"},
		Source: model.Source{Library: "LightGBM", Version: "text " + string(version), Kind: "Booster"},
	}}
	classes, err := head.int("num_class", 1, model.MaxOutputs)
	if err != nil {
		return nil, err
	}
	per, err := head.int("num_tree_per_iteration", 1, model.MaxOutputs)
	if err != nil {
		return nil, err
	}
	if err := features(&m.Meta, head); err != nil {
		return nil, err
	}
	if err := objective(&m.Meta, head, classes, per); err != nil {
		return nil, err
	}
	if head.has("monotone_constraints") {
		m.Meta.Lost = append(m.Meta.Lost, "monotone constraints")
	}
	im := &importer{
		b:        model.NewBuilder(model.Shape{Outputs: per, Width: 1, Input: model.Float64, Categories: model.Truncate}),
		features: m.Meta.Features,
	}
	trees, err := im.trees(l, per)
	if err != nil {
		return nil, err
	}
	if err := sizes(head, trees); err != nil {
		return nil, err
	}
	if bytes.Contains(l.rest, []byte("pandas_categorical:[[")) {
		m.Meta.Lost = append(m.Meta.Lost, "names of categories: rows hold their codes")
	}
	if m.Forest, err = im.b.Forest(); err != nil {
		return nil, err
	}
	if m.Forest.SetStarts == nil {
		m.Forest.Categories = ""
	}
	if !m.Forest.HasCovers() {
		m.Meta.Lost = append(m.Meta.Lost, model.LostCovers)
	}
	m.Forest.Round = per
	m.Meta.Link.Mean = head.has("average_output")
	return m, nil
}

// sizes compares the list of the trees' sizes with the trees, as far as their number goes: sizes themselves change with
// the ends of lines.
func sizes(head *section, trees int) error {
	if !head.has("tree_sizes") {
		return nil
	}
	_, err := head.ints("tree_sizes", trees)
	return err
}

// features fills in how many there are, and their names.
func features(meta *model.Meta, head *section) error {
	last, err := head.int("max_feature_idx", 0, model.MaxFeatures-1)
	if err != nil {
		return err
	}
	meta.Features = last + 1
	names, err := array(head, "feature_names", meta.Features, func(s string) (string, error) {
		if !utf8.ValidString(s) {
			return "", fmt.Errorf("not UTF-8")
		}
		return s, nil
	})
	if err != nil {
		return err
	}
	for i, name := range names {
		if name != "Column_"+strconv.Itoa(i) { // what LightGBM calls features without a name
			meta.Names = names
			break
		}
	}
	return nil
}

// objective fills in how scores follow from margins.
func objective(meta *model.Meta, head *section, classes, per int) error {
	text := strings.Fields(string(head.values["objective"]))
	name := ""
	if len(text) > 0 {
		name = text[0]
	}
	meta.Source.Objective = strings.Join(text, " ")
	link, ok := links[name]
	if !ok {
		return fmt.Errorf("%w: the objective %.80q is not known, so neither is what its scores are", ErrUnsupported, name)
	}
	meta.Link.Name = link
	if link == model.Sigmoid {
		meta.Link.Scale = 1
	}
	for _, option := range text[min(1, len(text)):] {
		key, value, _ := strings.Cut(option, ":")
		switch {
		case key == "sqrt" && link == model.Identity:
			meta.Link.Name = model.Square
		case key == "sigmoid" && link == model.Sigmoid && name != "cross_entropy":
			v, err := strconv.ParseFloat(value, 64)
			if err != nil || !(v > 0) || math.IsInf(v, 0) {
				return head.fail("objective", "has the sigmoid %.40q", value)
			}
			meta.Link.Scale = v
		case key == "num_class" && value != strconv.Itoa(classes):
			return head.fail("objective", "has %.40s classes, num_class is %d", value, classes)
		}
	}
	n := 0
	switch name {
	case "binary":
		n = 2
	case "multiclass", "multiclassova":
		n = classes
	}
	if n > 0 && per != 1 && per != n || n > 2 && per != n {
		return head.fail("num_tree_per_iteration", "is %d, for %d classes", per, n)
	}
	if n > 0 {
		meta.Task, meta.ClassKind = model.Classify, "int"
		for i := range n {
			meta.Classes = append(meta.Classes, strconv.Itoa(i))
		}
	}
	return nil
}
