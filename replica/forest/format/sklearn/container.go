package sklearn

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"io"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
)

// Limits on what a compressed file may unpack to. Forests shrink to a fifth or a tenth, a bomb to a
// thousandth.
const (
	unpackBase    = 16 << 20 // bytes that any file may unpack to
	unpackPerByte = 64       // and more for each byte of it

	// What the values of a pickle may take, arrays apart, see pickle.Options.MaxMemory.
	memoryBase    = 64 << 20
	memoryPerByte = 64
)

// wrapping is how a file is compressed.
type wrapping string

const (
	plain wrapping = ""
	zlibs wrapping = "zlib"
)

// Detect tells from the first bytes of a file whether it is scikit-learn's: a pickle, or one that is
// compressed the way joblib does it. 64 bytes are enough. It is true too for compressions that Import
// names and refuses.
func Detect(head []byte) bool {
	if w := wrapped(head); w != plain {
		return true
	}
	if len(head) >= 2 && head[0] == 0x80 { // PROTO, which begins protocols 2 and later
		return head[1] >= 2 && head[1] <= 5
	}
	return textPickle(head)
}

// textPickle recognises an object of protocol 0 or 1. Such a pickle has no magic byte; it begins with the
// GLOBAL of the function that makes the object, a text of two lines, or of the object's class.
func textPickle(head []byte) bool {
	for _, begin := range []string{"ccopy_reg\n_reconstructor\n", "ccopyreg\n_reconstructor\n", "csklearn.", "cjoblib.", "cnumpy."} {
		if bytes.HasPrefix(head, []byte(begin)) {
			return true
		}
	}
	return false
}

// wrapped recognises the compressions that joblib writes, by their magic bytes.
func wrapped(head []byte) wrapping {
	for _, k := range []struct {
		magic string
		name  wrapping
	}{
		{"\x1f\x8b", "gzip"},
		{"BZh", "bz2"},
		{"\xfd7zXZ", "xz"},
		{"\x5d\x00\x00", "lzma"},
		{"\x04\x22\x4d\x18", "lz4"},
		{"ZF", "joblib's format before 0.10"},
	} {
		if bytes.HasPrefix(head, []byte(k.magic)) {
			return k.name
		}
	}
	// "CMF and FLG, when viewed as a 16-bit unsigned integer stored in MSB order, is a multiple of 31."
	// - RFC 1950, 2.2. 0x78 is deflate with a window of 32 KiB.
	if len(head) >= 2 && head[0] == 0x78 && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlibs
	}
	return plain
}

// open gives the pickle's bytes, and what its values may take.
func open(data []byte) (src *pickle.Source, memory int64, err error) {
	if len(data) == 0 {
		return nil, 0, fmt.Errorf("%w: the file is empty", pickle.ErrMalformed)
	}
	memory = memoryBase + memoryPerByte*int64(len(data))
	switch w := wrapped(data); w {
	case plain:
		if !Detect(data) {
			return nil, 0, fmt.Errorf("%w: the file begins with % x, which is neither a pickle nor a compression of joblib's",
				pickle.ErrMalformed, data[:min(len(data), 8)])
		}
		return pickle.FromBytes(data), memory, nil
	case zlibs:
		in := bytes.NewReader(data)
		r, err := zlib.NewReader(in)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", pickle.ErrMalformed, err)
		}
		return pickle.FromReader(&exactly{r: r, in: in}, unpackBase+unpackPerByte*int64(len(data))), memory, nil
	default:
		return nil, 0, fmt.Errorf("%w: compression %s is not read yet; save the model uncompressed or with zlib, as joblib.dump(model, path, compress=3)",
			ErrUnsupported, w)
	}
}

// exactly reads a compressed stream that must take up the whole of its input.
type exactly struct {
	r  io.Reader
	in *bytes.Reader // never read ahead, since it is an io.ByteReader
}

func (e *exactly) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err == io.EOF && e.in.Len() > 0 {
		return n, fmt.Errorf("%d bytes follow the end of the zlib stream", e.in.Len())
	}
	return n, err
}
