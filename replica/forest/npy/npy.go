// Package npy reads and writes arrays in NumPy's .npy format: versions 1 to 3, numbers, booleans and unicode
// strings, of one dimension or more. The first counts the rows.
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
	ErrFormat = errors.New("not a .npy file of numbers or strings")
	// ErrType is wrapped by the error about an array of another type than was asked for.
	ErrType = errors.New("wrong element type")
)

const (
	magic = "\x93NUMPY"
	// maxHeader bounds the header, maxCells what an array can claim before a byte of it was read, maxString
	// the characters of a string, and maxDims the dimensions.
	maxHeader = 64 << 10
	maxCells  = 1 << 40
	maxString = 1 << 16
	maxDims   = 32
	// growth are the digits for which NumPy leaves room when it writes a number of rows.
	growth = 21
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
	// Shape has one dimension at least.
	Shape []int
}

// Rows is the first dimension.
func (h *Header) Rows() int { return h.Shape[0] }

// Columns is the number of values in a row, over all further dimensions: 1 when there is none.
func (h *Header) Columns() int {
	n := 1
	for _, d := range h.Shape[1:] {
		n *= d
	}
	return n
}

// Scattered tells whether the values of a row lie apart: Fortran order.
func (h *Header) Scattered() bool { return h.Fortran && h.Rows() > 1 && h.Columns() > 1 }

// column is the place in a file of Fortran order of a column, counted in C order.
func (h *Header) column(c int) int {
	at, stride := 0, h.Columns()
	for i := len(h.Shape) - 1; i > 0; i-- {
		d := h.Shape[i]
		stride /= d
		at += c % d * stride
		c /= d
	}
	return at
}

// Size is the number of bytes of an element.
func (h *Header) Size() int {
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
	r     io.Reader
	at    io.ReaderAt // r, if it can be read at any place
	start int64       // where in at the elements begin
	buf   []byte
	done  int // rows that were given
	read  int // values, in the order of the file
}

// NewReader reads the header of a file; ReadRows or ReadBytes then read its rows. It reads from r in pieces of a row
// and more, so r needs no buffer. Rows in Fortran order are read from where they lie, for which r must be an io.ReaderAt
// and an io.Seeker, as files are.
func NewReader(r io.Reader) (*Reader, error) {
	h, err := ReadHeader(r)
	if err != nil {
		return nil, err
	}
	in := &Reader{Header: *h, r: r}
	if f, ok := r.(interface {
		io.ReaderAt
		io.Seeker
	}); ok {
		if start, err := f.Seek(0, io.SeekCurrent); err == nil { // a pipe is a file, too
			in.at, in.start = f, start
		}
	}
	return in, nil
}

// Float is the type in which rows are read.
type Float interface{ float32 | float64 }

// ReadRows reads as many whole rows as dst has room for, Columns values each, and returns how many it read. Each value
// is rounded once, from the file's type to T. After the last row it returns 0 and io.EOF. It allocates nothing once
// the Reader has its buffer. Strings give an error that wraps ErrType.
func ReadRows[T Float](r *Reader, dst []T) (int, error) {
	if r.Type[0] == 'U' {
		return 0, fmt.Errorf("%w: elements are %s, numbers are needed", ErrType, r.Type)
	}
	return r.rows(len(dst), func(b []byte, at, stride int) { put(&r.Header, dst, at, stride, b) })
}

// put writes little-endian elements to dst[at], dst[at+stride] and so on.
func put[T Float](h *Header, dst []T, at, stride int, b []byte) {
	size := h.Size()
	switch h.Type {
	case "f4":
		for ; len(b) > 0; b = b[4:] {
			dst[at] = T(math.Float32frombits(binary.LittleEndian.Uint32(b)))
			at += stride
		}
	case "f8":
		for ; len(b) > 0; b = b[8:] {
			dst[at] = T(math.Float64frombits(binary.LittleEndian.Uint64(b)))
			at += stride
		}
	case "u8":
		for ; len(b) > 0; b = b[8:] {
			dst[at] = T(binary.LittleEndian.Uint64(b))
			at += stride
		}
	default:
		for ; len(b) > 0; b = b[size:] {
			dst[at] = T(h.integer(b))
			at += stride
		}
	}
}

// ReadBytes is ReadRows for the elements as they are, strings too: row-major and little-endian, Size bytes each,
// whatever the order of the file.
func (r *Reader) ReadBytes(dst []byte) (int, error) {
	size := r.Size()
	return r.rows(len(dst)/size, func(b []byte, at, stride int) {
		if stride == 1 {
			copy(dst[at*size:], b)
			return
		}
		for ; len(b) > 0; b = b[size:] {
			copy(dst[at*size:], b[:size])
			at += stride
		}
	})
}

// rows reads as many whole rows as there is room for values. It hands out what it reads in pieces of little-endian
// elements, which belong at a place and then at every stride behind it.
func (r *Reader) rows(room int, piece func(b []byte, at, stride int)) (int, error) {
	columns, size := r.Columns(), r.Size()
	switch {
	case columns < 1:
		return 0, fmt.Errorf("%w: shape %v has no columns", ErrFormat, r.Shape)
	case r.done == r.Rows():
		return 0, r.end()
	case room < columns:
		return 0, fmt.Errorf("npy: room for %d values, a row has %d", room, columns)
	case r.Scattered() && r.at == nil:
		return 0, fmt.Errorf("%w: rows in Fortran order can be read from a regular file alone", ErrFormat)
	}
	n := min(room/columns, r.Rows()-r.done)
	most := max(pieceBytes/size, 1)
	if !r.Scattered() {
		for i := 0; i < n*columns; {
			b, err := r.fill(r.r, min(most, n*columns-i)*size)
			if err != nil {
				return 0, err
			}
			piece(b, i, 1)
			i += len(b) / size
		}
		r.done += n
		return n, nil
	}
	for c := range columns {
		for i := 0; i < n; {
			r.read = r.column(c)*r.Rows() + r.done + i
			k := min(most, n-i) * size
			b, err := r.fill(io.NewSectionReader(r.at, r.start+int64(r.read)*int64(size), int64(k)), k)
			if err != nil {
				return 0, err
			}
			piece(b, i*columns+c, columns)
			i += len(b) / size
		}
	}
	r.done += n
	return n, nil
}

// end is io.EOF when the file ends here, and otherwise why it does not.
func (r *Reader) end() error {
	in, cells := r.r, r.Rows()*r.Columns()
	if r.Scattered() {
		in = io.NewSectionReader(r.at, r.start+int64(cells)*int64(r.Size()), 1)
	}
	return endOf(in, cells)
}

func endOf(in io.Reader, cells int) error {
	var more [1]byte
	_, err := io.ReadFull(in, more[:])
	if err == nil {
		return fmt.Errorf("%w: something follows its %d values", ErrFormat, cells)
	}
	return err
}

// fill reads the next n bytes, whole elements, and makes them little-endian.
func (r *Reader) fill(in io.Reader, n int) ([]byte, error) {
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	b := r.buf[:n]
	if got, err := io.ReadFull(in, b); err != nil {
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: it ends after %d of %d values", ErrFormat, r.read+got/r.Size(), r.Rows()*r.Columns())
	}
	r.read += n / r.Size()
	if r.BigEndian {
		size := r.Size()
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
	cells, size := a.Rows()*a.Columns(), a.Size()
	piece := max(pieceBytes/size, 1)
	for i := 0; i < cells; i += piece {
		b, err := in.fill(r, min(piece, cells-i)*size)
		if err != nil {
			return nil, err
		}
		if err := a.add(b, size); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
	}
	if err := endOf(r, cells); !errors.Is(err, io.EOF) {
		return nil, err
	}
	if a.Scattered() {
		a.Float32 = transpose(&a.Header, a.Float32)
		a.Float64 = transpose(&a.Header, a.Float64)
		a.Int64 = transpose(&a.Header, a.Int64)
		a.Strings = transpose(&a.Header, a.Strings)
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

// transpose makes rows of what lies in Fortran order.
func transpose[T any](h *Header, v []T) []T {
	if v == nil {
		return nil
	}
	out := make([]T, len(v))
	rows, columns := h.Rows(), h.Columns()
	for c := range columns {
		for i, x := range v[h.column(c)*rows:][:rows] {
			out[i*columns+c] = x
		}
	}
	return out
}

// number is what Write takes.
type number interface{ float32 | float64 | int64 }

// Write writes a row-major array.
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
	if cells != n || negative || len(shape) < 1 || len(shape) > maxDims {
		return fmt.Errorf("npy: shape %v of %d values", shape, n)
	}
	return writeText(w, descr, shape)
}

// WriteHeader writes the beginning of a file: the elements, little-endian and row-major, are for the caller to write
// behind it. Kind is as Header has it in Type. It has the same number of bytes whatever the number of rows, and can be
// written over once that is known.
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
	text += strings.Repeat(" ", growth-len(strconv.Itoa(shape[0])))
	// The elements begin at a multiple of 64 bytes. NumPy adds a whole one when they would anyway.
	text += strings.Repeat(" ", 64-(len(magic)+4+len(text)+1)%64) + "\n"
	var b bytes.Buffer
	b.WriteString(magic + "\x01\x00")
	b.Write(binary.LittleEndian.AppendUint16(nil, uint16(len(text))))
	b.WriteString(text)
	_, err := w.Write(b.Bytes())
	return err
}
