package process

import "testing"

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("31 (a b) c) S 1 31 31 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 0 0"))
	f.Add([]byte("31 (x) Z"))
	f.Add([]byte(")"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, b []byte) {
		state, ticks, err := parseStat(b)
		if (err == nil) != (state != 0 && ticks != "") {
			t.Errorf("%q: %q, %q, %v", b, state, ticks, err)
		}
	})
}

func TestParseStat(t *testing.T) {
	state, ticks, err := parseStat([]byte("31 (a b) c) S 1 31 31 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 0 0"))
	if state != 'S' || ticks != "12345" || err != nil {
		t.Errorf("%q, %q, %v", state, ticks, err)
	}
}
