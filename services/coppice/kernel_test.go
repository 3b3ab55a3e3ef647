package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/replica"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/store"
)

// double compares float64, single float32, which is what the kernel plain is for.
const (
	double = golden + "/lightgbm_binary_v3_sigmoid/model.txt"
	single = golden + "/sklearn_gb_binary/model.joblib"
)

// TestKernelRefused: a kernel that is not for a model is refused before anything starts, with those that are.
func TestKernelRefused(t *testing.T) {
	dir := t.TempDir()
	x := filepath.Join(golden, "lightgbm_binary_v3_sigmoid", "X.npy")
	for _, args := range [][]string{
		{"up", "--model", "good=" + single, "--model", "bad=" + double, "--state-dir", filepath.Join(dir, "state")},
		{"balancer", "--model", "bad=" + double, "--state-dir", filepath.Join(dir, "state")},
		{"predict", "--model", double, "--input", x, "--out", filepath.Join(dir, "out")},
	} {
		code, stdout, stderr := invoke(t, append(args, "--kernel", "plain")...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, "for this model, or this processor: plain") || !strings.Contains(stderr, "it can be scalar") {
			t.Errorf("%v: exit code %d\n%s%s", args, code, stdout, stderr)
		}
		if args[0] != "predict" && !strings.Contains(stderr, `model "bad"`) {
			t.Errorf("%v: which model is it?\n%s", args, stderr)
		}
	}
	t.Setenv("COPPICE_KERNEL", "nope")
	for _, command := range []string{"up", "balancer"} {
		if code, _, stderr := invoke(t, command); code != exitUsage || !strings.Contains(stderr, `--kernel is "nope", it can be scalar, `) {
			t.Errorf("%s: exit code %d\n%s", command, code, stderr)
		}
	}
}

// TestKernelOfReplica: a replica uses the kernel that it is told, and is ready to use it.
func TestKernelOfReplica(t *testing.T) {
	s := store.New(t.TempDir())
	e, err := s.AddFile(double)
	if err != nil {
		t.Fatal(err)
	}
	none := func(context.Context, func([]byte) error) error { return errors.New("nobody has it") }
	for _, kernel := range []string{"", "scalar"} {
		m, err := storeOpener{s, kernel}.OpenModel(t.Context(), e.SHA256, none)
		if err != nil {
			t.Fatal(err)
		}
		mapped := m.(*store.Mapped)
		// A request must not wait for what the kernels need: it is there, so that to ask for it makes nothing.
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := mapped.Plan(1)[0].Kernel
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 4<<10 {
			t.Errorf("kernel %q was not ready: %d bytes were needed", got, n)
		}
		if kernel != "" && got != kernel {
			t.Errorf("%q is used instead of %q", got, kernel)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	_, err = storeOpener{s, "plain"}.OpenModel(t.Context(), e.SHA256, none)
	if !errors.Is(err, replica.ErrUnfit) || !errors.Is(err, engine.ErrKernel) || !strings.Contains(err.Error(), "it can be scalar") {
		t.Errorf("not for the model: %v", err)
	}
}

// TestKernelOfWorkers: what a balancer is told is passed on to what it spawns.
func TestKernelOfWorkers(t *testing.T) {
	for _, kernel := range []string{"", "scalar"} {
		var cmd cobra.Command
		var b balancerFlags
		b.flags(&cmd) // with the defaults
		b.kernel = kernel
		cfg, err := b.config(&cmd, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		at := slices.Index(cfg.WorkerArgs, "--kernel")
		if (at >= 0) != (kernel != "") || (at >= 0 && cfg.WorkerArgs[at+1] != kernel) {
			t.Errorf("%q becomes %q", kernel, cfg.WorkerArgs)
		}
	}
}

// TestPredictKernel: no kernel and no number of threads changes a bit.
func TestPredictKernel(t *testing.T) {
	dir := t.TempDir()
	x := filepath.Join(golden, "sklearn_gb_binary", "X.npy")
	var want []byte
	for _, kernel := range append([]string{""}, engine.Names()...) {
		for _, threads := range []int{0, 1, 3} {
			out := filepath.Join(dir, kernel+".npy")
			args := []string{"predict", "--model", single, "--input", x, "--output", "margin", "--out", out, "--kernel", kernel, "--threads", strconv.Itoa(threads)}
			code, _, stderr := invoke(t, args...)
			if code == exitUsage && kernel != "" && strings.Contains(stderr, "for this model, or this processor: "+kernel) {
				continue
			}
			if code != exitOK {
				t.Fatalf("%v: exit code %d\n%s", args, code, stderr)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%v: other answers", args)
			}
		}
	}
}
