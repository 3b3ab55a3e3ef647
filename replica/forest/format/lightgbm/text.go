package lightgbm

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// lines gives the lines of a file one after the other.
type lines struct {
	rest []byte
	n    int // of the line that was given last, from 1
}

// next gives the next line without its end.
func (l *lines) next() (line []byte, ok bool) {
	if len(l.rest) == 0 {
		return nil, false
	}
	line, l.rest, _ = bytes.Cut(l.rest, []byte{'\n'})
	l.n++
	return bytes.TrimSuffix(line, []byte{'\r'}), true
}

// section is a run of lines of the form key=value.
type section struct {
	name   string
	values map[string][]byte
	line   map[string]int
}

// read takes lines up to the first empty one, or to the end.
func (l *lines) read(name string) (*section, error) {
	s := &section{name: name, values: map[string][]byte{}, line: map[string]int{}}
	for {
		line, ok := l.next()
		if !ok || len(line) == 0 {
			return s, nil
		}
		key, value, _ := bytes.Cut(line, []byte{'='})
		if _, twice := s.values[string(key)]; twice {
			return nil, fmt.Errorf("%w: line %d: %s has %.40q twice", ErrMalformed, l.n, name, key)
		}
		s.values[string(key)], s.line[string(key)] = value, l.n
	}
}

func (s *section) has(key string) bool {
	_, ok := s.values[key]
	return ok
}

// fail is an error about the value of a key.
func (s *section) fail(key, format string, args ...any) error {
	return fmt.Errorf("%w: %s, line %d: %s %s", ErrMalformed, s.name, s.line[key], key, fmt.Sprintf(format, args...))
}

// text gives a value that must be there.
func (s *section) text(key string) ([]byte, error) {
	v, ok := s.values[key]
	if !ok {
		return nil, fmt.Errorf("%w: %s has no %s", ErrMalformed, s.name, key)
	}
	return v, nil
}

// int gives an integer from low to high.
func (s *section) int(key string, low, high int) (int, error) {
	v, err := s.text(key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(string(v))
	if err != nil || n < low || n > high {
		return 0, s.fail(key, "is %.40q, expected a number from %d to %d", v, low, high)
	}
	return n, nil
}

// array parses the n values of a key, which are separated by spaces.
func array[T any](s *section, key string, n int, parse func(string) (T, error)) ([]T, error) {
	v, err := s.text(key)
	if err != nil {
		return nil, err
	}
	var out []T
	for rest := v; ; {
		rest = bytes.TrimLeft(rest, " ")
		if len(rest) == 0 {
			break
		}
		var item []byte
		item, rest, _ = bytes.Cut(rest, []byte{' '})
		if len(out) == n {
			return nil, s.fail(key, "has more than %d values", n)
		}
		x, err := parse(string(item))
		if err != nil {
			return nil, s.fail(key, "has %.40q as value %d: %v", item, len(out), cause(err))
		}
		out = append(out, x)
	}
	if len(out) != n {
		return nil, s.fail(key, "has %d values, expected %d", len(out), n)
	}
	return out, nil
}

// cause is what strconv says without its name of the function.
func cause(err error) error {
	var e *strconv.NumError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (s *section) ints(key string, n int) ([]int, error) { return array(s, key, n, strconv.Atoi) }

// floats gives numbers, of which none is NaN.
func (s *section) floats(key string, n int) ([]float64, error) {
	return array(s, key, n, func(item string) (float64, error) {
		v, err := strconv.ParseFloat(item, 64)
		if math.IsInf(v, 0) {
			err = nil // what is too large is infinite, as strtod has it
		}
		if err == nil && math.IsNaN(v) {
			err = errors.New("not a number that can be compared")
		}
		return v, err
	})
}

func (s *section) words(key string, n int) ([]uint32, error) {
	return array(s, key, n, func(item string) (uint32, error) {
		v, err := strconv.ParseUint(item, 10, 32)
		return uint32(v), err
	})
}
