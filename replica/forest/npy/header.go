package npy

import (
	"fmt"
	"strconv"
	"strings"
)

// parseHeader reads the header's text: the literal of a Python dict with the keys descr, fortran_order and shape,
// each once, in any order. Nothing else of Python is understood.
func parseHeader(text string) (*Header, error) {
	var h Header
	p := literal{text}
	if why := p.header(&h); why != "" {
		return nil, fmt.Errorf("%w: header %.100q: %s", ErrFormat, text, why)
	}
	return &h, nil
}

// literal is the rest of a text.
type literal struct{ rest string }

// header reads the dict, and says what is wrong with it.
func (p *literal) header(h *Header) (why string) {
	if !p.eat("{") {
		return "it is no dict"
	}
	seen := map[string]bool{}
	for !p.eat("}") {
		if len(seen) > 0 && !p.eat(",") {
			return "a comma or the end is missing"
		}
		if p.eat("}") {
			break
		}
		key, ok := p.quoted()
		if !ok || seen[key] || !p.eat(":") {
			return "a key is wrong"
		}
		seen[key] = true
		switch key {
		case "descr":
			descr, ok := p.quoted()
			if !ok || !h.setType(descr) {
				return "descr is no type of plain numbers or strings"
			}
		case "fortran_order":
			if h.Fortran = p.eat("True"); !h.Fortran && !p.eat("False") {
				return "fortran_order is neither True nor False"
			}
		case "shape":
			if why := p.shape(h); why != "" {
				return why
			}
		default:
			return "unknown key " + strconv.Quote(key)
		}
	}
	if strings.TrimRight(p.rest, " \n") != "" {
		return "something follows the dict"
	}
	if len(seen) != 3 {
		return "descr, fortran_order and shape are needed"
	}
	return ""
}

// shape reads a tuple of sizes. A tuple of one has a comma behind it.
func (p *literal) shape(h *Header) (why string) {
	const wrong = "shape is no tuple of one size or more"
	if !p.eat("(") {
		return wrong
	}
	cells := 1
	for !p.eat(")") {
		n, ok := p.size()
		if !ok || len(h.Shape) == maxDims {
			return wrong
		}
		if n > 0 && cells > maxCells/n {
			return "the array is too large"
		}
		cells *= max(n, 1)
		h.Shape = append(h.Shape, n)
		if !p.eat(",") {
			if len(h.Shape) < 2 || !p.eat(")") {
				return wrong
			}
			break
		}
	}
	if len(h.Shape) == 0 {
		return wrong
	}
	return ""
}

// eat takes s, and the spaces before it, if it comes next.
func (p *literal) eat(s string) bool {
	rest, ok := strings.CutPrefix(strings.TrimLeft(p.rest, " "), s)
	if ok {
		p.rest = rest
	}
	return ok
}

// quoted takes a string in single or double quotes. There are no escapes.
func (p *literal) quoted() (string, bool) {
	for _, quote := range []string{"'", `"`} {
		if p.eat(quote) {
			s, rest, ok := strings.Cut(p.rest, quote)
			p.rest = rest
			return s, ok && !strings.ContainsAny(s, "\\\n")
		}
	}
	return "", false
}

// size takes a number without a sign.
func (p *literal) size() (int, bool) {
	s := strings.TrimLeft(p.rest, " ")
	digits := s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
	n, err := strconv.ParseUint(digits, 10, 48)
	if err != nil || (len(digits) > 1 && digits[0] == '0') {
		return 0, false
	}
	p.rest = s[len(digits):]
	return int(n), true
}
