// Package parquet reads rows of numbers from Apache Parquet files, by the names of their columns and in bounded memory.
//
// The footer is decoded by parquet-go, once it is sure that it claims no more than it holds. Pages are decoded here:
// parquet-go believes their runs and lengths, and gives other values for some that LZ4 packed.
package parquet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/parquet-go/parquet-go/format"
)

// Errors of a reader. What wraps them names the column.
var (
	// ErrFormat is wrapped by errors about a file that is damaged, cut off, or no Parquet file.
	ErrFormat = errors.New("not a valid Parquet file")
	// ErrColumn is wrapped by errors about a column that is not there, or holds no numbers.
	ErrColumn = errors.New("no such column of numbers")
	// ErrTooLarge is wrapped by errors about pages that do not fit into the memory that a reader may take.
	ErrTooLarge = errors.New("pages too large")
)

// Magic begins a Parquet file, and ends it.
const Magic = "PAR1"

// pandasIndex are the columns in which pandas keeps what is no column.
var pandasIndex = regexp.MustCompile(`^__index_level_\d+__$`)

// Reader reads the rows of a file.
type Reader struct {
	// Names are the columns.
	Names []string

	file    io.ReaderAt
	size    int64
	groups  []format.RowGroup
	columns []*column
	rows    int64 // of the whole file
	group   int   // the next row group
	left    int64 // rows of this one
}

// column is one column of numbers.
type column struct {
	name     string
	leaf     int // its place in row groups
	kind     format.Type
	unsigned bool
	optional bool   // values may be null
	refused  string // why it cannot be read, or empty

	pages    *chunk // of the current row group
	at, here int    // values that were taken of the current page, and those of them that are there
}

// Open reads the footer of a file. names are the columns to take, in this order; nil takes all of them but those in
// which pandas keeps an index. Errors wrap ErrFormat or ErrColumn, or are those of file.
func Open(file io.ReaderAt, size int64, names []string) (*Reader, error) {
	meta, err := readFooter(file, size)
	if err != nil {
		return nil, err
	}
	top, err := topLevel(meta.Schema)
	if err != nil {
		return nil, err
	}
	r := &Reader{file: file, size: size, groups: meta.RowGroups}
	have := map[string]*column{}
	var all []string
	for _, c := range top {
		if have[c.name] != nil {
			return nil, fmt.Errorf("%w: two columns are called %q", ErrFormat, c.name)
		}
		have[c.name] = c
		all = append(all, c.name)
	}
	r.Names = names
	if names == nil {
		r.Names = slices.DeleteFunc(slices.Clone(all), pandasIndex.MatchString)
	}
	if len(r.Names) == 0 {
		return nil, fmt.Errorf("%w: it has no columns", ErrColumn)
	}
	for _, name := range r.Names {
		c := have[name]
		if c == nil {
			return nil, fmt.Errorf("%w: %q; the columns are %s", ErrColumn, name, list(all))
		}
		if c.refused != "" {
			return nil, fmt.Errorf("%w: %q %s", ErrColumn, name, c.refused)
		}
		r.columns = append(r.columns, c)
	}
	for i := range r.groups {
		n := r.groups[i].NumRows
		if n < 0 || n > maxRows-r.rows {
			return nil, fmt.Errorf("%w: row group %d has %d rows; at most %d are read", ErrFormat, i, n, int64(maxRows))
		}
		r.rows += n
	}
	if meta.NumRows != r.rows {
		return nil, fmt.Errorf("%w: it says that it has %d rows, its row groups have %d", ErrFormat, meta.NumRows, r.rows)
	}
	return r, nil
}

// NumRows is the number of rows of the file.
func (r *Reader) NumRows() int { return int(r.rows) }

// ReadRows reads as many whole rows as dst has room for, fewer where a row group ends, a value for each of Names, and
// returns how many it read; after the last row 0 and io.EOF. Each value is rounded once, from the file's type to T; a
// null is NaN. Errors wrap ErrFormat or ErrTooLarge, or are those of the file.
func ReadRows[T float32 | float64](r *Reader, dst []T) (n int, err error) {
	columns := len(r.columns)
	if len(dst) < columns {
		return 0, fmt.Errorf("parquet: room for %d values, a row has %d", len(dst), columns)
	}
	for r.left == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n = int(min(int64(len(dst)/columns), r.left))
	for i, c := range r.columns {
		if err := fill(r, c, dst[i:], columns, n); err != nil {
			return 0, fmt.Errorf("column %q: %w", c.name, err)
		}
	}
	r.left -= int64(n)
	return n, nil
}

// next goes to the next row group.
func (r *Reader) next() error {
	if r.group == len(r.groups) {
		return io.EOF
	}
	meta := &r.groups[r.group]
	for _, c := range r.columns {
		if c.leaf >= len(meta.Columns) {
			return fmt.Errorf("%w: row group %d lacks column %q", ErrFormat, r.group, c.name)
		}
		var err error
		if c.pages, err = openChunk(r.file, r.size, &meta.Columns[c.leaf], meta.NumRows, c); err != nil {
			return fmt.Errorf("row group %d, column %q: %w", r.group, c.name, err)
		}
		c.at, c.here = 0, 0
	}
	r.group++
	r.left = meta.NumRows
	return nil
}

// room is the memory that a page more may take.
func (r *Reader) room() int64 {
	n := int64(maxGroupBytes)
	for _, c := range r.columns {
		n -= c.pages.held()
	}
	return n
}

// fill reads n values to dst[0], dst[stride] and so on.
func fill[T float32 | float64](r *Reader, c *column, dst []T, stride, n int) error {
	for at := 0; n > 0; {
		p := c.pages
		if c.at == p.values {
			p.values, p.levels, p.data = 0, nil, nil
			if err := p.next(r.room()); err != nil {
				return err
			}
			c.at, c.here = 0, 0
		}
		width := p.width()
		for range min(n, p.values-c.at) {
			if p.levels != nil && p.levels[c.at] == 0 {
				dst[at] = T(math.NaN())
			} else {
				dst[at] = number[T](p.data[c.here*width:], p.kind, c.unsigned)
				c.here++
			}
			c.at++
			at += stride
			n--
		}
	}
	return nil
}

// number rounds a little-endian value once.
func number[T float32 | float64](b []byte, kind format.Type, unsigned bool) T {
	switch kind {
	case format.Float:
		return T(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	case format.Double:
		return T(math.Float64frombits(binary.LittleEndian.Uint64(b)))
	case format.Int32:
		v := binary.LittleEndian.Uint32(b)
		if unsigned {
			return T(v)
		}
		return T(int32(v))
	case format.Int64:
		v := binary.LittleEndian.Uint64(b)
		if unsigned {
			return T(v)
		}
		return T(int64(v))
	}
	return T(b[0]) // a boolean
}

// list shows the first names of a file.
func list(names []string) string {
	const show = 20
	out := make([]string, 0, show+1)
	for i, n := range names {
		if i == show {
			return strings.Join(out, ", ") + fmt.Sprintf(" and %d more", len(names)-show)
		}
		out = append(out, strconv.Quote(n))
	}
	return strings.Join(out, ", ")
}
