// Package table reads rows of numbers from CSV files, for training and for prediction.
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

// Read reads a table whose first line names its columns. label is the column that is not a number but a label,
// or empty. columns are the columns to take, in this order; nil takes all but the label. Cells are numbers as
// strconv.ParseFloat reads them; an empty cell, or NA, NaN or null, is a missing value. Errors wrap ErrFormat,
// ErrNumber or ErrColumn, or are r's.
func Read(r io.Reader, label string, columns []string) (*Table, error) {
	return read(&bounded{r: r, max: MaxRowBytes}, label, columns)
}

func read(text *bounded, label string, columns []string) (*Table, error) {
	text.left = text.max
	// Before the CSV reader sees it: a quote must be the first of its cell.
	br := bufio.NewReader(text)
	if mark, err := br.Peek(len(byteOrderMark)); err == nil && string(mark) == byteOrderMark {
		_, _ = br.Discard(len(byteOrderMark)) // they are in the buffer
	}
	in := csv.NewReader(br)
	in.ReuseRecord = true
	next := func() ([]string, error) {
		text.left = text.max
		record, err := in.Read()
		var parse *csv.ParseError
		switch {
		case errors.Is(err, csv.ErrFieldCount):
			line, _ := in.FieldPos(0)
			return nil, fmt.Errorf("%w: line %d has %d cells, the first line names %d columns", ErrFormat, line, len(record), in.FieldsPerRecord)
		case errors.As(err, &parse):
			return nil, fmt.Errorf("%w: %w", ErrFormat, err) // it names the line
		}
		return record, err
	}
	head, err := next()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it is empty, the first line names the columns", ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	if len(head) > MaxColumns {
		return nil, fmt.Errorf("%w: %d columns, at most %d are read", ErrFormat, len(head), MaxColumns)
	}
	head = slices.Clone(head)
	at := make(map[string]int, len(head))
	for i, name := range head {
		if _, twice := at[name]; twice {
			return nil, fmt.Errorf("%w: two columns are called %q", ErrFormat, name)
		}
		at[name] = i
	}
	labelAt := -1
	if label != "" {
		var ok bool
		if labelAt, ok = at[label]; !ok {
			return nil, fmt.Errorf("%w: %q; the columns are %s", ErrColumn, label, list(head))
		}
	}
	t := &Table{}
	var take []int
	if columns == nil {
		for i, name := range head {
			if i != labelAt {
				take, t.Names = append(take, i), append(t.Names, name)
			}
		}
	} else {
		for _, name := range columns {
			i, ok := at[name]
			if !ok {
				return nil, fmt.Errorf("%w: %q; the columns are %s", ErrColumn, name, list(head))
			}
			take, t.Names = append(take, i), append(t.Names, name)
		}
	}
	if len(take) == 0 {
		return nil, fmt.Errorf("%w: there is no column besides the label", ErrFormat)
	}
	for {
		record, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		first, _ := in.FieldPos(0)
		t.Lines = append(t.Lines, first)
		for _, i := range take {
			v, err := number(record[i])
			if err != nil {
				line, _ := in.FieldPos(i)
				return nil, fmt.Errorf("%w: line %d, column %q: %.80q", err, line, head[i], record[i])
			}
			t.Rows = append(t.Rows, v)
		}
		if labelAt >= 0 {
			if record[labelAt] == "" {
				line, _ := in.FieldPos(labelAt)
				return nil, fmt.Errorf("%w: line %d has no label in column %q", ErrFormat, line, label)
			}
			t.Labels = append(t.Labels, strings.Clone(record[labelAt]))
		}
	}
	if len(t.Rows) == 0 {
		return nil, fmt.Errorf("%w: it has no rows below its first line", ErrFormat)
	}
	return t, nil
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

func number(cell string) (float64, error) {
	cell = strings.TrimSpace(cell)
	switch cell {
	case "", "NA", "NaN", "nan", "null":
		return math.NaN(), nil
	}
	v, err := strconv.ParseFloat(cell, 64)
	if err != nil || strings.ContainsAny(cell, "_xX") {
		return 0, ErrNumber
	}
	return v, nil
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
