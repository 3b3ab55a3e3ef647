package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
)

// TestPlan: a plan has all rows of each batch, in the kernel that is expected to take the least, and all trees.
func TestPlan(t *testing.T) {
	for name, path := range goldenModels(t) {
		var got struct {
			Trees int   `json:"trees"`
			Plan  *plan `json:"plan"`
		}
		if err := json.Unmarshal([]byte(succeed(t, "inspect", path, "--plan", "--json")), &got); err != nil {
			t.Fatal(err)
		}
		if got.Plan == nil || got.Plan.CPU != engine.CPU() {
			t.Fatalf("%s: plan %+v", name, got.Plan)
		}
		for _, b := range got.Plan.Batches {
			rows, cost := 0, 0.0
			for _, s := range b.Steps {
				rows, cost = rows+s.Rows, cost+s.Cost
			}
			if rows != b.Rows {
				t.Errorf("%s: steps of %d rows for a batch of %d", name, rows, b.Rows)
			}
			for kernel, c := range b.Costs {
				if cost > c*1.001 {
					t.Errorf("%s, %d rows: %v was chosen for %v ns, %s takes %v", name, b.Rows, b.Steps, cost, kernel, c)
				}
			}
		}
		for kernel, shares := range got.Plan.Trees {
			trees := 0
			for _, s := range shares {
				trees += s.Trees
			}
			if trees != got.Trees {
				t.Errorf("%s: %s has %d of %d trees", name, kernel, trees, got.Trees)
			}
		}
	}
	text := succeed(t, "inspect", goldenModels(t)["xgboost_early_stopping"], "--plan")
	for _, want := range []string{"plan with the instructions of " + engine.CPU(), "chosen", "trees"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
