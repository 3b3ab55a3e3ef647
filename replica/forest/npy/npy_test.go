package npy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// file makes a .npy file of a version.
func file(version byte, header string, data ...byte) []byte {
	var b bytes.Buffer
	b.WriteString("\x93NUMPY")
	b.Write([]byte{version, 0, byte(len(header)), byte(len(header) >> 8)})
	if version > 1 {
		b.Write([]byte{0, 0})
	}
	b.WriteString(header)
	b.Write(data)
	return b.Bytes()
}

func header(descr, fortran, shape string) string {
	return fmt.Sprintf("{'descr': '%s', 'fortran_order': %s, 'shape': %s, }          \n", descr, fortran, shape)
}

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name string
		file []byte
		want Array
	}{
		{"f4", file(1, header("<f4", "False", "(2,)"), 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0), Array{Float32: []float32{1, -2}}},
		{"f8, big-endian", file(1, header(">f8", "False", "(1,)"), 0x3f, 0xf0, 0, 0, 0, 0, 0, 0), Array{Float64: []float64{1}}},
		{"version 2", file(2, header("|u1", "False", "(2,)"), 3, 255), Array{Int64: []int64{3, 255}}},
		{"version 3", file(3, header("|i1", "False", "(1, 2)"), 3, 255), Array{Int64: []int64{3, -1}}},
		{"bool", file(1, header("|b1", "False", "(2,)"), 1, 0), Array{Int64: []int64{1, 0}}},
		{"i2", file(1, header("<i2", "False", "(1,)"), 0xfe, 0xff), Array{Int64: []int64{-2}}},
		{"u2", file(1, header("<u2", "False", "(1,)"), 0xfe, 0xff), Array{Int64: []int64{65534}}},
		{"u4", file(1, header("<u4", "False", "(1,)"), 1, 0, 0, 0x80), Array{Int64: []int64{1<<31 + 1}}},
		{"i8", file(1, header("<i8", "False", "(1,)"), 255, 255, 255, 255, 255, 255, 255, 255), Array{Int64: []int64{-1}}},
		{"U", file(1, header("<U2", "False", "(2,)"), 'a', 0, 0, 0, 0, 0, 0, 0, 0xe9, 0, 0, 0, 'b', 0, 0, 0), Array{Strings: []string{"a", "éb"}}},
		{"Fortran order", file(1, header("|u1", "True", "(2, 3)"), 1, 4, 2, 5, 3, 6), Array{Int64: []int64{1, 2, 3, 4, 5, 6}}},
		{"empty", file(1, header("<f8", "False", "(0, 3)")), Array{}},
		{"double quotes", file(1, `{"descr": "<f4", "fortran_order": False, "shape": (0,), }`), Array{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Read(bytes.NewReader(tt.file))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(a.Float32, tt.want.Float32) || !slices.Equal(a.Float64, tt.want.Float64) ||
				!slices.Equal(a.Int64, tt.want.Int64) || !slices.Equal(a.Strings, tt.want.Strings) {
				t.Errorf("got %+v, want %+v", a, tt.want)
			}
		})
	}
}

// TestTypes reads the same numbers in every type, byte order, order of axes and version.
func TestTypes(t *testing.T) {
	in := []int64{0, 1, -2, 3, 100, -128} // 2 rows of 3; the unsigned types take the absolute values
	for _, kind := range []string{"f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"} {
		for _, order := range []interface {
			binary.AppendByteOrder
			String() string
		}{binary.LittleEndian, binary.BigEndian} {
			for _, fortran := range []string{"False", "True"} {
				var data []byte
				want := make([]int64, len(in))
				for i := range in {
					at := i
					if fortran == "True" {
						at = i%2*3 + i/2
					}
					v := in[at]
					switch {
					case kind[0] == 'u':
						v = max(v, -v)
					case kind == "b1":
						v &= 1
					}
					want[at] = v
					switch kind {
					case "f4":
						data = order.AppendUint32(data, math.Float32bits(float32(v)))
					case "f8":
						data = order.AppendUint64(data, math.Float64bits(float64(v)))
					case "i1", "u1", "b1":
						data = append(data, byte(v))
					case "i2", "u2":
						data = order.AppendUint16(data, uint16(v))
					case "i4", "u4":
						data = order.AppendUint32(data, uint32(v))
					default:
						data = order.AppendUint64(data, uint64(v))
					}
				}
				mark := "<"
				if order.String() == "BigEndian" {
					mark = ">"
				}
				for version := byte(1); version <= 3; version++ {
					name := fmt.Sprintf("%s%s, Fortran %s, version %d", mark, kind, fortran, version)
					f := file(version, header(mark+kind, fortran, "(2, 3)"), data...)
					a, err := Read(bytes.NewReader(f))
					if err != nil {
						t.Errorf("%s: %v", name, err)
						continue
					}
					got := slices.Clone(a.Int64)
					for _, v := range a.Float32 {
						got = append(got, int64(v))
					}
					for _, v := range a.Float64 {
						got = append(got, int64(v))
					}
					if !slices.Equal(got, want) || a.Rows() != 2 || a.Columns() != 3 || a.Type != kind {
						t.Errorf("%s: %v of %v and %s, want %v", name, got, a.Shape, a.Type, want)
					}
					for n := range f {
						if _, err := Read(bytes.NewReader(f[:n])); !errors.Is(err, ErrFormat) {
							t.Errorf("%s, cut at %d: %v", name, n, err)
						}
					}
				}
			}
		}
	}
}

// TestNumPy: NumPy's own files come back from Write byte for byte.
func TestNumPy(t *testing.T) {
	paths, err := filepath.Glob("../testdata/golden/*/*.npy")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	types := map[string]int{}
	for _, path := range paths {
		in, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Read(bytes.NewReader(in))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		types[a.Type[:1]]++
		var out bytes.Buffer
		r, err := NewReader(bytes.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		elements := make([]byte, r.Rows()*r.Columns()*r.Size())
		if n, err := r.ReadBytes(elements); n != r.Rows() || err != nil {
			t.Errorf("%s: %d rows, %v", path, n, err)
		}
		if err := WriteHeader(&out, r.Type, r.Shape...); err != nil {
			t.Fatal(err)
		}
		if out.Write(elements); !bytes.Equal(in, out.Bytes()) {
			t.Errorf("%s: its header and elements are written as %.140q, NumPy wrote %.140q", path, out.Bytes(), in)
		}
		out.Reset()
		switch {
		case a.Type == "b1":
			b := make([]bool, len(a.Int64))
			for i, v := range a.Int64 {
				b[i] = v == 1
			}
			err = WriteBools(&out, b, a.Shape...)
		case a.Float32 != nil:
			err = Write(&out, a.Float32, a.Shape...)
		case a.Float64 != nil:
			err = Write(&out, a.Float64, a.Shape...)
		case a.Int64 != nil:
			err = Write(&out, a.Int64, a.Shape...)
		default:
			err = WriteStrings(&out, a.Strings, a.Shape...)
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !bytes.Equal(in, out.Bytes()) && a.Type != "i4" { // which comes back as i8
			t.Errorf("%s: it is written as %.140q, NumPy wrote %.140q", path, out.Bytes(), in)
		}
	}
	for _, kind := range []string{"f", "i", "b", "U"} {
		if types[kind] == 0 {
			t.Errorf("no file of type %s among %v", kind, types)
		}
	}
}

// TestStrings: NumPy pads strings with zeros, which are part of one only when something follows.
func TestStrings(t *testing.T) {
	in := []string{"a\x00b", "", "\x00c", "\U0001f332"}
	var b bytes.Buffer
	if err := WriteStrings(&b, in, 2, 2); err != nil {
		t.Fatal(err)
	}
	a, err := Read(&b)
	if err != nil || !slices.Equal(a.Strings, in) || a.Type != "U3" {
		t.Errorf("got %q of %s, %v", a.Strings, a.Type, err)
	}
}

func TestRefusals(t *testing.T) {
	whole := file(1, header("<f4", "False", "(2,)"), 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0)
	for n := range whole {
		if _, err := Read(bytes.NewReader(whole[:n])); !errors.Is(err, ErrFormat) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for name, f := range map[string][]byte{
		"more bytes":      append(slices.Clone(whole), 0),
		"version 4":       file(4, header("<f4", "False", "(0,)")),
		"objects":         file(1, header("|O", "False", "(1,)")),
		"complex":         file(1, header("<c8", "False", "(0,)")),
		"structured":      file(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (0,), }"),
		"33 dimensions":   file(1, header("<f4", "False", "("+strings.Repeat("1, ", 33)+")"), 0, 0, 0, 0),
		"no dimension":    file(1, header("<f4", "False", "()")),
		"negative":        file(1, header("<f4", "False", "(-1,)")),
		"2**40 x 20":      file(1, header("<f4", "False", "(1099511627776, 20)")),
		"2**62":           file(1, header("<f4", "False", "(4611686018427387904,)")),
		"no shape":        file(1, "{'descr': '<f4', 'fortran_order': False, }"),
		"unknown key":     file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0,), 'x': 1}"),
		"a key twice":     file(1, "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (0,)}"),
		"u8 too large":    file(1, header("<u8", "False", "(1,)"), 255, 255, 255, 255, 255, 255, 255, 255),
		"no character":    file(1, header("<U1", "False", "(1,)"), 0, 0, 0x11, 0),
		"long string":     file(1, header("<U99999999", "False", "(1,)")),
		"no byte order":   file(1, header("|f4", "False", "(0,)")),
		"no tuple":        file(1, header("<f4", "False", "(0)")),
		"empty dimension": file(1, header("<f4", "False", "(0,,)")),
		"octal":           file(1, header("<f4", "False", "(00,)")),
		"signed length":   file(1, header("<U+3", "False", "(0,)")),
		"commas":          file(1, "{,'descr': '<f4', 'fortran_order': False, 'shape': (0,)}"),
		"no commas":       file(1, "{'descr': '<f4' 'fortran_order': False 'shape': (0,)}"),
		"no end":          file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0,)"),
		"open tuple":      file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0,"),
		"open string":     file(1, "{'descr"),
		"escape":          file(1, "{'\\x64escr': '<f4', 'fortran_order': False, 'shape': (0,)}"),
		"after the dict":  file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0,)} + 1"),
		"neither":         file(1, header("<f4", "Falsehood", "(0,)")),
		"zip":             []byte("PK\x03\x04 and more"),
	} {
		if _, err := Read(bytes.NewReader(f)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHugeClaim: what a header claims is not allocated before it came.
func TestHugeClaim(t *testing.T) {
	for _, tt := range []struct{ descr, shape, say string }{
		{"<f8", "(1000000, 1000000)", "after 0 of 1000000000000 values"},
		{"<f4", "(1099511627776,)", "after 0 of 1099511627776 values"},
		{"<f4", "(1099511627776, 20)", "too large"},
		{"<i8", "(20, 1099511627776)", "too large"},
		{"<f8", "(1048576, 1048577)", "too large"},
		{"<U65536", "(1000000, 1000000)", "after 0 of 1000000000000 values"},
		{"<f4", "(281474976710655,)", "too large"},
		{"<f4", "(18446744073709551616,)", "shape"},
		{"<f4", "(0, 281474976710655)", "too large"},
	} {
		f := file(1, header(tt.descr, "True", tt.shape))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Read(bytes.NewReader(f))
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s %s: got %v, want …%s…", tt.descr, tt.shape, err, tt.say)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s %s: %d bytes were allocated", tt.descr, tt.shape, n)
		}
	}
	// A header alone, in versions that have room for one of 4 GiB.
	f := append([]byte("\x93NUMPY\x02\x00"), 0xff, 0xff, 0xff, 0xff)
	if _, err := Read(bytes.NewReader(f)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "4294967295 bytes") {
		t.Error(err)
	}
}

func TestWrite(t *testing.T) {
	var b bytes.Buffer
	in := []float64{1, math.Inf(-1), math.Copysign(0, -1), 1e-310, 5, 6}
	if err := Write(&b, in, 3, 2); err != nil {
		t.Fatal(err)
	}
	if start := bytes.IndexByte(b.Bytes(), '\n') + 1; start%64 != 0 {
		t.Errorf("the elements begin at %d", start)
	}
	a, err := Read(&b)
	if err != nil || a.Rows() != 3 || a.Columns() != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	for i := range in {
		if math.Float64bits(a.Float64[i]) != math.Float64bits(in[i]) {
			t.Errorf("value %d is %v, want %v", i, a.Float64[i], in[i])
		}
	}
	for _, write := range []func() error{
		func() error { return Write(&b, []int64{1, -1}, 2) },
		func() error { return Write(&b, []float32{1, 2}, 1, 2) },
		func() error { return WriteBools(&b, []bool{true, false}, 2) },
		func() error { return WriteStrings(&b, []string{"", "été", "x"}, 3) },
	} {
		b.Reset()
		if err := write(); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(&b); err != nil {
			t.Error(err)
		}
	}
	for _, shape := range [][]int{{2}, {}, {1, 1, 2}, {-1, -1}} {
		if err := Write(&b, []int64{1}, shape...); err == nil {
			t.Errorf("shape %v is written for one value", shape)
		}
	}
}

// failing is a full disk.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestWriteError(t *testing.T) {
	for _, err := range []error{
		Write(failing{}, []float64{1}, 1), WriteBools(failing{}, []bool{true}, 1), WriteStrings(failing{}, []string{"a"}, 1),
	} {
		if !errors.Is(err, io.ErrShortWrite) {
			t.Error(err)
		}
	}
}

// TestReadError: an error of the disk is told as it is, wherever it comes.
func TestReadError(t *testing.T) {
	broken := errors.New("broken disk")
	whole := file(2, header("<f4", "False", "(2,)"), make([]byte, 8)...)
	for n := range len(whole) + 1 {
		_, err := Read(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// TestEmpty: no rows are an array of its type all the same.
func TestEmpty(t *testing.T) {
	for descr, set := range map[string]func(*Array) bool{
		"<f4": func(a *Array) bool { return a.Float32 != nil },
		"<f8": func(a *Array) bool { return a.Float64 != nil },
		"|b1": func(a *Array) bool { return a.Int64 != nil },
		"<U7": func(a *Array) bool { return a.Strings != nil },
	} {
		a, err := Read(bytes.NewReader(file(1, header(descr, "True", "(0, 3)"))))
		if err != nil || !set(a) || a.Rows() != 0 || a.Columns() != 3 {
			t.Errorf("%s: %+v, %v", descr, a, err)
		}
	}
}

// TestReadRows reads 20,000 rows of every type of number, in pieces of every kind, and compares with Read.
func TestReadRows(t *testing.T) {
	const rows, columns = 20000, 3
	for _, descr := range []string{"<f4", ">f4", "<f8", ">f8", "|i1", "|u1", "|b1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", ">u4", "<i8", ">i8", "<u8", ">u8"} {
		data := make([]byte, rows*columns*int(descr[2]-'0'))
		for i := range data {
			data[i] = byte(i * i >> 3 & 0x3f) // no value is NaN or too large
		}
		f := file(1, header(descr, "False", fmt.Sprintf("(%d, %d)", rows, columns)), data...)
		a, err := Read(bytes.NewReader(f))
		if err != nil {
			t.Fatal(err)
		}
		want := slices.Clone(a.Float64)
		for _, v := range a.Float32 {
			want = append(want, float64(v))
		}
		for _, v := range a.Int64 {
			want = append(want, float64(v))
		}
		for _, room := range []int{1, 7, 10922, rows, 2 * rows} {
			// One byte more or less than whole rows must not matter.
			dst := make([]float64, room*columns+2)
			r, err := NewReader(iotest.HalfReader(bytes.NewReader(f)))
			if err != nil {
				t.Fatal(err)
			}
			var got []float64
			for {
				n, err := ReadRows(r, dst)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil || n < 1 || n > room {
					t.Fatalf("%s, room for %d: %d rows, %v", descr, room, n, err)
				}
				got = append(got, dst[:n*columns]...)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s, room for %d: the rows differ", descr, room)
			}
		}
	}
}

func TestReadRowsErrors(t *testing.T) {
	two := file(1, header("|u1", "False", "(2, 2)"), 1, 2, 3, 4)
	for _, tt := range []struct {
		name string
		file []byte
		room int
		want error
	}{
		{"strings", file(1, header("<U1", "False", "(1,)"), 'a', 0, 0, 0), 1, ErrType},
		{"Fortran order, cut off", file(1, header("|u1", "True", "(2, 2)"), 1, 2, 3), 2, ErrFormat},
		{"Fortran order, more bytes", file(1, header("|u1", "True", "(2, 2)"), 1, 2, 3, 4, 5), 2, ErrFormat},
		{"no columns", file(1, header("|u1", "False", "(2, 0)")), 2, ErrFormat},
		{"cut off", two[:len(two)-1], 4, ErrFormat},
		{"more bytes", append(slices.Clone(two), 5), 4, ErrFormat},
	} {
		r, err := NewReader(bytes.NewReader(tt.file))
		for err == nil {
			_, err = ReadRows(r, make([]float64, tt.room))
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	r, err := NewReader(bytes.NewReader(two))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ReadRows(r, make([]float64, 1)); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("no room for a row: %d, %v", n, err)
	}
	broken := errors.New("broken disk")
	if r, err = NewReader(io.MultiReader(bytes.NewReader(two[:len(two)-2]), iotest.ErrReader(broken))); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRows(r, make([]float64, 4)); !errors.Is(err, broken) {
		t.Errorf("a broken reader: %v", err)
	}
}

// TestFortran reads an array of three dimensions in Fortran order, in blocks of every size, from behind other bytes.
func TestFortran(t *testing.T) {
	const rows, a, b = 5, 3, 4
	data := make([]byte, rows*a*b*2)
	want := make([]float32, rows*a*b)
	raw := make([]byte, 0, len(data))
	for r := range rows {
		for i := range a {
			for j := range b {
				v := uint16(100*r + 10*i + j)
				binary.BigEndian.PutUint16(data[2*(r+rows*(i+a*j)):], v)
				want[(r*a+i)*b+j] = float32(v)
				raw = binary.LittleEndian.AppendUint16(raw, v)
			}
		}
	}
	f := append([]byte("before"), file(1, header(">u2", "True", "(5, 3, 4)"), data...)...)
	open := func(wrap func(*bytes.Reader) io.Reader) *Reader {
		in := bytes.NewReader(f)
		if _, err := in.Seek(6, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		r, err := NewReader(wrap(in))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	asIs := func(r *bytes.Reader) io.Reader { return r }
	for room := 1; room <= rows+1; room++ {
		var got []float32
		r, block := open(asIs), make([]float32, room*a*b)
		n, err := ReadRows(r, block)
		for ; err == nil; n, err = ReadRows(r, block) {
			got = append(got, block[:n*a*b]...)
		}
		if !errors.Is(err, io.EOF) || !slices.Equal(got, want) {
			t.Errorf("%d rows at a time: %v, %v", room, got, err)
		}
		var all []byte
		elements := make([]byte, room*a*b*2+1)
		r = open(asIs)
		for n, err = r.ReadBytes(elements); err == nil; n, err = r.ReadBytes(elements) {
			all = append(all, elements[:n*a*b*2]...)
		}
		if !errors.Is(err, io.EOF) || !bytes.Equal(all, raw) {
			t.Errorf("%d rows at a time: bytes %v, %v", room, all, err)
		}
	}
	if got, err := Read(bytes.NewReader(f[6:])); err != nil || got.Int64[rows*a*b-1] != 423 || got.Int64[b] != 10 {
		t.Errorf("whole: %+v, %v", got, err)
	}
	if _, err := ReadRows(open(func(r *bytes.Reader) io.Reader { return io.MultiReader(r) }), want); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("a pipe: %v", err)
	}
}

// TestReadBytes sees strings and big-endian numbers as little-endian elements.
func TestReadBytes(t *testing.T) {
	for _, tt := range []struct {
		descr    string
		in, want []byte
	}{
		{">U2", []byte{0, 0, 0, 'a', 0, 0, 0, 'b', 0, 0, 0, 'c', 0, 0, 0, 0}, []byte{'a', 0, 0, 0, 'b', 0, 0, 0, 'c', 0, 0, 0, 0, 0, 0, 0}},
		{">f8", []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, []byte{8, 7, 6, 5, 4, 3, 2, 1, 16, 15, 14, 13, 12, 11, 10, 9}},
		{"|b1", []byte{1, 0}, []byte{1, 0}},
	} {
		r, err := NewReader(bytes.NewReader(file(1, header(tt.descr, "False", "(2,)"), tt.in...)))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(tt.in))
		if n, err := r.ReadBytes(got); n != 2 || err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: %d rows, %v, %v", tt.descr, n, got, err)
		}
		if _, err := r.ReadBytes(got); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v at the end", tt.descr, err)
		}
	}
}

// TestOneRounding: integers become float32 at once. By way of float64 these would be rounded twice, to another one.
func TestOneRounding(t *testing.T) {
	const v = 1<<60 + 1<<36 + 1 // just above the middle of two float32; the middle itself goes to the even one, below
	r, err := NewReader(bytes.NewReader(file(1, header("<i8", "False", "(1,)"), binary.LittleEndian.AppendUint64(nil, v)...)))
	if err != nil {
		t.Fatal(err)
	}
	var got [1]float32
	if _, err := ReadRows(r, got[:]); err != nil || got[0] != 1<<60+1<<37 {
		t.Errorf("%d is %v, %v", int64(v), got[0], err)
	}
}

// TestHeaderLength: the number of rows can be written later.
func TestHeaderLength(t *testing.T) {
	for _, shape := range [][]int{{0}, {0, 3}, {0, 100, 3}} {
		var zero, most bytes.Buffer
		if err := WriteHeader(&zero, "U12", shape...); err != nil {
			t.Fatal(err)
		}
		shape[0] = maxCells
		if err := WriteHeader(&most, "U12", shape...); err != nil {
			t.Fatal(err)
		}
		if zero.Len() != most.Len() || zero.Len()%64 != 0 {
			t.Errorf("%v: %d bytes for no row, %d for 2^40", shape, zero.Len(), most.Len())
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(file(1, header("<f4", "False", "(2,)"), 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0))
	f.Add(file(2, header(">i8", "True", "(2, 1)"), make([]byte, 16)...))
	f.Add(file(3, header("<U3", "False", "(1,)"), make([]byte, 12)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := Read(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("untyped error: %v", err)
			}
			return
		}
		if n := len(a.Float32) + len(a.Float64) + len(a.Int64) + len(a.Strings); n != a.Rows()*a.Columns() {
			t.Errorf("%d values for shape %v", n, a.Shape)
		}
		if a.Type[0] == 'U' || a.Columns() == 0 || a.Columns() > 1<<16 {
			return
		}
		r, err := NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		rows, dst := 0, make([]float64, a.Columns())
		for err == nil {
			var n int
			n, err = ReadRows(r, dst)
			rows += n
		}
		if !errors.Is(err, io.EOF) || rows != a.Rows() {
			t.Errorf("row by row it has %d rows of %d, %v", rows, a.Rows(), err)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	v := make([]float32, 100000*20)
	for i := range v {
		v[i] = float32(i)
	}
	var f bytes.Buffer
	if err := Write(&f, v, 100000, 20); err != nil {
		b.Fatal(err)
	}
	b.Run("whole", func(b *testing.B) {
		b.SetBytes(int64(f.Len()))
		for b.Loop() {
			if _, err := Read(bytes.NewReader(f.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("rows", func(b *testing.B) {
		b.SetBytes(int64(f.Len()))
		dst := make([]float64, 1024*20)
		for b.Loop() {
			r, err := NewReader(bytes.NewReader(f.Bytes()))
			for err == nil {
				_, err = ReadRows(r, dst)
			}
			if !errors.Is(err, io.EOF) {
				b.Fatal(err)
			}
		}
	})
}
