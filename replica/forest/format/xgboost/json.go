package xgboost

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// jsonReader reads a JSON text into objects and lists. Arrays of numbers stay text: they are most of a model, and what
// a number is rounded to depends on what it is.
type jsonReader struct {
	data []byte
	at   int
}

func readJSON(data []byte) (object, error) {
	r := &jsonReader{data: data}
	v, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if r.space(); r.at < len(data) {
		return nil, fmt.Errorf("%w: byte %d: something follows the end of the document", ErrMalformed, r.at)
	}
	o, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("%w: it is %s, expected an object", ErrMalformed, describe(v))
	}
	return o, nil
}

func (r *jsonReader) space() {
	for r.at < len(r.data) {
		switch r.data[r.at] {
		case ' ', '\t', '\r', '\n':
			r.at++
		default:
			return
		}
	}
}

func (r *jsonReader) fail(expected string) error {
	if r.at >= len(r.data) {
		return fmt.Errorf("%w: it ends at byte %d, expected %s", ErrMalformed, r.at, expected)
	}
	return fmt.Errorf("%w: byte %d is %q, expected %s", ErrMalformed, r.at, r.data[r.at], expected)
}

// next skips space and tells whether c comes, which it takes.
func (r *jsonReader) next(c byte) bool {
	r.space()
	if r.at < len(r.data) && r.data[r.at] == c {
		r.at++
		return true
	}
	return false
}

func (r *jsonReader) value(depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%w: byte %d: nested deeper than %d", ErrMalformed, r.at, maxNesting)
	}
	r.space()
	if r.at >= len(r.data) {
		return nil, r.fail("a value")
	}
	switch c := r.data[r.at]; {
	case c == '{':
		r.at++
		return r.object(depth)
	case c == '[':
		r.at++
		return r.array(depth)
	case c == '"':
		return r.text()
	case number1(c):
		return r.number(), nil
	}
	for _, w := range words {
		if n := r.at + len(w.text); n <= len(r.data) && string(r.data[r.at:n]) == w.text {
			r.at = n
			return w.value, nil
		}
	}
	return nil, r.fail("a value")
}

// words are the values that are spelt out.
var words = []struct {
	text  string
	value any
}{{"true", true}, {"false", false}, {"null", nil}}

// number1 tells whether a number can begin with c. XGBoost also writes NaN, Infinity and -Infinity.
func number1(c byte) bool { return c == '-' || (c >= '0' && c <= '9') || c == 'N' || c == 'I' }

// number takes the text of a number; whether it is one shows when it is parsed.
func (r *jsonReader) number() number {
	from := r.at
	for r.at < len(r.data) {
		c := r.data[r.at]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '+' || c == '.') {
			break
		}
		r.at++
	}
	return number{text: r.data[from:r.at]}
}

func (r *jsonReader) object(depth int) (any, error) {
	o := object{}
	if r.next('}') {
		return o, nil
	}
	for {
		if r.space(); r.at >= len(r.data) || r.data[r.at] != '"' {
			return nil, r.fail("a key")
		}
		key, err := r.text()
		if err != nil {
			return nil, err
		}
		if !r.next(':') {
			return nil, r.fail("a colon")
		}
		if _, twice := o[key]; twice {
			return nil, fmt.Errorf("%w: byte %d: key %.40q is there twice", ErrMalformed, r.at, key)
		}
		if o[key], err = r.value(depth + 1); err != nil {
			return nil, err
		}
		if r.next('}') {
			return o, nil
		}
		if !r.next(',') {
			return nil, r.fail("a comma or }")
		}
	}
}

func (r *jsonReader) array(depth int) (any, error) {
	if r.next(']') {
		return list{}, nil
	}
	if r.at < len(r.data) && number1(r.data[r.at]) {
		return r.numbers()
	}
	var l list
	for {
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		l = append(l, v)
		if r.next(']') {
			return l, nil
		}
		if !r.next(',') {
			return nil, r.fail("a comma or ]")
		}
	}
}

func (r *jsonReader) numbers() (any, error) {
	from := r.at
	for {
		if len(r.number().text) == 0 {
			return nil, r.fail("a number")
		}
		if r.next(']') {
			return numbers(r.data[from : r.at-1]), nil
		}
		if !r.next(',') {
			return nil, r.fail("a comma or ]")
		}
		r.space()
	}
}

func (r *jsonReader) text() (string, error) {
	from := r.at
	for r.at++; r.at < len(r.data); r.at++ {
		switch r.data[r.at] {
		case '\\':
			r.at++
		case '"':
			r.at++
			return unquote(r.data[from:r.at], from)
		}
	}
	return "", r.fail("the end of a string")
}

func unquote(quoted []byte, at int) (string, error) {
	if !utf8.Valid(quoted) {
		return "", fmt.Errorf("%w: byte %d: a string that is not UTF-8", ErrMalformed, at)
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return "", fmt.Errorf("%w: byte %d: %w", ErrMalformed, at, err)
	}
	return s, nil
}
