// Package npy reads and writes arrays in NumPy's .npy format: versions 1 to 3, numbers, booleans and unicode
// strings, of one or two dimensions.
package npy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
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
	// maxHeader bounds the header, maxCells what an array can claim before a byte of it was read, and maxString
	// the characters of a string.
	maxHeader = 64 << 10
	maxCells  = 1 << 40
	maxString = 1 << 16
	// pieceBytes is what is read at once.
	pieceBytes = 64 << 10
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
	if err := readFull(r, pre[:], "its first 10 bytes"); err != nil {
		return nil, err
	}
	if string(pre[:6]) != magic {
		return nil, fmt.Errorf("%w: it does not begin with \\x93NUMPY", ErrFormat)
	}
	n := int(binary.LittleEndian.Uint16(pre[8:]))
	switch pre[6] {
	case 1:
	case 2, 3:
		var more [2]byte
		if err := readFull(r, more[:], "its header"); err != nil {
			return nil, err
		}
		n |= int(binary.LittleEndian.Uint16(more[:])) << 16
	default:
		return nil, fmt.Errorf("%w: its version is %d, 1 to 3 are read", ErrFormat, pre[6])
	}
	if n > maxHeader {
		return nil, fmt.Errorf("%w: a header of %d bytes, at most %d are read", ErrFormat, n, maxHeader)
	}
	text := make([]byte, n)
	if err := readFull(r, text, "its header"); err != nil {
		return nil, err
	}
	return parseHeader(string(text))
}

// readFull fills b. The end of the file gives an error that wraps ErrFormat and says in what it came.
func readFull(r io.Reader, b []byte, in string) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends in %s", ErrFormat, in)
	}
	return err
}

// setType takes a type such as "<f4". Types of more than one byte must name their byte order.
func (h *Header) setType(descr string) bool {
	if len(descr) < 3 || !strings.ContainsRune("<>|", rune(descr[0])) {
		return false
	}
	h.BigEndian = descr[0] == '>'
	switch t := descr[1:]; t {
	case "i1", "u1", "b1":
		h.Type = t
		return true
	case "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8":
		h.Type = t
	default:
		n, err := strconv.Atoi(t[1:])
		if err != nil || n < 1 || n > maxString || t != "U"+strconv.Itoa(n) {
			return false
		}
		h.Type = t
	}
	return descr[0] != '|'
}

// Reader reads a file row by row.
type Reader struct {
	Header
	r    io.Reader
	buf  []byte
	done int // rows that ReadRows gave
	read int // values
}

// NewReader reads the header of a file; ReadRows then reads its rows. It reads from r in pieces of a row and
// more, so r needs no buffer.
func NewReader(r io.Reader) (*Reader, error) {
	h, err := ReadHeader(r)
	if err != nil {
		return nil, err
	}
	return &Reader{Header: *h, r: r}, nil
}

// Float is the type in which rows are read.
type Float interface{ float32 | float64 }

// ReadRows reads as many whole rows as dst has room for, Columns values each, and returns how many it read. Each value
// is rounded once, from the file's type to T. After the last row it returns 0 and io.EOF. It allocates nothing once
// the Reader has its buffer. Strings give an error that wraps ErrType; rows in Fortran order do not lie
// together and give one that wraps ErrFormat: Read reads them.
func ReadRows[T Float](r *Reader, dst []T) (int, error) {
	columns := r.Columns()
	switch {
	case r.Type[0] == 'U':
		return 0, fmt.Errorf("%w: elements are %s, numbers are needed", ErrType, r.Type)
	case r.Scattered():
		return 0, fmt.Errorf("%w: it is in Fortran order and cannot be read row by row", ErrFormat)
	case columns < 1:
		return 0, fmt.Errorf("%w: shape %v has no columns", ErrFormat, r.Shape)
	case r.done == r.Rows():
		return 0, r.end()
	case len(dst) < columns:
		return 0, fmt.Errorf("npy: dst has room for %d values, a row has %d", len(dst), columns)
	}
	n := min(len(dst)/columns, r.Rows()-r.done)
	dst = dst[:n*columns]
	for len(dst) > 0 {
		b, err := r.fill(min(len(dst)*r.size(), pieceBytes/r.size()*r.size()))
		if err != nil {
			return 0, err
		}
		k := len(b) / r.size()
		switch r.Type {
		case "f4":
			for i := range k {
				dst[i] = T(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
			}
		case "f8":
			for i := range k {
				dst[i] = T(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
			}
		case "u8":
			for i := range k {
				dst[i] = T(binary.LittleEndian.Uint64(b[8*i:]))
			}
		default:
			for i := range k {
				dst[i] = T(r.integer(b[i*r.size():]))
			}
		}
		dst = dst[k:]
	}
	r.done += n
	return n, nil
}

// ReadAll reads all rows, whatever their order, into a row-major slice.
func ReadAll[T Float](r *Reader) ([]T, error) {
	var out []T
	flat := *r // in the order of the file, one value a row
	flat.Shape = []int{r.Rows() * r.Columns()}
	block := make([]T, pieceBytes/8)
	for {
		n, err := ReadRows(&flat, block)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		out = append(out, block[:n]...)
	}
	if r.Scattered() {
		out = transpose(out, r.Rows(), r.Columns())
	}
	return out, nil
}

// Scattered tells whether the values of a row lie apart: Fortran order.
func (h *Header) Scattered() bool {
	return h.Fortran && len(h.Shape) == 2 && h.Shape[0] > 1 && h.Shape[1] > 1
}

// end is io.EOF when the file ends here, and otherwise why it does not.
func (r *Reader) end() error {
	var more [1]byte
	_, err := io.ReadFull(r.r, more[:])
	if err == nil {
		return fmt.Errorf("%w: something follows its %d values", ErrFormat, r.Rows()*r.Columns())
	}
	return err
}

// fill reads the next n bytes, whole elements, and makes them little-endian.
func (r *Reader) fill(n int) ([]byte, error) {
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	b := r.buf[:n]
	if got, err := io.ReadFull(r.r, b); err != nil {
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: it ends after %d of %d values", ErrFormat, r.read+got/r.size(), r.Rows()*r.Columns())
	}
	r.read += n / r.size()
	if r.BigEndian {
		size := r.size()
		if r.Type[0] == 'U' {
			size = 4
		}
		for i := 0; i < n; i += size {
			slices.Reverse(b[i : i+size])
		}
	}
	return b, nil
}

// integer is the little-endian integer with which b begins. The largest half of u8 comes out negative.
func (h *Header) integer(b []byte) int64 {
	switch h.Type {
	case "i1":
		return int64(int8(b[0]))
	case "i2":
		return int64(int16(binary.LittleEndian.Uint16(b)))
	case "u2":
		return int64(binary.LittleEndian.Uint16(b))
	case "i4":
		return int64(int32(binary.LittleEndian.Uint32(b)))
	case "u4":
		return int64(binary.LittleEndian.Uint32(b))
	case "i8", "u8":
		return int64(binary.LittleEndian.Uint64(b))
	default: // u1, b1
		return int64(b[0])
	}
}

// Array is a file's content. Exactly one of its slices is set, by the type, also when it is empty.
type Array struct {
	Header
	Float32 []float32 // f4
	Float64 []float64 // f8
	Int64   []int64   // all integers and booleans; u8 above the largest int64 is refused
	Strings []string  // U
}

// Read reads a whole array into row-major slices. It allocates as the bytes come, not as the header claims.
func Read(r io.Reader) (*Array, error) {
	in, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	a := &Array{Header: in.Header}
	switch a.Type[0] {
	case 'U':
		a.Strings = []string{}
	case 'f':
		if a.Type == "f4" {
			a.Float32 = []float32{}
		} else {
			a.Float64 = []float64{}
		}
	default:
		a.Int64 = []int64{}
	}
	cells, size := a.Rows()*a.Columns(), a.size()
	piece := max(pieceBytes/size, 1)
	for i := 0; i < cells; i += piece {
		b, err := in.fill(min(piece, cells-i) * size)
		if err != nil {
			return nil, err
		}
		if err := a.add(b, size); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
	}
	if err := in.end(); !errors.Is(err, io.EOF) {
		return nil, err
	}
	if a.Fortran && len(a.Shape) == 2 {
		a.Float32 = transpose(a.Float32, a.Shape[0], a.Shape[1])
		a.Float64 = transpose(a.Float64, a.Shape[0], a.Shape[1])
		a.Int64 = transpose(a.Int64, a.Shape[0], a.Shape[1])
		a.Strings = transpose(a.Strings, a.Shape[0], a.Shape[1])
	}
	return a, nil
}

// add appends little-endian elements.
func (a *Array) add(b []byte, size int) error {
	switch {
	case a.Type == "f4":
		a.Float32 = slices.Grow(a.Float32, len(b)/size)
		for i := 0; i < len(b); i += size {
			a.Float32 = append(a.Float32, math.Float32frombits(binary.LittleEndian.Uint32(b[i:])))
		}
	case a.Type == "f8":
		a.Float64 = slices.Grow(a.Float64, len(b)/size)
		for i := 0; i < len(b); i += size {
			a.Float64 = append(a.Float64, math.Float64frombits(binary.LittleEndian.Uint64(b[i:])))
		}
	case a.Type[0] != 'U':
		a.Int64 = slices.Grow(a.Int64, len(b)/size)
		for i := 0; i < len(b); i += size {
			v := a.integer(b[i:])
			if v < 0 && a.Type == "u8" {
				return fmt.Errorf("value %d is %d, which is too large", len(a.Int64), uint64(v))
			}
			a.Int64 = append(a.Int64, v)
		}
	default:
		var s []byte
		for ; len(b) > 0; b = b[size:] {
			s = s[:0]
			end := size
			for end > 0 && binary.LittleEndian.Uint32(b[end-4:]) == 0 {
				end -= 4 // NumPy fills up with zeros; one with something behind it is part of the string
			}
			for i := 0; i < end; i += 4 {
				c := binary.LittleEndian.Uint32(b[i:])
				if c > utf8.MaxRune || !utf8.ValidRune(rune(c)) {
					return fmt.Errorf("value %d has %#x, which is no character", len(a.Strings), c)
				}
				s = utf8.AppendRune(s, rune(c))
			}
			a.Strings = append(a.Strings, string(s))
		}
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
	cells, negative := 1, false
	for _, d := range shape {
		cells *= d
		negative = negative || d < 0
	}
	if cells != n || negative || len(shape) < 1 || len(shape) > 2 {
		return fmt.Errorf("npy: shape %v of %d values", shape, n)
	}
	return writeText(w, descr, shape)
}

// WriteHeader writes the beginning of a file: the elements, little-endian and row-major, are for the caller to write behind
// it. Type is as Header has it.
func WriteHeader(w io.Writer, kind string, shape ...int) error {
	order := "<"
	if strings.HasSuffix(kind, "1") && kind[0] != 'U' {
		order = "|"
	}
	return writeText(w, order+kind, shape)
}

func writeText(w io.Writer, descr string, shape []int) error {
	var dims strings.Builder
	for i, d := range shape {
		if i > 0 {
			dims.WriteString(", ")
		}
		dims.WriteString(strconv.Itoa(d))
	}
	if len(shape) == 1 {
		dims.WriteString(",")
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
