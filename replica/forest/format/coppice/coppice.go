// Package coppice reads and writes the .coppice file: the canonical form of a model, ready to be mapped.
// docs/format.md in the repository specifies it byte by byte.
package coppice

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"unsafe"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// Version is the version of the format that this package reads and writes.
const Version = 1

const (
	magic        = "COPPICE\x00"
	headerBytes  = 64
	entryBytes   = 32
	alignment    = 64
	maxSections  = 64
	maxMetaBytes = 64 << 20
	// maxGoldenWork bounds the splits passed and the values added when golden rows are checked, some tenths of
	// a second: a small file can describe a forest of which one row is a minute's work.
	maxGoldenWork = 1 << 27

	flagOptional = 1 << 0 // a reader that does not know the section skips it
)

// The sections, in the order in which they are written.
var (
	idMeta           = [4]byte{'M', 'E', 'T', 'A'}
	idTrees          = [4]byte{'T', 'R', 'E', 'E'}
	idSplits         = [4]byte{'S', 'P', 'L', 'T'}
	idFirst          = [4]byte{'F', 'R', 'S', 'T'}
	idLeaves         = [4]byte{'L', 'E', 'A', 'F'}
	idValues         = [4]byte{'V', 'A', 'L', '8'}
	idValues32       = [4]byte{'V', 'A', 'L', '4'}
	idBase           = [4]byte{'B', 'A', 'S', 'E'}
	idIDs            = [4]byte{'L', 'F', 'I', 'D'}
	idCovers         = [4]byte{'C', 'V', 'R', '8'}
	idCovers32       = [4]byte{'C', 'V', 'R', '4'}
	idThresholds     = [4]byte{'T', 'H', 'R', 'S'}
	idSetStarts      = [4]byte{'S', 'E', 'T', 'S'}
	idSetWords       = [4]byte{'S', 'E', 'T', 'W'}
	idLinearConst    = [4]byte{'L', 'I', 'N', 'B'}
	idLinearStarts   = [4]byte{'L', 'I', 'N', 'S'}
	idLinearFeatures = [4]byte{'L', 'I', 'N', 'F'}
	idLinearCoeffs   = [4]byte{'L', 'I', 'N', 'C'}
	idGolden         = [4]byte{'G', 'O', 'L', 'D'}
)

// Errors about a file.
var (
	// ErrFormat is wrapped by errors about a file that is cut off, damaged or not what it says.
	ErrFormat = errors.New("not a valid .coppice file")
	// ErrVersion is wrapped by the error about a file of another version.
	ErrVersion = errors.New("unsupported .coppice version")
	// ErrGolden is wrapped by the error about a model that does not give the outputs that it promises.
	ErrGolden = errors.New("golden rows differ")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// nativeLittleEndian tells whether arrays of the file can be used as they lie.
var nativeLittleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// meta is the META section.
type meta struct {
	model.Meta
	Input      model.Input      `json:"input"`
	Single     bool             `json:"single,omitempty"`
	Average    bool             `json:"average,omitempty"`
	Categories model.Categories `json:"categories,omitempty"`
	Outputs    int              `json:"outputs"`
	Width      int              `json:"width"`
	Round      int              `json:"round"`
	Depth      int              `json:"depth"`
	Flags      model.Flags      `json:"flags"`
}

// part is an array of a model and the section that holds it.
type part struct {
	id     [4]byte
	needed bool
	bytes  func() []byte      // nil when the model has not the array
	read   func([]byte) error // makes the array of the section's bytes
}

// parts lists the arrays of a model in the order of their sections. Those of Linear are among them when it is there.
func parts(m *model.Model) []part {
	f := &m.Forest
	list := []part{
		arrayPart(idTrees, true, &f.Trees),
		arrayPart(idSplits, true, &f.Splits),
		arrayPart(idFirst, false, &f.First),
		arrayPart(idLeaves, false, &f.Leaves),
		arrayPart(idValues, false, &f.Values),
		arrayPart(idValues32, false, &f.Values32),
		arrayPart(idBase, false, &f.Base),
		arrayPart(idIDs, false, &f.LeafIDs),
		arrayPart(idCovers, false, &f.Covers),
		arrayPart(idCovers32, false, &f.Covers32),
		arrayPart(idThresholds, false, &f.Thresholds),
		arrayPart(idSetStarts, false, &f.SetStarts),
		arrayPart(idSetWords, false, &f.SetWords),
	}
	if l := f.Linear; l != nil {
		list = append(list,
			arrayPart(idLinearConst, true, &l.Const),
			arrayPart(idLinearStarts, true, &l.Starts),
			arrayPart(idLinearFeatures, true, &l.Features),
			arrayPart(idLinearCoeffs, true, &l.Coeffs),
		)
	}
	return list
}

func arrayPart[T element](id [4]byte, needed bool, a *[]T) part {
	return part{id, needed, func() []byte {
		if *a == nil {
			return nil
		}
		if b := toBytes(*a); b != nil {
			return b
		}
		return []byte{}
	}, array(a)}
}

// Detect tells whether a file begins like a .coppice file.
func Detect(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }

// Encode writes a model. Equal models give equal bytes, and what it writes Decode reads: a model that is not
// valid, or does not give its golden outputs, is refused with the errors of Decode.
func Encode(w io.Writer, m *model.Model) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if err := checkGolden(m); err != nil {
		return err
	}
	f := &m.Forest
	text, err := json.Marshal(meta{
		Meta: m.Meta, Input: f.Input, Single: f.Single, Average: f.Average, Categories: f.Categories,
		Outputs: f.Outputs, Width: f.Width, Round: f.Round, Depth: f.Depth, Flags: f.Uses,
	})
	if err != nil {
		return err
	}
	if len(text) > maxMetaBytes {
		return fmt.Errorf("%w: its description has %d bytes, at most %d can be stored", model.ErrInvalid, len(text), maxMetaBytes)
	}
	type section struct {
		id    [4]byte
		flags uint32
		data  []byte
	}
	sections := []section{{idMeta, 0, text}}
	for _, p := range parts(m) {
		if b := p.bytes(); b != nil || p.needed {
			flags := uint32(0)
			if p.id == idCovers || p.id == idCovers32 { // without them a model predicts the same
				flags = flagOptional
			}
			sections = append(sections, section{p.id, flags, b})
		}
	}
	if len(m.Golden.Rows) > 0 {
		golden := toBytes(m.Golden.Rows)
		sections = append(sections, section{idGolden, flagOptional, append(golden[:len(golden):len(golden)], toBytes(m.Golden.Margins)...)})
	}

	head := make([]byte, headerBytes+len(sections)*entryBytes)
	at := len(head) + pad(len(head), alignment)
	for i, s := range sections {
		e := head[headerBytes+i*entryBytes:]
		copy(e, s.id[:])
		binary.LittleEndian.PutUint32(e[4:], s.flags)
		binary.LittleEndian.PutUint64(e[8:], uint64(at))
		binary.LittleEndian.PutUint64(e[16:], uint64(len(s.data)))
		binary.LittleEndian.PutUint32(e[24:], crc32.Checksum(s.data, castagnoli))
		at += len(s.data) + pad(len(s.data), alignment)
	}
	copy(head, magic)
	binary.LittleEndian.PutUint32(head[8:], Version)
	binary.LittleEndian.PutUint32(head[12:], uint32(len(sections)))
	binary.LittleEndian.PutUint64(head[16:], uint64(at))
	binary.LittleEndian.PutUint32(head[24:], crc32.Checksum(head, castagnoli))

	padding := make([]byte, alignment)
	write := func(b []byte) {
		if err == nil {
			_, err = w.Write(b)
		}
		if err == nil {
			_, err = w.Write(padding[:pad(len(b), alignment)])
		}
	}
	write(head)
	for _, s := range sections {
		write(s.data)
	}
	return err
}

// pad is the number of bytes from n to the next multiple of align.
func pad(n, align int) int { return (align - n%align) % align }

// Decode reads a model from the bytes of a file. Its arrays lie in data, which must not change, where they are
// aligned for it; nothing but the description is copied then. The whole file is checked: checksums,
// structure, and that the golden rows give their outputs. Errors wrap ErrFormat, ErrVersion, ErrGolden or
// model.ErrInvalid.
func Decode(data []byte) (*model.Model, error) {
	m, err := decode(data, true)
	if err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if err := checkGolden(m); err != nil {
		return nil, err
	}
	return m, nil
}

// DecodeTrusted is Decode for bytes that Decode took before: it reads the header and the description and touches
// none of the arrays. Bytes that Decode would refuse may give a model that panics, or gives wrong answers.
func DecodeTrusted(data []byte) (*model.Model, error) { return decode(data, false) }

// decode finds the parts of a model. Checksums of the arrays are compared when all is set.
func decode(data []byte, all bool) (*model.Model, error) {
	sections, err := table(data, all)
	if err != nil {
		return nil, err
	}
	var m model.Model
	text, ok := sections[idMeta]
	if !ok {
		return nil, fmt.Errorf("%w: section META is missing", ErrFormat)
	}
	if len(text) > maxMetaBytes {
		return nil, fmt.Errorf("%w: section META has %d bytes, at most %d are read", ErrFormat, len(text), maxMetaBytes)
	}
	var d meta
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("%w: section META: %w", ErrFormat, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) { // More takes a closing brace for an end
		return nil, fmt.Errorf("%w: section META: something follows its object", ErrFormat)
	}
	if err := checkKeys(text, metaKeys); err != nil {
		return nil, fmt.Errorf("%w: section META: %w", ErrFormat, err)
	}
	m.Meta = d.Meta
	m.Forest = model.Forest{
		Input: d.Input, Single: d.Single, Average: d.Average, Categories: d.Categories,
		Outputs: d.Outputs, Width: d.Width, Round: d.Round, Depth: d.Depth, Uses: d.Flags,
	}
	if _, ok := sections[idLinearConst]; ok {
		m.Forest.Linear = new(model.Linear)
	}
	for _, p := range parts(&m) {
		b, ok := sections[p.id]
		if !ok && p.needed {
			return nil, fmt.Errorf("%w: section %s is missing", ErrFormat, p.id[:])
		}
		if ok {
			if err := p.read(b); err != nil {
				return nil, fmt.Errorf("%w: section %s: %w", ErrFormat, p.id[:], err)
			}
		}
	}
	if b, ok := sections[idGolden]; ok {
		if err := golden(&m, b); err != nil {
			return nil, err
		}
	}
	return &m, nil
}

// The keys of the META section and of its source.
var (
	metaKeys = []string{
		"task", "features", "names", "classes", "targets", "class_kind", "class_type", "missing", "infinite", "link", "predict", "by_margin", "best",
		"leaf_type", "leaf_shape", "lost", "source",
		"input", "single", "average", "categories", "outputs", "width", "round", "depth", "flags",
	}
	// nestedKeys are those of the objects in it.
	nestedKeys = map[string][]string{
		"source": {"library", "version", "kind", "objective", "sha256"},
		"link":   {"name", "scale", "offset", "mean"},
	}
)

// checkKeys refuses keys that stand in an object twice or are spelt in another case: encoding/json takes both, and
// another reader may take the file for another model.
func checkKeys(object []byte, keys []string) error {
	dec := json.NewDecoder(bytes.NewReader(object))
	if _, err := dec.Token(); err != nil { // the opening brace, or null
		return err
	}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string)
		if !slices.Contains(keys, key) {
			return fmt.Errorf("unknown key %.80q", key)
		}
		if seen[key] {
			return fmt.Errorf("key %q is there twice", key)
		}
		seen[key] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		if nested, ok := nestedKeys[key]; ok {
			if err := checkKeys(value, nested); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	return nil
}

// table checks the header and the checksums, all of them or that of META, and finds the sections.
func table(data []byte, all bool) (map[[4]byte][]byte, error) {
	if len(data) < headerBytes {
		return nil, fmt.Errorf("%w: it has %d bytes, the header alone has %d", ErrFormat, len(data), headerBytes)
	}
	if !Detect(data) {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrFormat, magic)
	}
	if v := binary.LittleEndian.Uint32(data[8:]); v != Version {
		return nil, fmt.Errorf("%w: the file has version %d, this program reads version %d", ErrVersion, v, Version)
	}
	n := binary.LittleEndian.Uint32(data[12:])
	if n > maxSections {
		return nil, fmt.Errorf("%w: %d sections, at most %d are read", ErrFormat, n, maxSections)
	}
	if size := binary.LittleEndian.Uint64(data[16:]); size != uint64(len(data)) {
		return nil, fmt.Errorf("%w: it has %d bytes, its header says %d", ErrFormat, len(data), size)
	}
	end := headerBytes + int(n)*entryBytes
	if end > len(data) {
		return nil, fmt.Errorf("%w: it has %d bytes, its table of %d sections ends at %d", ErrFormat, len(data), n, end)
	}
	head := bytes.Clone(data[:end])
	clear(head[24:28])
	if got, want := crc32.Checksum(head, castagnoli), binary.LittleEndian.Uint32(data[24:]); got != want {
		return nil, fmt.Errorf("%w: the header's checksum is %08x, it says %08x", ErrFormat, got, want)
	}
	if !zero(head[28:headerBytes]) {
		return nil, fmt.Errorf("%w: bytes 28 to %d must be zero", ErrFormat, headerBytes)
	}
	sections := map[[4]byte][]byte{}
	seen := map[[4]byte]bool{}
	next := end // where the section before this one ends, or the table
	for i := range int(n) {
		e := data[headerBytes+i*entryBytes : headerBytes+(i+1)*entryBytes]
		id := [4]byte(e[:4])
		if seen[id] {
			return nil, fmt.Errorf("%w: section %q is there twice", ErrFormat, id[:])
		}
		seen[id] = true
		flags := binary.LittleEndian.Uint32(e[4:])
		offset, length := binary.LittleEndian.Uint64(e[8:]), binary.LittleEndian.Uint64(e[16:])
		if offset%alignment != 0 || offset < uint64(end) || offset > uint64(len(data)) || length > uint64(len(data))-offset {
			return nil, fmt.Errorf("%w: section %q has %d bytes at %d, in a file of %d bytes", ErrFormat, id[:], length, offset, len(data))
		}
		if want := next + pad(next, alignment); offset != uint64(want) {
			return nil, fmt.Errorf("%w: section %q is at %d, the one before it ends at %d", ErrFormat, id[:], offset, next)
		}
		if !zero(data[next:offset]) {
			return nil, fmt.Errorf("%w: bytes %d to %d, before section %q, must be zero", ErrFormat, next, offset, id[:])
		}
		next = int(offset + length)
		if flags&^flagOptional != 0 || !zero(e[28:entryBytes]) {
			return nil, fmt.Errorf("%w: section %q has flags %#x, this program knows %#x", ErrVersion, id[:], flags, flagOptional)
		}
		b := data[offset : offset+length : offset+length]
		if want := binary.LittleEndian.Uint32(e[24:]); (all || id == idMeta) && crc32.Checksum(b, castagnoli) != want {
			got := crc32.Checksum(b, castagnoli)
			return nil, fmt.Errorf("%w: section %q at byte %d: the checksum is %08x, the table says %08x", ErrFormat, id[:], offset, got, want)
		}
		if known(id) {
			sections[id] = b
		} else if flags&flagOptional == 0 {
			return nil, fmt.Errorf("%w: section %q is needed to read it and unknown to this program", ErrVersion, id[:])
		}
	}
	if next+pad(next, alignment) != len(data) {
		return nil, fmt.Errorf("%w: it has %d bytes, its last section ends at %d", ErrFormat, len(data), next)
	}
	if !zero(data[next:]) {
		return nil, fmt.Errorf("%w: bytes %d to %d, behind the last section, must be zero", ErrFormat, next, len(data))
	}
	return sections, nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func known(id [4]byte) bool {
	if id == idMeta || id == idGolden {
		return true
	}
	all := model.Model{Forest: model.Forest{Linear: new(model.Linear)}}
	return slices.ContainsFunc(parts(&all), func(p part) bool { return p.id == id })
}

func golden(m *model.Model, b []byte) error {
	features, outputs := m.Meta.Features, m.Forest.Outputs
	if features < 1 || features > model.MaxFeatures || outputs < 1 || outputs > model.MaxOutputs {
		return nil // Validate says it better
	}
	n := len(b) / (8 * (features + outputs))
	if n < 1 || n > model.MaxGoldenRows || len(b) != n*8*(features+outputs) {
		return fmt.Errorf("%w: section GOLD has %d bytes, which is not 1 to %d rows of %d features and %d outputs", ErrFormat, len(b), model.MaxGoldenRows, features, outputs)
	}
	if err := array(&m.Golden.Rows)(b[:n*8*features]); err != nil {
		return err
	}
	return array(&m.Golden.Margins)(b[n*8*features:])
}

// checkGolden evaluates the golden rows by the reference, the first of them if all were too much work.
func checkGolden(m *model.Model) error {
	f, features := &m.Forest, m.Meta.Features
	n := min(len(m.Golden.Rows)/features, maxGoldenWork/(f.NumTrees()*(f.Depth+f.Width)))
	got := make([]float64, n*f.Outputs)
	engine.Reference[float64](f).Margins(got, m.Golden.Rows[:n*features], features)
	for i, want := range m.Golden.Margins[:len(got)] {
		if math.Float64bits(got[i]) != math.Float64bits(want) {
			return fmt.Errorf("%w: row %d, output %d is %v, the file says %v", ErrGolden, i/f.Outputs, i%f.Outputs, got[i], want)
		}
	}
	return nil
}

// element is what the arrays of the file hold: 4-byte words in all but float64.
type element interface {
	model.Tree | model.Split | uint32 | float32 | float64
}

// array makes *into the array that lies in a section.
func array[T element](into *[]T) func([]byte) error {
	return func(b []byte) error {
		var zero T
		size := int(unsafe.Sizeof(zero))
		if len(b)%size != 0 {
			return fmt.Errorf("%d bytes are not whole entries of %d", len(b), size)
		}
		n := len(b) / size
		if n == 0 {
			*into = []T{}
			return nil
		}
		if nativeLittleEndian && uintptr(unsafe.Pointer(&b[0]))%unsafe.Alignof(zero) == 0 {
			*into = unsafe.Slice((*T)(unsafe.Pointer(&b[0])), n)
			return nil
		}
		out := make([]T, n)
		if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, out); err != nil {
			return err
		}
		*into = out
		return nil
	}
}

// toBytes is an array as it lies in the file. The bytes may be the array's own.
func toBytes[T element](v []T) []byte {
	if len(v) == 0 {
		return nil
	}
	if nativeLittleEndian {
		return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), len(v)*int(unsafe.Sizeof(v[0])))
	}
	b, _ := binary.Append(nil, binary.LittleEndian, v) // fixed sizes do not fail
	return b
}
