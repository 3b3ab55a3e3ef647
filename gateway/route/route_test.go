package route

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

func model(name, sha string) *coppicev1.ServedModel {
	return &coppicev1.ServedModel{Name: name, Version: sha[:16], Sha256: sha}
}

var (
	shaA = strings.Repeat("a1", 32)
	shaB = strings.Repeat("b2", 32)
)

func TestResolve(t *testing.T) {
	none, one, two := New(nil), New([]*coppicev1.ServedModel{model("x", shaA)}), New([]*coppicev1.ServedModel{model("y", shaB), model("x", shaA)})
	for _, tt := range []struct {
		table         *Table
		name, version string
		want          string
		err           error
		says          string
	}{
		{table: one, want: "x"},
		{table: one, name: "x", want: "x"},
		{table: one, version: shaA[:8], want: "x"},
		{table: one, version: shaA[:16], want: "x"},
		{table: one, version: shaA[:17], want: "x"},
		{table: one, version: shaA, want: "x"},
		{table: one, version: shaA[:7], err: ErrUnknown, says: `version "a1a1a1a" of model "x"`},
		{table: one, version: shaA + "a", err: ErrUnknown, says: "version"},
		{table: one, version: shaB[:8], err: ErrUnknown, says: `version "` + shaA[:16] + `" is`},
		{table: one, version: strings.ToUpper(shaA), err: ErrUnknown},
		{table: one, name: "y", err: ErrUnknown, says: `model "y" is not served; served are: "x"`},
		{table: one, name: "X", err: ErrUnknown},
		{table: two, name: "y", want: "y"},
		{table: two, name: "x", version: shaA[:10], want: "x"},
		{table: two, name: "y", version: shaA[:10], err: ErrUnknown},
		{table: two, err: ErrAmbiguous, says: `2 are served: "x", "y"`},
		{table: two, version: shaA, err: ErrAmbiguous},
		{table: none, err: ErrUnknown, says: "served are: none"},
		{table: none, name: "x", err: ErrUnknown},
		{table: &Table{}, name: "x", err: ErrUnknown},
	} {
		m, err := tt.table.Resolve([]byte(tt.name), []byte(tt.version))
		if !errors.Is(err, tt.err) || m.GetName() != tt.want || (err != nil && !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%q %q: %v, %v; want %q, %v %q", tt.name, tt.version, m, err, tt.want, tt.err, tt.says)
		}
	}
}

// TestErrorsAreShort: a server of many models does not send all their names with each error.
func TestErrorsAreShort(t *testing.T) {
	var models []*coppicev1.ServedModel
	for i := range 1000 {
		models = append(models, model(fmt.Sprintf("model-%04d", i), shaA))
	}
	_, err := New(models).Resolve([]byte("nothing\xff\n"), nil)
	if err == nil || len(err.Error()) > 400 || !strings.Contains(err.Error(), "and 990 more") || !strings.Contains(err.Error(), `"nothing\xff\n"`) {
		t.Error(err)
	}
}

// TestNewKeepsOrder: the list that a table is made of stays as it is.
func TestNewKeepsOrder(t *testing.T) {
	list := []*coppicev1.ServedModel{model("b", shaA), model("a", shaB)}
	if got := New(list).Models(); got[0].GetName() != "a" || got[1].GetName() != "b" || list[0].GetName() != "b" {
		t.Errorf("%v of %v", got, list)
	}
}

func TestResolveDoesNotAllocate(t *testing.T) {
	table := New([]*coppicev1.ServedModel{model("x", shaA), model("y", shaB)})
	name, version := []byte("y"), []byte(shaB[:12])
	if n := testing.AllocsPerRun(100, func() {
		if _, err := table.Resolve(name, version); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
