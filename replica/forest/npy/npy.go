// Package npy reads and writes arrays in NumPy's .npy format: versions 1 to 3, numbers, booleans and unicode
// strings, of one or two dimensions.
package npy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Errors of a reader.
var (
	// ErrFormat is wrapped by errors about bytes that are not a .npy file that this package reads.
	ErrFormat = errors.New("not a .npy file of one or two dimensions of numbers")
	// ErrType is wrapped by the error about an array of another type than was asked for.
	ErrType = errors.New("wrong element type")
)

const (
	magic = "\x93NUMPY"
	// maxHeader bounds the header, and maxCells what an array can claim before a byte of it was read.
	maxHeader = 64 << 10
	maxCells  = 1 << 40
)

// Header says what an array is.
type Header struct {
	// Type is the element type without its byte order, such as "f4", "f8", "i8", "b1" or "U3".
	Type string
	// BigEndian is the byte order of the elements.
	BigEndian bool
	// Fortran means that columns, not rows, lie together.
	Fortran bool
	// Shape has one or two dimensions.
	Shape []int
}

// Rows and Columns are the shape as a matrix; one dimension is one row a value.
func (h *Header) Rows() int { return h.Shape[0] }

// Columns is the number of values in a row.
func (h *Header) Columns() int {
	if len(h.Shape) == 1 {
		return 1
	}
	return h.Shape[1]
}

// size is the number of bytes of an element.
func (h *Header) size() int {
	n, _ := strconv.Atoi(h.Type[1:])
	if h.Type[0] == 'U' {
		return 4 * n
	}
	return n
}

// ReadHeader reads the beginning of a file, up to its first element.
func ReadHeader(r io.Reader) (*Header, error) {
	var pre [10]byte
	if _, err := io.ReadFull(r, pre[:]); err != nil {
		return nil, fmt.Errorf("%w: it ends in its first 10 bytes", ErrFormat)
	}
	if string(pre[:6]) != magic {
		return nil, fmt.Errorf("%w: it does not begin with \\x93NUMPY", ErrFormat)
	}
	n := int(binary.LittleEndian.Uint16(pre[8:]))
	switch pre[6] {
	case 1:
	case 2, 3:
		var more [2]byte
		if _, err := io.ReadFull(r, more[:]); err != nil {
			return nil, fmt.Errorf("%w: it ends in its header", ErrFormat)
		}
		n |= int(binary.LittleEndian.Uint16(more[:])) << 16
	default:
		return nil, fmt.Errorf("%w: its version is %d, 1 to 3 are read", ErrFormat, pre[6])
	}
	if n > maxHeader {
		return nil, fmt.Errorf("%w: a header of %d bytes, at most %d are read", ErrFormat, n, maxHeader)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, fmt.Errorf("%w: it ends in its header", ErrFormat)
	}
	return parseHeader(string(text))
}

// parseHeader reads the literal of a Python dict that a header is, as NumPy writes it.
func parseHeader(text string) (*Header, error) {
	bad := func(what string) (*Header, error) {
		return nil, fmt.Errorf("%w: header %.100q: %s", ErrFormat, text, what)
	}
	body := strings.TrimSpace(text)
	if !strings.HasPrefix(body, "{") || !strings.HasSuffix(body, "}") {
		return bad("it is no dict")
	}
	body = body[1 : len(body)-1]
	var h Header
	seen := map[string]bool{}
	for {
		body = strings.TrimLeft(body, " ,\n")
		if body == "" {
			break
		}
		key, rest, ok := quoted(body)
		if !ok || seen[key] {
			return bad("a key is wrong")
		}
		seen[key] = true
		rest = strings.TrimLeft(rest, " ")
		if !strings.HasPrefix(rest, ":") {
			return bad("a key has no value")
		}
		rest = strings.TrimLeft(rest[1:], " ")
		switch key {
		case "descr":
			var d string
			if d, rest, ok = quoted(rest); !ok || !h.setType(d) {
				return bad("descr is no type of plain numbers or strings")
			}
		case "fortran_order":
			switch {
			case strings.HasPrefix(rest, "True"):
				h.Fortran, rest = true, rest[4:]
			case strings.HasPrefix(rest, "False"):
				rest = rest[5:]
			default:
				return bad("fortran_order is neither True nor False")
			}
		case "shape":
			end := strings.IndexByte(rest, ')')
			if !strings.HasPrefix(rest, "(") || end < 0 {
				return bad("shape is no tuple")
			}
			cells := 1
			for _, d := range strings.Split(strings.TrimSuffix(strings.TrimSpace(rest[1:end]), ","), ",") {
				n, err := strconv.ParseUint(strings.TrimSpace(d), 10, 48)
				if err != nil {
					return bad("shape is no tuple of one or two sizes")
				}
				if n > 0 && cells > maxCells/int(n) {
					return bad("the array is too large")
				}
				cells *= max(int(n), 1)
				h.Shape = append(h.Shape, int(n))
			}
			rest = rest[end+1:]
		default:
			return bad("unknown key " + strconv.Quote(key))
		}
		body = rest
	}
	if h.Type == "" || !seen["fortran_order"] || len(h.Shape) < 1 || len(h.Shape) > 2 {
		return bad("descr, fortran_order and a shape of one or two dimensions are needed")
	}
	return &h, nil
}

func quoted(s string) (value, rest string, ok bool) {
	if s == "" || (s[0] != '\'' && s[0] != '"') {
		return "", s, false
	}
	end := strings.IndexByte(s[1:], s[0])
	if end < 0 {
		return "", s, false
	}
	return s[1 : end+1], s[end+2:], true
}

// setType takes a type such as "<f4".
func (h *Header) setType(descr string) bool {
	if len(descr) < 3 || !strings.ContainsRune("<>|=", rune(descr[0])) {
		return false
	}
	h.BigEndian = descr[0] == '>'
	switch t := descr[1:]; t {
	case "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1":
		h.Type = t
		return true
	default:
		n, err := strconv.Atoi(t[1:])
		if t[0] != 'U' || err != nil || n < 1 || n > 1<<16 {
			return false
		}
		h.Type = "U" + strconv.Itoa(n)
		return true
	}
}

// Array is a file's content. Exactly one of its slices is set, by the type.
type Array struct {
	Header
	Float32 []float32 // f4
	Float64 []float64 // f8
	Int64   []int64   // all integers and booleans; u8 above the largest int64 is refused
	Strings []string  // U
}

// Read reads a whole array into row-major slices. It allocates as the bytes come, not as the header claims.
func Read(r io.Reader) (*Array, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	h, err := ReadHeader(br)
	if err != nil {
		return nil, err
	}
	a := &Array{Header: *h}
	cells := h.Rows() * h.Columns()
	size := h.size()
	order := binary.ByteOrder(binary.LittleEndian)
	if h.BigEndian {
		order = binary.BigEndian
	}
	element := make([]byte, size)
	for i := range cells {
		if _, err := io.ReadFull(br, element); err != nil {
			return nil, fmt.Errorf("%w: it ends after %d of %d values", ErrFormat, i, cells)
		}
		if err := a.add(element, order); err != nil {
			return nil, fmt.Errorf("%w: value %d: %w", ErrFormat, i, err)
		}
	}
	if _, err := br.ReadByte(); err == nil {
		return nil, fmt.Errorf("%w: something follows its %d values", ErrFormat, cells)
	}
	if h.Fortran && len(h.Shape) == 2 {
		a.Float32 = transpose(a.Float32, h.Shape[0], h.Shape[1])
		a.Float64 = transpose(a.Float64, h.Shape[0], h.Shape[1])
		a.Int64 = transpose(a.Int64, h.Shape[0], h.Shape[1])
		a.Strings = transpose(a.Strings, h.Shape[0], h.Shape[1])
	}
	return a, nil
}

func (a *Array) add(b []byte, order binary.ByteOrder) error {
	switch a.Type {
	case "f4":
		a.Float32 = append(a.Float32, math.Float32frombits(order.Uint32(b)))
	case "f8":
		a.Float64 = append(a.Float64, math.Float64frombits(order.Uint64(b)))
	case "i1":
		a.Int64 = append(a.Int64, int64(int8(b[0])))
	case "u1", "b1":
		a.Int64 = append(a.Int64, int64(b[0]))
	case "i2":
		a.Int64 = append(a.Int64, int64(int16(order.Uint16(b))))
	case "u2":
		a.Int64 = append(a.Int64, int64(order.Uint16(b)))
	case "i4":
		a.Int64 = append(a.Int64, int64(int32(order.Uint32(b))))
	case "u4":
		a.Int64 = append(a.Int64, int64(order.Uint32(b)))
	case "i8":
		a.Int64 = append(a.Int64, int64(order.Uint64(b)))
	case "u8":
		v := order.Uint64(b)
		if v > math.MaxInt64 {
			return fmt.Errorf("%d is too large", v)
		}
		a.Int64 = append(a.Int64, int64(v))
	default: // U
		var s []byte
		for i := 0; i < len(b); i += 4 {
			c := order.Uint32(b[i:])
			if c == 0 {
				break
			}
			if c > utf8.MaxRune || !utf8.ValidRune(rune(c)) {
				return fmt.Errorf("%#x is no character", c)
			}
			s = utf8.AppendRune(s, rune(c))
		}
		a.Strings = append(a.Strings, string(s))
	}
	return nil
}

// transpose makes columns of rows values each into rows.
func transpose[T any](v []T, rows, columns int) []T {
	if v == nil {
		return nil
	}
	out := make([]T, len(v))
	for i := range rows {
		for j := range columns {
			out[i*columns+j] = v[j*rows+i]
		}
	}
	return out
}

// number is what Write takes.
type number interface{ float32 | float64 | int64 }

// Write writes a row-major array of one or two dimensions.
func Write[T number](w io.Writer, v []T, shape ...int) error {
	descr := "<f8"
	switch any(v).(type) {
	case []float32:
		descr = "<f4"
	case []int64:
		descr = "<i8"
	}
	if err := writeHeader(w, descr, len(v), shape); err != nil {
		return err
	}
	buf := make([]byte, 0, 1<<16)
	for len(v) > 0 {
		n := min(len(v), 8<<10)
		var err error
		if buf, err = binary.Append(buf[:0], binary.LittleEndian, v[:n]); err != nil {
			return err
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
		v = v[n:]
	}
	return nil
}

// WriteBools writes an array of booleans.
func WriteBools(w io.Writer, v []bool, shape ...int) error {
	if err := writeHeader(w, "|b1", len(v), shape); err != nil {
		return err
	}
	b := make([]byte, len(v))
	for i, x := range v {
		if x {
			b[i] = 1
		}
	}
	_, err := w.Write(b)
	return err
}

// WriteStrings writes an array of unicode strings, as wide as the longest.
func WriteStrings(w io.Writer, v []string, shape ...int) error {
	width := 1
	for _, s := range v {
		width = max(width, utf8.RuneCountInString(s))
	}
	if err := writeHeader(w, "<U"+strconv.Itoa(width), len(v), shape); err != nil {
		return err
	}
	cell := make([]byte, 0, 4*width)
	for _, s := range v {
		cell = cell[:0]
		for _, c := range s {
			cell = binary.LittleEndian.AppendUint32(cell, uint32(c))
		}
		cell = append(cell, make([]byte, 4*width-len(cell))...)
		if _, err := w.Write(cell); err != nil {
			return err
		}
	}
	return nil
}

func writeHeader(w io.Writer, descr string, n int, shape []int) error {
	cells := 1
	var dims strings.Builder
	for i, d := range shape {
		cells *= d
		if i > 0 {
			dims.WriteString(", ")
		}
		dims.WriteString(strconv.Itoa(d))
	}
	if len(shape) == 1 {
		dims.WriteString(",")
	}
	if cells != n || len(shape) < 1 || len(shape) > 2 {
		return fmt.Errorf("npy: shape %v of %d values", shape, n)
	}
	text := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, dims.String())
	// The elements begin at a multiple of 64 bytes.
	text += strings.Repeat(" ", 63-(len(magic)+4+len(text))%64) + "\n"
	var b bytes.Buffer
	b.WriteString(magic + "\x01\x00")
	b.Write(binary.LittleEndian.AppendUint16(nil, uint16(len(text))))
	b.WriteString(text)
	_, err := w.Write(b.Bytes())
	return err
}
