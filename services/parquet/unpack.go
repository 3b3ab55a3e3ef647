package parquet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

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
