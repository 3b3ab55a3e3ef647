package forest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/link"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/shap"
)

// ErrOutput is wrapped by the error about a kind of output that a model has not.
var ErrOutput = errors.New("no such output")

// Output is one kind of answer in the type and shape in which the model's library gives it:
//
//	margin             what the trees add up to
//	predict            what the library's predict gives: labels, values, or a booster's probabilities
//	proba              a classifier's probabilities, one a class
//	proba_0, proba_1   those of each target of a classifier of several
//	decision_function  a boosted classifier's margin; an isolation forest's score, below 0 for what it sets apart
//	score_samples      an isolation forest's score before its offset
//	leaf               the leaf that the row falls into in each tree
//	contribs           what each feature contributes to each margin, and what the margin is on average
type Output struct {
	Kind string
	// Type is the NumPy type of the elements: "f4", "f8", "i1" to "i8", "u1" to "u8", "b1", or "U" and a number of characters.
	Type string
	// Shape is that of one row. Empty: one element.
	Shape []int

	m *Model
	// encode appends the elements of row i, little-endian.
	encode func(dst []byte, b *block, i int) []byte
}

// block is what was evaluated for some rows.
type block struct {
	m               *Model
	margins, scores []float64
	leaves          []int64
	contribs        []float64
}

func (b *block) marginsOf(i int) []float64 {
	n := b.m.NumMargins()
	return b.margins[i*n : (i+1)*n]
}

func (b *block) scoresOf(i int) []float64 {
	n := b.m.NumScores()
	return b.scores[i*n : (i+1)*n]
}

// kinds lists the kinds of output that the model has.
func (m *Model) kinds() []string {
	meta := &m.m.Meta
	kinds := []string{"margin", "predict"}
	switch {
	case meta.Link.Name == model.Isolation:
		kinds = append(kinds, "decision_function", "score_samples")
	case meta.Task == model.Classify && meta.Targets == nil:
		kinds = append(kinds, "proba")
		if meta.Predict == model.PredictLabel && meta.Link.Name != model.Identity {
			kinds = append(kinds, "decision_function")
		}
	}
	for t := range meta.Targets {
		kinds = append(kinds, "proba_"+strconv.Itoa(t))
	}
	kinds = append(kinds, "leaf")
	if m.explainer != nil {
		kinds = append(kinds, "contribs")
	}
	return kinds
}

// Outputs lists the kinds of output that the model has.
func (m *Model) Outputs() []Output {
	var out []Output
	for _, kind := range m.kinds() {
		out = append(out, m.output(kind))
	}
	return out
}

// Output finds a kind of output. The error wraps ErrOutput and lists those that there are.
func (m *Model) Output(kind string) (*Output, error) {
	kinds := m.kinds()
	for _, k := range kinds {
		if k == kind {
			o := m.output(k)
			return &o, nil
		}
	}
	if kind == "contribs" {
		if _, err := shap.New(&m.m.Forest); err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrOutput, kind, err)
		}
	}
	return nil, fmt.Errorf("%w: %q; %s has %s", ErrOutput, kind, m.m.Meta.Source.Kind, strings.Join(kinds, ", "))
}

// Append appends the elements of some rows to dst, little-endian, as a .npy file holds them.
func (o *Output) Append(dst []byte, rows []float32) ([]byte, error) {
	return appendOutput(o, o.m.kernel, dst, rows)
}

// Append64 is Append for rows of float64.
func (o *Output) Append64(dst []byte, rows []float64) ([]byte, error) {
	return appendOutput(o, o.m.kernel64, dst, rows)
}

func appendOutput[T engine.Row](o *Output, k engine.Kernel[T], dst []byte, rows []T) ([]byte, error) {
	m := o.m
	n := len(rows) / m.options.Stride
	b := &block{m: m}
	switch o.Kind {
	case "leaf":
		b.leaves = make([]int64, n*m.NumTrees())
		if err := leaves(m, k, b.leaves, rows); err != nil {
			return dst, err
		}
	case "contribs":
		b.contribs = make([]float64, n*m.NumContribs())
		if err := contribs(m, b.contribs, rows, m.threads()); err != nil {
			return dst, err
		}
	default:
		b.margins = make([]float64, n*m.NumMargins())
		b.scores = make([]float64, n*m.NumScores())
		if err := margins(m, k, b.margins, rows); err != nil {
			return dst, err
		}
		if err := m.Scores(b.scores, b.margins); err != nil {
			return dst, err
		}
	}
	for i := range n {
		dst = o.encode(dst, b, i)
	}
	return dst, nil
}

func (m *Model) output(kind string) Output {
	meta := &m.m.Meta
	switch {
	case kind == "leaf":
		return m.leafOutput()
	case kind == "contribs":
		return m.contribsOutput()
	case kind == "predict":
		return m.predictOutput()
	case kind == "proba":
		return m.floats(kind, []int{m.NumScores()}, (*block).scoresOf)
	case strings.HasPrefix(kind, "proba_"):
		t, _ := strconv.Atoi(kind[len("proba_"):])
		first := 0
		for _, k := range meta.Targets[:t] {
			first += k
		}
		k := meta.Targets[t]
		return m.floats(kind, []int{k}, func(b *block, i int) []float64 { return b.scoresOf(i)[first : first+k] })
	case kind == "score_samples":
		return m.floats(kind, nil, func(b *block, i int) []float64 {
			return []float64{link.Isolation(meta.Link, b.margins[i])}
		})
	case kind == "decision_function" && meta.Link.Name == model.Isolation:
		return m.floats(kind, nil, (*block).scoresOf)
	}
	return m.floats(kind, several(m.NumMargins()), (*block).marginsOf) // margin, and a classifier's decision_function
}

// several is the shape of n values, of which a single one has no dimension.
func several(n int) []int {
	if n == 1 {
		return nil
	}
	return []int{n}
}

// floats is an output of numbers in the precision of the sums.
func (m *Model) floats(kind string, shape []int, values func(b *block, i int) []float64) Output {
	o := Output{Kind: kind, Type: "f8", Shape: shape, m: m}
	if m.m.Forest.Single {
		o.Type = "f4"
	}
	put := number(o.Type)
	o.encode = func(dst []byte, b *block, i int) []byte {
		for _, v := range values(b, i) {
			dst = put(dst, v)
		}
		return dst
	}
	return o
}

func (m *Model) predictOutput() Output {
	meta := &m.m.Meta
	switch meta.Predict {
	case model.PredictLabel:
		return m.labelOutput()
	case model.PredictIndex:
		return m.floats("predict", nil, func(b *block, i int) []float64 {
			return []float64{float64(m.LabelOf(0, b.marginsOf(i), b.scoresOf(i)))}
		})
	case model.PredictSign:
		put := number("i8")
		return Output{Kind: "predict", Type: "i8", m: m, encode: func(dst []byte, b *block, i int) []byte {
			if b.scoresOf(i)[0] < 0 {
				return put(dst, -1)
			}
			return put(dst, 1)
		}}
	}
	if m.NumScores() > m.NumMargins() { // a booster gives the second class's probability alone
		return m.floats("predict", nil, func(b *block, i int) []float64 { return b.scoresOf(i)[1:] })
	}
	return m.floats("predict", several(m.NumScores()), (*block).scoresOf)
}

// labelOutput is the predicted class of each target, in the type of the classes.
func (m *Model) labelOutput() Output {
	labels, kind := m.encodeClasses()
	o := Output{Kind: "predict", Type: kind, Shape: several(m.NumTargets()), m: m}
	o.encode = func(dst []byte, b *block, i int) []byte {
		for t := range m.NumTargets() {
			dst = append(dst, labels[m.LabelOf(t, b.marginsOf(i), b.scoresOf(i))]...)
		}
		return dst
	}
	return o
}

// encodeClasses gives the classes as elements of their NumPy type. Classes that do not spell what they are said to
// spell are text.
func (m *Model) encodeClasses() (labels [][]byte, kind string) {
	meta := &m.m.Meta
	kind = meta.ClassType
	if kind == "" {
		kind = map[string]string{"int": "i8", "float": "f8", "bool": "b1"}[meta.ClassKind]
	}
	if kind != "" && kind[0] != 'U' {
		for _, c := range meta.Classes {
			b, err := appendText(nil, c, kind)
			if err != nil {
				labels = nil
				break
			}
			labels = append(labels, b)
		}
		if labels != nil {
			return labels, kind
		}
	}
	width := 1
	if kind != "" && kind[0] == 'U' {
		width, _ = strconv.Atoi(kind[1:])
	}
	for _, c := range meta.Classes {
		width = max(width, utf8.RuneCountInString(c))
	}
	for _, c := range meta.Classes {
		b := make([]byte, 0, 4*width)
		for _, r := range c {
			b = binary.LittleEndian.AppendUint32(b, uint32(r))
		}
		labels = append(labels, b[:4*width])
	}
	return labels, "U" + strconv.Itoa(width)
}

// appendText appends a number that is spelt out, as an element of a NumPy type.
func appendText(dst []byte, text, kind string) ([]byte, error) {
	switch kind[0] {
	case 'b':
		v, err := strconv.ParseBool(strings.ToLower(text))
		if v {
			return append(dst, 1), err
		}
		return append(dst, 0), err
	case 'f':
		v, err := strconv.ParseFloat(text, 64)
		return number(kind)(dst, v), err
	}
	size, err := strconv.Atoi(kind[1:])
	if err != nil || (size != 1 && size != 2 && size != 4 && size != 8) {
		return dst, fmt.Errorf("type %q", kind)
	}
	var v uint64
	if kind[0] == 'u' {
		v, err = strconv.ParseUint(text, 10, 8*size)
	} else {
		var signed int64
		signed, err = strconv.ParseInt(text, 10, 8*size)
		v = uint64(signed)
	}
	return append(dst, binary.LittleEndian.AppendUint64(nil, v)[:size]...), err
}

// leafOutput is the library's apply or pred_leaf.
func (m *Model) leafOutput() Output {
	trees := m.NumTrees()
	o := Output{Kind: "leaf", Type: "i8", Shape: []int{trees}, m: m}
	if m.m.Meta.LeafType != "" {
		o.Type = m.m.Meta.LeafType
	}
	switch m.m.Meta.LeafShape {
	case model.LeafRounds:
		o.Shape = []int{m.NumRounds(), m.m.Forest.Round}
	case model.LeafAlone:
		o.Shape = nil
	case model.LeafSqueezed:
		o.Shape = several(trees)
	}
	put := number(o.Type)
	o.encode = func(dst []byte, b *block, i int) []byte {
		for _, v := range b.leaves[i*trees : (i+1)*trees] {
			dst = put(dst, float64(v)) // below 2^53
		}
		return dst
	}
	return o
}

// contribsOutput is the library's pred_contribs or pred_contrib, which in LightGBM has one dimension for all margins.
func (m *Model) contribsOutput() Output {
	shape := append(several(m.NumMargins()), m.NumFeatures()+1)
	if m.m.Meta.Source.Library == "LightGBM" {
		shape = []int{m.NumContribs()}
	}
	return m.floats("contribs", shape, func(b *block, i int) []float64 {
		return b.contribs[i*m.NumContribs() : (i+1)*m.NumContribs()]
	})
}

// number gives the function that appends a number as an element of a NumPy type: a float, "i4" or "i8".
func number(kind string) func(dst []byte, v float64) []byte {
	switch kind {
	case "f4":
		return func(dst []byte, v float64) []byte {
			return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(v)))
		}
	case "f8":
		return func(dst []byte, v float64) []byte { return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v)) }
	case "i4":
		return func(dst []byte, v float64) []byte { return binary.LittleEndian.AppendUint32(dst, uint32(int32(v))) }
	}
	return func(dst []byte, v float64) []byte { return binary.LittleEndian.AppendUint64(dst, uint64(int64(v))) }
}
