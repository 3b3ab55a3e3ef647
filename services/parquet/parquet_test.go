package parquet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	pq "github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// record has every type that is read, required and optional, in the encodings that writers use.
type record struct {
	Flag   bool     `parquet:"flag"`
	Rle    bool     `parquet:"rle"`
	I8     int32    `parquet:"i8,int(8)"`
	I32    int32    `parquet:"i32,dict"`
	U32    uint32   `parquet:"u32"`
	I64    int64    `parquet:"i64,delta"`
	U64    uint64   `parquet:"u64,optional,dict"`
	F32    float32  `parquet:"f32,split"`
	F64    float64  `parquet:"f64"`
	Gap32  *float32 `parquet:"gap32,optional"`
	Gap64  *float64 `parquet:"gap64,optional,dict"`
	Whole  *int64   `parquet:"whole,optional"`
	Text   string   `parquet:"text,optional"`
	Day    int32    `parquet:"day,date"`
	Many   []int64  `parquet:"many"`
	Inside struct {
		X float64 `parquet:"x"`
	} `parquet:"inside"`
	Index int64 `parquet:"__index_level_0__"`
}

// numbers are the columns that can be read.
var numbers = []string{"flag", "rle", "i8", "i32", "u32", "i64", "u64", "f32", "f64", "gap32", "gap64", "whole"}

func records(n int) []record {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]record, n)
	for i := range out {
		f, d, w := r.Float32(), r.Float64(), r.Int64()-r.Int64()
		out[i] = record{
			Flag: i%3 == 0, Rle: i/100%2 == 0, I8: int32(int8(i)), I32: int32(r.IntN(20)) - 10, U32: r.Uint32(), I64: int64(i*i) - 1000,
			U64: math.MaxUint64 - uint64(r.IntN(3)), F32: r.Float32(), F64: r.NormFloat64(), Text: fmt.Sprint(i), Many: []int64{1, 2}, Index: int64(i),
		}
		if i%5 != 0 {
			out[i].Gap32 = &f
		}
		if i/100%2 == 1 {
			d = math.Round(d * 10)
			out[i].Gap64 = &d
		}
		if i%2 == 1 {
			w >>= 8
			out[i].Whole = &w
		}
	}
	return out
}

// values are what the columns of numbers hold, in one rounding.
func values[T float32 | float64](in []record) []T {
	nan := T(math.NaN())
	truth := map[bool]T{true: 1}
	var out []T
	for _, r := range in {
		row := []T{truth[r.Flag], truth[r.Rle], T(r.I8), T(r.I32), T(r.U32), T(r.I64), T(r.U64), T(r.F32), T(r.F64), nan, nan, nan}
		if r.Gap32 != nil {
			row[9] = T(*r.Gap32)
		}
		if r.Gap64 != nil {
			row[10] = T(*r.Gap64)
		}
		if r.Whole != nil {
			row[11] = T(*r.Whole)
		}
		out = append(out, row...)
	}
	return out
}

func write[R any](t testing.TB, rows []R, options ...pq.WriterOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pq.NewGenericWriter[R](&b, options...)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// all reads every row of a file in blocks.
func all[T float32 | float64](file []byte, names []string, room int) (rows []T, err error) {
	r, err := Open(bytes.NewReader(file), int64(len(file)), names)
	if err != nil {
		return nil, err
	}
	block := make([]T, room*len(r.Names))
	for {
		n, err := ReadRows(r, block)
		if errors.Is(err, io.EOF) {
			if len(rows) != r.NumRows()*len(r.Names) {
				return nil, fmt.Errorf("%d rows were told, %d values came", r.NumRows(), len(rows))
			}
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, block[:n*len(r.Names)]...)
	}
}

// same takes any NaN for any other.
func same[T float32 | float64](a, b []T) bool {
	return slices.EqualFunc(a, b, func(x, y T) bool { return x == y || (math.IsNaN(float64(x)) && math.IsNaN(float64(y))) })
}

// TestReadRows reads all types from files of every codec and version, with several pages and row groups.
func TestReadRows(t *testing.T) {
	in := records(3000)
	want32, want64 := values[float32](in), values[float64](in)
	for _, codec := range []compress.Codec{&pq.Uncompressed, &pq.Snappy, &pq.Gzip, &pq.Brotli, &pq.Zstd, &pq.Lz4Raw} {
		for _, version := range []int{1, 2} {
			options := []pq.WriterOption{pq.Compression(codec), pq.DataPageVersion(version), pq.MaxRowsPerRowGroup(1100), pq.PageBufferSize(2048)}
			if version == 2 {
				options = append(options, pq.DefaultEncodingFor(pq.Boolean, &pq.RLE))
			}
			file := write(t, in, options...)
			for _, room := range []int{1, 7, 256, 5000} {
				if got, err := all[float32](file, numbers, room); err != nil || !same(got, want32) {
					t.Errorf("%v, version %d, %d rows at a time: %v", codec, version, room, err)
				}
				if got, err := all[float64](file, numbers, room); err != nil || !same(got, want64) {
					t.Errorf("%v, version %d, %d rows at a time, float64: %v", codec, version, room, err)
				}
			}
		}
	}
}

func TestColumns(t *testing.T) {
	type plain struct {
		B     int64 `parquet:"b"`
		A     int64 `parquet:"a"`
		Index int64 `parquet:"__index_level_0__"`
	}
	file := write(t, []plain{{1, 2, 3}, {4, 5, 6}})
	for _, tt := range []struct {
		names []string
		want  []float64
	}{{nil, []float64{2, 1, 5, 4}}, {[]string{"a", "b"}, []float64{2, 1, 5, 4}}, {[]string{"b"}, []float64{1, 4}}} {
		got, err := all[float64](file, tt.names, 1)
		if tt.names == nil && err == nil { // in the order of the file, whichever the writer took
			slices.Sort(got[:2])
			slices.Sort(tt.want[:2])
			slices.Sort(got[2:])
			slices.Sort(tt.want[2:])
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, %v", tt.names, got, err)
		}
	}
	whole := write(t, records(10))
	for name, want := range map[string]string{
		"none": `"none"; the columns are "`, "text": "is BYTE_ARRAY", "many": "is nested", "inside": "is nested", "day": "is DATE; convert it",
	} {
		if _, err := all[float64](whole, []string{"flag", name}, 1); !errors.Is(err, ErrColumn) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEmpty(t *testing.T) {
	if got, err := all[float32](write(t, records(0)), numbers, 1); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestCut: files that end early are refused, wherever.
func TestCut(t *testing.T) {
	file := write(t, records(50), pq.Compression(&pq.Snappy))
	for n := range len(file) {
		if _, err := all[float32](file[:n], numbers, 100); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

// TestFlips: no byte that is another one makes it fail otherwise than with an error, or take much memory.
func TestFlips(t *testing.T) {
	in := records(40)
	for _, codec := range []compress.Codec{&pq.Uncompressed, &pq.Lz4Raw, &pq.Zstd} {
		for _, version := range []int{1, 2} {
			file := write(t, in, pq.Compression(codec), pq.DataPageVersion(version))
			var before, after runtime.MemStats
			for i := range file {
				flip := [...]byte{1, 0x80, 0xff}[i%3]
				b := slices.Clone(file)
				b[i] ^= flip
				runtime.ReadMemStats(&before)
				_, err := all[float32](b, numbers, 100)
				runtime.ReadMemStats(&after)
				if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrColumn) && !errors.Is(err, ErrTooLarge) {
					t.Fatalf("%v, version %d, byte %d: %v", codec, version, i, err)
				}
				if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
					t.Fatalf("%v, version %d, byte %d, flip %#x: %d bytes were allocated, %v", codec, version, i, flip, n, err)
				}
			}
		}
	}
}

// TestDisk: an error of the disk is told as it is, wherever it comes.
func TestDisk(t *testing.T) {
	file := write(t, records(10))
	count := &failing{in: bytes.NewReader(file), left: math.MaxInt}
	read := func(f *failing) error {
		r, err := Open(f, int64(len(file)), numbers)
		for err == nil {
			_, err = ReadRows(r, make([]float32, len(numbers)))
		}
		return err
	}
	if err := read(count); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for n := range math.MaxInt - count.left {
		if err := read(&failing{in: bytes.NewReader(file), left: n}); !errors.Is(err, errDisk) {
			t.Errorf("after %d reads: %v", n, err)
		}
	}
}

var errDisk = errors.New("broken disk")

// failing can be read a few times.
type failing struct {
	in   *bytes.Reader
	left int
}

func (f *failing) ReadAt(b []byte, at int64) (int, error) {
	if f.left == 0 {
		return 0, errDisk
	}
	f.left--
	return f.in.ReadAt(b, at)
}

// TestBounds are files that claim more than they hold.
func TestBounds(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"a list of 2^31", []byte{0x29, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07}},
		{"a string of 2^31", []byte{0x48, 0xff, 0xff, 0xff, 0xff, 0x07}},
		{"a list of lists", []byte{0x29, 0x19, 0x00}},
		{"a map of lists", []byte{0x2b, 0x01, 0x99, 0x00}},
		{"structures in structures", bytes.Repeat([]byte{0x1c}, 100)},
		{"no stop", []byte{0x15, 0x02}},
		{"structures of nothing", append([]byte{0x29, 0xfc, 0x80, 0x08}, make([]byte, 1025)...)},
		{"a type that is none", []byte{0x1e, 0x00}},
		{"nothing", nil},
	} {
		if _, err := decodeFooter(tt.b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// The root, and columns of which some are in others.
	of := func(children ...int32) (schema []format.SchemaElement) {
		for i, n := range children {
			schema = append(schema, format.SchemaElement{Name: fmt.Sprint(i), NumChildren: thrift.New(n)})
		}
		return schema
	}
	for _, schema := range [][]format.SchemaElement{nil, of(1), of(2, 0), of(1, 0, 0), of(1, 1), of(1, -1, 0), of(-1, 0), of(1, math.MaxInt32, 0)} {
		if _, err := topLevel(schema); !errors.Is(err, ErrFormat) {
			t.Errorf("%+v: %v", schema, err)
		}
	}
	columns, err := topLevel(of(3, 0, 2, 1, 0, 0, 0))
	if err != nil || len(columns) != 3 || columns[0].leaf != 0 || columns[1].leaf != 1 || columns[2].leaf != 3 || columns[1].refused != "is nested" {
		t.Errorf("%+v, %v", columns, err)
	}
	for _, b := range [][]byte{
		{0x0e, 1},                               // a run of 7
		{0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 1}, // 2^41 groups
		{0x03},                                  // a group without its byte
		{0x80},
		{0x04},
	} {
		if _, err := runs(b, 8, 1); !errors.Is(err, ErrFormat) {
			t.Errorf("%x: %v", b, err)
		}
	}
	for _, tt := range []struct {
		b     []byte
		width int
		want  []uint32
	}{
		{[]byte{0x03, 0xaa}, 1, []uint32{0, 1, 0, 1, 0, 1, 0, 1}},
		{[]byte{0x80, 0x80, 0x80, 0x80, 0x10, 1}, 1, []uint32{1, 1, 1, 1, 1, 1, 1, 1}}, // a run of 2^31, of which 8 are asked for
		{[]byte{0x06, 5, 0x03, 0x88, 0xc6, 0xfa}, 3, []uint32{5, 5, 5, 0, 1, 2, 3, 4}},
		{[]byte{0x10, 1, 2, 3}, 24, []uint32{0x030201, 0x030201, 0x030201, 0x030201, 0x030201, 0x030201, 0x030201, 0x030201}},
		{[]byte{0x10}, 0, make([]uint32, 8)},
	} {
		if got, err := runs(tt.b, 8, tt.width); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%x: %v, %v", tt.b, got, err)
		}
	}
	for _, b := range [][]byte{
		{}, {0x80, 1}, {0x80, 1, 4}, {0x80, 1, 4, 3}, {0x80, 1, 4, 2, 2, 0}, // cut off
		{0x80, 1, 0, 2, 2}, {0, 4, 2, 2}, {0x80, 1, 3, 2, 2}, {0x81, 1, 4, 2, 2}, {0x80, 1, 4, 0xff, 0xff, 3, 2}, // what cannot be
		{0x80, 1, 4, 2, 2, 0, 65, 0, 0, 0},
	} {
		if _, err := differences(b, 2, 8); !errors.Is(err, ErrFormat) {
			t.Errorf("%x: %v", b, err)
		}
	}
	// 1, and then 3 more: a width of 0.
	if got, err := differences([]byte{0x80, 1, 4, 2, 2, 6, 0, 0, 0, 0}, 2, 4); err != nil || !bytes.Equal(got, []byte{1, 0, 0, 0, 4, 0, 0, 0}) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestUnpack: what unpacks to another length than the page says is refused before it takes memory.
func TestUnpack(t *testing.T) {
	zeros := make([]byte, 32<<20)
	for id, codec := range map[format.CompressionCodec]compress.Codec{
		format.Uncompressed: &pq.Uncompressed, format.Snappy: &pq.Snappy, format.Gzip: &pq.Gzip, format.Brotli: &pq.Brotli, format.Zstd: &pq.Zstd, format.Lz4Raw: &pq.Lz4Raw,
	} {
		for _, n := range []int{1, 1000} {
			packed, err := codec.Encode(nil, zeros[:n])
			if err != nil {
				t.Fatal(err)
			}
			if got, err := unpack(id, packed, n); err != nil || !bytes.Equal(got, zeros[:n]) {
				t.Errorf("%v: %d bytes, %v", id, len(got), err)
			}
			for _, wrong := range []int{n - 1, n + 1} {
				if _, err := unpack(id, packed, wrong); err == nil {
					t.Errorf("%v: %d bytes are taken for %d", id, n, wrong)
				}
			}
		}
		if id == format.Uncompressed {
			continue
		}
		bomb, err := codec.Encode(nil, zeros)
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = unpack(id, bomb, 100)
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; err == nil && grown > 16<<20 && id != format.Zstd {
			t.Errorf("%v: %v, %d bytes", id, err, grown)
		} else if err == nil {
			t.Errorf("%v: 32 MiB are taken for 100 bytes", id)
		}
	}
	if _, err := unpack(format.LZO, nil, 1); err == nil || !strings.Contains(err.Error(), "LZO") {
		t.Error(err)
	}
}

func FuzzOpen(f *testing.F) {
	in := records(20)
	for _, codec := range []compress.Codec{&pq.Uncompressed, &pq.Snappy, &pq.Zstd} {
		for _, version := range []int{1, 2} {
			f.Add(write(f, in, pq.Compression(codec), pq.DataPageVersion(version)))
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, names := range [][]string{nil, numbers} {
			_, err := all[float32](file, names, 100)
			if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrColumn) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("untyped error: %v", err)
			}
		}
	})
}
