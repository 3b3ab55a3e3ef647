package coppice

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// small is a forest of three trees: a leaf alone, one split, and two.
func small(t testing.TB) *model.Model {
	t.Helper()
	b := model.NewBuilder(2)
	for _, err := range []error{
		b.Leaf(1, 0),
		b.Split(1, 0.5, true), b.Leaf(0.25, 0.75), b.Leaf(0, 1),
		b.Split(0, -1, false), b.Leaf(1, 0), b.Split(1, float32(math.Inf(1)), true), b.Leaf(0, 1), b.Leaf(0.5, 0.5),
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
	m := &model.Model{
		Meta: model.Meta{
			Task: model.Classify, Features: 2, Names: []string{"a", "b"}, Classes: []string{"no", "yes"}, ClassKind: "string", Missing: true,
			Source: model.Source{Library: "test", Version: "1", Kind: "Test"},
		},
		Forest: f,
		Golden: model.Golden{Rows: []float32{0, 0, -2, 1, 3, 0.5}, Outputs: []float64{1.25 / 3, 1.75 / 3, 2.0 / 3, 1.0 / 3, 1.25 / 3, 1.75 / 3}},
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

// TestDamage cuts the file at every length and flips every byte: it is refused, unless the byte is one that nothing
// reads.
func TestDamage(t *testing.T) {
	b := encode(t, small(t))
	for n := range b {
		if _, err := Decode(b[:n]); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	read := make([]bool, len(b))
	sections := int(binary.LittleEndian.Uint32(b[12:]))
	for i := range headerBytes + sections*entryBytes {
		read[i] = true
	}
	for i := range sections {
		e := b[headerBytes+i*entryBytes:]
		from, length := binary.LittleEndian.Uint64(e[8:]), binary.LittleEndian.Uint64(e[16:])
		for j := from; j < from+length; j++ {
			read[j] = true
		}
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x10
		if _, err := Decode(bad); (err == nil) == read[i] {
			t.Errorf("byte %d flipped: %v", i, err)
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
		{"infinite value", forge(b, "VALU", put(4, 0x7ff00000)), model.ErrInvalid, "Inf"},
		{"trees overlap", forge(b, "TREE", put(8, 5)), model.ErrInvalid, "tree"},
		{"total beyond", forge(b, "TREE", put(3*8, 1<<31)), model.ErrInvalid, "tree"},
		{"depth", forge(b, "META", replace(`"depth":2`, `"depth":1`)), model.ErrInvalid, "depth is said to be 1 and is 2"},
		{"task", forge(b, "META", replace(`classify`, `regress"`)), ErrFormat, "META"},
		{"outputs", forge(b, "META", replace(`"outputs":2`, `"outputs":3`)), ErrFormat, ""},
		{"golden", forge(b, "GOLD", put(24, 1)), ErrGolden, "row 0, output 0"},
		{"version", seal(append(append(bytes.Clone(b[:8]), 2), b[9:]...)), ErrVersion, "version 2"},
		{"sections beyond", func() []byte { c := bytes.Clone(b); put(12, 63)(c); return seal(c) }(), ErrFormat, ""},
		{"offset beyond", func() []byte { c := bytes.Clone(b); put(entry(2)+12, 1<<30)(c); return seal(c) }(), ErrFormat, "SPLT"},
		{"length beyond", func() []byte { c := bytes.Clone(b); put(entry(2)+20, 1<<30)(c); return seal(c) }(), ErrFormat, "SPLT"},
		{"unaligned", func() []byte { c := bytes.Clone(b); put(entry(2)+8, 65)(c); return seal(c) }(), ErrFormat, "SPLT"},
		{"twice", func() []byte { c := bytes.Clone(b); copy(c[entry(2):], c[entry(1):entry(2)]); return seal(c) }(), ErrFormat, "twice"},
		{"missing", func() []byte { c := bytes.Clone(b); copy(c[entry(2):], "XXXX"); put(entry(2)+4, 1)(c); return seal(c) }(), ErrFormat, "SPLT is missing"},
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

// TestUnknownOptional: a section of a later version that may be skipped is skipped.
func TestUnknownOptional(t *testing.T) {
	b := encode(t, small(t))
	last := headerBytes + (int(binary.LittleEndian.Uint32(b[12:]))-1)*entryBytes
	copy(b[last:], "NEWS") // GOLD, which is optional
	m, err := Decode(seal(b))
	if err != nil || len(m.Golden.Rows) != 0 {
		t.Errorf("%v, %v", m, err)
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
		m, err := Decode(data)
		if err != nil {
			return
		}
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		encode(t, m)
	})
}

func BenchmarkDecode(b *testing.B) {
	// A forest of 64 full trees, 4 million nodes.
	const depth = 15
	builder := model.NewBuilder(2)
	var grow func(d int)
	grow = func(d int) {
		if d == depth {
			_ = builder.Leaf(float64(d&1), float64(1-d&1))
			return
		}
		_ = builder.Split(d, float32(d), false)
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
	m := &model.Model{Forest: f, Meta: model.Meta{Task: model.Classify, Features: depth, Classes: []string{"a", "b"}}}
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
