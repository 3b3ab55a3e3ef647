package coppice

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/model"
	"github.com/coppice-mesh/coppice/replica/forest/shap"
)

// small is a forest of three trees: a leaf alone, one split, and two.
func small(t testing.TB) *model.Model {
	t.Helper()
	b := model.NewBuilder(model.Shape{Outputs: 2})
	for _, err := range []error{
		b.Leaf(1, 0),
		b.Split(1, 0.5, model.MissingLeft), b.Leaf(0.25, 0.75), b.Leaf(0, 1),
		b.Split(0, -1, 0), b.Leaf(1, 0), b.Split(1, math.Inf(1), model.MissingLeft), b.Leaf(0, 1), b.Leaf(0.5, 0.5),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	f.LeafIDs = []uint32{0, 1, 2, 3, 9, 7}
	f.Covers32 = []float32{8, 8, 3, 5, 8, 2.5, 5.5, 0, 5.5}
	f.Average = true
	m := &model.Model{
		Meta: model.Meta{
			Link: model.Link{Name: model.Identity}, Predict: model.PredictScores,
			Task: model.Classify, Features: 2, Names: []string{"a", "b"}, Classes: []string{"no", "yes"}, ClassKind: "string", Missing: true,
			Source: model.Source{Library: "test", Version: "1", Kind: "Test"},
		},
		Forest: f,
		Golden: model.Golden{Rows: []float64{0, 0, -2, 1, 3, 0.5}, Margins: []float64{1.25 / 3, 1.75 / 3, 2.0 / 3, 1.0 / 3, 1.25 / 3, 1.75 / 3}},
	}
	return m
}

func encode(t testing.TB, m *model.Model) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	m := small(t)
	b := encode(t, m)
	if !bytes.Equal(b, encode(t, small(t))) {
		t.Error("equal models give different bytes")
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Error(diff)
	}
	// From an address at which the arrays cannot be used as they lie.
	shifted := append(make([]byte, 1, len(b)+1), b...)[1:]
	if got, err = Decode(shifted); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Error(diff)
	}
}

// TestCovers keeps covers of both types, in sections that a reader may skip, and reads files without.
func TestCovers(t *testing.T) {
	m := small(t)
	for _, tt := range []struct {
		id     string
		double []float64
		single []float32
	}{{"CVR4", nil, []float32{8, 8, 3, 5, 8, 2, 6, 0, 6}}, {"CVR8", []float64{8, 8, 3.1, 4.9, 8, 2, 6, 0, 6}, nil}, {"", nil, nil}} {
		m.Forest.Covers, m.Forest.Covers32 = tt.double, tt.single
		b := encode(t, m)
		got, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Error(diff)
		}
		flags := map[string]uint32{}
		for i := range int(binary.LittleEndian.Uint32(b[12:])) {
			e := b[headerBytes+i*entryBytes:]
			flags[string(e[:4])] = binary.LittleEndian.Uint32(e[4:])
		}
		for _, id := range []string{"CVR4", "CVR8"} {
			if at, ok := flags[id]; ok != (id == tt.id) || (ok && at != flagOptional) {
				t.Errorf("%s: sections with flags %v", tt.id, flags)
			}
		}
	}
}

// TestDamage cuts the file at every length and flips every bit of it.
func TestDamage(t *testing.T) {
	b := encode(t, small(t))
	for n := range b {
		if _, err := Decode(b[:n]); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if _, err := Decode(append(bytes.Clone(b), make([]byte, alignment)...)); !errors.Is(err, ErrFormat) {
		t.Errorf("longer: %v", err)
	}
	for i := range b {
		for bit := range 8 {
			bad := bytes.Clone(b)
			bad[i] ^= 1 << bit
			_, err := Decode(bad)
			want := ErrFormat
			if i >= 8 && i < 12 {
				want = ErrVersion
			}
			if !errors.Is(err, want) {
				t.Errorf("bit %d of byte %d flipped: %v, want %v", bit, i, err, want)
			}
		}
	}
}

// forge puts a section's bytes through change and mends all checksums, as an attacker would.
func forge(b []byte, id string, change func([]byte)) []byte {
	b = bytes.Clone(b)
	sections := int(binary.LittleEndian.Uint32(b[12:]))
	for i := range sections {
		e := b[headerBytes+i*entryBytes:]
		if string(e[:4]) == id {
			from, length := binary.LittleEndian.Uint64(e[8:]), binary.LittleEndian.Uint64(e[16:])
			data := b[from : from+length]
			change(data)
			binary.LittleEndian.PutUint32(e[24:], crc32.Checksum(data, castagnoli))
		}
	}
	return seal(b)
}

// rebuild puts a section's bytes through change, which may give any number of them, and lays the file out again.
func rebuild(b []byte, id string, change func([]byte) []byte) []byte {
	sections := int(binary.LittleEndian.Uint32(b[12:]))
	head := bytes.Clone(b[:headerBytes+sections*entryBytes])
	out := append(bytes.Clone(head), make([]byte, pad(len(head), alignment))...)
	for i := range sections {
		e := head[headerBytes+i*entryBytes:]
		from, length := binary.LittleEndian.Uint64(e[8:]), binary.LittleEndian.Uint64(e[16:])
		data := bytes.Clone(b[from : from+length])
		if string(e[:4]) == id {
			data = change(data)
		}
		binary.LittleEndian.PutUint64(e[8:], uint64(len(out)))
		binary.LittleEndian.PutUint64(e[16:], uint64(len(data)))
		binary.LittleEndian.PutUint32(e[24:], crc32.Checksum(data, castagnoli))
		out = append(append(out, data...), make([]byte, pad(len(data), alignment))...)
	}
	copy(out, head)
	binary.LittleEndian.PutUint64(out[16:], uint64(len(out)))
	return seal(out)
}

func resize(b []byte, id string, n int) []byte {
	return rebuild(b, id, func(d []byte) []byte { return append(d, make([]byte, n)...)[:n] })
}

// seal mends the header's checksum.
func seal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[24:], 0)
	end := headerBytes + int(binary.LittleEndian.Uint32(b[12:]))*entryBytes
	if end <= len(b) {
		binary.LittleEndian.PutUint32(b[24:], crc32.Checksum(b[:end], castagnoli))
	}
	return b
}

func TestForged(t *testing.T) {
	b := encode(t, small(t))
	put := func(at int, v uint32) func([]byte) {
		return func(data []byte) { binary.LittleEndian.PutUint32(data[at:], v) }
	}
	replace := func(old, text string) func([]byte) {
		return func(data []byte) {
			if len(old) != len(text) || !bytes.Contains(data, []byte(old)) {
				t.Fatalf("%s has no %q", data, old)
			}
			copy(data, bytes.Replace(data, []byte(old), []byte(text), 1))
		}
	}
	entry := func(i int) int { return headerBytes + i*entryBytes }
	bare := bytes.Clone(b[:headerBytes])
	put(12, 0)(bare)
	put(16, headerBytes)(bare)
	seal(bare)
	for _, tt := range []struct {
		name string
		file []byte
		want error
		say  string
	}{
		{"right child before its parent", forge(b, "SPLT", put(2*12+8, 1)), model.ErrInvalid, "right child"},
		{"right child beyond", forge(b, "SPLT", put(8, 2)), model.ErrInvalid, "right child"},
		{"feature beyond", forge(b, "SPLT", put(4, 2)), model.ErrInvalid, "feature 2 of 2"},
		{"NaN threshold", forge(b, "SPLT", put(0, math.Float32bits(float32(math.NaN())))), model.ErrInvalid, "NaN"},
		{"leaf row beyond", forge(b, "LEAF", put(4, 4)), model.ErrInvalid, "row 4"},
		{"infinite cover", forge(b, "CVR4", put(8, 0x7f800000)), model.ErrInvalid, "cover 2 is +Inf"},
		{"negative cover", forge(b, "CVR4", put(8, 0x80000001)), model.ErrInvalid, "cover 2 is -"},
		{"a cover less", resize(b, "CVR4", 32), model.ErrInvalid, "8 covers for 9 nodes"},
		{"no cover", resize(b, "CVR4", 0), model.ErrInvalid, "0 covers for 9 nodes"},
		{"infinite value", forge(b, "VAL8", put(4, 0x7ff00000)), model.ErrInvalid, "Inf"},
		{"trees overlap", forge(b, "TREE", put(8, 5)), model.ErrInvalid, "tree"},
		{"total beyond", forge(b, "TREE", put(3*8, 1<<31)), model.ErrInvalid, "tree"},
		{"depth", forge(b, "META", replace(`"depth":2`, `"depth":1`)), model.ErrInvalid, "depth is said to be 1 and is 2"},
		{"task", forge(b, "META", replace(`classify`, `regress"`)), ErrFormat, "META"},
		{"outputs", forge(b, "META", replace(`"outputs":2`, `"outputs":3`)), ErrFormat, ""},
		{"golden", forge(b, "GOLD", put(48, 1)), ErrGolden, "row 0, output 0"},
		{"version", seal(append(append(bytes.Clone(b[:8]), 2), b[9:]...)), ErrVersion, "version 2"},
		{"sections beyond", func() []byte { c := bytes.Clone(b); put(12, 63)(c); return seal(c) }(), ErrFormat, ""},
		{"offset beyond", func() []byte { c := bytes.Clone(b); put(entry(2)+12, 1<<30)(c); return seal(c) }(), ErrFormat, "SPLT"},
		{"length beyond", func() []byte { c := bytes.Clone(b); put(entry(2)+20, 1<<30)(c); return seal(c) }(), ErrFormat, "SPLT"},
		{"unaligned", func() []byte { c := bytes.Clone(b); put(entry(2)+8, 65)(c); return seal(c) }(), ErrFormat, "SPLT"},
		{"twice", func() []byte { c := bytes.Clone(b); copy(c[entry(2):], c[entry(1):entry(2)]); return seal(c) }(), ErrFormat, "twice"},
		{"missing", func() []byte { c := bytes.Clone(b); copy(c[entry(2):], "XXXX"); put(entry(2)+4, 1)(c); return seal(c) }(), ErrFormat, "SPLT is missing"},
		{"something in the header", func() []byte { c := bytes.Clone(b); c[40] = 1; return seal(c) }(), ErrFormat, "bytes 28 to 64"},
		{"something in an entry", func() []byte { c := bytes.Clone(b); c[entry(2)+29] = 1; return seal(c) }(), ErrVersion, "SPLT"},
		{"an unknown flag", func() []byte { c := bytes.Clone(b); c[entry(6)+4] = 3; return seal(c) }(), ErrVersion, "flags 0x3"},
		{"sections in one place", func() []byte {
			c := bytes.Clone(b)
			copy(c[entry(2)+8:entry(3)], c[entry(1)+8:entry(2)])
			return seal(c)
		}(), ErrFormat, "SPLT"},
		{"a section left out", func() []byte { c := bytes.Clone(b); c[12]--; return seal(c) }(), ErrFormat, ""},
		{"no sections", func() []byte { c := bytes.Clone(b); put(12, 0)(c); return seal(c) }(), ErrFormat, "last section ends at 64"},
		{"a header alone", bare, ErrFormat, "META is missing"},
		{"more sections than are read", func() []byte { c := bytes.Clone(b); put(12, 1<<32-1)(c); return c }(), ErrFormat, "4294967295 sections"},
		{"a brace behind the description", rebuild(b, "META", func(d []byte) []byte { return append(d, '}') }), ErrFormat, "something follows"},
		{"two descriptions", rebuild(b, "META", func(d []byte) []byte { return append(d, d...) }), ErrFormat, "something follows"},
		{"a long description", rebuild(b, "META", func([]byte) []byte { return make([]byte, maxMetaBytes+1) }), ErrFormat, "67108865 bytes"},
		{"more golden rows than are read", rebuild(b, "GOLD", func([]byte) []byte { return make([]byte, (model.MaxGoldenRows+1)*(2*8+2*8)) }), ErrFormat, "1 to 64 rows"},
		{"features beyond", forge(b, "META", replace(`"features":2`, `"features":9`)), ErrFormat, ""},
		{"an unknown key", forge(b, "META", replace(`"missing"`, `"mussing"`)), ErrFormat, "mussing"},
		{"half a number", forge(b, "META", replace(`"features":2`, `"features":.`)), ErrFormat, "META"},
		{"no golden rows at all", resize(b, "GOLD", 0), ErrFormat, "GOLD has 0 bytes"},
		{"half a golden row", resize(b, "GOLD", 68), ErrFormat, "GOLD has 68 bytes"},
		{"half a split", resize(b, "SPLT", 11), ErrFormat, "11 bytes are not whole entries of 12"},
		{"too few splits", resize(b, "SPLT", 24), model.ErrInvalid, "6 leaf ids for 5 leaves"},
		{"no values", resize(b, "VAL8", 0), model.ErrInvalid, "0 leaf values"},
		{"no trees", resize(b, "TREE", 0), model.ErrInvalid, "0 trees"},
		{"a leaf id too few", resize(b, "LFID", 20), model.ErrInvalid, "5 leaf ids for 6 leaves"},
		{"no description", resize(b, "META", 0), ErrFormat, "META"},
		{"unknown and needed", func() []byte { c := bytes.Clone(b); copy(c[entry(2):], "XXXX"); return seal(c) }(), ErrVersion, "XXXX"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode(tt.file)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("got %v, want …%s…", err, tt.say)
			}
		})
	}
}

// TestEncodeRefuses: what Decode would refuse is not written.
func TestEncodeRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*model.Model)
		want   error
	}{
		{"golden outputs that it does not give", func(m *model.Model) { m.Golden.Margins[3] += 1e-16 }, ErrGolden},
		{"no trees", func(m *model.Model) { m.Forest.Trees = m.Forest.Trees[:1] }, model.ErrInvalid},
		{"a class that JSON cannot hold", func(m *model.Model) { m.Meta.Classes[0] = "\xff" }, model.ErrInvalid},
		{"too long a description", func(m *model.Model) { m.Meta.Names[0] = strings.Repeat("n", maxMetaBytes) }, model.ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := small(t)
			tt.change(m)
			var b bytes.Buffer
			if err := Encode(&b, m); !errors.Is(err, tt.want) || b.Len() > 0 {
				t.Errorf("%v, and %d bytes were written", err, b.Len())
			}
		})
	}
}

// shortWriter fails after n bytes.
type shortWriter struct{ n int }

var errFull = errors.New("disk full")

func (w *shortWriter) Write(b []byte) (int, error) {
	if len(b) > w.n {
		return 0, errFull
	}
	w.n -= len(b)
	return len(b), nil
}

func TestEncodeWriteError(t *testing.T) {
	m := small(t)
	for n := range len(encode(t, m)) {
		if err := Encode(&shortWriter{n}, m); !errors.Is(err, errFull) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

// TestNames: text of any kind comes back as it was.
func TestNames(t *testing.T) {
	m := small(t)
	m.Meta.Names = []string{"", "<&>\u2028\"\\\x00\n"}
	m.Meta.Classes = []string{"\u00e9", "e\u0301\U0001f332"}
	got, err := Decode(encode(t, m))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Error(diff)
	}
}

// TestUnknownOptional: a section of a later version that may be skipped is skipped, and is intact all the same.
func TestUnknownOptional(t *testing.T) {
	b := encode(t, small(t))
	last := headerBytes + (int(binary.LittleEndian.Uint32(b[12:]))-1)*entryBytes
	copy(b[last:], "NEWS") // GOLD, which is optional
	seal(b)
	m, err := Decode(b)
	if err != nil || len(m.Golden.Rows) != 0 {
		t.Errorf("%v, %v", m, err)
	}
	b[binary.LittleEndian.Uint64(b[last+8:])] ^= 1
	if _, err := Decode(b); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "NEWS") {
		t.Errorf("damaged: %v", err)
	}
}

// TestKeys: every key of META once, and spelt as it is specified.
func TestKeys(t *testing.T) {
	b := encode(t, small(t))
	for _, tt := range []struct{ old, text, say string }{
		{`"task"`, `"Task"`, `unknown key "Task"`},
		{`"outputs"`, `"Outputs"`, `unknown key "Outputs"`},
		{`"version":"1"`, `"VERSION":"1"`, `source: unknown key "VERSION"`},
		{`"depth":2`, `"rooms":2`, `unknown field "rooms"`},
		{`"names":["a","b"]`, `"missing" : false`, `"missing" is there twice`},
	} {
		changed := false
		f := forge(b, "META", func(data []byte) {
			changed = len(tt.old) == len(tt.text) && bytes.Contains(data, []byte(tt.old))
			copy(data, bytes.Replace(data, []byte(tt.old), []byte(tt.text), 1))
		})
		if _, err := Decode(f); !changed || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: got %v, want …%s…", tt.text, err, tt.say)
		}
	}
}

// TestGoldenWork: as many golden rows are checked as a bounded amount of work allows, so that no small file takes
// minutes to open.
func TestGoldenWork(t *testing.T) {
	const outputs = model.MaxOutputs
	wide := func(trees, golden int) *model.Model {
		m := &model.Model{Meta: model.Meta{Link: model.Link{Name: model.Identity}, Predict: model.PredictScores, Task: model.Classify, Features: 1, Classes: make([]string, outputs)}}
		m.Forest = model.Forest{Input: model.Float32, Width: outputs, Round: 1, Outputs: outputs, Trees: make([]model.Tree, trees+1), Splits: []model.Split{}, Leaves: make([]uint32, trees), Values: make([]float64, outputs)}
		for i := range m.Forest.Trees {
			m.Forest.Trees[i].Leaf = uint32(i)
		}
		m.Golden = model.Golden{Rows: make([]float64, golden), Margins: make([]float64, golden*outputs)}
		return m
	}
	const fit = 5
	trees := maxGoldenWork / outputs / fit
	for wrong, want := range map[int]error{0: ErrGolden, fit - 1: ErrGolden, fit: nil} {
		m := wide(trees, fit+1)
		m.Golden.Margins[(wrong+1)*outputs-1] = 1
		if err := Encode(io.Discard, m); !errors.Is(err, want) {
			t.Errorf("row %d is wrong: got %v, want %v", wrong, err, want)
		}
	}
	// A forest of which a single row is too much: nothing is evaluated.
	if b := encode(t, wide(model.MaxTrees, 1)); len(b) > 15<<20 {
		t.Errorf("%d bytes", len(b))
	} else if _, err := Decode(b); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	b := encode(f, small(f))
	f.Add(b)
	f.Add(b[:100])
	f.Add(forge(b, "SPLT", func(d []byte) { d[8] = 7 }))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Clone(data)
		// Checksums that are right let the fuzzer see what is behind them.
		if len(data) >= headerBytes && binary.LittleEndian.Uint32(data[12:]) <= maxSections {
			for i := range int(binary.LittleEndian.Uint32(data[12:])) {
				at := headerBytes + i*entryBytes
				if at+entryBytes > len(data) {
					break
				}
				from, length := binary.LittleEndian.Uint64(data[at+8:]), binary.LittleEndian.Uint64(data[at+16:])
				if from <= uint64(len(data)) && length <= uint64(len(data))-from {
					binary.LittleEndian.PutUint32(data[at+24:], crc32.Checksum(data[from:from+length], castagnoli))
				}
			}
			seal(data)
		}
		decodeAny(t, data)
	})
}

// FuzzSections has the content of the sections fuzzed, in a file that is otherwise right: it gets to what is
// checked behind the checksums.
func FuzzSections(f *testing.F) {
	ids := [8]string{"META", "TREE", "SPLT", "LEAF", "VAL8", "LFID", "CVR4", "GOLD"}
	add := func(c [8][]byte) { f.Add(c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]) }
	b := encode(f, small(f))
	var content [8][]byte
	for i, id := range ids {
		rebuild(b, id, func(d []byte) []byte {
			content[i] = bytes.Clone(d)
			return d
		})
	}
	add(content)
	for i := range content {
		some := content
		some[i] = []byte{}
		add(some)
	}
	some := content
	some[0] = bytes.Replace(content[0], []byte(`"features":2`), []byte(`"features":1`), 1)
	add(some)
	f.Fuzz(func(t *testing.T, meta, trees, splits, leaves, values, leafIDs, covers, golden []byte) {
		data := b
		for i, d := range [][]byte{meta, trees, splits, leaves, values, leafIDs, covers, golden} {
			data = rebuild(data, ids[i], func([]byte) []byte { return d })
		}
		decodeAny(t, data)
	})
}

// decodeAny decodes what may be no model. What is one is whole and comes back from its own encoding, and every row
// ends in a leaf.
func decodeAny(t *testing.T, data []byte) {
	m, err := Decode(data)
	if err != nil {
		if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrGolden) {
			t.Errorf("untyped error: %v", err)
		}
		return
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	again, err := Decode(encode(t, m))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, again, cmp.Comparer(sameBits)); diff != "" {
		t.Error(diff)
	}
	row := make([]float32, m.Meta.Features)
	for _, v := range []float32{0, -1, 1, float32(math.NaN()), float32(math.Inf(1))} {
		for i := range row {
			row[i] = v
		}
		engine.ByName[float32]("", &m.Forest).Margins(make([]float64, m.Forest.Outputs), row, len(row))
		engine.ByName[float32]("", &m.Forest).Leaves(make([]int64, m.Forest.NumTrees()), row, len(row))
		if e, err := shap.New(&m.Forest); err == nil && m.Forest.Outputs*len(row) < 1<<20 {
			shap.Values(e, make([]float64, m.Forest.Outputs*(len(row)+1)), row, len(row), len(row), 1)
		}
	}
}

// sameBits compares golden rows, which may be NaN.
func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

func BenchmarkDecode(b *testing.B) {
	// A forest of 64 full trees, 4 million nodes.
	const depth = 15
	builder := model.NewBuilder(model.Shape{Outputs: 2})
	var grow func(d int)
	grow = func(d int) {
		if d == depth {
			_ = builder.Leaf(float64(d&1), float64(1-d&1))
			return
		}
		_ = builder.Split(d, float64(d), 0)
		grow(d + 1)
		grow(d + 1)
	}
	for range 64 {
		grow(0)
	}
	f, err := builder.Forest()
	if err != nil {
		b.Fatal(err)
	}
	m := &model.Model{Forest: f, Meta: model.Meta{Link: model.Link{Name: model.Identity}, Predict: model.PredictScores, Task: model.Classify, Features: depth, Classes: []string{"a", "b"}}}
	data := encode(b, m)
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			if _, err := Decode(data); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(data))/float64(f.NumNodes()), "bytes/node")
		b.ReportMetric(float64(f.NumNodes()), "nodes")
	})
	b.Run("validate", func(b *testing.B) {
		for b.Loop() {
			if err := m.Validate(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
