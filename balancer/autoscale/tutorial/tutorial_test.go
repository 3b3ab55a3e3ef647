package tutorial

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
)

// TestStories runs the files of testdata. A file begins with "bounds MIN MAX MACHINE"; each further line is
//
//	SECONDS p95=MS n=COUNT age=SECONDS [pin=N] => DESIRED REASON
//
// in which n=none stands for no report at all.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { story(t, file) })
	}
}

func story(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	law, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := autoscale.Scaler{Policy: law}
	var state autoscale.State
	epoch := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if rest, ok := strings.CutPrefix(line, "bounds "); ok {
			if _, err := fmt.Sscan(rest, &s.Bounds.Min, &s.Bounds.Max, &s.Bounds.Machine); err != nil {
				t.Fatalf("line %d: %v", n, err)
			}
			continue
		}
		question, want, ok := strings.Cut(line, " => ")
		if !ok {
			t.Fatalf("line %d: no answer", n)
		}
		var at float64
		sig := autoscale.Signals{Latency: autoscale.Latency{Window: 10 * time.Second}}
		words := strings.Fields(question)
		if at, err = strconv.ParseFloat(words[0], 64); err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			if word == "n=none" {
				sig.Latency.Age = -1
				continue
			}
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatalf("line %d: %v", n, err)
			}
			switch key {
			case "p95":
				sig.Latency.P95 = time.Duration(v * float64(time.Millisecond))
			case "n":
				sig.Latency.Count = uint64(v)
			case "age":
				sig.Latency.Age = time.Duration(v * float64(time.Second))
			case "pin":
				state.Pinned = int(v)
			default:
				t.Fatalf("line %d: %q", n, word)
			}
		}
		var d autoscale.Decision
		d, state = s.Decide(epoch.Add(time.Duration(at*float64(time.Second))), sig, state)
		if got := fmt.Sprintf("%d %s", d.Desired, d.Reason); got != want {
			t.Errorf("line %d: %s\n got  %s\n want %s", n, question, got, want)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{Down: -1}, {Up: 1}, {Up: time.Second, Down: time.Second}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

// TestClockSetBack: the time of the last change may lie in the future.
func TestClockSetBack(t *testing.T) {
	law, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	sig := autoscale.Signals{Latency: autoscale.Latency{P95: time.Second, Count: 100}}
	if n, why := law.Want(now, sig, autoscale.State{Desired: 1, Changed: now.Add(time.Hour)}); n != 2 {
		t.Errorf("%d: %s", n, why)
	}
}
