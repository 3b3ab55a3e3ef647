package parquet

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/parquet-go/parquet-go/format"
)

// plainDictionary is how old writers say Plain of a dictionary and RLEDictionary of a page.
const plainDictionary = format.Encoding(2)

// chunk reads the pages of a column in a row group.
type chunk struct {
	file     io.ReaderAt
	at, end  int64
	codec    format.CompressionCodec
	kind     format.Type
	optional bool
	left     int64 // values that are still to come

	dictionary []byte // its values
	have       bool   // a dictionary

	// The current page. levels has a 1 for each value that is there, and is nil when all are; data are the values that
	// are there, little-endian.
	values int
	levels []byte
	data   []byte
}

// openChunk finds the pages of a column.
func openChunk(file io.ReaderAt, size int64, meta *format.ColumnChunk, rows int64, leaf *column) (*chunk, error) {
	m := &meta.MetaData
	from := m.DataPageOffset
	if d := m.DictionaryPageOffset; d != 0 && d < from {
		from = d
	}
	n := m.TotalCompressedSize
	switch {
	case meta.FilePath != "":
		return nil, fmt.Errorf("%w: it is in another file, %q", ErrFormat, meta.FilePath)
	case from < int64(len(Magic)) || n < 0 || from > size || n > size-from:
		return nil, fmt.Errorf("%w: %d bytes at %d, in a file of %d", ErrFormat, n, from, size)
	case m.NumValues != rows:
		return nil, fmt.Errorf("%w: %d values for %d rows", ErrFormat, m.NumValues, rows)
	}
	return &chunk{file: file, at: from, end: from + n, codec: m.Codec, kind: leaf.kind, optional: leaf.optional, left: rows}, nil
}

// width is the number of bytes of a value, once it is decoded.
func (c *chunk) width() int {
	switch c.kind {
	case format.Boolean:
		return 1
	case format.Int32, format.Float:
		return 4
	}
	return 8
}

// held is the memory that the page and the dictionary take.
func (c *chunk) held() int64 { return int64(len(c.dictionary) + len(c.levels) + len(c.data)) }

// next reads the next page of values. room is the memory that it may take.
func (c *chunk) next(room int64) error {
	for {
		if c.at >= c.end {
			return fmt.Errorf("%w: %d values are missing", ErrFormat, c.left)
		}
		p, header, err := readHeader(c.file, c.at, c.end)
		if err != nil {
			return err
		}
		c.at += header
		if p.packed > c.end-c.at {
			return fmt.Errorf("%w: a page of %d bytes, %d are left", ErrFormat, p.packed, c.end-c.at)
		}
		if p.unpacked > maxPageBytes || p.packed > maxPageBytes {
			return fmt.Errorf("%w: a page of %d bytes, at most %d are read; write smaller pages", ErrTooLarge, max(p.packed, p.unpacked), maxPageBytes)
		}
		if p.kind != format.IndexPage {
			// Indices of a dictionary, levels and values are in memory at a time.
			if need := p.packed + p.unpacked + p.values*int64(4+1+c.width()); need > room {
				return fmt.Errorf("%w: pages of all columns, of which one is in memory at a time, take more than %d bytes; write smaller pages", ErrTooLarge, int64(maxGroupBytes))
			}
			body := make([]byte, p.packed)
			if err := readAt(c.file, body, c.at); err != nil {
				return err
			}
			if err := c.decode(p, body); err != nil {
				return fmt.Errorf("%v page: %w", p.kind, err)
			}
		}
		c.at += p.packed
		if p.kind != format.IndexPage && p.kind != format.DictionaryPage && c.values > 0 {
			return nil
		}
	}
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
		p.definition+p.repeated > min(p.unpacked, p.packed) || p.kind < format.DataPage || p.kind > format.DataPageV2 {
		return nil, 0, fmt.Errorf("%w: the header of the page at %d claims what cannot be", ErrFormat, at)
	}
	return p, end - at - w.left, nil
}

// decode unpacks a page and decodes its values.
func (c *chunk) decode(p *page, body []byte) error {
	codec, rest := c.codec, p.unpacked
	var levels []byte
	if p.kind == format.DataPageV2 {
		// Some writers tell that nothing repeats, where nothing can.
		levels, body = body[p.repeated:][:p.definition], body[p.repeated+p.definition:]
		rest -= p.repeated + p.definition
		if !p.compressed {
			codec = format.Uncompressed
		}
	}
	data, err := unpack(codec, body, int(rest))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	n := int(p.values)
	if p.kind == format.DictionaryPage {
		if c.have || (p.encoding != format.Plain && p.encoding != plainDictionary) {
			return fmt.Errorf("%w: a second dictionary, or one in %v", ErrFormat, p.encoding)
		}
		c.have = true
		c.dictionary, err = plain(data, n, c.kind, c.width())
		return err
	}
	if p.values > c.left {
		return fmt.Errorf("%w: %d values where %d are left", ErrFormat, p.values, c.left)
	}
	c.left -= p.values
	c.values, c.levels = n, nil
	if c.optional {
		if p.kind == format.DataPage {
			if p.levelsEncoding != format.RLE {
				return fmt.Errorf("%w: levels in %v, which is not read", ErrFormat, p.levelsEncoding)
			}
			if levels, data, err = prefixed(data); err != nil {
				return err
			}
		}
		if c.levels, err = bits(levels, n); err != nil {
			return err
		}
		n = 0
		for _, l := range c.levels {
			n += int(l)
		}
	}
	c.data, err = c.decodeValues(data, n, p.encoding)
	return err
}

// decodeValues makes little-endian values of those of an encoding.
func (c *chunk) decodeValues(data []byte, n int, encoding format.Encoding) ([]byte, error) {
	width := c.width()
	switch {
	case encoding == format.Plain:
		return plain(data, n, c.kind, width)
	case encoding == plainDictionary || encoding == format.RLEDictionary:
		if n == 0 {
			return nil, nil
		}
		if len(data) == 0 || data[0] > 32 {
			return nil, fmt.Errorf("%w: indices without a width, or of one above 32", ErrFormat)
		}
		indices, err := runs(data[1:], n, int(data[0]))
		if err != nil {
			return nil, err
		}
		out := make([]byte, 0, n*width)
		for _, i := range indices {
			if int64(i) >= int64(len(c.dictionary)/width) {
				return nil, fmt.Errorf("%w: value %d of a dictionary of %d", ErrFormat, i, len(c.dictionary)/width)
			}
			out = append(out, c.dictionary[int(i)*width:][:width]...)
		}
		return out, nil
	case encoding == format.RLE && c.kind == format.Boolean:
		data, _, err := prefixed(data)
		if err != nil {
			return nil, err
		}
		return bits(data, n)
	case encoding == format.ByteStreamSplit && c.kind != format.Boolean:
		if len(data) != n*width {
			return nil, fmt.Errorf("%w: %d bytes for %d values", ErrFormat, len(data), n)
		}
		out := make([]byte, len(data))
		for i := range n {
			for k := range width {
				out[i*width+k] = data[k*n+i]
			}
		}
		return out, nil
	case encoding == format.DeltaBinaryPacked && (c.kind == format.Int32 || c.kind == format.Int64):
		return differences(data, n, width)
	}
	return nil, fmt.Errorf("%w: values in %v, which is not read", ErrFormat, encoding)
}

// plain gives values that lie one behind the other; booleans take a bit each.
func plain(data []byte, n int, kind format.Type, width int) ([]byte, error) {
	if kind == format.Boolean {
		if len(data) < (n+7)/8 {
			return nil, fmt.Errorf("%w: %d bytes for %d booleans", ErrFormat, len(data), n)
		}
		out := make([]byte, n)
		for i := range out {
			out[i] = data[i/8] >> (i % 8) & 1
		}
		return out, nil
	}
	if len(data) < n*width {
		return nil, fmt.Errorf("%w: %d bytes for %d values", ErrFormat, len(data), n)
	}
	return data[:n*width], nil
}

// prefixed cuts off what the first four bytes count.
func prefixed(b []byte) (head, rest []byte, err error) {
	if len(b) < 4 || int64(binary.LittleEndian.Uint32(b)) > int64(len(b)-4) {
		return nil, nil, fmt.Errorf("%w: it ends too early", ErrFormat)
	}
	n := int(binary.LittleEndian.Uint32(b)) + 4
	return b[4:n], b[n:], nil
}

// bits are n runs and groups of one bit.
func bits(b []byte, n int) ([]byte, error) {
	values, err := runs(b, n, 1)
	out := make([]byte, len(values))
	for i, v := range values {
		out[i] = byte(v & 1)
	}
	return out, err
}

// runs decodes the first n numbers of so many bits, at most 32, which come as runs of one number and as groups of eight.
func runs(b []byte, n, width int) ([]uint32, error) {
	out := make([]uint32, 0, n)
	for len(out) < n {
		head, k := binary.Uvarint(b)
		if k <= 0 {
			return nil, fmt.Errorf("%w: runs of %d values, not of %d", ErrFormat, len(out), n)
		}
		b = b[k:]
		missing := uint64(n - len(out))
		if head&1 == 0 {
			size := (width + 7) / 8
			if len(b) < size {
				return nil, fmt.Errorf("%w: it ends in a run", ErrFormat)
			}
			var v [4]byte
			copy(v[:], b[:size])
			b = b[size:]
			for range min(head>>1, missing) {
				out = append(out, binary.LittleEndian.Uint32(v[:]))
			}
			continue
		}
		// The last group may be cut off behind the values that count.
		take := min(missing, (head>>1)*8&(1<<40-1))
		if uint64(len(b))*8 < take*uint64(width) {
			return nil, fmt.Errorf("%w: it ends in a group", ErrFormat)
		}
		r := bitReader{b: b}
		for range take {
			out = append(out, uint32(r.take(width)))
		}
		b = b[min(uint64(len(b)), (head>>1&(1<<40-1))*uint64(width)):]
	}
	return out, nil
}

// bitReader takes numbers of a few bits, the lowest first.
type bitReader struct {
	b  []byte
	at int // bit
}

// take needs bits that are there, at most 64.
func (r *bitReader) take(width int) (v uint64) {
	for got := 0; got < width; {
		have := min(8-r.at%8, width-got)
		v |= uint64(r.b[r.at/8]) >> (r.at % 8) & (1<<have - 1) << got
		got += have
		r.at += have
	}
	return v
}

// differences decodes n integers: the first, and then by how much each is more than the one before, in blocks.
func differences(b []byte, n, width int) ([]byte, error) {
	bad := func(why string) error { return fmt.Errorf("%w: differences: %s", ErrFormat, why) }
	var head [3]uint64
	for i := range head {
		v, k := binary.Uvarint(b)
		if k <= 0 {
			return nil, bad("it ends too early")
		}
		head[i], b = v, b[k:]
	}
	block, parts := head[0], head[1]
	if block == 0 || parts == 0 || block > 1<<20 || block%parts != 0 || block/parts%8 != 0 || head[2] != uint64(n) {
		return nil, bad(fmt.Sprintf("%d values for %d, in blocks of %d in %d parts", head[2], n, block, parts))
	}
	value, k := binary.Varint(b)
	if k <= 0 {
		return nil, bad("it ends too early")
	}
	b = b[k:]
	out := make([]byte, 0, n*width)
	put := func() {
		if width == 4 {
			out = binary.LittleEndian.AppendUint32(out, uint32(value))
		} else {
			out = binary.LittleEndian.AppendUint64(out, uint64(value))
		}
	}
	if n > 0 {
		put()
	}
	for len(out) < n*width {
		least, k := binary.Varint(b)
		if k <= 0 || uint64(len(b)-k) < parts {
			return nil, bad("it ends too early")
		}
		widths := b[k:][:parts]
		b = b[k+int(parts):]
		for _, bitWidth := range widths {
			if len(out) == n*width {
				break // the widths of parts that are not there mean nothing
			}
			each := int(block / parts)
			size := each / 8 * int(bitWidth)
			take := min(each, n-len(out)/width)
			if bitWidth > 64 || len(b)*8 < take*int(bitWidth) {
				return nil, bad("it ends too early")
			}
			r := bitReader{b: b}
			for range take {
				value += least + int64(r.take(int(bitWidth))) // it wraps, as the format has it
				put()
			}
			b = b[min(len(b), size):]
		}
	}
	return out, nil
}
