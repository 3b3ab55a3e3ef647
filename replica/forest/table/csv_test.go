package table

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
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

// TestSpellings: what programs write for a number, for none, and before and behind lines.
func TestSpellings(t *testing.T) {
	nan := math.NaN()
	for _, tt := range []struct {
		name, in string
		want     []float64
	}{
		{"numbers", "a\n1\n-0\n+2.5\n.5\n5.\n1e3\n1E-3\n007\n", []float64{1, math.Copysign(0, -1), 2.5, 0.5, 5, 1000, 0.001, 7}},
		{"missing", "a,b\nNA,\nNaN,nan\nnull, \n", []float64{nan, nan, nan, nan, nan, nan}},
		{"infinite", "a\ninf\n-Inf\n+Infinity\n", []float64{math.Inf(1), math.Inf(-1), math.Inf(1)}},
		{"Windows", "\ufeffa,b\r\n1,2\r\n", []float64{1, 2}},
		{"no last newline", "a\n1", []float64{1}},
		{"quoted header behind a byte order mark", "\ufeff\"a\",\"b\"\n\"1\",\"2\"\n", []float64{1, 2}},
		{"smallest", "a\n5e-324\n1e-400\n", []float64{5e-324, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Read(strings.NewReader(tt.in), "", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got.Names[0] != "a" || len(got.Rows) != len(tt.want) {
				t.Fatalf("%+v", got)
			}
			for i, v := range got.Rows {
				if math.Float64bits(v) != math.Float64bits(tt.want[i]) && !(math.IsNaN(v) && math.IsNaN(tt.want[i])) {
					t.Errorf("value %d is %v, want %v", i, v, tt.want[i])
				}
			}
		})
	}
}

// TestReadError: an error of the disk is told as it is.
func TestReadError(t *testing.T) {
	broken := errors.New("disk broken")
	for _, before := range []string{"", "a,", "a\n1\n"} {
		if _, err := Read(io.MultiReader(strings.NewReader(before), iotest.ErrReader(broken)), "", nil); !errors.Is(err, broken) {
			t.Errorf("after %q: %v", before, err)
		}
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
		{"ragged", "a,b\n1,2\n3\n", "", nil, ErrFormat, []string{"line 3 has 1 cells", "2 columns"}},
		{"too many cells", "a,b\n1,2\n\n3,4,5\n", "", nil, ErrFormat, []string{"line 4 has 3 cells", "2 columns"}},
		{"without names", "1.5,2\n3,4\n", "", nil, ErrFormat, []string{"first line", "numbers"}},
		{"without names, the same numbers", "0, 0\n3,4\n", "", nil, ErrFormat, []string{"first line", "numbers"}},
		{"no text", "a\x00,b\n1,2\n", "", nil, ErrFormat, []string{"first line", "no text"}},
		{"twice", "a,a\n1,2\n", "", nil, ErrFormat, []string{`two columns are called "a"`}},
		{"label alone", "a\n1\n", "a", nil, ErrFormat, []string{"besides the label"}},
		{"empty label", "a,b\n1,\n", "b", nil, ErrFormat, []string{"line 2", `"b"`}},
		{"quote in a cell", "a,b\n1,2\"3\n", "", nil, ErrFormat, []string{"line 2", "column 4"}},
		{"second line of a cell", "a,b\n\"\n\",1\nx,2\n", "", nil, ErrNumber, []string{"line 4", `"a"`, `"x"`}},
		{"too large for float64", "a\n1e999\n", "", nil, ErrNumber, []string{"line 2", `"1e999"`}},
		{"comma for a point", "a\n\"1,5\"\n", "", nil, ErrNumber, []string{`"1,5"`}},
		{"many columns", strings.Repeat("a,", MaxColumns) + "b\n", "", nil, ErrFormat, []string{"1048577 columns", "1048576"}},
		{"a long cell", "a\n" + strings.Repeat("x", 1<<20) + "\n", "", nil, ErrNumber, []string{"line 2"}},
		{"label that is not there, of many", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v\n", "z", nil, ErrColumn, []string{`"t" and 2 more`}},
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

// repeat is one byte, for ever.
type repeat byte

func (r repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r)
	}
	return len(p), nil
}

// TestEndless: neither a line nor a quoted cell may take all memory.
func TestEndless(t *testing.T) {
	for _, start := range []string{"", "a\n", "a\n\""} {
		r := io.MultiReader(strings.NewReader(start), repeat('1'))
		if _, err := readAll(&bounded{r: r, max: 1 << 16}, "", nil); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "65536 bytes") {
			t.Errorf("after %q: %v", start, err)
		}
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

// TestLines sees that rows know their lines, behind empty lines and cells of several.
func TestLines(t *testing.T) {
	got, err := Read(strings.NewReader("a,note\n1,x\n\n2,\"two\nlines\"\r\n3,y\n"), "note", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Lines, []int{2, 4, 6}) || !slices.Equal(got.Rows, []float64{1, 2, 3}) {
		t.Errorf("%+v", got)
	}
}

// TestReadRows reads the same rows in blocks of every size, in both types.
func TestReadRows(t *testing.T) {
	var text strings.Builder
	text.WriteString("a,label,b\n")
	want := []float32{}
	for i := range 50 {
		fmt.Fprintf(&text, "%d,l%d,%d.5\n", i, i, i)
		want = append(want, float32(i), float32(i)+0.5)
	}
	for room := 2; room < 110; room++ {
		r, err := NewReader(strings.NewReader(text.String()), "label", nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []float32
		block := make([]float32, room)
		rows := 0
		n, err := ReadRows(r, block)
		for ; err == nil; n, err = ReadRows(r, block) {
			if len(r.Lines) != n || len(r.Labels) != n || r.Lines[0] != rows+2 || r.Labels[n-1] != fmt.Sprintf("l%d", rows+n-1) {
				t.Fatalf("room for %d: lines %v, labels %v of %d rows behind %d", room, r.Lines, r.Labels, n, rows)
			}
			got = append(got, block[:2*n]...)
			rows += n
		}
		if !errors.Is(err, io.EOF) || !slices.Equal(got, want) {
			t.Errorf("room for %d: %v, %v", room, got, err)
		}
	}
	r, err := NewReader(strings.NewReader(text.String()), "label", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRows(r, make([]float64, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("no room for a row: %v", err)
	}
}

// TestRounding: a whole number becomes float32 at once, as an int64 of NumPy does; one with a point is a float64
// before, as NumPy's and pandas' are.
func TestRounding(t *testing.T) {
	for _, tt := range []struct {
		cell string
		want float32
	}{
		{"1152921573326323713", 1<<60 + 1<<37},    // by way of float64 it would be the middle, and then 1<<60
		{"-1152921573326323713", -1<<60 - 1<<37},  // and below 0
		{"9223373136366403585", 1<<63 + 1<<40},    // too large for int64
		{"1.00000005960464477539062500000001", 1}, // at once it would be above the middle: 1.0000001
		{"9007199254740993", 1 << 53},
		{"1e300", float32(math.Inf(1))},
	} {
		r, err := NewReader(strings.NewReader("a\n"+tt.cell+"\n"), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		var got [1]float32
		if _, err := ReadRows(r, got[:]); err != nil || got[0] != tt.want {
			t.Errorf("%s is %v, want %v, %v", tt.cell, got[0], tt.want, err)
		}
	}
}
