package parquet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// walker walks a structure of Thrift's compact protocol without keeping it. What it has walked without an error is all
// there: no list or string claims more than there is, and nothing is nested deeper than a recursion can go.
type walker struct {
	in   io.ByteReader
	left int64 // bytes that it may have
	// number is told integers and truth booleans. path are the numbers of the fields on the way; a list adds none.
	number func(path []int16, v int64)
	truth  func(path []int16, v bool)

	path []int16
	all  int64 // bytes that there were at first
	many int64 // structures
}

// The types.
const (
	typeStop = iota
	typeTrue
	typeFalse
	typeI8
	typeI16
	typeI32
	typeI64
	typeDouble
	typeBinary
	typeList
	typeSet
	typeMap
	typeStruct
)

var (
	errEnds = errors.New("it ends too early")
	errDeep = errors.New("it is nested too deeply")
	errMany = errors.New("it has too many parts for its size")
)

const maxPath = 12

func (w *walker) ReadByte() (byte, error) {
	if w.left == 0 {
		return 0, errEnds
	}
	w.left--
	b, err := w.in.ReadByte()
	if errors.Is(err, io.EOF) {
		err = errEnds
	}
	return b, err
}

func (w *walker) varint() (int64, error) { return binary.ReadVarint(w) }

// size of a list or of bytes, each of which takes a byte at least.
func (w *walker) size() (int64, error) {
	n, err := binary.ReadUvarint(w)
	if err == nil && n > uint64(w.left) {
		err = errEnds
	}
	return int64(n), err
}

// structure walks fields up to a stop.
func (w *walker) structure() error {
	if w.all == 0 {
		w.all = w.left
	}
	if len(w.path) > maxPath {
		return errDeep
	}
	// Decoded, a structure of one byte can take hundreds: none that is written has so few on average.
	if w.many++; w.many > w.all/3+64 {
		return errMany
	}
	id := int16(0)
	for {
		b, err := w.ReadByte()
		if err != nil || b == typeStop {
			return err
		}
		if delta := int16(b >> 4); delta != 0 {
			id += delta
		} else {
			v, err := w.varint()
			if err != nil {
				return err
			}
			id = int16(v)
		}
		w.path = append(w.path, id)
		if t := b & 15; t == typeTrue || t == typeFalse {
			if w.truth != nil {
				w.truth(w.path, t == typeTrue)
			}
		} else if err := w.value(t); err != nil {
			return err
		}
		w.path = w.path[:len(w.path)-1]
	}
}

// value walks what follows a type, except a boolean of a field.
func (w *walker) value(t byte) error {
	switch t {
	case typeTrue, typeFalse, typeI8:
		_, err := w.ReadByte()
		return err
	case typeI16, typeI32, typeI64:
		v, err := w.varint()
		if err == nil && w.number != nil {
			w.number(w.path, v)
		}
		return err
	case typeDouble:
		return w.skip(8)
	case typeBinary:
		n, err := w.size()
		if err != nil {
			return err
		}
		return w.skip(n)
	case typeList, typeSet:
		return w.list()
	case typeMap:
		return w.pairs()
	case typeStruct:
		return w.structure()
	}
	return fmt.Errorf("type %d", t)
}

func (w *walker) skip(n int64) error {
	for range n {
		if _, err := w.ReadByte(); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) list() error {
	b, err := w.ReadByte()
	if err != nil {
		return err
	}
	n, t := int64(b>>4), b&15
	if n == 15 {
		if n, err = w.size(); err != nil {
			return err
		}
	}
	// Lists in lists have no path: this is what bounds them.
	if t == typeList || t == typeSet || t == typeMap {
		return errDeep
	}
	for range n {
		if err := w.value(t); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) pairs() error {
	n, err := w.size()
	if err != nil || n == 0 {
		return err
	}
	t, err := w.ReadByte()
	if err != nil {
		return err
	}
	for _, t := range []byte{t >> 4, t & 15} {
		if t == typeList || t == typeSet || t == typeMap {
			return errDeep
		}
	}
	for range n {
		if err := w.value(t >> 4); err != nil {
			return err
		}
		if err := w.value(t & 15); err != nil {
			return err
		}
	}
	return nil
}
