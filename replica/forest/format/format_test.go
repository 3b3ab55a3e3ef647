package format

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/format/sklearn"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// leaf is the least model: one tree, one leaf.
func leaf(t testing.TB) *model.Model {
	t.Helper()
	b := model.NewBuilder(model.Shape{Outputs: 1})
	if err := b.Leaf(0.5); err != nil {
		t.Fatal(err)
	}
	f, err := b.Forest()
	if err != nil {
		t.Fatal(err)
	}
	return &model.Model{Meta: model.Meta{Link: model.Link{Name: model.Identity}, Predict: model.PredictScores, Task: model.Regress, Features: 1}, Forest: f}
}

func encoded(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := coppice.Encode(&b, leaf(t)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestForeign: what is known and not read is refused by its name, by the first bytes that its library writes.
func TestForeign(t *testing.T) {
	heads := map[string]string{
		"onnx_skl2onnx.onnx":      "ONNX",
		"onnx_onnxmltools.onnx":   "ONNX",
		"onnx_graph_first.onnx":   "ONNX",
		"catboost.cbm":            "CatBoost .cbm",
		"catboost.json":           "CatBoost JSON",
		"treelite_sklearn.tl":     "Treelite checkpoint",
		"treelite_xgboost.tl":     "Treelite checkpoint",
		"\nno file: binf\x00\x00": "XGBoost binary",
	}
	for file, name := range heads {
		head, made := strings.CutPrefix(file, "\nno file: ")
		data := []byte(head)
		if !made {
			data = readFile(t, filepath.Join("testdata", "heads", file))
		}
		_, err := Import(data)
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), ": "+name+";") || !strings.Contains(err.Error(), "scikit-learn") {
			t.Errorf("%q: got %v, want a refusal of %s", file, err, name)
		}
		for n := range data {
			if _, err := Import(data[:n]); !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrUnknown) {
				t.Errorf("%q, cut at %d: %v", file, n, err)
			}
		}
		// Exactly one format knows it, so the order of the list does not matter to it.
		var by []string
		for _, f := range Formats {
			if f.Detect(data) {
				by = append(by, f.Name)
			}
		}
		if len(by) != 1 {
			t.Errorf("%q is taken for %v", file, by)
		}
	}
}

func TestUnknown(t *testing.T) {
	for name, tt := range map[string]struct {
		data []byte
		say  string
	}{
		"empty":     {nil, "the file is empty"},
		"zeros":     {make([]byte, 9000), "scikit-learn"},
		"CSV":       {[]byte("a,b\n1,2\n"), "it reads Coppice .coppice, XGBoost JSON, XGBoost UBJSON, LightGBM text, scikit-learn joblib or pickle"},
		"JSON":      {[]byte(`{"a": [1, 2]}`), "it reads"},
		"NumPy":     {[]byte("\x93NUMPY\x01\x00v\x00{'descr'"), "it reads"},
		"ZIP":       {[]byte("PK\x03\x04\x14\x00\x00\x00\x08\x00"), "it reads"},
		"PNG":       {[]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"), "it reads"},
		"half name": {[]byte("COPPIC"), "it reads"},
		"space":     {[]byte(" \t\r\n"), "it reads"},
	} {
		if _, err := Import(tt.data); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: got %v, want …%s…", name, err, tt.say)
		}
	}
}

func TestImportFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// The name says something else than the content.
	m, err := ImportFile(write("model.onnx", encoded(t)))
	if err != nil {
		t.Fatal(err)
	}
	if m.Forest.NumTrees() != 1 || m.Forest.Values[0] != 0.5 {
		t.Errorf("%+v", m)
	}
	cut := write("cut.coppice", encoded(t)[:200])
	if _, err := ImportFile(cut); !errors.Is(err, coppice.ErrFormat) || !strings.Contains(err.Error(), cut) {
		t.Errorf("cut: %v", err)
	}
	none := filepath.Join(dir, "none")
	if _, err := ImportFile(none); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), none) {
		t.Errorf("no file: %v", err)
	}
	if _, err := ImportFile(dir); err == nil || !strings.Contains(err.Error(), dir+": not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	large := write("large", nil)
	if err := os.Truncate(large, MaxFileBytes+1); err != nil {
		t.Fatal(err)
	}
	if _, err := ImportFile(large); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "8589934593 bytes") {
		t.Errorf("a large file: %v", err)
	}
}

// FuzzImport: whatever the bytes are, what is imported is valid and what is refused has an error that says why.
func FuzzImport(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join("testdata", "heads", "*"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no heads: %v", err)
	}
	for _, path := range append(paths, filepath.Join("sklearn", "testdata", "bad", "pickle_os_system_zlib.joblib")) {
		f.Add(readFile(f, path))
	}
	f.Add(encoded(f))
	f.Add([]byte{})
	typed := []error{
		ErrUnknown, ErrUnsupported, coppice.ErrFormat, coppice.ErrVersion, coppice.ErrGolden, model.ErrInvalid,
		sklearn.ErrMalformed, sklearn.ErrUnsupported, sklearn.ErrForbidden,
		pickle.ErrMalformed, pickle.ErrUnsupported, pickle.ErrLimit,
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Import(data)
		if err == nil {
			if err := m.Validate(); err != nil {
				t.Fatalf("what was imported is not valid: %v", err)
			}
			return
		}
		for _, want := range typed {
			if errors.Is(err, want) {
				return
			}
		}
		t.Errorf("untyped error: %v", err)
	})
}
