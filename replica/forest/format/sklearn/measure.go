package sklearn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// walker steps over the parts of a compressed file. Once a part is missing, all that follow are empty.
type walker struct {
	left []byte
	cut  bool
}

// take gives the next n bytes, or fewer when the file ends.
func (w *walker) take(n int) []byte {
	if n > len(w.left) {
		w.cut = true
		n = len(w.left)
	}
	b := w.left[:n]
	w.left = w.left[n:]
	return b
}

// byte gives the next byte, 0 when there is none.
func (w *walker) byte() byte {
	if b := w.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

// uint gives the next n bytes as a number in a byte order.
func (w *walker) uint(order binary.ByteOrder, n int) uint32 {
	b := w.take(n)
	switch {
	case w.cut:
		return 0
	case n == 2:
		return uint32(order.Uint16(b))
	default:
		return order.Uint32(b)
	}
}

// measureXZ walks over the headers of an .xz stream and unpacks nothing. It gives the bytes that the stream
// unpacks to and the bytes of all its blocks' windows, neither of which the library bounds. What it does not
// look at, the library checks. See "The .xz File Format", version 1.0.4.
func measureXZ(data []byte) (size, dicts int64, err error) {
	w := walker{left: data}
	header := w.take(12)
	if w.cut {
		return 0, 0, io.ErrUnexpectedEOF
	}
	// "ID 0x00: 0 bytes, 0x01..0x03: 4, 0x04..0x06: 8, 0x07..0x09: 16, 0x0A..0x0C: 32, 0x0D..0x0F: 64" - 2.1.1.2
	checkSize := 0
	if id := header[7] & 15; id > 0 {
		checkSize = 4 << ((id - 1) / 3)
	}
	for {
		n := int(w.byte())
		if w.cut {
			return 0, 0, io.ErrUnexpectedEOF
		}
		if n == 0 { // the index, at the end of the stream
			return size, dicts, nil
		}
		// "real_header_size = (encoded_header_size + 1) * 4" - 3.1.1, of which one byte is read.
		dict, err := windowXZ(w.take(4*n + 3))
		if err != nil {
			return 0, 0, err
		}
		dicts += dict
		unpacked, packed, err := w.chunks()
		if err != nil {
			return 0, 0, err
		}
		size += unpacked
		w.take((4-packed%4)%4 + checkSize)
		if w.cut {
			return 0, 0, io.ErrUnexpectedEOF
		}
	}
}

// windowXZ gives the window that a block's header asks for; LZMA2 must be the only filter.
func windowXZ(header []byte) (int64, error) {
	w := walker{left: header}
	flags := w.byte()
	for _, has := range []byte{0x40, 0x80} { // the sizes, as far as they are there
		for i := 0; flags&has != 0 && i < 9 && w.byte()&0x80 != 0; i++ {
		}
	}
	filter, n, bits := w.byte(), w.byte(), w.byte()
	switch {
	case w.cut:
		return 0, io.ErrUnexpectedEOF
	case flags&3 != 0 || filter != 0x21:
		return 0, fmt.Errorf("%w: xz with a filter besides LZMA2", ErrUnsupported)
	case n != 1:
		return 0, errors.New("an xz block whose window is not one byte")
	}
	// "dictionary_size = 2 | (bits & 1); dictionary_size <<= bits / 2 + 11" - 5.3.1
	dict := int64(2|bits&1) << (min(bits, 41)/2 + 11)
	if dict > maxDict {
		return 0, fmt.Errorf("%w: an xz window of %d bytes, at most %d are read", ErrUnsupported, dict, maxDict)
	}
	return dict, nil
}

// chunks steps over the LZMA2 chunks of a block.
func (w *walker) chunks() (unpacked int64, packed int, err error) {
	before := len(w.left)
	for {
		control := w.byte()
		switch {
		case w.cut:
			return 0, 0, io.ErrUnexpectedEOF
		case control == 0: // the end
			return unpacked, before - len(w.left), nil
		case control <= 2: // not compressed
			n := int(w.uint(binary.BigEndian, 2)) + 1
			unpacked += int64(n)
			w.take(n)
		case control < 0x80:
			return 0, 0, fmt.Errorf("there is no LZMA2 chunk 0x%02x", control)
		default:
			unpacked += int64(control&0x1f)<<16 + int64(w.uint(binary.BigEndian, 2)) + 1
			n := int(w.uint(binary.BigEndian, 2)) + 1
			if control >= 0xc0 { // new properties
				n++
			}
			w.take(n)
		}
	}
}

// measureLZ4 gives the bytes that the first frame takes up. See "LZ4 Frame Format Description", 1.6.
func measureLZ4(data []byte) (int, error) {
	w := walker{left: data}
	w.take(4)
	flags := w.byte()
	w.byte() // the size of blocks
	if flags&8 != 0 {
		w.take(8) // the content's size
	}
	if flags&1 != 0 {
		return 0, fmt.Errorf("%w: lz4 with a dictionary, which is not in the file", ErrUnsupported)
	}
	w.byte() // the header's checksum
	for {
		n := w.uint(binary.LittleEndian, 4)
		if w.cut {
			return 0, io.ErrUnexpectedEOF
		}
		if n == 0 { // the end mark
			break
		}
		w.take(int(n &^ (1 << 31))) // of which the highest bit says that it is not compressed
		if flags&16 != 0 {
			w.take(4) // the block's checksum
		}
	}
	if flags&4 != 0 {
		w.take(4) // the content's checksum
	}
	if w.cut {
		return 0, io.ErrUnexpectedEOF
	}
	return len(data) - len(w.left), nil
}
