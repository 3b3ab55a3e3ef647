package xgboost

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// ubjsonReader reads UBJSON, draft 12, as far as XGBoost writes it.
type ubjsonReader struct {
	data []byte
	at   int
}

// sizes are those of the numbers by their marker.
var sizes = map[byte]int{'i': 1, 'U': 1, 'I': 2, 'l': 4, 'L': 8, 'd': 4, 'D': 8}

// value is the big-endian number with which b begins.
func value(kind byte, b []byte) float64 {
	switch kind {
	case 'i':
		return float64(int8(b[0]))
	case 'U':
		return float64(b[0])
	case 'I':
		return float64(int16(binary.BigEndian.Uint16(b)))
	case 'l':
		return float64(int32(binary.BigEndian.Uint32(b)))
	case 'L':
		return float64(int64(binary.BigEndian.Uint64(b)))
	case 'd':
		return float64(math.Float32frombits(binary.BigEndian.Uint32(b)))
	}
	return math.Float64frombits(binary.BigEndian.Uint64(b))
}

func readUBJSON(data []byte) (object, error) {
	r := &ubjsonReader{data: data}
	v, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if r.at < len(data) {
		return nil, fmt.Errorf("%w: byte %d: something follows the end of the document", ErrMalformed, r.at)
	}
	o, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("%w: it is %s, expected an object", ErrMalformed, describe(v))
	}
	return o, nil
}

// take gives the next n bytes.
func (r *ubjsonReader) take(n uint64, of string) ([]byte, error) {
	if left := uint64(len(r.data) - r.at); n > left {
		return nil, fmt.Errorf("%w: byte %d: %s has %d bytes, the file has %d more", ErrMalformed, r.at, of, n, left)
	}
	b := r.data[r.at : r.at+int(n)]
	r.at += int(n)
	return b, nil
}

func (r *ubjsonReader) marker() (byte, error) {
	for {
		b, err := r.take(1, "a marker")
		if err != nil {
			return 0, err
		}
		if b[0] != 'N' { // no-op
			return b[0], nil
		}
	}
}

// length reads a number of bytes or elements.
func (r *ubjsonReader) length() (uint64, error) {
	at := r.at
	kind, err := r.marker()
	if err != nil {
		return 0, err
	}
	n, ok := sizes[kind]
	if !ok || kind == 'd' || kind == 'D' {
		return 0, fmt.Errorf("%w: byte %d is %q, expected the type of a length", ErrMalformed, at, kind)
	}
	b, err := r.take(uint64(n), "a length")
	if err != nil {
		return 0, err
	}
	v := value(kind, b)
	if v < 0 || v > math.MaxInt64/16 {
		return 0, fmt.Errorf("%w: byte %d: a length of %v", ErrMalformed, at, v)
	}
	return uint64(v), nil
}

func (r *ubjsonReader) text() (string, error) {
	at := r.at
	n, err := r.length()
	if err != nil {
		return "", err
	}
	b, err := r.take(n, "a string")
	if err == nil && !utf8.Valid(b) {
		err = fmt.Errorf("%w: byte %d: a string that is not UTF-8", ErrMalformed, at)
	}
	return string(b), err
}

func (r *ubjsonReader) value(depth int) (any, error) {
	kind, err := r.marker()
	if err != nil {
		return nil, err
	}
	return r.of(kind, depth)
}

// of reads a value whose marker was read.
func (r *ubjsonReader) of(kind byte, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%w: byte %d: nested deeper than %d", ErrMalformed, r.at, maxNesting)
	}
	if n, ok := sizes[kind]; ok {
		b, err := r.take(uint64(n), "a number")
		if err != nil {
			return nil, err
		}
		return number{value: value(kind, b)}, nil
	}
	switch kind {
	case '{':
		return r.object(depth)
	case '[':
		return r.array(depth)
	case 'S':
		return r.text()
	case 'C':
		b, err := r.take(1, "a character")
		return string(b), err
	case 'T', 'F':
		return kind == 'T', nil
	case 'Z':
		return nil, nil
	}
	return nil, fmt.Errorf("%w: byte %d is %q, expected the type of a value", ErrMalformed, r.at-1, kind)
}

func (r *ubjsonReader) object(depth int) (any, error) {
	o := object{}
	for {
		if r.at < len(r.data) && r.data[r.at] == '}' {
			r.at++
			return o, nil
		}
		at := r.at
		key, err := r.text()
		if err != nil {
			return nil, err
		}
		if _, twice := o[key]; twice {
			return nil, fmt.Errorf("%w: byte %d: key %.40q is there twice", ErrMalformed, at, key)
		}
		if o[key], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
}

// array reads one that is counted and typed, counted, or ended by a bracket.
func (r *ubjsonReader) array(depth int) (any, error) {
	var kind byte
	if r.at < len(r.data) && r.data[r.at] == '$' {
		b, err := r.take(2, "the type of an array")
		if err != nil {
			return nil, err
		}
		// A value without bytes (Z, T, F) could be there any number of times.
		if kind = b[1]; sizes[kind] == 0 && !bytes.ContainsRune([]byte("{[SC"), rune(kind)) {
			return nil, fmt.Errorf("%w: byte %d is %q, expected the type of an array's values", ErrMalformed, r.at-1, kind)
		}
	}
	counted := r.at < len(r.data) && r.data[r.at] == '#'
	if kind != 0 && !counted {
		return nil, fmt.Errorf("%w: byte %d: a typed array without a count", ErrMalformed, r.at)
	}
	n := uint64(math.MaxUint64)
	if counted {
		r.at++
		var err error
		if n, err = r.length(); err != nil {
			return nil, err
		}
	}
	if size, ok := sizes[kind]; ok {
		b, err := r.take(n*uint64(size), "an array")
		return packed{kind, b}, err
	}
	if left := uint64(len(r.data) - r.at); counted && n > left {
		return nil, fmt.Errorf("%w: byte %d: an array of %d values, the file has %d more bytes", ErrMalformed, r.at, n, left)
	}
	return r.elements(kind, n, counted, depth)
}

// elements reads n values, or those up to a bracket. Integers become a packed array.
func (r *ubjsonReader) elements(kind byte, n uint64, counted bool, depth int) (any, error) {
	l := list{}
	var whole []byte // as 'L', while all are numbers
	count := uint64(0)
	for ; count < n; count++ {
		if !counted && r.at < len(r.data) && r.data[r.at] == ']' {
			r.at++
			break
		}
		k := kind
		if k == 0 {
			var err error
			if k, err = r.marker(); err != nil {
				return nil, err
			}
		}
		v, err := r.of(k, depth+1)
		if err != nil {
			return nil, err
		}
		if x, ok := v.(number); ok {
			whole = binary.BigEndian.AppendUint64(whole, math.Float64bits(x.value))
		} else {
			l = append(l, v)
		}
	}
	if len(whole) == 0 {
		return l, nil
	}
	if len(l) > 0 {
		return nil, fmt.Errorf("%w: byte %d: an array of numbers and of other values", ErrMalformed, r.at)
	}
	return packed{'D', whole}, nil
}
