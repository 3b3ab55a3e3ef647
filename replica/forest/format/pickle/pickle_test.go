package pickle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// sources gives the same bytes from memory and from a stream that comes a byte at a time or in chunks.
func sources(data []byte) map[string]*Source {
	return map[string]*Source{
		"memory":      FromBytes(data),
		"stream":      FromReader(bytes.NewReader(data), int64(len(data))),
		"slow stream": FromReader(iotest.OneByteReader(bytes.NewReader(data)), int64(len(data))),
	}
}

// TestProtocols reads the same values in each protocol, as Python writes them.
func TestProtocols(t *testing.T) {
	for protocol := range 6 {
		data, err := os.ReadFile(fmt.Sprintf("testdata/values_%d.pickle", protocol))
		if err != nil {
			t.Fatal(err)
		}
		for name, src := range sources(data) {
			t.Run(fmt.Sprintf("%d from %s", protocol, name), func(t *testing.T) {
				v, err := NewDecoder(src, Options{}).Decode()
				if err != nil {
					t.Fatal(err)
				}
				if err := src.End(); err != nil {
					t.Fatal(err)
				}
				checkValues(t, v, protocol)
			})
		}
	}
}

func checkValues(t *testing.T, v any, protocol int) {
	t.Helper()
	root, ok := v.(*Dict)
	if !ok {
		t.Fatalf("read %s", Describe(v))
	}
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	bigInt := func(s string) *big.Int { b, _ := new(big.Int).SetString(s, 10); return b }
	ints := []any{
		int64(0), int64(1), int64(-1), int64(255), int64(256), int64(65535), int64(65536), int64(-1 << 31), int64(1 << 31), int64(math.MaxInt64), int64(math.MinInt64),
		bigInt("9223372036854775808"), bigInt("-18446744073709551616"), bigInt("1" + strings.Repeat("0", 40)),
	}
	many := make([]any, 2500)
	for i := range many {
		many[i] = int64(i)
	}
	one, two, three, four := int64(1), int64(2), int64(3), int64(4)
	shared := &List{Items: []any{"shared"}}
	want := map[string]any{
		"constants": &List{Items: []any{nil, true, false}},
		"ints":      &List{Items: ints},
		"floats":    &List{Items: []any{0.0, math.Copysign(0, -1), 1.5, -1e300, 5e-324, math.Inf(1), math.Inf(-1), 0.1}},
		"texts":     &List{Items: []any{"", "a", "é", "猫", "\U0001f333", "back\\slash\nand\tmore\r\x00", strings.Repeat("x", 300)}},
		"bytes":     &List{Items: []any{[]byte{}, []byte{0, 255}, all, bytes.Repeat([]byte("y"), 300)}},
		"tuples": &List{Items: []any{
			Tuple{}, Tuple{one}, Tuple{one, two}, Tuple{one, two, three}, Tuple{one, two, three, four}, Tuple{Tuple{}, &List{Items: []any{Tuple{}}}},
		}},
		"shared": Tuple{shared, shared},
		"many":   &List{Items: many},
	}
	if protocol >= 4 {
		want["sets"] = &List{Items: []any{&Set{}, &Set{Size: 2}, &Set{Size: 3}}}
	}
	if protocol >= 5 {
		want["bytearray"] = []byte("z")
	}
	for key, w := range want {
		got, _ := root.Get(key)
		if !reflect.DeepEqual(got, w) {
			t.Errorf("%s: read %#v, want %#v", key, got, w)
		}
	}
	if root.Len() != len(want)+2 {
		t.Errorf("the dict has %d entries, want %d", root.Len(), len(want)+2)
	}
	floats, _ := root.Get("floats")
	if zero := floats.(*List).Items[1].(float64); !math.Signbit(zero) {
		t.Error("-0.0 lost its sign")
	}
	pair, _ := root.Get("shared")
	if p := pair.(Tuple); p[0] != p[1] {
		t.Error("a list that occurs twice became two")
	}
	if self, _ := root.Get("self"); self != v {
		t.Error("a dict that holds itself does not")
	}
	d, _ := root.Get("dict")
	sub := d.(*Dict)
	if a, _ := sub.Get("a"); a != one || sub.Len() != 5 {
		t.Errorf("the dict has %d entries with a=%v", sub.Len(), a)
	}
	if _, ok := sub.Get("none such"); ok {
		t.Error("the dict has a key that nobody put there")
	}
}

// allowAll consents to every name, as only a test may.
func allowAll(Global) error { return nil }

// calls are sound pickles with what they spell.
var calls = []struct {
	in   string
	want any
}{
	{"cos\nsystem\n.", Global{"os", "system"}},
	{"\x8c\x02os\x8c\x06system\x93.", Global{"os", "system"}},
	{"cos\nsystem\n(X\x02\x00\x00\x00lstR.", &Object{Class: Global{"os", "system"}, Args: Tuple{"ls"}}},
	{"ca.b\nC.D\n)\x81}(X\x01\x00\x00\x00kK\x07ub.", &Object{Class: Global{"a.b", "C.D"}, Args: Tuple{}, State: &Dict{items: map[string]any{"k": int64(7)}}, built: true}},
	{"ccopy_reg\n_reconstructor\n(cm\nC\nc__builtin__\nobject\nNtRK\x05b.", &Object{Class: Global{"m", "C"}, State: int64(5), built: true}},
	{"c_codecs\nencode\n(X\x04\x00\x00\x00a\xc3\xbf\x00X\x06\x00\x00\x00latin1tR.", []byte{'a', 0xff, 0}},
	{"c__builtin__\nbytes\n)R.", []byte{}},
	{"L1\n.", int64(1)}, // a LONG without its L, as some writers have it
	{"(cm\nC\nK\x01K\x02o.", &Object{Class: Global{"m", "C"}, Args: Tuple{int64(1), int64(2)}}},
	{"(K\x01im\nC\n.", &Object{Class: Global{"m", "C"}, Args: Tuple{int64(1)}}},
	{"(im\nC\n}b.", &Object{Class: Global{"m", "C"}, Args: Tuple{}, State: &Dict{}, built: true}},
	{"cm\nC\nK\x01\x85}\x92.", &Object{Class: Global{"m", "C"}, Args: Tuple{int64(1)}}},
	{"S'a\\n\\t\\r\\\\\\'\\x7f\"'\n.", "a\n\t\r\\'\x7f\""},
	{"S\"it's\"\n.", "it's"},
	{"U\x02hi.", "hi"},
	{"T\x02\x00\x00\x00hi.", "hi"},
	{"(N0N1N.", nil}, // POP and POP_MARK
}

// TestNames records names and calls, and runs nothing.
func TestNames(t *testing.T) {
	for _, c := range calls {
		for name, src := range sources([]byte(c.in)) {
			got, err := NewDecoder(src, Options{Allow: allowAll}).Decode()
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%q from %s: read %#v, %v; want %#v", c.in, name, got, err, c.want)
			}
		}
	}
}

// TestAllow refuses what the caller refuses, with the caller's error, before anything is done with it.
func TestAllow(t *testing.T) {
	no := errors.New("no")
	var asked []Global
	allow := func(g Global) error {
		asked = append(asked, g)
		if g.Module == "good" {
			return nil
		}
		return no
	}
	_, err := NewDecoder(FromBytes([]byte("cgood\nA\n0cbad\nB\n(R.")), Options{Allow: allow}).Decode()
	if !errors.Is(err, no) || !strings.Contains(err.Error(), "at byte 9 of the pickle") {
		t.Errorf("got %v", err)
	}
	if want := []Global{{"good", "A"}, {"bad", "B"}}; !reflect.DeepEqual(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
	if _, err := NewDecoder(FromBytes([]byte("cgood\nA\n.")), Options{}).Decode(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("without Allow: %v", err)
	}
}

// TestBuilt reads bytes and another pickle between the instructions, and puts a value in the object's place.
func TestBuilt(t *testing.T) {
	in := "cm\nC\n)\x81Nb" + "raw" + "\x8c\x02in." + "\x85."
	for name, src := range sources([]byte(in)) {
		built := func(d *Decoder, _ *Object) (any, error) {
			b, err := d.Raw(3, "the raw bytes")
			if err != nil {
				return nil, err
			}
			v, err := d.Nested()
			return Tuple{string(b), v}, err
		}
		got, err := NewDecoder(src, Options{Allow: allowAll, Built: built}).Decode()
		if want := (Tuple{Tuple{"raw", "in"}}); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("from %s: read %#v, %v; want %#v", name, got, err, want)
		}
	}
}

// refusals are bad pickles with what is wrong with them.
var refusals = []struct {
	in   string
	is   error
	says string
}{
	{"", ErrMalformed, "ends inside the pickle, before its STOP"},
	{".", ErrMalformed, "STOP: the stack is empty"},
	{"NN.", ErrMalformed, "1 values are left"},
	{"(.", ErrMalformed, "STOP: the stack is empty"},
	{"N(", ErrMalformed, "before its STOP"},
	{"\x80\x06.", ErrUnsupported, "protocol 6"},
	{"\xff.", ErrMalformed, "at byte 0 of the pickle: malformed pickle: there is no instruction 0xff"},
	{"R.", ErrMalformed, "REDUCE: the stack is empty"},
	{")R.", ErrMalformed, "REDUCE: the stack is empty"},
	{"N)R.", ErrMalformed, "calls None, which is not a name"},
	{"cm\nf\nNR.", ErrMalformed, "the arguments are None, not a tuple"},
	{"cm\nf\n)R)R.", ErrMalformed, "calls an object of m.f, which is not a name"},
	{"Nb.", ErrMalformed, "BUILD: the stack is empty"},
	{"NNb.", ErrMalformed, "gives a state to None"},
	{"cm\nf\n)RNbNb.", ErrMalformed, "m.f already has a state"},
	{"t.", ErrMalformed, "there is no mark"},
	{"K\x01\x86.", ErrMalformed, "TUPLE2: needs 2 values"},
	{"K\x01(\x85.", ErrMalformed, "needs 1 values"},
	{"N(0N(.", ErrMalformed, ""},
	{"Na.", ErrMalformed, "APPEND: the stack is empty"},
	{"NNa.", ErrMalformed, "appends to None"},
	{"](Nu.", ErrMalformed, "assigns to a list"},
	{"}(Nu.", ErrMalformed, "the last of 1 keys has no value"},
	{"}]Ns.", ErrMalformed, "a list cannot be a key"},
	{"](N\x90.", ErrMalformed, "adds to a list"},
	{"h\x00.", ErrMalformed, "nothing was put at 0"},
	{"Nq\x02h\x01.", ErrMalformed, "nothing was put at 1"},
	{"Np-1\n.", ErrMalformed, `"-1" is not an index`},
	{"gx\n.", ErrMalformed, `"x" is not an index`},
	{"K\x01K\x02\x93.", ErrMalformed, "needs two strings, got the integer 1 and the integer 2"},
	{"I1x\n.", ErrMalformed, `"1x" is not an integer`},
	{"Fabc\n.", ErrMalformed, `"abc" is not a number`},
	{"I1", ErrMalformed, "ends inside INT"},
	{"V\\x\n.", ErrMalformed, "begins no escape"},
	{"V\\u12\n.", ErrMalformed, "begins no escape"},
	{"V\\U00110000\n.", ErrMalformed, "is no character"},
	{"cm", ErrMalformed, "ends inside GLOBAL"},
	{"\x8c\x02a\xb1.", ErrMalformed, "SHORT_BINUNICODE: text of 2 bytes is not UTF-8"},
	{"X\x05\x00\x00\x00abc", nil, "BINUNICODE"},
	{"\x8e\x00\x00\x00\x00\x00\x01\x00\x00.", nil, "BINBYTES8 claims 1099511627776 bytes"},
	{"\x96\xff\xff\xff\xff\xff\xff\xff\xff.", nil, "BYTEARRAY8 claims 18446744073709551615 bytes"},
	{"\x95\x00\x00\x00\x00\x00\x00\x04\x00N.", nil, "FRAME"},
	{"\x8b\xff\xff\xff\x7f.", ErrLimit, "an integer of 2147483647 bytes"},
	{"I" + strings.Repeat("1", 1<<11) + "\n.", ErrLimit, "longer than 1024 bytes"},
	{"c" + strings.Repeat("m", 1<<11) + "\nn\n.", ErrLimit, "longer than 1024 bytes"},
	{"Nr\xff\xff\xff\xff.", ErrLimit, "of memory"},
	{"Np4294967295\n.", ErrLimit, "of memory"},
	{strings.Repeat("(", 1<<13), ErrLimit, "marks are open"},
	{strings.Repeat("N", 1<<19), ErrLimit, "values are on the stack"},
	{"S'text\n.", ErrMalformed, "STRING: a string that is not in quotes"},
	{"S'text\"\n.", ErrMalformed, "STRING: a string that is not in quotes"},
	{"S'\n.", ErrMalformed, "STRING: a string that is not in quotes"},
	{"S'a\\'\n.", ErrMalformed, "a backslash that begins no escape"},
	{"S'a\\x1'\n.", ErrMalformed, "a backslash that begins no escape"},
	{"S'a\\xg1'\n.", ErrMalformed, `"\\xg1" is no character`},
	{"S'a\\q'\n.", ErrMalformed, `"\\q" is no escape`},
	{"S'a\\xff'\n.", ErrMalformed, "a string with the byte 0xff, only ASCII is read"},
	{"U\x01\x80.", ErrMalformed, "a string with the byte 0x80"},
	{"T\xff\xff\xff\xffa.", nil, "BINSTRING claims 4294967295 bytes"},
	{"(o.", ErrMalformed, "OBJ: there is nothing to call"},
	{"o.", ErrMalformed, "OBJ: there is no mark"},
	{"(K\x01o.", ErrMalformed, "calls the integer 1, which is not a name"},
	{"im\nC\n.", ErrMalformed, "INST: there is no mark"},
	{"(im\nC", ErrMalformed, "ends inside INST"},
	{"P1\n.", ErrUnsupported, "PERSID refers to data outside"},
	{"N\x51.", ErrUnsupported, "BINPERSID refers to data outside"},
	{"\x97.", ErrUnsupported, "NEXT_BUFFER refers to buffers outside"},
	{"\x82\x01.", ErrUnsupported, "EXT1 refers to a registry outside"},
	{"\x92.", ErrMalformed, "NEWOBJ_EX: the stack is empty"},
	{"cm\nC\n)}X\x01\x00\x00\x00kNs\x92.", ErrUnsupported, "NEWOBJ_EX with a dict of named arguments, only an empty dict"},
	{"c_codecs\nencode\n(VA\nVutf-8\ntR.", ErrMalformed, "only text as latin1 is read"},
	{"c_codecs\nencode\n(V\\u0100\nVlatin1\ntR.", ErrMalformed, "is not in latin1"},
	{"c_codecs\nencode\n)R.", ErrMalformed, "_codecs.encode with 0 arguments"},
	{"cbuiltins\nbytes\n(K\x07tR.", ErrMalformed, "only the empty one is read"},
	{"cbuiltins\nobject\n)R.", ErrMalformed, "only names a base"},
	{"ccopyreg\n_reconstructor\n(cm\nC\ncm\nD\nNtR.", ErrMalformed, "copyreg._reconstructor of the name m.C over the name m.D"},
	{"ccopyreg\n_reconstructor\n)R.", ErrMalformed, "with 0 arguments"},
}

// TestRefusals says of each bad pickle what is wrong with it.
func TestRefusals(t *testing.T) {
	for _, c := range refusals {
		for name, src := range sources([]byte(c.in)) {
			_, err := NewDecoder(src, Options{Allow: allowAll}).Decode()
			switch {
			case err == nil:
				t.Errorf("%.40q from %s was read", c.in, name)
			case c.is != nil && !errors.Is(err, c.is):
				t.Errorf("%.40q from %s: %v, which is not %v", c.in, name, err, c.is)
			case name == "memory" && !strings.Contains(err.Error(), c.says):
				t.Errorf("%.40q from %s: %v, which does not say %q", c.in, name, err, c.says)
			}
		}
	}
}

// TestEnd refuses what follows a pickle, and a stream that fails or is too long.
func TestEnd(t *testing.T) {
	for name, src := range sources([]byte("N.N")) {
		if _, err := NewDecoder(src, Options{}).Decode(); err != nil {
			t.Fatal(err)
		}
		if err := src.End(); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "follow the end") {
			t.Errorf("from %s: %v", name, err)
		}
	}
	broken := errors.New("broken")
	src := FromReader(io.MultiReader(strings.NewReader("N."), iotest.ErrReader(broken)), 1<<20)
	if _, err := NewDecoder(src, Options{}).Decode(); err != nil {
		t.Fatal(err)
	}
	if err := src.End(); !errors.Is(err, broken) {
		t.Errorf("the stream's error was lost: %v", err)
	}
	src = FromReader(strings.NewReader(strings.Repeat("N0", 1<<20)), 1<<10)
	if _, err := NewDecoder(src, Options{}).Decode(); !errors.Is(err, ErrLimit) {
		t.Errorf("a stream over its limit: %v", err)
	}
}

// stuck is a stream that neither gives bytes nor ends.
type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// TestStream reads long bytes of a stream in one piece, however they come, and does not wait forever.
func TestStream(t *testing.T) {
	const n = 3*trusted + 5
	long := make([]byte, n)
	for i := range long {
		long[i] = byte(i * i >> 8)
	}
	in := slices.Concat(binary.LittleEndian.AppendUint64([]byte("\x8e"), n), long, []byte("."))
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(in), "halves": iotest.HalfReader(bytes.NewReader(in)), "with its end": iotest.DataErrReader(bytes.NewReader(in))} {
		src := FromReader(r, int64(len(in)))
		v, err := NewDecoder(src, Options{}).Decode()
		if got, ok := v.([]byte); err != nil || !ok || !bytes.Equal(got, long) || src.End() != nil || src.Consumed() != int64(len(in)) {
			t.Errorf("%s: read %d of %d bytes, %v", name, src.Consumed(), len(in), err)
		}
	}
	for _, begin := range []string{"", "\x8e\x05\x00\x00\x00\x00\x00\x00\x00ab"} {
		src := FromReader(io.MultiReader(strings.NewReader(begin), stuck{}), 1<<20)
		if _, err := NewDecoder(src, Options{}).Decode(); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("a stream that is stuck after %d bytes: %v", len(begin), err)
		}
	}
}

// TestMemory checks that no instruction makes more than its bytes justify: each is repeated until the budget
// or the input ends, and what that takes is measured.
func TestMemory(t *testing.T) {
	for name, c := range map[string]struct{ once, again string }{
		"dicts":        {"(", "}\x940"},
		"lists":        {"", "]\x940"},
		"sets":         {"", "\x8f\x940"},
		"tuples":       {"N", "\x85"},
		"tuples of 3":  {"N\x94", "h\x00h\x00\x87\x94"},
		"list items":   {"]", "(NNNNNNNNe"},
		"dict keys":    {"}", "(X\x00\x00\x00\x00Nu"},
		"objects":      {"cm\nC\n\x94", "h\x00)\x81\x940"},
		"numbers":      {"", "M\x00\x10\x940"},
		"empty text":   {"", "\x8c\x00\x940"},
		"memo":         {"N", "\x94"},
		"append":       {"]", "Na"},
		"appended":     {"]\x94", "h\x00(h\x00h\x00e0"},
		"many dup":     {"N", "2222222222\x86\x86\x86\x86\x86\x86\x86\x86\x86\x86"},
		"big integers": {"", "\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01\x940"},
	} {
		t.Run(name, func(t *testing.T) {
			const size = 1 << 18
			in := c.once + strings.Repeat(c.again, size/len(c.again))
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			d := NewDecoder(FromBytes([]byte(in)), Options{Allow: allowAll})
			_, err := d.Decode()
			if err == nil {
				t.Error("it was read")
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			// What is still held, and twice that while a slice grew.
			if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 2*(budgetBase+budgetPerByte*size) {
				t.Errorf("%d bytes of input hold %d bytes of memory; %v", len(in), held, err)
			}
			runtime.KeepAlive(d)
		})
	}
	d := NewDecoder(FromBytes([]byte(strings.Repeat("}\x940", 1<<16))), Options{MaxMemory: 1 << 16})
	if _, err := d.Decode(); !errors.Is(err, ErrLimit) {
		t.Errorf("over MaxMemory: %v", err)
	}
}

// FuzzUnpickle reads arbitrary bytes, from memory and from a stream, which must agree.
func FuzzUnpickle(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.pickle")
	if err != nil || len(paths) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		for _, part := range []int{8, 3, 2} {
			f.Add(data[:len(data)/part])
		}
	}
	for _, c := range calls {
		f.Add([]byte(c.in))
	}
	for _, c := range refusals {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// An object whose state is a small integer is followed by so many raw bytes, or by another pickle.
		built := func(d *Decoder, o *Object) (any, error) {
			switch n, _ := o.State.(int64); {
			case n > 0 && n < 256:
				return d.Raw(uint64(n), "raw bytes")
			case n == 256:
				return d.Nested()
			}
			return o, nil
		}
		allow := func(g Global) error {
			if g.Module == "os" {
				return errors.New("forbidden")
			}
			return nil
		}
		opts := Options{Allow: allow, Built: built}
		mem := FromBytes(bytes.Clone(data))
		d := NewDecoder(mem, opts)
		v1, err1 := d.Decode()
		if most := (budgetBase + budgetPerByte*len(data)) / costMemo; len(d.memo) > most {
			t.Fatalf("%d bytes made a memo of %d, at most %d are justified", len(data), len(d.memo), most)
		}
		str := FromReader(bytes.NewReader(data), int64(len(data)))
		v2, err2 := NewDecoder(str, opts).Decode()
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("from memory %v, from a stream %v", err1, err2)
		}
		if err1 != nil {
			return
		}
		if Describe(v1) != Describe(v2) {
			t.Fatalf("from memory %s, from a stream %s", Describe(v1), Describe(v2))
		}
		if err1, err2 := mem.End(), str.End(); (err1 == nil) != (err2 == nil) {
			t.Fatalf("the end: from memory %v, from a stream %v", err1, err2)
		}
	})
}
