package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
)

// plan is how the engine evaluates a model on this machine.
type plan struct {
	CPU     string                    `json:"cpu"` // the level of its instructions
	Batches []planLine                `json:"batches"`
	Trees   map[string][]engine.Share `json:"trees"` // of each kernel that is used
	Bytes   int                       `json:"bytes"` // what the kernels lay out
}

// planLine is what happens to a batch.
type planLine struct {
	Rows  int                `json:"rows"`
	Steps []engine.Step      `json:"steps"`
	Costs map[string]float64 `json:"costs_ns"` // of the whole batch, by each kernel alone
}

func newPlan(m *forest.Model) *plan {
	p := &plan{CPU: engine.CPU(), Trees: m.Shares(), Bytes: m.Bytes() - m.Canonical().Forest.Bytes()}
	for _, rows := range []int{1, 8, 64, 512, 8192} {
		p.Batches = append(p.Batches, planLine{rows, m.Plan(rows), m.Costs(rows)})
	}
	return p
}

// print writes a plan for people.
func (p *plan) print(w io.Writer) error {
	fmt.Fprintf(w, "\nplan with the instructions of %s: what each kernel is expected to take, ns/row\n", p.CPU)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "batch\t")
	var names []string
	for _, name := range engine.Names() {
		if _, ok := p.Batches[0].Costs[name]; ok {
			names = append(names, name)
			fmt.Fprintf(t, "%s\t", name)
		}
	}
	fmt.Fprintln(t, "chosen\t")
	for _, b := range p.Batches {
		fmt.Fprintf(t, "%d\t", b.Rows)
		for _, name := range names {
			fmt.Fprintf(t, "%.0f\t", b.Costs[name]/float64(b.Rows))
		}
		fmt.Fprintf(t, "%s\t\n", planned(b.Steps))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, name := range names {
		for _, s := range p.Trees[name] {
			fmt.Fprintf(w, "%s: %d trees, %s\n", name, s.Trees, s.How)
		}
	}
	_, err := fmt.Fprintf(w, "layouts: %d bytes\n", p.Bytes)
	return err
}
