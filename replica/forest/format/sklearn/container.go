package sklearn

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
)

// Limits on what a compressed file may unpack to. Forests shrink to a fifth or a tenth, a bomb to a
// thousandth or, by bz2, to a millionth.
const (
	unpackBase    = 16 << 20 // bytes that any file may unpack to
	unpackPerByte = 64       // and more for each byte of it

	// maxDict is the largest window of lzma and xz in bytes: that of their highest level, 9.
	maxDict = 64 << 20
	// windowsPerByte is how many bytes of windows an xz file may have for each byte that it unpacks to.
	windowsPerByte = 16

	// What the values of a pickle may take, arrays apart, see pickle.Options.MaxMemory.
	memoryBase    = 64 << 20
	memoryPerByte = 64
)

// codec is one of the ways in which joblib compresses a file. Except in the oldest versions it writes the
// stream as the codec's own tools do, and nothing around it.
type codec struct {
	name string
	// detect tells by the first bytes whether it is this codec.
	detect func(head []byte) bool
	// open gives what data unpack to, of which at most limit bytes will be read. The reader must take bytes
	// from in no further than its stream goes. Nil: the codec is known and not read.
	open func(data []byte, in *bytes.Reader, limit int64) (io.Reader, error)
}

var codecs = []codec{
	{"zlib", isZlib, func(_ []byte, in *bytes.Reader, _ int64) (io.Reader, error) { return zlib.NewReader(in) }},
	{"gzip", magic("\x1f\x8b"), func(_ []byte, in *bytes.Reader, _ int64) (io.Reader, error) { return gzip.NewReader(in) }},
	{"bz2", magic("BZh"), func(_ []byte, in *bytes.Reader, _ int64) (io.Reader, error) { return bzip2.NewReader(in), nil }},
	{"xz", magic("\xfd7zXZ\x00"), openXZ},
	{"lzma", magic("\x5d\x00\x00"), func(_ []byte, in *bytes.Reader, _ int64) (io.Reader, error) {
		return lzma.ReaderConfig{DictCap: maxDict}.NewReader(in)
	}},
	{"lz4", magic("\x04\x22\x4d\x18"), openLZ4},
	{"joblib's format before 0.10", magic("ZF"), nil},
}

func magic(begin string) func([]byte) bool {
	return func(head []byte) bool { return bytes.HasPrefix(head, []byte(begin)) }
}

// isZlib: "CMF and FLG, when viewed as a 16-bit unsigned integer stored in MSB order, is a multiple of 31."
// - RFC 1950, 2.2. 0x78 is deflate with a window of 32 KiB.
func isZlib(head []byte) bool {
	return len(head) >= 2 && head[0] == 0x78 && (int(head[0])<<8|int(head[1]))%31 == 0
}

// codecOf gives the codec of a file, or nil when the file is none's.
func codecOf(head []byte) *codec {
	for i := range codecs {
		if codecs[i].detect(head) {
			return &codecs[i]
		}
	}
	return nil
}

// Detect tells from the first bytes of a file whether it is scikit-learn's: a pickle, or one that is
// compressed the way joblib does it. 64 bytes are enough. It is true too for what Import names and refuses.
func Detect(head []byte) bool {
	if codecOf(head) != nil {
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

// open gives the pickle's bytes, and what its values may take.
func open(data []byte) (src *pickle.Source, memory int64, err error) {
	if len(data) == 0 {
		return nil, 0, fmt.Errorf("%w: the file is empty", pickle.ErrMalformed)
	}
	memory = memoryBase + memoryPerByte*int64(len(data))
	c := codecOf(data)
	switch {
	case c == nil && !Detect(data):
		return nil, 0, fmt.Errorf("%w: the file begins with % x, which is neither a pickle nor a compression of joblib's",
			pickle.ErrMalformed, data[:min(len(data), 8)])
	case c == nil:
		return pickle.FromBytes(data), memory, nil
	case c.open == nil:
		return nil, 0, fmt.Errorf("%w: compression %s is not read; save the model again with joblib.dump", ErrUnsupported, c.name)
	}
	limit := unpackBase + unpackPerByte*int64(len(data))
	in := bytes.NewReader(data)
	r, err := c.open(data, in, limit)
	if err != nil {
		return nil, 0, badStream(c.name, err)
	}
	return pickle.FromReader(&exactly{r: r, in: in, name: c.name}, limit), memory, nil
}

// badStream is the error about a stream that cannot be begun.
func badStream(name string, err error) error {
	switch {
	case errors.Is(err, ErrUnsupported) || errors.Is(err, pickle.ErrLimit):
		return err
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: the file ends inside the %s stream", pickle.ErrMalformed, name)
	}
	return fmt.Errorf("%w: the %s stream: %w", pickle.ErrMalformed, name, err)
}

// exactly reads a compressed stream that must take up the whole of its input.
type exactly struct {
	r    io.Reader
	in   *bytes.Reader
	name string
}

func (e *exactly) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err == io.EOF && e.in.Len() > 0 {
		return n, fmt.Errorf("%d bytes follow the end of the %s stream", e.in.Len(), e.name)
	}
	return n, err
}

// openXZ checks first what the library would trust: see measureXZ.
func openXZ(data []byte, in *bytes.Reader, limit int64) (io.Reader, error) {
	size, dicts, err := measureXZ(data)
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%w: it unpacks to %d bytes, more than %d", pickle.ErrLimit, size, limit)
	}
	// Each block has a window of its own, one after the other. When xz makes several blocks it makes them larger
	// than their windows, unless it is told otherwise; windows for nothing are for keeping a reader busy.
	if dicts > maxDict+windowsPerByte*size {
		return nil, fmt.Errorf("%w: its windows take %d bytes, it unpacks to %d", pickle.ErrLimit, dicts, size)
	}
	return xz.ReaderConfig{DictCap: lzma.MinDictCap, SingleStream: true}.NewReader(in)
}

// openLZ4 checks that there is one frame, which is all that joblib writes: the library would go on to
// frames of other kinds.
func openLZ4(data []byte, in *bytes.Reader, _ int64) (io.Reader, error) {
	n, err := measureLZ4(data)
	if err != nil {
		return nil, err
	}
	if n < len(data) {
		return nil, fmt.Errorf("%d bytes follow the end of the lz4 stream", len(data)-n)
	}
	return lz4.NewReader(in), nil
}
