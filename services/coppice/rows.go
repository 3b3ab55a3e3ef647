package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
	csv "github.com/coppice-mesh/coppice/replica/forest/table"
)

// table is rows of features from a file.
type table struct {
	rows    []float32 // row-major
	columns int
}

// readTable reads rows from a .npy or .csv file. features is the number of columns that are needed, 0 for any.
// names, if any, are the columns to take from a CSV file.
func readTable(path string, features int, names []string) (*table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	t := &table{}
	if head, _ := r.Peek(1); len(head) > 0 && head[0] == 0x93 {
		err = t.readNPY(r)
	} else {
		err = t.readCSV(r, names)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if features > 0 && t.columns != features {
		return nil, fmt.Errorf("%s: it has %d columns, the model has %d features", path, t.columns, features)
	}
	return t, nil
}

func (t *table) readNPY(r *bufio.Reader) error {
	a, err := npy.Read(r)
	if err != nil {
		return err
	}
	t.columns = a.Columns()
	if len(a.Shape) == 1 {
		t.columns = a.Shape[0] // one row
	}
	if t.columns < 1 {
		return fmt.Errorf("shape %v has no columns", a.Shape)
	}
	switch {
	case a.Float32 != nil:
		t.rows = a.Float32
	case a.Float64 != nil:
		return t.narrow(a.Float64)
	case a.Int64 != nil:
		wide := make([]float64, len(a.Int64))
		for i, v := range a.Int64 {
			wide[i] = float64(v)
		}
		return t.narrow(wide)
	default:
		return fmt.Errorf("%w: elements are %s, numbers are needed", npy.ErrType, a.Type)
	}
	return nil
}

func (t *table) readCSV(r *bufio.Reader, names []string) error {
	c, err := csv.Read(r, "", names)
	if err != nil {
		return err
	}
	t.columns = len(c.Names)
	return t.narrow(c.Rows)
}

func (t *table) narrow(wide []float64) error {
	t.rows = make([]float32, len(wide))
	return forest.ToFloat32(t.rows, wide)
}

// writeFile writes a file whole or not at all.
func writeFile(path string, write func(*bufio.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // does nothing once it is renamed
	w := bufio.NewWriterSize(f, 1<<16)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// modelName is what a model is called by its file: its name without extension.
func modelName(path string) string {
	base := filepath.Base(path)
	if i := strings.IndexByte(base, '.'); i > 0 {
		return base[:i]
	}
	return base
}
