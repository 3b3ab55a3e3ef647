// Package exact compares a model's outputs with those that its library gave: bit for bit, and by how much they differ
// where they do.
package exact

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Comparison is what was found so far.
type Comparison struct {
	// Type and Shape are those of the elements of a row, as forest.Output has them.
	Type  string
	Shape []int
	// MaxULP is the distance up to which two numbers count as equal, in units in the last place. 0: their bits must be
	// equal, but any NaN equals any NaN.
	MaxULP uint64
	// Tolerance is the distance up to which two floats count as equal, too, as a part of the largest magnitude that was
	// expected in their row: for outputs in which libraries themselves round many times. 0: none.
	Tolerance float64
	// Each is told every difference, those within MaxULP and Tolerance left out. May be nil.
	Each func(Difference)

	// Rows were compared; Differing of them have a difference.
	Rows, Differing int
	// Largest is the largest difference of all, also within MaxULP and Tolerance.
	Largest Distance
	// Relative is the largest difference of two floats, as Tolerance has it, when that is not 0.
	Relative float64

	size, columns int
}

// Difference is an element that is not what was expected.
type Difference struct {
	Row       int    `json:"row"`
	Index     []int  `json:"index,omitempty"` // in the row
	Want      string `json:"expected"`
	Got       string `json:"got"`
	Distance  `json:"-"`
	Magnitude string `json:"difference"` // Distance as text
}

// Distance says how far two elements are apart. Larger ones are worse.
type Distance struct {
	Kind Kind
	ULP  uint64 // when Kind is Apart
}

// Kind is a kind of distance.
type Kind uint8

// The kinds, from none to the worst.
const (
	Equal    Kind = iota
	ZeroSign      // zeros of different signs
	Apart         // floats
	OneIsNaN      // a NaN and a number
	Unlike        // values that have no distance: integers, booleans, strings
)

// String is a number of units in the last place, or what there is instead of one.
func (d Distance) String() string {
	switch d.Kind {
	case Equal:
		return "0"
	case ZeroSign:
		return "sign"
	case Apart:
		return strconv.FormatUint(d.ULP, 10)
	case OneIsNaN:
		return "nan"
	}
	return "-"
}

// Describe is String for a sentence.
func (d Distance) Describe() string {
	switch d.Kind {
	case Equal:
		return "equal"
	case ZeroSign:
		return "the sign of zero"
	case Apart:
		return d.String() + " ulp"
	case OneIsNaN:
		return "one is NaN"
	}
	return "another value"
}

// more tells whether d is worse.
func (d Distance) more(than Distance) bool {
	return d.Kind > than.Kind || (d.Kind == than.Kind && d.ULP > than.ULP)
}

// Add compares the elements of some rows: row-major and little-endian, as a .npy file holds them. Both must have whole
// rows and be equally long.
func (c *Comparison) Add(want, got []byte) error {
	if c.size == 0 {
		if c.size, c.columns = sizeOf(c.Type), 1; c.size == 0 {
			return fmt.Errorf("exact: element type %q", c.Type)
		}
		for _, d := range c.Shape {
			c.columns *= d
		}
	}
	row := c.size * c.columns
	if len(want) != len(got) || row == 0 || len(want)%row != 0 {
		return fmt.Errorf("exact: %d bytes expected, %d came, a row has %d", len(want), len(got), row)
	}
	for ; len(want) > 0; want, got = want[row:], got[row:] {
		if !bytes.Equal(want[:row], got[:row]) {
			c.compare(want[:row], got[:row])
		}
		c.Rows++
	}
	return nil
}

// compare looks at the elements of one row.
func (c *Comparison) compare(want, got []byte) {
	differs := false
	within := c.tolerated(want)
	for i := range c.columns {
		w, g := want[i*c.size:(i+1)*c.size], got[i*c.size:(i+1)*c.size]
		d := distance(c.Type, w, g)
		if d.more(c.Largest) {
			c.Largest = d
		}
		if d.Kind == Equal || (d.Kind <= Apart && c.MaxULP > 0 && d.ULP <= c.MaxULP) {
			continue
		}
		if within != nil && d.Kind <= Apart && within(w, g) {
			continue
		}
		differs = true
		if c.Each != nil {
			c.Each(Difference{Row: c.Rows, Index: c.index(i), Want: Format(c.Type, w), Got: Format(c.Type, g), Distance: d, Magnitude: d.String()})
		}
	}
	if differs {
		c.Differing++
	}
}

// tolerated tells of two floats of a row whether they are within Tolerance. Nil: there is none.
func (c *Comparison) tolerated(want []byte) func(want, got []byte) bool {
	if c.Tolerance <= 0 || c.Type[0] != 'f' {
		return nil
	}
	largest := 0.0
	for i := range c.columns {
		largest = max(largest, math.Abs(float(want[i*c.size:(i+1)*c.size])))
	}
	return func(want, got []byte) bool {
		d := math.Abs(float(want) - float(got))
		if largest > 0 {
			d /= largest
		}
		c.Relative = max(c.Relative, d)
		return d <= c.Tolerance
	}
}

// index is the place of element i in its row.
func (c *Comparison) index(i int) []int {
	if len(c.Shape) == 0 {
		return nil
	}
	out := make([]int, len(c.Shape))
	for k := len(out) - 1; k >= 0; k-- {
		out[k] = i % c.Shape[k]
		i /= c.Shape[k]
	}
	return out
}

// sizeOf is the number of bytes of an element, 0 for no type.
func sizeOf(kind string) int {
	if len(kind) < 2 {
		return 0
	}
	n, err := strconv.Atoi(kind[1:])
	switch {
	case err != nil || n < 1:
		return 0
	case kind[0] == 'U':
		return 4 * n
	case n == 8 || n == 4 || (kind[0] != 'f' && (n == 2 || n == 1)):
		return n
	}
	return 0
}

// distance of two elements.
func distance(kind string, want, got []byte) Distance {
	if bytes.Equal(want, got) {
		return Distance{}
	}
	if kind[0] != 'f' {
		return Distance{Kind: Unlike}
	}
	w, g := float(want), float(got)
	switch {
	case w != w && g != g:
		return Distance{}
	case w != w || g != g:
		return Distance{Kind: OneIsNaN}
	}
	a, b := ordinal(want), ordinal(got)
	if a.negative != b.negative {
		if n := a.size + b.size; n > 0 {
			return Distance{Apart, n}
		}
		return Distance{Kind: ZeroSign}
	}
	return Distance{Apart, max(a.size, b.size) - min(a.size, b.size)}
}

// ordinals of neighbouring floats differ by one; both zeros have the size 0.
type ordinals struct {
	negative bool
	size     uint64
}

func ordinal(b []byte) ordinals {
	if len(b) == 4 {
		v := binary.LittleEndian.Uint32(b)
		return ordinals{v>>31 == 1, uint64(v &^ (1 << 31))}
	}
	v := binary.LittleEndian.Uint64(b)
	return ordinals{v>>63 == 1, v &^ (1 << 63)}
}

func float(b []byte) float64 {
	if len(b) == 4 {
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b))
}

// Format writes an element of a type in as few digits as tell it from its neighbours; strings in quotes.
func Format(kind string, b []byte) string {
	switch kind[0] {
	case 'f':
		return strconv.FormatFloat(float(b), 'g', -1, 8*len(b))
	case 'b':
		return strconv.FormatBool(b[0] != 0)
	case 'U':
		var s strings.Builder
		end := len(b)
		for end > 0 && binary.LittleEndian.Uint32(b[end-4:]) == 0 {
			end -= 4 // NumPy fills up with zeros
		}
		for i := 0; i < end; i += 4 {
			r := rune(binary.LittleEndian.Uint32(b[i:]))
			if !utf8.ValidRune(r) {
				r = utf8.RuneError
			}
			s.WriteRune(r)
		}
		return strconv.Quote(s.String())
	}
	var whole [8]byte
	copy(whole[:], b)
	v := binary.LittleEndian.Uint64(whole[:])
	if kind[0] == 'u' {
		return strconv.FormatUint(v, 10)
	}
	shift := 64 - 8*len(b)
	return strconv.FormatInt(int64(v<<shift)>>shift, 10)
}
