package policies

import (
	"errors"
	"testing"
)

func TestByName(t *testing.T) {
	for _, name := range append(Names(), "") {
		p, err := ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if want := name; want != "" && p.Name() != want || want == "" && p.Name() != Names()[0] {
			t.Errorf("%q gives %q", name, p.Name())
		}
	}
	if _, err := ByName("coin"); !errors.Is(err, ErrUnknown) {
		t.Errorf("error %v", err)
	}
}
