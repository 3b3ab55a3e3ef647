package parquet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// The bounds.
const (
	maxFooterBytes = 64 << 20
	maxPageBytes   = 64 << 20 // unpacked
	// maxGroupBytes bounds the pages that are in memory at a time, one a column.
	maxGroupBytes = 1 << 30
	maxNesting    = 16 // of the schema
)

// checkFooter sees that the footer is whole and claims no more than it holds.
func checkFooter(file io.ReaderAt, size int64) error {
	const frame = 2*len(Magic) + 4
	if size < int64(frame) {
		return fmt.Errorf("%w: it has %d bytes, the least is %d", ErrFormat, size, frame)
	}
	var head [len(Magic)]byte
	var tail [4 + len(Magic)]byte
	if err := readAt(file, head[:], 0); err != nil {
		return err
	}
	if err := readAt(file, tail[:], size-int64(len(tail))); err != nil {
		return err
	}
	if string(head[:]) != Magic || string(tail[4:]) != Magic {
		return fmt.Errorf("%w: it does not begin and end with %s", ErrFormat, Magic)
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if n > size-int64(frame) || n > maxFooterBytes {
		return fmt.Errorf("%w: a footer of %d bytes, in a file of %d; at most %d are read", ErrFormat, n, size, maxFooterBytes)
	}
	footer := make([]byte, n)
	if err := readAt(file, footer, size-int64(len(tail))-n); err != nil {
		return err
	}
	return checkSchema(footer)
}

// checkSchema walks a footer. Its schema is a list of elements, each of which says how many of the next are in it.
func checkSchema(footer []byte) error {
	var open []int64 // children that are still to come
	children := int64(0)
	w := &walker{in: bytes.NewReader(footer), left: int64(len(footer))}
	w.number = func(path []int16, v int64) {
		if slices.Equal(path, []int16{2, 5}) {
			children = v
		}
	}
	deep := false
	w.end = func(path []int16) {
		if !slices.Equal(path, []int16{2}) {
			return
		}
		if len(open) > 0 {
			open[len(open)-1]--
		}
		if children > 0 {
			open = append(open, children)
		}
		for len(open) > 0 && open[len(open)-1] == 0 {
			open = open[:len(open)-1]
		}
		deep = deep || len(open) > maxNesting
		children = 0
	}
	if err := w.structure(); err != nil {
		return fmt.Errorf("%w: footer: %w", ErrFormat, err)
	}
	if deep {
		return fmt.Errorf("%w: its columns are nested more than %d deep", ErrFormat, maxNesting)
	}
	return nil
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
