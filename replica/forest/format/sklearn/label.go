package sklearn

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
)

// texts gives the items of a one-dimensional array as Python's str would spell them, and what kind of
// value they are: int, float, bool or string. An array of objects may hold strings only, since
// scikit-learn takes no other objects as labels or names.
func texts(a *array) (items []string, kind string, err error) {
	if len(a.shape) != 1 {
		return nil, "", fmt.Errorf("%w: an array of labels or names has %d dimensions", ErrMalformed, len(a.shape))
	}
	var spell func(i int) (string, error)
	switch t := a.dtype; t.kind {
	case 'b':
		kind = "bool"
		spell = func(i int) (string, error) {
			if a.item(i)[0] != 0 {
				return "True", nil
			}
			return "False", nil
		}
	case 'i':
		kind = "int"
		spell = func(i int) (string, error) { return strconv.FormatInt(t.int(a.item(i)), 10), nil }
	case 'u':
		kind = "int"
		spell = func(i int) (string, error) { return strconv.FormatUint(t.uint(a.item(i)), 10), nil }
	case 'f':
		if t.size < 4 {
			return nil, "", fmt.Errorf("%w: labels of type %s", ErrUnsupported, t)
		}
		kind = "float"
		spell = func(i int) (string, error) { return pythonFloat(t.float(a.item(i)), 8*t.size), nil }
	case 'U':
		kind = "string"
		spell = func(i int) (string, error) { return unicodeItem(t, a.item(i)) }
	case 'O':
		kind = "string"
		spell = func(i int) (string, error) { return object(a.objects[i]) }
	default:
		return nil, "", fmt.Errorf("%w: labels or names of type %s", ErrUnsupported, t)
	}
	items = make([]string, a.count)
	for i := range items {
		if items[i], err = spell(i); err != nil {
			return nil, "", err
		}
	}
	return items, kind, nil
}

// object spells a Python string, or a numpy one.
func object(v any) (string, error) {
	switch v := v.(type) {
	case string:
		if !utf8.ValidString(v) {
			return "", fmt.Errorf("%w: the label or name %q is not Unicode", ErrUnsupported, v)
		}
		return v, nil
	case *pickle.Object:
		t, b, err := parseScalar(v)
		if err != nil {
			return "", err
		}
		if t.kind == 'U' {
			return unicodeItem(t, b)
		}
	}
	return "", fmt.Errorf("%w: a label or name that is %s; among objects only strings are read", ErrUnsupported, pickle.Describe(v))
}

// unicodeItem reads numpy's fixed-width text: code points of 4 bytes, filled up with zeros.
func unicodeItem(t dtype, b []byte) (string, error) {
	one := dtype{kind: 'u', size: 4, big: t.big}
	for len(b) >= 4 && one.uint(b[len(b)-4:]) == 0 {
		b = b[:len(b)-4]
	}
	var s strings.Builder
	for ; len(b) >= 4; b = b[4:] {
		r := one.uint(b)
		if r > utf8.MaxRune || !utf8.ValidRune(rune(r)) {
			return "", fmt.Errorf("%w: a label or name with the code point %#x", ErrUnsupported, r)
		}
		s.WriteRune(rune(r))
	}
	return s.String(), nil
}

// pythonFloat spells a number of 64 or 32 bits as Python's str does: the shortest digits that give it
// back, with an exponent below 1e-4 and from 1e16 on, and always with a point or an exponent. (The str of
// numpy's own float32 goes to an exponent earlier in some of its versions; labels keep to Python's rule.)
func pythonFloat(v float64, bitSize int) string {
	switch {
	case math.IsNaN(v):
		return "nan"
	case math.IsInf(v, 1):
		return "inf"
	case math.IsInf(v, -1):
		return "-inf"
	}
	if a := math.Abs(v); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(v, 'e', -1, bitSize)
	}
	s := strconv.FormatFloat(v, 'f', -1, bitSize)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
