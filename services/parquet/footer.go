package parquet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// The bounds.
const (
	maxFooterBytes = 64 << 20
	maxRows        = 1 << 40
	maxPageBytes   = 64 << 20 // unpacked
	// maxGroupBytes bounds the pages that are in memory at a time, one a column.
	maxGroupBytes = 1 << 30
)

// readFooter reads what a file says about itself.
func readFooter(file io.ReaderAt, size int64) (meta *format.FileMetaData, err error) {
	const frame = 2*len(Magic) + 4
	if size < int64(frame) {
		return nil, fmt.Errorf("%w: it has %d bytes, the least is %d", ErrFormat, size, frame)
	}
	var head [len(Magic)]byte
	var tail [4 + len(Magic)]byte
	if err := readAt(file, head[:], 0); err != nil {
		return nil, err
	}
	if err := readAt(file, tail[:], size-int64(len(tail))); err != nil {
		return nil, err
	}
	if string(head[:]) != Magic || string(tail[4:]) != Magic {
		return nil, fmt.Errorf("%w: it does not begin and end with %s", ErrFormat, Magic)
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if n > size-int64(frame) || n > maxFooterBytes {
		return nil, fmt.Errorf("%w: a footer of %d bytes, in a file of %d; at most %d are read", ErrFormat, n, size, maxFooterBytes)
	}
	footer := make([]byte, n)
	if err := readAt(file, footer, size-int64(len(tail))-n); err != nil {
		return nil, err
	}
	return decodeFooter(footer)
}

// decodeFooter walks a footer before it decodes it.
func decodeFooter(footer []byte) (meta *format.FileMetaData, err error) {
	defer func() { // the decoder takes some damaged footers for impossible ones
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: footer: %v", ErrFormat, p)
		}
	}()
	w := &walker{in: bytes.NewReader(footer), left: int64(len(footer))}
	if err := w.structure(); err != nil {
		return nil, fmt.Errorf("%w: footer: %w", ErrFormat, err)
	}
	meta = &format.FileMetaData{}
	if err := thrift.Unmarshal(&thrift.CompactProtocol{}, footer, meta); err != nil {
		return nil, fmt.Errorf("%w: footer: %w", ErrFormat, err)
	}
	return meta, nil
}

// topLevel gives the columns that are in no other. The schema is a list of elements, each of which says how many of
// the next are in it; the first is the file.
func topLevel(schema []format.SchemaElement) ([]*column, error) {
	lies := fmt.Errorf("%w: its schema of %d elements is not one tree", ErrFormat, len(schema))
	if len(schema) == 0 {
		return nil, lies
	}
	var columns []*column
	at, leaf := 1, 0
	for range schema[0].NumChildren.V {
		if at == len(schema) {
			return nil, lies
		}
		e := &schema[at]
		columns = append(columns, newColumn(e, leaf))
		for open := int64(1); open > 0; at++ {
			if at == len(schema) || schema[at].NumChildren.V < 0 {
				return nil, lies
			}
			inside := int64(schema[at].NumChildren.V)
			if inside == 0 {
				leaf++
			}
			open += inside - 1
		}
	}
	if at != len(schema) {
		return nil, lies
	}
	return columns, nil
}

// meanings are what numbers can stand for in old files.
var meanings = map[deprecated.ConvertedType]string{
	deprecated.Decimal: "DECIMAL", deprecated.Date: "DATE", deprecated.TimeMillis: "TIME", deprecated.TimeMicros: "TIME",
	deprecated.TimestampMillis: "TIMESTAMP", deprecated.TimestampMicros: "TIMESTAMP",
}

// newColumn is a column of which the chunks are leaf-th in their row groups.
func newColumn(e *format.SchemaElement, leaf int) *column {
	c := &column{name: e.Name, leaf: leaf, kind: e.Type.V, optional: e.RepetitionType.V == format.Optional}
	switch {
	case e.NumChildren.V > 0 || e.RepetitionType.V == format.Repeated:
		c.refused = "is nested"
		return c
	case c.kind != format.Boolean && c.kind != format.Int32 && c.kind != format.Int64 && c.kind != format.Float && c.kind != format.Double:
		c.refused = fmt.Sprintf("is %v; booleans, integers and floats are read", c.kind)
		return c
	}
	// What the number stands for is said in one of two ways.
	meaning := e.LogicalType.String()
	if whole, ok := e.LogicalType.Value.(*format.IntType); ok {
		meaning, c.unsigned = "", !whole.IsSigned
	} else if e.LogicalType.Value == nil && e.ConvertedType.Valid {
		switch v := e.ConvertedType.V; {
		case v >= deprecated.Uint8 && v <= deprecated.Uint64:
			c.unsigned = true
		case v < deprecated.Int8 || v > deprecated.Int64:
			meaning = meanings[v]
			if meaning == "" {
				meaning = fmt.Sprintf("of converted type %d", v)
			}
		}
	}
	if meaning != "" {
		c.refused = fmt.Sprintf("is %s; convert it to a number that means the same as in training", meaning)
	}
	return c
}

func readAt(file io.ReaderAt, b []byte, at int64) error {
	n, err := file.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: it ends before byte %d", ErrFormat, at+int64(len(b)))
	}
	return err
}
