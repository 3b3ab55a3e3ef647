package pickle

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"unicode/utf8"
)

// ofFormat tells whether a name is one of the helpers with which the old protocols spell plain values.
func ofFormat(g Global) bool {
	switch g.Module {
	case "_codecs":
		return g.Name == "encode"
	case "copy_reg", "copyreg":
		return g.Name == "_reconstructor"
	case "__builtin__", "builtins":
		return g.Name == "object" || g.Name == "bytes"
	}
	return false
}

// helper gives the value that a helper's call spells, and what it takes.
func helper(g Global, args Tuple) (v any, cost int64, err error) {
	switch g.Name {
	case "encode":
		// Protocols 0 to 2 have no bytes: they say "text, encoded as latin1", one character a byte.
		if len(args) != 2 {
			return nil, 0, fmt.Errorf("%s with %d arguments", g, len(args))
		}
		text, ok := args[0].(string)
		if codec, _ := args[1].(string); !ok || (codec != "latin1" && codec != "latin-1") {
			return nil, 0, fmt.Errorf("%s of %s as %s, only text as latin1 is read", g, Describe(args[0]), Describe(args[1]))
		}
		b := make([]byte, 0, len(text))
		for _, r := range text {
			if r > 0xff {
				return nil, 0, fmt.Errorf("%s: %q is not in latin1", g, r)
			}
			b = append(b, byte(r))
		}
		return b, costString + int64(len(text)), nil
	case "bytes":
		if len(args) != 0 {
			return nil, 0, fmt.Errorf("%s with %d arguments, only the empty one is read", g, len(args))
		}
		return []byte{}, costString, nil
	case "_reconstructor":
		// Protocols 0 and 1 make an instance of a class by (class, base, state of the base).
		if len(args) != 3 {
			return nil, 0, fmt.Errorf("%s with %d arguments", g, len(args))
		}
		class, ok := args[0].(Global)
		base, ok2 := args[1].(Global)
		if !ok || !ok2 || ofFormat(class) || base.Name != "object" || !ofFormat(base) || args[2] != nil {
			return nil, 0, fmt.Errorf("%s of %s over %s", g, Describe(args[0]), Describe(args[1]))
		}
		return &Object{Class: class}, costObject, nil
	}
	return nil, 0, fmt.Errorf("%s is called, which only names a base", g)
}

// rawUnicode decodes Python's raw-unicode-escape, in which protocol 0 writes text: latin1, with \uXXXX
// and \UXXXXXXXX for all else. The writer escapes the backslash too, so that each one begins an escape.
func rawUnicode(b []byte) (string, error) {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); {
		if b[i] != '\\' {
			out = utf8.AppendRune(out, rune(b[i]))
			i++
			continue
		}
		n := 0
		if i+1 < len(b) {
			switch b[i+1] {
			case 'u':
				n = 4
			case 'U':
				n = 8
			}
		}
		if n == 0 || i+2+n > len(b) {
			return "", errors.New("a backslash that begins no escape")
		}
		r, err := strconv.ParseUint(string(b[i+2:i+2+n]), 16, 32)
		if err != nil || r > utf8.MaxRune {
			return "", fmt.Errorf("%q is no character", b[i:i+2+n])
		}
		// A lone surrogate becomes U+FFFD, as no text of a model needs one.
		out = utf8.AppendRune(out, rune(r))
		i += 2 + n
	}
	return string(out), nil
}

// unquote decodes a Python 2 string as its repr spells it, in quotes of either kind.
func unquote(b []byte) ([]byte, error) {
	if len(b) < 2 || b[0] != '\'' && b[0] != '"' || b[len(b)-1] != b[0] {
		return nil, errors.New("a string that is not in quotes")
	}
	b = b[1 : len(b)-1]
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			out = append(out, b[i])
			continue
		}
		i++
		if i == len(b) {
			return nil, errors.New("a backslash that begins no escape")
		}
		switch c := b[i]; c {
		case '\\', '\'', '"':
			out = append(out, c)
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'x':
			if i+2 >= len(b) {
				return nil, errors.New("a backslash that begins no escape")
			}
			v, err := strconv.ParseUint(string(b[i+1:i+3]), 16, 8)
			if err != nil {
				return nil, fmt.Errorf("%q is no character", b[i-1:i+3])
			}
			out = append(out, byte(v))
			i += 2
		default: // repr writes no others
			return nil, fmt.Errorf("%q is no escape", b[i-1:i+1])
		}
	}
	return out, nil
}

// Describe says in a few words what a value is, for errors.
func Describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case int64:
		return "the integer " + strconv.FormatInt(v, 10)
	case *big.Int:
		return "an integer beyond 64 bits"
	case float64:
		return "a float"
	case string:
		if len(v) > 40 {
			return "a string"
		}
		return strconv.Quote(v)
	case []byte:
		return "bytes"
	case Tuple:
		return "a tuple"
	case *List:
		return "a list"
	case *Dict:
		return "a dict"
	case *Set:
		return "a set"
	case Global:
		return "the name " + v.String()
	case *Object:
		return "an object of " + v.Class.String()
	}
	return fmt.Sprintf("%T", v)
}
