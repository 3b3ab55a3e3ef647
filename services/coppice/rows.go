package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
	csv "github.com/coppice-mesh/coppice/replica/forest/table"
	"github.com/coppice-mesh/coppice/services/parquet"
)

// rowReader gives the rows of a file, in blocks.
type rowReader[T npy.Float] struct {
	columns int
	rows    int // -1 when only the end of the file tells
	// read fills dst with whole rows and returns how many; after the last, 0 and io.EOF.
	read func(dst []T) (int, error)
	// line is where in the file the row begins that is i in the last block; nil when its number tells.
	line func(i int) int
	// fraction is how much of the file was read, of 1, when so many rows were.
	fraction func(done int) float64
	file     *os.File
}

func (in *rowReader[T]) Close() error { return in.file.Close() }

// openRows opens a .npy, .csv or .parquet file, whichever it is by its content, whose rows are read as they are asked
// for. features is the number of columns that are needed, 0 for any. names, if any, are the columns to take from a
// file whose columns have names.
func openRows[T npy.Float](path string, features int, names []string) (*rowReader[T], error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	in := &rowReader[T]{file: f}
	r := bufio.NewReaderSize(f, 1<<16)
	head, _ := r.Peek(len(parquet.Magic))
	switch {
	case string(head) == parquet.Magic:
		err = in.openParquet(names)
	case len(head) > 0 && head[0] == 0x93:
		// The file itself can be read at any place, as Fortran order needs it; a pipe cannot be wound back.
		if _, serr := f.Seek(0, io.SeekStart); serr == nil {
			err = in.openNPY(f)
		} else {
			err = in.openNPY(r)
		}
	case string(head) == "PK\x03\x04":
		err = fmt.Errorf("%w: it is a zip file, as .npz files are; numpy.save writes .npy", npy.ErrFormat)
	default:
		err = in.openCSV(r, names)
	}
	if err == nil && features > 0 && in.columns != features {
		err = fmt.Errorf("it has %d columns, the model has %d features", in.columns, features)
	}
	if err == nil && in.columns > csv.MaxColumns {
		err = fmt.Errorf("it has %d columns, at most %d are read", in.columns, csv.MaxColumns)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	read := in.read
	in.read = func(dst []T) (int, error) {
		n, err := read(dst)
		if err != nil && !errors.Is(err, io.EOF) {
			err = fmt.Errorf("%s: %w", path, err)
		}
		return n, err
	}
	return in, nil
}

// explain says where in the file the row is about which err is. done rows came before the last block.
func (in *rowReader[T]) explain(err error, path string, done int) error {
	var at *forest.RowError
	if !errors.As(err, &at) {
		return fmt.Errorf("%s: %w", path, err)
	}
	where := ""
	if in.line != nil {
		where = fmt.Sprintf("line %d: ", in.line(at.Row))
	}
	at.Row += done
	return fmt.Errorf("%s: %s%w", path, where, err)
}

func (in *rowReader[T]) openNPY(r io.Reader) error {
	a, err := npy.NewReader(r)
	if err != nil {
		return err
	}
	if len(a.Shape) == 1 {
		a.Shape = []int{1, a.Shape[0]} // one row
	}
	in.rows, in.columns = a.Rows(), a.Columns()
	switch {
	case len(a.Shape) > 2:
		return fmt.Errorf("%w: shape %v, rows of features have two dimensions", npy.ErrFormat, a.Shape)
	case in.columns < 1:
		return fmt.Errorf("%w: shape %v has no columns", npy.ErrFormat, a.Shape)
	case a.Type[0] == 'U':
		return fmt.Errorf("%w: elements are %s, numbers are needed", npy.ErrType, a.Type)
	}
	in.read = func(dst []T) (int, error) { return npy.ReadRows(a, dst) }
	in.fraction = in.share
	return nil
}

// share is the fraction of the rows of a file that tells their number.
func (in *rowReader[T]) share(done int) float64 { return float64(done) / float64(max(in.rows, 1)) }

func (in *rowReader[T]) openCSV(r io.Reader, names []string) error {
	text := &counted{r: r}
	c, err := csv.NewReader(text, "", names)
	if err != nil {
		return err
	}
	in.rows, in.columns = -1, len(c.Names)
	in.read = func(dst []T) (int, error) { return csv.ReadRows(c, dst) }
	in.line = func(i int) int { return c.Lines[i] }
	in.fraction = func(int) float64 {
		file, err := in.file.Stat()
		if err != nil || file.Size() == 0 {
			return 0 // a pipe
		}
		return float64(text.n) / float64(file.Size())
	}
	return nil
}

func (in *rowReader[T]) openParquet(names []string) error {
	info, err := in.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("a Parquet file is read from its end, which a pipe has not yet")
	}
	p, err := parquet.Open(in.file, info.Size(), names)
	if err != nil {
		return err
	}
	in.rows, in.columns = p.NumRows(), len(p.Names)
	in.read = func(dst []T) (int, error) { return parquet.ReadRows(p, dst) }
	in.fraction = in.share
	return nil
}

// counted counts what was read.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// convert rounds a table's values to T. Its error names the line and the column.
func convert[T npy.Float](c *csv.Table) ([]T, error) {
	rows := make([]T, len(c.Rows))
	for i, v := range c.Rows {
		rows[i] = T(v)
		if x := rows[i]; math.IsInf(float64(x), 0) && !math.IsInf(v, 0) {
			return nil, fmt.Errorf("%w: line %d, column %q: %v is too large for float32", forest.ErrInfinite, c.Lines[i/len(c.Names)], c.Names[i%len(c.Names)], v)
		}
	}
	return rows, nil
}

// table is rows of features from a file.
type table struct {
	rows    []float32 // row-major
	columns int
}

// readTable reads all rows of a file.
func readTable(path string, features int, names []string) (*table, error) {
	in, err := openRows[float32](path, features, names)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	t := &table{columns: in.columns}
	block := make([]float32, in.columns*max(1, blockValues/in.columns))
	for {
		n, err := in.read(block)
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		t.rows = append(t.rows, block[:n*in.columns]...)
	}
}

// blockValues is about how many values are read and evaluated at a time.
const blockValues = 1 << 17

// writeFile writes a file whole or not at all.
func writeFile(path string, write func(*bufio.Writer) error) error {
	return replaceFile(path, func(f *os.File) error {
		w := bufio.NewWriterSize(f, 1<<16)
		if err := write(w); err != nil {
			return err
		}
		return w.Flush()
	})
}

// replaceFile writes a file beside the one that is to be there, and puts it in its place when it is whole.
func replaceFile(path string, write func(*os.File) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: it cannot be replaced, it is no regular file", path)
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link stays one
	}
	// Not os.CreateTemp, whose files are for their owner alone: this one is for whom the umask says.
	name := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s-%x", filepath.Base(path), rand.Uint64()))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666) //nolint:gosec // the umask is the user's choice
	var why *os.PathError
	if errors.As(err, &why) {
		return fmt.Errorf("%s: it cannot be written: %w", path, why.Err) // nobody knows the other name
	}
	if err != nil {
		return err
	}
	defer os.Remove(name) // does nothing once it is renamed
	err = write(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(name, path)
	}
	return err
}

// sameFile tells whether two names are of one file.
func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// modelName is what a model is called by its file: its name without extension, and without the two that a
// compressed file has.
func modelName(path string) string {
	name := filepath.Base(path)
	for range 2 {
		ext := filepath.Ext(name)
		if ext == "" || len(ext) == len(name) { // nothing, or all of it
			break
		}
		name = strings.TrimSuffix(name, ext)
		if !slices.Contains(compressed, strings.ToLower(ext)) {
			break
		}
	}
	return name
}

// compressed are the extensions that joblib gives to compressed files.
var compressed = []string{".z", ".gz", ".bz2", ".xz", ".lzma", ".lz4"}
