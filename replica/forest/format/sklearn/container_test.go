package sklearn_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/format/sklearn"
)

// packers compress as joblib does. There is none for bz2.
var packers = map[string]func(io.Writer) (io.WriteCloser, error){
	"zlib": func(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriterLevel(w, zlib.BestSpeed) },
	"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.BestSpeed) },
	"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	"lzma": func(w io.Writer) (io.WriteCloser, error) { return lzma.NewWriter(w) },
	"lz4": func(w io.Writer) (io.WriteCloser, error) {
		z := lz4.NewWriter(w)
		return z, z.Apply(lz4.BlockSizeOption(lz4.Block64Kb))
	},
}

// packed compresses the parts, one after the other.
func packed(t testing.TB, codec string, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := packers[codec](&b)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestCodecs reads the same forest from every compression, large enough for several blocks of each.
func TestCodecs(t *testing.T) {
	f := classifier()
	grow(f, 40_000)
	file := f.file()
	want, err := sklearn.Import(file)
	if err != nil {
		t.Fatal(err)
	}
	for name := range packers {
		data := packed(t, name, file)
		got, err := sklearn.Import(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got.Meta.Source.SHA256 = want.Meta.Source.SHA256
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: another model than uncompressed", name)
		}
	}
}

// TestImportMemory checks that Import takes a fraction of an uncompressed file's size, since the arrays are the file's
// bytes, and little more than the unpacked size for a compressed one, since they are unpacked to where they stay.
func TestImportMemory(t *testing.T) {
	f := classifier()
	grow(f, 100_000)
	plain := f.file()
	for name, c := range map[string]struct {
		data []byte
		most float64 // of the uncompressed size
	}{
		"uncompressed": {plain, 0.3},
		"zlib":         {packed(t, "zlib", plain), 2.2}, // 1 for the arrays, and 1 because the very first one is longer than what came before it
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := sklearn.Import(c.data); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if took := float64(after.TotalAlloc-before.TotalAlloc) / float64(len(plain)); took > c.most {
			t.Errorf("%s: allocated %.2f times the bytes of the forest, at most %v are expected", name, took, c.most)
		}
	}
}

// grow makes the first tree of a forest a balanced one of n splits.
func grow(f *testForest, n int) {
	var nodes []testNode
	var add func(n int) int
	add = func(n int) int {
		at := len(nodes)
		nodes = append(nodes, testNode{left: -1, right: -1, feature: -2, value: []float64{0.25, 0.75}})
		if n > 0 {
			nodes[at].feature, nodes[at].threshold = at%3, float64(at)/7
			left := add((n - 1) / 2)
			right := add(n - 1 - (n-1)/2)
			nodes[at].left, nodes[at].right = left, right
		}
		return at
	}
	add(n)
	f.trees[0].nodes = nodes
}

// TestCut cuts small files of every compression after each byte. None is read, and none panics.
func TestCut(t *testing.T) {
	files := glob(t, "testdata/made/1.9.1/joblib_*_1.model") // with small windows
	files = append(files, "testdata/made/1.9.1/joblib_protocol_0.model", "testdata/made/1.9.1/pickle_protocol_5.model", "testdata/made/1.9.1/labels_object_joblib.model")
	for _, path := range files {
		data := readFile(t, path)
		for n := range data {
			_, err := sklearn.Import(data[:n])
			if !errors.Is(err, pickle.ErrMalformed) {
				t.Fatalf("%s: the first %d of %d bytes: %v", filepath.Base(path), n, len(data), err)
			}
		}
	}
	data := packed(t, "lz4", readFile(t, "testdata/made/1.9.1/pickle_protocol_5.model"))
	for n := range data {
		if _, err := sklearn.Import(data[:n]); !errors.Is(err, pickle.ErrMalformed) {
			t.Fatalf("lz4: the first %d of %d bytes: %v", n, len(data), err)
		}
	}
}

// TestStreamMustBeWhole refuses streams that something follows, and those with a wrong checksum.
func TestStreamMustBeWhole(t *testing.T) {
	for _, path := range glob(t, "testdata/made/1.9.1/joblib_*_9.model") {
		data := readFile(t, path)
		refused(t, append(slices.Clone(data), 0), pickle.ErrMalformed, "")
		refused(t, append(slices.Clone(data), data...), pickle.ErrMalformed, "")
	}
	file := classifier().file()
	refused(t, append(packed(t, "zlib", file), 0), pickle.ErrMalformed, "1 bytes follow the end of the zlib stream")
	refused(t, append(packed(t, "lz4", file), 0), pickle.ErrMalformed, "1 bytes follow the end of the lz4 stream")
	refused(t, append(packed(t, "lz4", file), packed(t, "lz4", nil)...), pickle.ErrMalformed, "follow the end of the lz4 stream")
	for name, fromEnd := range map[string]int{"zlib": 1, "gzip": 5, "lz4": 1, "xz": 30} {
		data := packed(t, name, file)
		data[len(data)-fromEnd] ^= 1
		refused(t, data, pickle.ErrMalformed, "checksum")
	}
}

// TestWindows refuses to allocate what the headers of lzma and xz ask for without need.
func TestWindows(t *testing.T) {
	file := classifier().file()
	alone := packed(t, "lzma", file)
	binary.LittleEndian.PutUint32(alone[1:], 1<<31)
	refused(t, alone, pickle.ErrMalformed, "dictionary size 2147483648 exceeds")

	block := func(bits byte) []byte {
		data := packed(t, "xz", file)
		data[12+4] = bits // the header of the first block: its size, flags, 0x21, 1, the window
		return data
	}
	if data := packed(t, "xz", file); data[14] != 0x21 || data[15] != 1 {
		t.Fatalf("the first block is % x", data[12:20])
	}
	refused(t, block(40), sklearn.ErrUnsupported, "an xz window of")
	refused(t, block(29), sklearn.ErrUnsupported, "an xz window of 100663296 bytes, at most 67108864 are read")

	// Many blocks, each with a window of 64 MB, and nothing in them.
	header := packed(t, "xz", nil)[:12]
	empty := []byte{2, 0, 0x21, 1, 28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	blocks := bytes.Repeat(append(empty, make([]byte, 8)...), 1000)
	refused(t, slices.Concat(header, blocks, make([]byte, 4)), pickle.ErrLimit, "its windows take")
	delta := append(bytes.Clone(header), 2, 1, 3, 1, 0, 0x21, 1, 8, 0, 0, 0, 0)
	refused(t, delta, sklearn.ErrUnsupported, "a filter besides LZMA2")
}

// TestBombs refuses files that unpack to far more than they are, without unpacking them.
func TestBombs(t *testing.T) {
	// A bytes object of 20 MB, and the instructions for many strings and for many empty dicts that are remembered.
	bombs := map[string][][]byte{
		"bytes":        {[]byte("\x80\x04B\x00\x00\x40\x01"), make([]byte, 20<<20)},
		"instructions": {[]byte("\x80\x04"), bytes.Repeat([]byte("C\xff"+strings.Repeat("x", 255)+"0"), 100_000)},
		"dicts":        {[]byte("\x80\x04"), bytes.Repeat([]byte("}\x940"), 1<<20)},
	}
	for codec := range packers {
		for name, parts := range bombs {
			if codec == "lzma" || codec == "lz4" && name != "dicts" {
				continue // slow to make; and lz4 does not shrink anything so far
			}
			t.Run(codec+" "+name, func(t *testing.T) { bomb(t, packed(t, codec, parts...)) })
		}
	}
	// 900 kB of zeros are 45 bytes of bz2.
	t.Run("bz2", func(t *testing.T) { bomb(t, readFile(t, "testdata/bomb.bz2")) })
}

func bomb(t *testing.T, data []byte) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	refused(t, data, pickle.ErrLimit, "is read when it is saved uncompressed")
	runtime.ReadMemStats(&after)
	if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 256 {
		t.Errorf("refusing %d bytes allocated %d MB in all", len(data), mb)
	}
}

// BenchmarkImport reads a forest of 200,000 nodes from every compression; its speed is that of the uncompressed bytes.
func BenchmarkImport(b *testing.B) {
	f := classifier()
	grow(f, 100_000)
	plain := f.file()
	run := func(name string, data []byte) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := sklearn.Import(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("uncompressed", plain)
	for _, name := range slices.Sorted(maps.Keys(packers)) {
		run(name, packed(b, name, plain))
	}
}

// TestDetect recognises pickles and nothing else.
func TestDetect(t *testing.T) {
	for head, want := range map[string]bool{
		"":                                false,
		"\x80":                            false,
		"\x80\x04\x95":                    true,
		"\x80\x06":                        false,
		"ccopy_reg\n_reconstructor\np0\n": true,
		"csklearn.ensemble._forest\nRandomForestClassifier\n": true,
		"city,country\n":           false,
		"x\x9c":                    true,
		"x\x9d":                    false,
		"\x1f\x8b\x08":             true,
		"BZh9":                     true,
		"\xfd7zXZ\x00":             true,
		"\x5d\x00\x00\x80":         true,
		"\x04\x22\x4d\x18":         true,
		"tree\nversion=v4\n":       false,
		`{"learner":{}}`:           false,
		"\x08\x07\x12\x07skl2onnx": false,
	} {
		if got := sklearn.Detect([]byte(head)); got != want {
			t.Errorf("Detect(%q) is %v", head, got)
		}
	}
}

// TestOldJoblib names the format that joblib left in 2016.
func TestOldJoblib(t *testing.T) {
	refused(t, []byte("ZF0x1"), sklearn.ErrUnsupported, "before 0.10")
}
