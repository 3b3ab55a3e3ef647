package table

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	in := "\ufeffa,b,label,c\n1,2.5,yes,-3e2\n\"4\",,no, 6 \n"
	got, err := Read(strings.NewReader(in), "label", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Names, []string{"a", "b", "c"}) || !slices.Equal(got.Labels, []string{"yes", "no"}) || got.Len() != 2 {
		t.Errorf("%+v", got)
	}
	want := []float64{1, 2.5, -300, 4, math.NaN(), 6}
	for i, v := range got.Rows {
		if v != want[i] && !(math.IsNaN(v) && math.IsNaN(want[i])) {
			t.Errorf("value %d is %v, want %v", i, v, want[i])
		}
	}
	if got, err = Read(strings.NewReader(in), "", []string{"c", "a"}); err != nil || !slices.Equal(got.Rows, []float64{-300, 1, 6, 4}) {
		t.Errorf("chosen columns: %+v, %v", got, err)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name, in, label string
		columns         []string
		want            error
		say             []string
	}{
		{"empty", "", "", nil, ErrFormat, []string{"empty"}},
		{"no rows", "a,b\n", "", nil, ErrFormat, []string{"no rows"}},
		{"text in a number", "a,b\n1,2\n3,x\n", "", nil, ErrNumber, []string{"line 3", `"b"`, `"x"`}},
		{"hexadecimal", "a\n0x10\n", "", nil, ErrNumber, []string{"line 2"}},
		{"underscore", "a\n1_0\n", "", nil, ErrNumber, []string{"line 2"}},
		{"no such label", "a,b\n1,2\n", "c", nil, ErrColumn, []string{`"c"`, `"a", "b"`}},
		{"missing column", "a,b\n1,2\n", "", []string{"a", "z"}, ErrColumn, []string{`"z"`, `"a", "b"`}},
		{"ragged", "a,b\n1,2\n3\n", "", nil, ErrFormat, []string{"line 3"}},
		{"twice", "a,a\n1,2\n", "", nil, ErrFormat, []string{`two columns are called "a"`}},
		{"label alone", "a\n1\n", "a", nil, ErrFormat, []string{"besides the label"}},
		{"empty label", "a,b\n1,\n", "b", nil, ErrFormat, []string{"line 2", `"b"`}},
		{"open quote", "a,b\n\"1,2\n", "", nil, ErrFormat, []string{"line"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Read(strings.NewReader(tt.in), tt.label, tt.columns)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			for _, s := range tt.say {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q is not in: %v", s, err)
				}
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add("a,b\n1,2\n", "b")
	f.Add("a,\"b\nc\"\n1,2\n", "")
	f.Add("\ufeffx\n\n\nnan\n", "")
	f.Fuzz(func(t *testing.T, in, label string) {
		got, err := Read(strings.NewReader(in), label, nil)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrNumber) && !errors.Is(err, ErrColumn) {
				t.Errorf("untyped error: %v", err)
			}
			return
		}
		if len(got.Rows)%len(got.Names) != 0 || (label != "" && len(got.Labels) != got.Len()) {
			t.Errorf("%+v", got)
		}
	})
}
