package xgboost

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
)

// maxNesting is how deep objects and arrays may lie in each other. XGBoost's own go about 8 deep.
const maxNesting = 64

// object is a JSON or UBJSON object. Its values are object, list, string, number, numbers, packed, bool or nil.
type object map[string]any

// list is an array of anything but numbers.
type list []any

// number is a number as the file has it: text of a JSON file, or a value of a UBJSON file.
type number struct {
	text  []byte // nil in UBJSON
	value float64
}

// numbers is the text of a JSON array of numbers, without its brackets. It is parsed when it is known as what.
type numbers []byte

// packed is a UBJSON array of numbers of one type.
type packed struct {
	kind byte   // their marker
	data []byte // big-endian
}

// field finds a value of an object. Its error names the path.
func field[T any](o object, path, key string) (T, error) {
	v, ok := o[key]
	if !ok {
		var zero T
		return zero, fmt.Errorf("%w: %s has no %q", ErrMalformed, path, key)
	}
	t, ok := v.(T)
	if !ok {
		return t, fmt.Errorf("%w: %s.%s is %s, expected %s", ErrMalformed, path, key, describe(v), describe(any(t)))
	}
	return t, nil
}

func describe(v any) string {
	switch v.(type) {
	case object:
		return "an object"
	case list:
		return "an array"
	case numbers, packed:
		return "an array of numbers"
	case string:
		return "a string"
	case number:
		return "a number"
	case bool:
		return "a boolean"
	}
	return "null"
}

// intText gives an integer that the file holds as a string, as XGBoost writes its parameters. Absent gives the default.
func intText(o object, path, key string, absent int) (int, error) {
	if _, ok := o[key]; !ok {
		return absent, nil
	}
	s, err := field[string](o, path, key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0, fmt.Errorf("%w: %s.%s is %.40q, expected a number from 0 to %d", ErrMalformed, path, key, s, math.MaxInt32)
	}
	return n, nil
}

// ints gives an array of integers.
func ints(o object, path, key string) ([]int32, error) {
	var out []int32
	add := func(v float64) bool {
		out = append(out, int32(v))
		return v >= math.MinInt32 && v <= math.MaxInt32 && v == math.Trunc(v)
	}
	err := each(o, path, key, 64, func(v float64) error {
		if !add(v) {
			return fmt.Errorf("%w: %s.%s has %v, expected integers", ErrMalformed, path, key, v)
		}
		return nil
	})
	return out, err
}

// floats gives an array of float32, each rounded once from what the file holds.
func floats(o object, path, key string) ([]float32, error) {
	var out []float32
	err := each(o, path, key, 32, func(v float64) error {
		out = append(out, float32(v))
		return nil
	})
	return out, err
}

// each calls f for every element of an array of numbers. Text is parsed with a precision of bits.
func each(o object, path, key string, bits int, f func(v float64) error) error {
	v, ok := o[key]
	if !ok {
		return fmt.Errorf("%w: %s has no %q", ErrMalformed, path, key)
	}
	switch v := v.(type) {
	case numbers:
		return eachText(v, path, key, bits, f)
	case packed:
		size := sizes[v.kind]
		for i := 0; i < len(v.data); i += size {
			if err := f(value(v.kind, v.data[i:])); err != nil {
				return err
			}
		}
		return nil
	case list:
		for _, b := range v { // booleans, as early versions wrote default_left
			x, ok := b.(bool)
			if !ok {
				return fmt.Errorf("%w: %s.%s has %s, expected numbers", ErrMalformed, path, key, describe(b))
			}
			n := 0.0
			if x {
				n = 1
			}
			if err := f(n); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%w: %s.%s is %s, expected an array of numbers", ErrMalformed, path, key, describe(v))
}

func eachText(v numbers, path, key string, bits int, f func(v float64) error) error {
	// Trimmed once: to look at all space behind the last number for each of them would take a time of size squared.
	for rest := bytes.TrimSpace(v); len(rest) > 0; {
		item, after, more := bytes.Cut(rest, []byte{','})
		rest = after
		x, err := strconv.ParseFloat(string(bytes.TrimSpace(item)), bits)
		if err != nil && !math.IsInf(x, 0) {
			return fmt.Errorf("%w: %s.%s has %.40q, expected a number", ErrMalformed, path, key, item)
		}
		if err := f(x); err != nil {
			return err
		}
		if more && len(rest) == 0 {
			return fmt.Errorf("%w: %s.%s ends in a comma", ErrMalformed, path, key)
		}
	}
	return nil
}

// strings gives an array of strings; absent is empty.
func strings(o object, path, key string) ([]string, error) {
	v, ok := o[key]
	if !ok {
		return nil, nil
	}
	if empty(v) {
		return nil, nil
	}
	l, ok := v.(list)
	if !ok {
		return nil, fmt.Errorf("%w: %s.%s is %s, expected an array of strings", ErrMalformed, path, key, describe(v))
	}
	out := make([]string, len(l))
	for i, s := range l {
		if out[i], ok = s.(string); !ok {
			return nil, fmt.Errorf("%w: %s.%s[%d] is %s, expected a string", ErrMalformed, path, key, i, describe(s))
		}
	}
	return out, nil
}

// empty tells whether a value is an array without elements, of whatever type.
func empty(v any) bool {
	switch v := v.(type) {
	case list:
		return len(v) == 0
	case numbers:
		return len(bytes.TrimSpace(v)) == 0
	case packed:
		return len(v.data) == 0
	}
	return false
}
