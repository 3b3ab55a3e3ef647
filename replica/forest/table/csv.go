// Package table reads rows of numbers from CSV files, for training and for prediction: all at once, or row by row
// from files of any length.
package table

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Errors of a reader. What wraps them names the line and the column.
var (
	// ErrFormat is wrapped by errors about a file that is no table.
	ErrFormat = errors.New("not a table")
	// ErrNumber is wrapped by errors about a cell that is no number.
	ErrNumber = errors.New("not a number")
	// ErrColumn is wrapped by errors about a column that is not there.
	ErrColumn = errors.New("no such column")
)

// Limits of a table.
const (
	MaxColumns  = 1 << 20
	MaxRowBytes = 64 << 20 // of one row's text
)

// byteOrderMark begins files that spreadsheets write.
const byteOrderMark = "\ufeff"

// Table is what was read.
type Table struct {
	// Names are the columns, without the label's.
	Names []string
	// Rows is row-major, one value for each of Names. An empty cell is NaN.
	Rows []float64
	// Labels are the cells of the label's column; nil when none was asked for.
	Labels []string
	// Lines are the lines of the file on which the rows begin.
	Lines []int
}

// Len is the number of rows.
func (t *Table) Len() int { return len(t.Rows) / len(t.Names) }

// Read reads a whole table. Arguments and errors are those of NewReader and ReadRows.
func Read(r io.Reader, label string, columns []string) (*Table, error) {
	return readAll(&bounded{r: r, max: MaxRowBytes}, label, columns)
}

func readAll(text *bounded, label string, columns []string) (*Table, error) {
	in, err := newReader(text, label, columns)
	if err != nil {
		return nil, err
	}
	t := &Table{Names: in.Names}
	block := make([]float64, max(1, blockValues/len(in.Names))*len(in.Names))
	for {
		n, err := ReadRows(in, block)
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, block[:n*len(in.Names)]...)
		t.Lines = append(t.Lines, in.Lines...)
		t.Labels = append(t.Labels, in.Labels...)
	}
}

// blockValues is about how many values Read takes at a time.
const blockValues = 1 << 12

// Reader reads a table row by row.
type Reader struct {
	// Names are the columns, without the label's.
	Names []string
	// Lines are the lines of the file on which the rows begin that ReadRows gave last.
	Lines []int
	// Labels are their labels; nil when none was asked for.
	Labels []string

	text  *bounded
	in    *csv.Reader
	head  []string
	take  []int // where each of Names is
	label int   // -1: none
	rows  bool  // there was one
}

// named refuses a first line that names nothing: a row of a file without names would be lost without a word. Numbers that
// count the columns are names, which pandas gives, and so are those that were asked for.
func (r *Reader) named(columns []string) error {
	if strings.ContainsRune(r.head[0], 0) {
		return fmt.Errorf("%w: there is a zero byte in its first line, it is no text in UTF-8", ErrFormat)
	}
	if columns != nil {
		return nil
	}
	counts := true
	for i, name := range r.head {
		if _, err := strconv.ParseFloat(strings.TrimSpace(name), 64); err != nil && !errors.Is(err, strconv.ErrRange) {
			return nil
		}
		counts = counts && (name == strconv.Itoa(i) || name == strconv.Itoa(i+1))
	}
	if counts {
		return nil
	}
	return fmt.Errorf("%w: its first line is one of numbers, where the names of the columns are needed", ErrFormat)
}

// NewReader reads the first line of a table, which names its columns. label is the column that is not a number but a
// label, or empty. columns are the columns to take, in this order; nil takes all but the label. Errors wrap ErrFormat
// or ErrColumn, or are r's.
func NewReader(r io.Reader, label string, columns []string) (*Reader, error) {
	return newReader(&bounded{r: r, max: MaxRowBytes}, label, columns)
}

func newReader(text *bounded, label string, columns []string) (*Reader, error) {
	text.left = text.max
	// Before the CSV reader sees it: a quote must be the first of its cell.
	br := bufio.NewReader(text)
	if mark, err := br.Peek(len(byteOrderMark)); err == nil && string(mark) == byteOrderMark {
		_, _ = br.Discard(len(byteOrderMark)) // they are in the buffer
	}
	r := &Reader{text: text, in: csv.NewReader(br), label: -1}
	r.in.ReuseRecord = true
	head, err := r.next()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it is empty, the first line names the columns", ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	if len(head) > MaxColumns {
		return nil, fmt.Errorf("%w: %d columns, at most %d are read", ErrFormat, len(head), MaxColumns)
	}
	r.head = slices.Clone(head)
	if err := r.named(columns); err != nil {
		return nil, err
	}
	at := make(map[string]int, len(head))
	for i, name := range r.head {
		if _, twice := at[name]; twice {
			return nil, fmt.Errorf("%w: two columns are called %q", ErrFormat, name)
		}
		at[name] = i
	}
	find := func(name string) (int, error) {
		i, ok := at[name]
		if !ok {
			return 0, fmt.Errorf("%w: %q; the columns are %s", ErrColumn, name, list(r.head))
		}
		return i, nil
	}
	if label != "" {
		if r.label, err = find(label); err != nil {
			return nil, err
		}
	}
	if columns == nil {
		for i, name := range r.head {
			if i != r.label {
				r.take, r.Names = append(r.take, i), append(r.Names, name)
			}
		}
	}
	for _, name := range columns {
		i, err := find(name)
		if err != nil {
			return nil, err
		}
		r.take, r.Names = append(r.take, i), append(r.Names, name)
	}
	if len(r.take) == 0 {
		return nil, fmt.Errorf("%w: there is no column besides the label", ErrFormat)
	}
	return r, nil
}

// next reads the cells of the next row.
func (r *Reader) next() ([]string, error) {
	r.text.left = r.text.max
	record, err := r.in.Read()
	var parse *csv.ParseError
	switch {
	case errors.Is(err, csv.ErrFieldCount):
		line, _ := r.in.FieldPos(0)
		return nil, fmt.Errorf("%w: line %d has %d cells, the first line names %d columns", ErrFormat, line, len(record), r.in.FieldsPerRecord)
	case errors.As(err, &parse):
		return nil, fmt.Errorf("%w: %w", ErrFormat, err) // it names the line
	}
	return record, err
}

// ReadRows reads as many whole rows as dst has room for, a value for each of Names, and returns how many it read; after
// the last row 0 and io.EOF. Cells are numbers as strconv.ParseFloat reads them; an empty cell, or NA, NaN or null, is
// a missing value. As in every library that reads text, a cell with a point is a float64 first, whatever T is, and a
// whole number becomes T at once. Errors wrap ErrFormat, also when there is no row at all, or ErrNumber, or are those
// of the file.
func ReadRows[T float32 | float64](r *Reader, dst []T) (int, error) {
	n := len(r.take)
	if len(dst) < n {
		return 0, fmt.Errorf("table: room for %d values, a row has %d", len(dst), n)
	}
	r.Lines, r.Labels = r.Lines[:0], r.Labels[:0]
	for len(r.Lines) < len(dst)/n {
		record, err := r.next()
		switch {
		case errors.Is(err, io.EOF) && len(r.Lines) > 0:
			return len(r.Lines), nil
		case errors.Is(err, io.EOF) && !r.rows:
			return 0, fmt.Errorf("%w: it has no rows below its first line", ErrFormat)
		case err != nil:
			return 0, err
		}
		row := dst[len(r.Lines)*n:]
		for i, at := range r.take {
			if row[i], err = number[T](record[at]); err != nil {
				line, _ := r.in.FieldPos(at)
				return 0, fmt.Errorf("%w: line %d, column %q: %.80q", err, line, r.head[at], record[at])
			}
		}
		if r.label >= 0 {
			if record[r.label] == "" {
				line, _ := r.in.FieldPos(r.label)
				return 0, fmt.Errorf("%w: line %d has no label in column %q", ErrFormat, line, r.head[r.label])
			}
			r.Labels = append(r.Labels, strings.Clone(record[r.label]))
		}
		line, _ := r.in.FieldPos(0)
		r.Lines, r.rows = append(r.Lines, line), true
	}
	return len(r.Lines), nil
}

// bounded keeps a file without line ends, or with a quote that does not end, out of memory.
type bounded struct {
	r    io.Reader
	max  int // bytes of a row
	left int // bytes that the current row may still take
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("%w: a row has more than %d bytes", ErrFormat, b.max)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// number reads a cell.
func number[T float32 | float64](cell string) (T, error) {
	cell = strings.TrimSpace(cell)
	switch cell {
	case "", "NA", "NaN", "nan", "null":
		return T(math.NaN()), nil
	}
	v, err := strconv.ParseFloat(cell, 64)
	if err != nil || strings.ContainsAny(cell, "_xX") {
		return 0, ErrNumber
	}
	if v >= 1<<53 || v <= -1<<53 { // as a float64 a whole number may be another one already
		if i, err := strconv.ParseInt(cell, 10, 64); err == nil {
			return T(i), nil
		}
		if u, err := strconv.ParseUint(cell, 10, 64); err == nil {
			return T(u), nil
		}
	}
	return T(v), nil
}

// list shows the first names of a header.
func list(names []string) string {
	const show = 20
	var b strings.Builder
	for i, n := range names {
		if i == show {
			fmt.Fprintf(&b, " and %d more", len(names)-show)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(n))
	}
	return b.String()
}
