package load

import (
	"encoding/binary"
	"fmt"
	"math"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// Expected is what a model says about every row of an input, computed here, for comparison with what a server
// says.
type Expected struct {
	Classes []string // nil for a regressor
	Outputs int
	Scores  []float64 // row-major, Outputs values a row
	Targets int       // 0: 1
	Labels  []int     // row-major, index of the predicted class of each target
}

// Check compares the bits of every score and the label of every row.
func (e *Expected) Check(res *coppicev1.PredictResponse, rows []int) error {
	if e.Classes != nil && len(res.GetClasses()) != len(e.Classes) {
		return fmt.Errorf("%d classes in the answer, the model has %d", len(res.GetClasses()), len(e.Classes))
	}
	for i, c := range e.Classes {
		if res.GetClasses()[i] != c {
			return fmt.Errorf("class %d is %q in the answer, %q in the model", i, res.GetClasses()[i], c)
		}
	}
	if len(res.GetTensors()) > 0 {
		return e.checkTensors(res, rows)
	}
	if len(res.GetPredictions()) != len(rows) {
		return fmt.Errorf("%d predictions for %d rows", len(res.GetPredictions()), len(rows))
	}
	for i, at := range rows {
		p := res.GetPredictions()[i]
		if e.Classes == nil {
			values := p.GetValues()
			if p.Value != nil {
				values = []float64{p.GetValue()}
			}
			if err := e.same(at, values); err != nil {
				return err
			}
			continue
		}
		if err := e.same(at, p.GetScores()); err != nil {
			return err
		}
		labels := p.GetLabels()
		if e.targets() == 1 {
			labels = []string{p.GetLabel()}
		}
		if len(labels) != e.targets() {
			return fmt.Errorf("row %d: %d labels, want %d", at, len(labels), e.targets())
		}
		for t, got := range labels {
			if want := e.Classes[e.Labels[at*e.targets()+t]]; got != want {
				return fmt.Errorf("row %d: label is %q, want %q", at, got, want)
			}
		}
	}
	return nil
}

func (e *Expected) targets() int { return max(e.Targets, 1) }

func (e *Expected) checkTensors(res *coppicev1.PredictResponse, rows []int) error {
	scores := "probability"
	if e.Classes == nil {
		scores = "value"
	}
	found := false
	for _, t := range res.GetTensors() {
		data := t.GetTensor().GetData()
		switch t.GetName() {
		case scores:
			found = true
			if len(data) != 8*e.Outputs*len(rows) {
				return fmt.Errorf("tensor %s has %d bytes for %d rows", t.GetName(), len(data), len(rows))
			}
			got := make([]float64, e.Outputs)
			for i, at := range rows {
				for j := range got {
					got[j] = math.Float64frombits(binary.LittleEndian.Uint64(data[8*(i*e.Outputs+j):]))
				}
				if err := e.same(at, got); err != nil {
					return err
				}
			}
		case "label":
			n := e.targets()
			if len(data) != 8*n*len(rows) {
				return fmt.Errorf("tensor label has %d bytes for %d rows", len(data), len(rows))
			}
			for i, at := range rows {
				for t := range n {
					got, want := binary.LittleEndian.Uint64(data[8*(i*n+t):]), e.Labels[at*n+t]
					if got != uint64(want) {
						return fmt.Errorf("row %d: label is class %d, want %d", at, got, want)
					}
				}
			}
		}
	}
	if !found {
		return fmt.Errorf("no tensor %q in the answer", scores)
	}
	return nil
}

func (e *Expected) same(at int, got []float64) error {
	want := e.Scores[at*e.Outputs : (at+1)*e.Outputs]
	if len(got) != len(want) {
		return fmt.Errorf("row %d: %d scores, want %d", at, len(got), len(want))
	}
	for j, g := range got {
		if w := want[j]; math.Float64bits(g) != math.Float64bits(w) {
			return fmt.Errorf("row %d: score %d is %v (%016x), want %v (%016x)", at, j, g, math.Float64bits(g), w, math.Float64bits(w))
		}
	}
	return nil
}
