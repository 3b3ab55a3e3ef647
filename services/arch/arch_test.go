// Package arch asserts the boundaries between the modules of Coppice.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const prefix = "github.com/coppice-mesh/coppice/"

// allowed is what each module may import of its siblings: a module with all its packages, or single packages.
var allowed = map[string][]string{
	"proto":          nil,
	"replica/forest": nil,
	"telemetry":      {"proto", "replica/forest"},
	"replica":        {"proto", "telemetry", "replica/forest"},
	"balancer":       {"proto", "telemetry", "replica/forest", "replica/plugin"},
	"gateway":        {"proto", "telemetry", "balancer/pick", "balancer/admit"},
	"services":       {"proto", "telemetry", "replica", "replica/forest", "balancer", "gateway"},
}

// moduleOf is the module that a directory or a package belongs to.
func moduleOf(path string) string {
	if path == "replica/forest" || strings.HasPrefix(path, "replica/forest/") {
		return "replica/forest"
	}
	module, _, _ := strings.Cut(path, "/")
	return module
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.work")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestImports reads the imports of every Go file, tests included.
func TestImports(t *testing.T) {
	top := root(t)
	files := 0
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") && path != top {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		from := moduleOf(filepath.ToSlash(filepath.Dir(rel)))
		may, known := allowed[from]
		if !known {
			t.Errorf("%s is in no module of the architecture", rel)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		files++
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			pkg, sibling := strings.CutPrefix(name, prefix)
			if !sibling || moduleOf(pkg) == from {
				continue
			}
			ok := false
			for _, a := range may {
				// A module is named with all its packages; "replica" does not include "replica/forest", which is
				// a module of its own.
				ok = ok || (a == moduleOf(pkg) && a == moduleOf(a)) || pkg == a || strings.HasPrefix(pkg, a+"/") && moduleOf(pkg) == moduleOf(a)
			}
			if !ok {
				t.Errorf("%s imports %s; %s may import %v", rel, pkg, from, may)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Errorf("only %d files were read", files)
	}
}

// TestForestStandsAlone: the library's import graph has neither gRPC nor OpenTelemetry nor a sibling.
func TestForestStandsAlone(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./...")
	cmd.Dir = filepath.Join(root(t), "replica/forest")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range strings.Fields(string(out)) {
		sibling := strings.HasPrefix(pkg, prefix) && moduleOf(strings.TrimPrefix(pkg, prefix)) != "replica/forest"
		if sibling || strings.HasPrefix(pkg, "google.golang.org/grpc") || strings.HasPrefix(pkg, "go.opentelemetry.io/") {
			t.Errorf("replica/forest depends on %s", pkg)
		}
	}
}

// TestForestOutside builds and runs a program of somebody else's that imports replica/forest alone.
func TestForestOutside(t *testing.T) {
	top := root(t)
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", `module example.com/outside

go 1.26.0

require github.com/coppice-mesh/coppice/replica/forest v0.0.0

replace github.com/coppice-mesh/coppice/replica/forest => `+filepath.Join(top, "replica/forest")+"\n")
	sums, err := os.ReadFile(filepath.Join(top, "replica/forest/go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	write("go.sum", string(sums)) // without it Go would ask a server for them
	write("main.go", `package main

import (
	"context"
	"fmt"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/train"
)

func main() {
	cfg := train.DemoConfig()
	cfg.Trees = 3
	canonical, err := train.Forest(context.Background(), cfg, train.Demo(), nil)
	if err != nil {
		panic(err)
	}
	m := forest.New(canonical)
	scores := make([]float64, m.NumScores())
	if err := m.Predict(scores, make([]float32, m.NumFeatures())); err != nil {
		panic(err)
	}
	fmt.Printf("%.1f\n", scores[0]+scores[1])
}
`)
	cmd := exec.Command("go", "run", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "GOPROXY=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != "1.0" {
		t.Errorf("it printed %q, want 1.0", got)
	}
}
