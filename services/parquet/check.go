package parquet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// The bounds.
const (
	maxFooterBytes = 64 << 20
	maxPageBytes   = 64 << 20 // unpacked
	// maxGroupBytes bounds the pages that are in memory at a time, one a column.
	maxGroupBytes = 1 << 30
	maxNesting    = 16 // of the schema
	// slack are values that runs may have beyond those of their page: they come in groups.
	slack = 512
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

// page is a page's header.
type page struct {
	kind                 format.PageType
	packed, unpacked     int64
	values               int64
	encoding             format.Encoding
	levelsEncoding       format.Encoding
	definition, repeated int64 // bytes of levels, version 2
	compressed           bool
}

// checkChunk walks the pages of a column in a row group, and says how much memory the largest of them, and the
// dictionary, take.
func checkChunk(file io.ReaderAt, size int64, chunk *format.ColumnChunk, rows int64, optional bool) (int64, error) {
	meta := &chunk.MetaData
	from := meta.DataPageOffset
	if meta.DictionaryPageOffset != 0 {
		from = meta.DictionaryPageOffset
	}
	n := meta.TotalCompressedSize
	switch {
	case chunk.FilePath != "":
		return 0, fmt.Errorf("%w: it is in another file, %q", ErrFormat, chunk.FilePath)
	case from < int64(len(Magic)) || n < 0 || from > size || n > size-from:
		return 0, fmt.Errorf("%w: %d bytes at %d, in a file of %d", ErrFormat, n, from, size)
	case meta.NumValues != rows:
		return 0, fmt.Errorf("%w: %d values for %d rows", ErrFormat, meta.NumValues, rows)
	}
	largest, dictionary, values := int64(0), int64(0), int64(0)
	for at := from; at < from+n; {
		p, header, err := readHeader(file, at, from+n)
		if err != nil {
			return 0, err
		}
		at += header
		if p.packed > from+n-at {
			return 0, fmt.Errorf("%w: a page of %d bytes, %d are left", ErrFormat, p.packed, from+n-at)
		}
		if p.unpacked > maxPageBytes || p.packed > maxPageBytes {
			return 0, fmt.Errorf("%w: a page of %d bytes, at most %d are read; write smaller pages", ErrTooLarge, max(p.packed, p.unpacked), maxPageBytes)
		}
		if p.kind != format.IndexPage {
			body := make([]byte, p.packed)
			if err := readAt(file, body, at); err != nil {
				return 0, err
			}
			if err := p.check(body, meta.Codec, optional); err != nil {
				return 0, err
			}
		}
		at += p.packed
		const each = 32 // bytes of a value: decoded, its index and its levels
		need := p.packed + p.unpacked + each*p.values
		switch p.kind {
		case format.DictionaryPage:
			dictionary = max(dictionary, need)
		case format.DataPage, format.DataPageV2:
			values += p.values
			largest = max(largest, need)
		}
		if values > rows {
			return 0, fmt.Errorf("%w: more than %d values for %d rows", ErrFormat, values, rows)
		}
	}
	if values != rows {
		return 0, fmt.Errorf("%w: %d values for %d rows", ErrFormat, values, rows)
	}
	return largest + dictionary, nil
}

// readHeader reads the header of the page at a place, and says how long it is.
func readHeader(file io.ReaderAt, at, end int64) (*page, int64, error) {
	const usual = 512
	p := &page{kind: -1, packed: -1, unpacked: -1, values: -1, compressed: true}
	w := &walker{in: bufio.NewReaderSize(io.NewSectionReader(file, at, end-at), usual), left: end - at}
	w.truth = func(path []int16, v bool) {
		if slices.Equal(path, []int16{8, 7}) {
			p.compressed = v
		}
	}
	w.number = func(path []int16, v int64) {
		if len(path) == 1 {
			switch path[0] {
			case 1:
				p.kind = format.PageType(v)
			case 2:
				p.unpacked = v
			case 3:
				p.packed = v
			}
			return
		}
		if len(path) != 2 {
			return
		}
		switch [2]int16(path) {
		case [2]int16{5, 1}, [2]int16{7, 1}, [2]int16{8, 1}:
			p.values = v
		case [2]int16{5, 2}, [2]int16{7, 2}, [2]int16{8, 4}:
			p.encoding = format.Encoding(v)
		case [2]int16{5, 3}:
			p.levelsEncoding = format.Encoding(v)
		case [2]int16{8, 5}:
			p.definition = v
		case [2]int16{8, 6}:
			p.repeated = v
		}
	}
	if err := w.structure(); err != nil {
		return nil, 0, fmt.Errorf("%w: header of the page at %d: %w", ErrFormat, at, err)
	}
	if p.kind == format.IndexPage {
		p.values = 0
	}
	if p.packed < 0 || p.unpacked < 0 || p.values < 0 || p.definition < 0 || p.repeated < 0 ||
		p.definition+p.repeated > min(p.unpacked, p.packed) || (p.repeated > 0) || p.kind < format.DataPage || p.kind > format.DataPageV2 {
		return nil, 0, fmt.Errorf("%w: the header of the page at %d claims what cannot be", ErrFormat, at)
	}
	return p, end - at - w.left, nil
}

// check unpacks a page and counts the values of its runs.
func (p *page) check(body []byte, codec format.CompressionCodec, optional bool) error {
	var levels []byte
	rest := p.unpacked
	if p.kind == format.DataPageV2 {
		levels, body = body[:p.definition], body[p.definition:]
		rest -= p.definition
		if !p.compressed {
			codec = format.Uncompressed
		}
	}
	data, err := unpack(codec, body, int(rest))
	if err != nil {
		return fmt.Errorf("%w: %v page: %w", ErrFormat, p.kind, err)
	}
	if p.kind == format.DictionaryPage {
		return nil // as long as its bytes
	}
	if optional {
		if p.kind == format.DataPage {
			if p.levelsEncoding != format.RLE {
				return fmt.Errorf("%w: levels in %v, which is not read", ErrFormat, p.levelsEncoding)
			}
			if levels, data, err = prefixed(data); err != nil {
				return err
			}
		}
		if err := p.runs(levels, 1); err != nil {
			return err
		}
	}
	switch p.encoding {
	case format.Plain, format.ByteStreamSplit: // as long as its bytes
		return nil
	case format.PlainDictionary, format.RLEDictionary:
		if len(data) == 0 {
			return nil
		}
		return p.runs(data[1:], int(data[0]))
	case format.RLE:
		if data, _, err = prefixed(data); err != nil {
			return err
		}
		return p.runs(data, 1)
	case format.DeltaBinaryPacked:
		for range 2 { // the sizes of blocks
			_, n := binary.Uvarint(data)
			if n <= 0 {
				return fmt.Errorf("%w: it ends in the header of its differences", ErrFormat)
			}
			data = data[n:]
		}
		if total, n := binary.Uvarint(data); n <= 0 || total > uint64(p.values) {
			return fmt.Errorf("%w: %d differences in a page of %d values", ErrFormat, total, p.values)
		}
		return nil
	}
	return fmt.Errorf("%w: values in %v, which is not read", ErrFormat, p.encoding)
}

// prefixed cuts off what the first four bytes count.
func prefixed(b []byte) (head, rest []byte, err error) {
	if len(b) < 4 || int64(binary.LittleEndian.Uint32(b)) > int64(len(b)-4) {
		return nil, nil, fmt.Errorf("%w: a page ends in its levels", ErrFormat)
	}
	n := int(binary.LittleEndian.Uint32(b)) + 4
	return b[4:n], b[n:], nil
}

// runs counts the values of runs and bit-packed groups of a width.
func (p *page) runs(b []byte, width int) error {
	total := uint64(0)
	for len(b) > 0 {
		head, n := binary.Uvarint(b)
		if n <= 0 {
			return fmt.Errorf("%w: it ends in the length of a run", ErrFormat)
		}
		b = b[n:]
		count, bytes := head>>1, uint64(width+7)/8
		if head&1 == 1 {
			if count > 1<<32 {
				return fmt.Errorf("%w: a run of %d groups", ErrFormat, count)
			}
			bytes = count * uint64(width)
			count *= 8
		}
		if count > 1<<32 || total+count > uint64(p.values)+slack {
			return fmt.Errorf("%w: runs of more values than the %d of the page", ErrFormat, p.values)
		}
		total += count
		if bytes > uint64(len(b)) {
			return fmt.Errorf("%w: it ends in a run", ErrFormat)
		}
		b = b[bytes:]
	}
	return nil
}

// unzstd is made when it is first needed.
var unzstd = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPageBytes), zstd.WithDecoderLowmem(true))
})

var errLength = errors.New("it unpacks to another length than it says")

// unpack gives what a page's bytes are unpacked, which must be of the size that the page says.
func unpack(codec format.CompressionCodec, b []byte, size int) ([]byte, error) {
	var from io.Reader
	switch codec {
	case format.Uncompressed:
		if len(b) != size {
			return nil, errLength
		}
		return b, nil
	case format.Snappy:
		if n, err := snappy.DecodedLen(b); err != nil || n != size {
			return nil, errors.Join(err, errLength)
		}
		return snappy.Decode(make([]byte, size), b)
	case format.Zstd:
		d, err := unzstd()
		if err != nil {
			return nil, err
		}
		out, err := d.DecodeAll(b, make([]byte, 0, size))
		if err == nil && len(out) != size {
			err = errLength
		}
		return out, err
	case format.Lz4Raw:
		if len(b) == 0 {
			return nil, errLength
		}
		out := make([]byte, size)
		n, err := lz4.UncompressBlock(b, out)
		if err == nil && n != size {
			err = errLength
		}
		return out, err
	case format.Gzip:
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		from = r
	case format.Brotli:
		from = brotli.NewReader(bytes.NewReader(b))
	default:
		return nil, fmt.Errorf("packed with %v, which is not read", codec)
	}
	out := make([]byte, size+1)
	n, err := io.ReadFull(from, out)
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, errLength)
	}
	if n != size {
		return nil, errLength
	}
	return out[:n], nil
}
