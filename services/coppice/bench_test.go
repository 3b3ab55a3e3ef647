package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
)

func TestBench(t *testing.T) {
	golden := filepath.Join("..", "..", "replica", "forest", "testdata", "golden")
	folders, err := filepath.Glob(filepath.Join(golden, "*"))
	if err != nil || len(folders) < 10 {
		t.Fatalf("%d folders, %v", len(folders), err)
	}
	for _, folder := range folders {
		args := []string{"bench", "--model", first(t, folder), "--batch", "1,700", "--time", "1ms", "--json"}
		for _, more := range [][]string{nil, {"--input", filepath.Join(folder, "X.npy"), "--kernel", "scalar"}} {
			lines := strings.Split(strings.TrimSpace(succeed(t, append(args, more...)...)), "\n")
			if len(lines) != 2 {
				t.Fatalf("%s: %q", folder, lines)
			}
			for i, text := range lines {
				var line benchLine
				if err := json.Unmarshal([]byte(text), &line); err != nil {
					t.Fatal(err)
				}
				named := line.Kernel == "scalar"
				if more == nil {
					named = slices.Contains(engine.Names(), strings.Split(line.Kernel, "+")[0])
				}
				if line.Batch != []int{1, 700}[i] || !named || line.Rows < line.Batch || line.Samples < 1 ||
					line.Min <= 0 || line.Median < line.Min || line.RowsPerS <= 0 || line.ModelBytes <= 0 {
					t.Errorf("%s: %+v", folder, line)
				}
			}
		}
	}
	if out := succeed(t, "bench", "--model", first(t, folders[0]), "--batch", "3", "--time", "1ms"); !strings.Contains(out, "ns/row, least") || strings.Count(out, "\n") != 2 {
		t.Errorf("%s", out)
	}
}

// first is the model in a folder.
func first(t *testing.T, folder string) string {
	t.Helper()
	models, err := filepath.Glob(filepath.Join(folder, "model.*"))
	if err != nil || len(models) == 0 {
		t.Fatalf("%s has no model, %v", folder, err)
	}
	return models[0]
}

func TestBenchRefusals(t *testing.T) {
	model := first(t, filepath.Join("..", "..", "replica", "forest", "testdata", "golden", "lightgbm_categorical"))
	for _, tt := range []struct {
		args []string
		say  string
	}{
		{nil, "--model is needed"},
		{[]string{"--model", model, "--batch", "0"}, "--batch is \"0\""},
		{[]string{"--model", model, "--batch", "1,,2"}, "numbers from 1 to"},
		{[]string{"--model", model, "--batch", "2000000"}, "numbers from 1 to 1048576"},
		{[]string{"--model", model, "--time", "0s"}, "--time is 0s"},
		{[]string{"--model", model, "--kernel", "gpu"}, "it can be " + strings.Join(engine.Names(), ", ")},
		{[]string{"--model", model, "--kernel", "plain"}, "for this model, or this processor: plain"},
	} {
		code, _, stderr := invoke(t, append([]string{"bench"}, tt.args...)...)
		if code != exitUsage || !strings.Contains(stderr, tt.say) {
			t.Errorf("%q: exit %d, %s", tt.args, code, stderr)
		}
	}
}
