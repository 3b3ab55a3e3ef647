package exact

import (
	"encoding/binary"
	"math"
	"reflect"
	"slices"
	"testing"
)

func f4(v ...float32) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

func f8(v ...float64) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
	}
	return b
}

func TestDistance(t *testing.T) {
	inf := math.Inf(1)
	zero := math.Copysign(0, -1)
	quiet, other := math.Float64frombits(0x7ff8000000000000), math.Float64frombits(0xfff8000000000001)
	for _, tt := range []struct {
		kind      string
		want, got []byte
		distance  Distance
		text      string
	}{
		{"f8", f8(1), f8(1), Distance{}, "0"},
		{"f8", f8(quiet), f8(other), Distance{}, "0"},
		{"f8", f8(1), f8(math.Nextafter(1, 2)), Distance{Apart, 1}, "1"},
		{"f8", f8(math.Nextafter(1, 0)), f8(math.Nextafter(1, 2)), Distance{Apart, 2}, "2"},
		{"f8", f8(0), f8(zero), Distance{Kind: ZeroSign}, "sign"},
		{"f8", f8(5e-324), f8(-5e-324), Distance{Apart, 2}, "2"},
		{"f8", f8(-inf), f8(inf), Distance{Apart, 2 * 0x7ff0000000000000}, "18437736874454810624"},
		{"f8", f8(math.MaxFloat64), f8(inf), Distance{Apart, 1}, "1"},
		{"f8", f8(1), f8(quiet), Distance{Kind: OneIsNaN}, "nan"},
		{"f4", f4(1), f4(math.Nextafter32(1, 0)), Distance{Apart, 1}, "1"},
		{"f4", f4(0), f4(float32(zero)), Distance{Kind: ZeroSign}, "sign"},
		{"f4", f4(-1), f4(1), Distance{Apart, 2 * 0x3f800000}, "2130706432"},
		{"i4", []byte{1, 0, 0, 0}, []byte{2, 0, 0, 0}, Distance{Kind: Unlike}, "-"},
		{"U1", []byte{'a', 0, 0, 0}, []byte{'b', 0, 0, 0}, Distance{Kind: Unlike}, "-"},
	} {
		if got := distance(tt.kind, tt.want, tt.got); got != tt.distance || got.String() != tt.text {
			t.Errorf("%s %v %v: %v (%s), want %v", tt.kind, tt.want, tt.got, got, got, tt.distance)
		}
		if got := distance(tt.kind, tt.got, tt.want); got != tt.distance {
			t.Errorf("%s %v %v, the other way: %v", tt.kind, tt.got, tt.want, got)
		}
	}
}

func TestAdd(t *testing.T) {
	up := math.Nextafter(1, 2)
	want := f8(1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4)
	got := slices.Clone(want)
	copy(got[8*4:], f8(up)) // row 1, index 0
	copy(got[8*11:], f8(7)) // row 2, index 3
	for _, tt := range []struct {
		max       uint64
		differing int
		rows      []int
	}{{0, 2, []int{1, 2}}, {1, 1, []int{2}}, {math.MaxUint64, 0, nil}} {
		var seen []Difference
		c := &Comparison{Type: "f8", Shape: []int{2, 2}, MaxULP: tt.max, Each: func(d Difference) { seen = append(seen, d) }}
		for i := 0; i < len(want); i += 32 { // a row at a time
			if err := c.Add(want[i:i+32], got[i:i+32]); err != nil {
				t.Fatal(err)
			}
		}
		var rows []int
		for _, d := range seen {
			rows = append(rows, d.Row)
		}
		if c.Rows != 3 || c.Differing != tt.differing || !slices.Equal(rows, tt.rows) || c.Largest.Kind != Apart || c.Largest.ULP < 1<<50 {
			t.Errorf("up to %d ulp: %+v, rows %v", tt.max, c, rows)
		}
		if tt.max == 0 && !reflect.DeepEqual(seen[1], Difference{2, []int{1, 1}, "4", "7", Distance{Apart, 3 << 50}, "3377699720527872"}) {
			t.Errorf("%+v", seen[1])
		}
	}
	for _, c := range []*Comparison{{Type: "f8", Shape: []int{2}}, {Type: "f2"}, {Type: "U"}, {Type: ""}, {Type: "f8", Shape: []int{0}}} {
		if err := c.Add(make([]byte, 8), make([]byte, 8)); err == nil {
			t.Errorf("%s %v takes 8 bytes", c.Type, c.Shape)
		}
	}
	c := &Comparison{Type: "i1"}
	if err := c.Add([]byte{1}, nil); err == nil {
		t.Error("one row more is taken")
	}
}

// TestTolerance compares floats by the largest of their row.
func TestTolerance(t *testing.T) {
	want := f8(100, 1e-9, 0, 1e-9, -4, 1)
	got := f8(100, 2e-9, 0, 2e-9, -4, math.NaN())
	c := &Comparison{Type: "f8", Shape: []int{3}, Tolerance: 1e-10}
	if err := c.Add(want[:24], got[:24]); err != nil || c.Differing != 0 || math.Abs(c.Relative-1e-11) > 1e-20 || c.Largest.ULP == 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := c.Add(want[24:], got[24:]); err != nil || c.Differing != 1 || math.Abs(c.Relative-2.5e-10) > 1e-18 {
		t.Errorf("%+v, %v", c, err)
	}
	c = &Comparison{Type: "f8", Shape: []int{2}, Tolerance: 1e-3}
	if err := c.Add(f8(0, 0), f8(1e-4, 1)); err != nil || c.Differing != 1 || c.Relative != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	c = &Comparison{Type: "f8", Shape: []int{2}, Tolerance: 1}
	if err := c.Add(f8(0, math.Inf(-1)), f8(math.NaN(), math.Inf(-1))); err != nil || c.Differing != 1 {
		t.Errorf("NaN for a number: %+v, %v", c, err)
	}
}

func TestFormat(t *testing.T) {
	for _, tt := range []struct {
		kind string
		b    []byte
		want string
	}{
		{"f4", f4(0.1), "0.1"},
		{"f8", f8(math.Nextafter(0.1, 1)), "0.10000000000000002"},
		{"f8", f8(math.NaN()), "NaN"},
		{"b1", []byte{1}, "true"},
		{"i1", []byte{0xff}, "-1"},
		{"u1", []byte{0xff}, "255"},
		{"i2", []byte{0xfe, 0xff}, "-2"},
		{"i8", []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "-2"},
		{"u8", []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "18446744073709551614"},
		{"U3", []byte{'a', 0, 0, 0, 0xe9, 0, 0, 0, 0, 0, 0, 0}, `"aé"`},
		{"U1", []byte{0xff, 0xff, 0xff, 0xff}, `"�"`},
	} {
		if got := Format(tt.kind, tt.b); got != tt.want {
			t.Errorf("%s %v: %s, want %s", tt.kind, tt.b, got, tt.want)
		}
	}
}
