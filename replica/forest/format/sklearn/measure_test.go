package sklearn

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// FuzzCodecs unpacks streams that were damaged. No codec panics, and what was measured before is what comes.
func FuzzCodecs(f *testing.F) {
	const most = 1 << 20
	// Those of the lowest level have the smallest windows, which make for quick tries.
	paths, err := filepath.Glob("testdata/made/1.9.1/joblib_*_1.model")
	if err != nil || len(paths) < 5 {
		f.Fatalf("%d seeds: %v", len(paths), err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, options := range [][]lz4.Option{
		nil,
		{lz4.BlockSizeOption(lz4.Block64Kb), lz4.BlockChecksumOption(true), lz4.ChecksumOption(false)},
	} {
		var b bytes.Buffer
		w := lz4.NewWriter(&b)
		if err := w.Apply(options...); err != nil {
			f.Fatal(err)
		}
		for i := range 20_000 {
			if _, err := w.Write([]byte{byte(i), byte(i * i >> 4)}); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := codecOf(data)
		if c == nil || c.open == nil {
			return
		}
		in := bytes.NewReader(data)
		r, err := c.open(data, in, most)
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, io.LimitReader(&exactly{r: r, in: in, name: c.name}, most))
		if err != nil || c.name != "xz" {
			return
		}
		if size, _, err := measureXZ(data); err != nil || size != n {
			t.Fatalf("it unpacks to %d bytes, and %d were measured; %v", n, size, err)
		}
	})
}
