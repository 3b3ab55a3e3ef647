package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	pq "github.com/parquet-go/parquet-go"

	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/npy"
	"github.com/coppice-mesh/coppice/services/exact"
)

// golden is where the models are whose libraries answered.
const golden = "../../replica/forest/testdata/golden"

// named is a model that knows its features by their names.
const named = golden + "/sklearn_rf_nan_weighted_pandas/model.joblib"

// goldenModels lists the folders, each with its model.
func goldenModels(t *testing.T) (models map[string]string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(golden, "*", "model.*"))
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d models, %v", len(paths), err)
	}
	models = map[string]string{}
	for _, p := range paths {
		models[filepath.Base(filepath.Dir(p))] = p
	}
	return models
}

// answers are the files of a folder that hold what the library said, and the arguments that ask for it.
func answers(t *testing.T, model string) map[string][]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(model), "*.npy"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, p := range paths {
		kind := strings.TrimSuffix(filepath.Base(p), ".npy")
		if kind == "X" {
			continue
		}
		args := []string{"--output", kind}
		if of, ok := strings.CutSuffix(kind, best); ok {
			m, err := forest.Open(model)
			if err != nil {
				t.Fatal(err)
			}
			args = []string{"--output", of, "--iterations", fmt.Sprintf("0:%d", m.Info().Best)}
		}
		out[p] = args
	}
	if len(out) == 0 {
		t.Fatalf("%s has no answers", model)
	}
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// elementsOfFile are the shape and the elements of a .npy file.
func elementsOfFile(t *testing.T, path string) (*npy.Header, []byte) {
	t.Helper()
	r, err := npy.NewReader(bytes.NewReader(read(t, path)))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	b := make([]byte, r.Rows()*r.Columns()*r.Size())
	if n, err := r.ReadBytes(b); err != nil && r.Rows() > 0 || n != r.Rows() {
		t.Fatalf("%s: %d rows, %v", path, n, err)
	}
	return &r.Header, b
}

// rowsOfFile are the values of a .npy file, which has no numbers that float64 has not.
func rowsOfFile(t *testing.T, path string) (rows []float64, columns int) {
	t.Helper()
	r, err := npy.NewReader(bytes.NewReader(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	rows = make([]float64, r.Rows()*r.Columns())
	if _, err := npy.ReadRows(r, rows); err != nil {
		t.Fatal(err)
	}
	return rows, r.Columns()
}

// toCSV writes rows as text that gives every value back. names may be nil: then the columns are called after letters
// that no model knows.
func toCSV(rows []float64, columns int, names []string) []byte {
	var b bytes.Buffer
	order := make([]int, columns)
	for c := range order {
		order[c] = c
		if names != nil {
			order[c] = columns - 1 - c // columns are found by name
		}
	}
	b.WriteString("remark")
	if names == nil {
		b.Reset()
	}
	for i, c := range order {
		if i > 0 || names != nil {
			b.WriteByte(',')
		}
		if names == nil {
			fmt.Fprintf(&b, "c%d", c)
		} else {
			b.WriteString(strconv.Quote(names[c]))
		}
	}
	b.WriteByte('\n')
	for r := range len(rows) / columns {
		if names != nil {
			b.WriteString("x")
		}
		for i, c := range order {
			if i > 0 || names != nil {
				b.WriteByte(',')
			}
			switch v := rows[r*columns+c]; {
			case v == v:
				b.WriteString(strconv.FormatFloat(v, 'g', -1, 64))
			case columns == 1:
				b.WriteString("NaN") // an empty line is none
			}
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// toFortran makes a file in which columns lie together, big-endian.
func toFortran(rows []float64, columns int) []byte {
	n := len(rows) / columns
	text := fmt.Sprintf("{'descr': '>f8', 'fortran_order': True, 'shape': (%d, %d), }\n", n, columns)
	b := []byte("\x93NUMPY\x01\x00")
	b = binary.LittleEndian.AppendUint16(b, uint16(len(text)))
	b = append(b, text...)
	for c := range columns {
		for r := range n {
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(rows[r*columns+c]))
		}
	}
	return b
}

// toParquet makes a file with a column for each feature, of which those without a value are null.
func toParquet(t *testing.T, rows []float64, columns int, names []string) []byte {
	t.Helper()
	group := pq.Group{}
	name := func(c int) string {
		if names == nil {
			return fmt.Sprintf("c%06d", c) // the writer sorts them
		}
		return names[c]
	}
	for c := range columns {
		group[name(c)] = pq.Optional(pq.Leaf(pq.DoubleType))
	}
	if names != nil {
		group["remark"] = pq.String()
	}
	schema := pq.NewSchema("rows", group)
	place := map[string]int{}
	for i, path := range schema.Columns() {
		place[path[0]] = i
	}
	var b bytes.Buffer
	w := pq.NewWriter(&b, schema, pq.Compression(&pq.Snappy), pq.MaxRowsPerRowGroup(200))
	for r := range len(rows) / columns {
		row := make(pq.Row, len(place))
		for c, v := range rows[r*columns:][:columns] {
			at := place[name(c)]
			if v == v {
				row[at] = pq.DoubleValue(v).Level(0, 1, at)
			} else {
				row[at] = pq.NullValue().Level(0, 0, at)
			}
		}
		if at, ok := place["remark"]; ok && names != nil {
			row[at] = pq.ByteArrayValue([]byte("x")).Level(0, 0, at)
		}
		if _, err := w.WriteRows([]pq.Row{row}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestPredict sees the files that NumPy wrote come out byte by byte, from rows in every form.
func TestPredict(t *testing.T) {
	for name, model := range goldenModels(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			x := filepath.Join(filepath.Dir(model), "X.npy")
			rows, columns := rowsOfFile(t, x)
			m, err := forest.Open(model)
			if err != nil {
				t.Fatal(err)
			}
			inputs := map[string]string{
				"numpy":   x,
				"csv":     write(t, filepath.Join(dir, "X.csv"), toCSV(rows, columns, m.Info().Names)),
				"fortran": write(t, filepath.Join(dir, "F.npy"), toFortran(rows, columns)),
				"parquet": write(t, filepath.Join(dir, "X.parquet"), toParquet(t, rows, columns, m.Info().Names)),
			}
			for want, args := range answers(t, model) {
				for form, input := range inputs {
					out := filepath.Join(dir, form+"_"+filepath.Base(want))
					got := succeed(t, append([]string{"predict", "--model", model, "--input", input, "--out", out}, args...)...)
					if got != "" {
						t.Errorf("it prints %q", got)
					}
					h, elements := elementsOfFile(t, out)
					wantHeader, wantElements := elementsOfFile(t, want)
					c := &exact.Comparison{Type: h.Type, Shape: h.Shape[1:], Tolerance: tolerances[args[1]]}
					if fmt.Sprint(h) != fmt.Sprint(wantHeader) || c.Add(wantElements, elements) != nil || c.Differing > 0 {
						t.Errorf("%v of %s: %+v, want %+v; %d rows differ, by %s", args, form, h, wantHeader, c.Differing, c.Largest)
					}
				}
			}
		})
	}
}

// TestPredictBlocks: rows are read in blocks, and what is said about one names its place in the file.
func TestPredictBlocks(t *testing.T) {
	dir := t.TempDir()
	model := goldenModels(t)["sklearn_gb_binary"]
	x := filepath.Join(golden, "sklearn_gb_binary", "X.npy")
	rows, columns := rowsOfFile(t, x)
	rows = rows[:100*columns]
	_, one := elementsOfFile(t, filepath.Join(golden, "sklearn_gb_binary", "margin.npy"))
	one = one[:100*8]
	var many []float64
	var want []byte
	for len(many) < 2*blockValues+columns {
		many = append(many, rows...)
		want = append(want, one...)
	}
	n := len(many) / columns
	out := filepath.Join(dir, "margin.npy")
	var c bytes.Buffer
	if err := npy.Write(&c, many, n, columns); err != nil {
		t.Fatal(err)
	}
	for form, b := range map[string][]byte{"C": c.Bytes(), "Fortran": toFortran(many, columns), "CSV": toCSV(many, columns, nil)} {
		input := write(t, filepath.Join(dir, form), b)
		succeed(t, "predict", "--model", model, "--input", input, "--output", "margin", "--out", out)
		if h, got := elementsOfFile(t, out); h.Rows() != n || !bytes.Equal(got, want) {
			t.Errorf("%s: %v, and the elements differ", form, h)
		}
		if got := succeed(t, "verify", model, "--input", input, "--against", out); got != fmt.Sprintf("margin f8: %d rows, 0 differ, largest difference in ulp: 0\n", n) {
			t.Errorf("%s: %s", form, got)
		}
	}
	many[(n-1)*columns+3] = math.NaN()
	c.Reset()
	if err := npy.Write(&c, many, n, columns); err != nil {
		t.Fatal(err)
	}
	before := read(t, out)
	for form, tt := range map[string]struct {
		b    []byte
		want string
	}{
		"C":   {c.Bytes(), fmt.Sprintf("C: missing value: row %d, feature 3 is NaN", n-1)},
		"CSV": {toCSV(many, columns, nil), fmt.Sprintf("CSV: line %d: missing value: row %d, feature 3 is NaN", n+1, n-1)},
	} {
		code, _, stderr := invoke(t, "predict", "--model", model, "--input", write(t, filepath.Join(dir, form), tt.b), "--output", "margin", "--out", out)
		if code != exitFailed || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit code %d, want %q in %s", form, code, tt.want, stderr)
		}
	}
	if !bytes.Equal(read(t, out), before) {
		t.Error("a failed run changed the file of another")
	}
	noLeftovers(t, dir)
}

// noLeftovers looks for files that were written in part.
func noLeftovers(t *testing.T, dir string) {
	t.Helper()
	if parts, _ := filepath.Glob(filepath.Join(dir, ".*")); len(parts) > 0 {
		t.Errorf("%v are left", parts)
	}
}

// TestPredictEmpty: no rows give an array without rows.
func TestPredictEmpty(t *testing.T) {
	dir := t.TempDir()
	var none bytes.Buffer
	if err := npy.WriteHeader(&none, "f4", 0, 30); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "proba.npy")
	x := write(t, filepath.Join(dir, "X.npy"), none.Bytes())
	model := goldenModels(t)["sklearn_gb_binary"]
	succeed(t, "predict", "--model", model, "--input", x, "--output", "proba", "--out", out)
	if h, _ := elementsOfFile(t, out); fmt.Sprint(h.Shape) != "[0 2]" || h.Type != "f8" {
		t.Errorf("%+v", h)
	}
	succeed(t, "verify", model, "--input", x, "--against", out)
}

// TestOfflineInterrupted sees that a signal ends the offline commands, and that nothing of a file is left.
func TestOfflineInterrupted(t *testing.T) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for _, args := range [][]string{
		{"predict", "--model", "MODEL", "--input", "X", "--output", "proba", "--out", "OUT"},
		{"convert", "MODEL", "--out", "OUT"},
		{"verify", "MODEL", "--input", "X", "--against", "PROBA"},
	} {
		dir := t.TempDir()
		out := filepath.Join(dir, "out")
		for i, a := range args {
			switch a {
			case "MODEL":
				args[i] = goldenModels(t)["sklearn_gb_binary"]
			case "X":
				args[i] = filepath.Join(golden, "sklearn_gb_binary", "X.npy")
			case "PROBA":
				args[i] = filepath.Join(golden, "sklearn_gb_binary", "proba.npy")
			case "OUT":
				args[i] = out
			}
		}
		root := newRoot()
		root.SetArgs(args)
		if err := root.ExecuteContext(over); !errors.Is(err, errInterrupted) {
			t.Errorf("%v: %v", args, err)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%v wrote its file", args)
		}
		noLeftovers(t, dir)
	}
}

// TestOfflineErrors: what is wrong with files and flags is said, with what would be right.
func TestOfflineErrors(t *testing.T) {
	dir := t.TempDir()
	model := goldenModels(t)["sklearn_gb_binary"]
	x := filepath.Join(golden, "sklearn_gb_binary", "X.npy")
	proba := filepath.Join(golden, "sklearn_gb_binary", "proba.npy")
	out := filepath.Join(dir, "out")
	file := func(name string, b string) string { return write(t, filepath.Join(dir, name), []byte(b)) }
	fifo := filepath.Join(dir, "folder")
	if err := os.Mkdir(fifo, 0o700); err != nil {
		t.Fatal(err)
	}
	linked := filepath.Join(dir, "linked.npy")
	if err := os.Symlink(file("copy.npy", string(read(t, x))), linked); err != nil {
		t.Fatal(err)
	}
	m, err := forest.Open(named)
	if err != nil {
		t.Fatal(err)
	}
	missingColumn := strings.Join(m.Info().Names[1:], ",") + "\n"
	predict := func(args ...string) []string {
		return append([]string{"predict", "--model", model, "--out", out}, args...)
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{predict("--input", x, "--output", "probability"), exitUsage, `"probability"; GradientBoostingClassifier has margin, predict, proba, decision_function, leaf`},
		{predict("--input", x, "--iterations", "3"), exitUsage, `--iterations is "3", it can be FIRST:LAST`},
		{predict("--input", x, "--iterations", "a:b"), exitUsage, `--iterations is "a:b"`},
		{predict("--input", x, "--iterations", "0:100000"), exitUsage, "0 to 100000, the model has"},
		{predict("--input", x, "--iterations", "2:2"), exitUsage, "2 to 2, the model has"},
		{predict("--input", filepath.Join(dir, "absent.npy")), exitFailed, "absent.npy: no such file"},
		{predict("--input", proba), exitFailed, "it has 2 columns, the model has 30 features"},
		{predict("--input", file("cube.npy", header(t, "f4", 1, 30, 1))), exitFailed, "rows of features have two dimensions"},
		{predict("--input", file("bad.csv", "a,b\n1,x\n")), exitFailed, "it has 2 columns, the model has 30 features"},
		{predict("--input", file("headless.csv", "1.5,2\n1,2\n")), exitFailed, "headless.csv: not a table: its first line is one of numbers"},
		{predict("--input", file("rows.npz", "PK\x03\x04")), exitFailed, "rows.npz: not a .npy file of numbers or strings: it is a zip file"},
		{predict("--input", file("cut.npy", string(read(t, x)[:1000]))), exitFailed, "it ends after"},
		{predict("--input", file("wide.npy", header(t, "f4", 1, 1<<30))), exitFailed, "it has 1073741824 columns"},
		{predict("--input", file("bad.parquet", "PAR1 and PAR1")), exitFailed, "bad.parquet: not a valid Parquet file"},
		{predict("--input", file("text.npy", header(t, "U3", 1, 30))), exitFailed, "elements are U3, numbers are needed"},
		{[]string{"predict", "--model", named, "--input", file("part.csv", missingColumn), "--out", out}, exitFailed, "no such column"},
		{[]string{"predict", "--model", model, "--input", linked, "--out", filepath.Join(dir, "copy.npy")}, exitUsage, "name another file"},
		{[]string{"predict", "--model", model, "--input", x, "--out", fifo}, exitFailed, "no regular file"},
		{[]string{"predict", "--model", model, "--input", x, "--out", filepath.Join(dir, "none", "y.npy")}, exitFailed, "y.npy: it cannot be written: no such file or directory"},
		{[]string{"predict", "--model", x, "--input", x, "--out", out}, exitFailed, "X.npy: not a model file that Coppice knows"},
		{[]string{"convert", model}, exitUsage, "--out is needed"},
		{[]string{"convert", model, "--out", model}, exitUsage, "name another file"},
		{[]string{"convert", model, "--out", out, "--golden", proba}, exitFailed, "it has 2 columns"},
		{[]string{"convert", model, "--out", out, "--golden", file("none.npy", header(t, "f4", 0, 30))}, exitFailed, "it has no rows"},
		{[]string{"convert", x, "--out", out}, exitFailed, "not a model file"},
		{[]string{"inspect", filepath.Join(dir, "none")}, exitFailed, "none: no such file"},
		{[]string{"verify", model, "--input", x}, exitUsage, "--against is needed"},
		{[]string{"verify", model, "--against", x}, exitUsage, "--input is needed"},
		{[]string{"verify", model, "--input", x, "--against", x}, exitUsage, "X.npy does not tell by its name what it holds; --output can be margin, predict, proba, decision_function, leaf"},
		{[]string{"verify", model, "--input", x, "--against", proba, "--output", "y"}, exitUsage, `--output: no such output: "y"`},
		{[]string{"verify", model, "--input", x, "--against", model, "--output", "proba"}, exitFailed, "not a .npy file"},
	} {
		code, stdout, stderr := invoke(t, tt.args...)
		if code != tt.code || !strings.Contains(stderr, tt.want) || stdout != "" {
			t.Errorf("coppice %s: exit code %d, want %d and %q in:\n%s%s", strings.Join(tt.args, " "), code, tt.code, tt.want, stderr, stdout)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("something was written")
	}
	noLeftovers(t, dir)
}

// header is the beginning of a file of which the rest is missing.
func header(t *testing.T, kind string, shape ...int) string {
	t.Helper()
	var b strings.Builder
	if err := npy.WriteHeader(&b, kind, shape...); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestReplaceLink: a link to the output stays one.
func TestReplaceLink(t *testing.T) {
	dir := t.TempDir()
	file, link := write(t, filepath.Join(dir, "a"), nil), filepath.Join(dir, "b")
	if err := os.Symlink("a", link); err != nil {
		t.Fatal(err)
	}
	succeed(t, "convert", goldenModels(t)["sklearn_gb_binary"], "--out", link)
	if info, err := os.Lstat(link); err != nil || info.Mode().IsRegular() || !bytes.HasPrefix(read(t, file), []byte("COPPICE")) {
		t.Errorf("%v, %v", info, err)
	}
}

// TestVerify finds every model exact against its library, and says where one is not.
func TestVerify(t *testing.T) {
	dir := t.TempDir()
	for _, model := range goldenModels(t) {
		x := filepath.Join(filepath.Dir(model), "X.npy")
		for want := range answers(t, model) {
			end := " 0 differ, largest difference in ulp: 0\n"
			if filepath.Base(want) == "contribs.npy" {
				end = "e-"
			}
			got := succeed(t, "verify", model, "--input", x, "--against", want)
			if !strings.Contains(got, " 0 differ, largest difference in ulp: ") || !strings.Contains(got, end) {
				t.Errorf("%s: %s", want, got)
			}
			if end == "e-" {
				if code, stdout, _ := invoke(t, "verify", model, "--input", x, "--against", want, "--tolerance", "0"); code != exitFailed {
					t.Errorf("%s without a tolerance: exit code %d: %s", want, code, stdout)
				}
			}
		}
	}
	model := goldenModels(t)["sklearn_gb_binary"]
	x := filepath.Join(golden, "sklearn_gb_binary", "X.npy")
	h, elements := elementsOfFile(t, filepath.Join(golden, "sklearn_gb_binary", "proba.npy"))
	changed := func(name string, shape []int, kind string, change func(b []byte)) string {
		b := bytes.Clone(elements)
		change(b)
		return write(t, filepath.Join(dir, name), append([]byte(header(t, kind, shape...)), b...))
	}
	up := func(b []byte, i int, n uint64) {
		binary.LittleEndian.PutUint64(b[8*i:], binary.LittleEndian.Uint64(b[8*i:])+n)
	}
	rows := h.Rows()
	for _, tt := range []struct {
		name  string
		shape []int
		kind  string
		args  []string
		edit  func([]byte)
		code  int
		want  []string
	}{
		{"proba.npy", h.Shape, "f8", nil, func(b []byte) { up(b, 7, 3); up(b, 12, 1); up(b, 13, 2) }, exitFailed, []string{
			"row 3, element 1: expected 0.", "(3 ulp)\nrow 6, element 0: ", " (1 ulp)\n",
			fmt.Sprintf("proba f8: %d rows, 2 differ, largest difference in ulp: 3\n", rows),
		}},
		{"proba.npy", h.Shape, "f8", []string{"--max-ulp", "2"}, func(b []byte) { up(b, 7, 3); up(b, 12, 1); up(b, 13, 2) }, exitFailed, []string{
			"row 3, element 1: ", fmt.Sprintf("proba f8: %d rows, 1 differ, largest difference in ulp: 3\n", rows),
		}},
		{"proba.npy", h.Shape, "f8", []string{"--max-ulp", "3"}, func(b []byte) { up(b, 7, 3) }, exitOK, []string{"0 differ, largest difference in ulp: 3\n"}},
		{"proba.npy", h.Shape, "f8", nil, func(b []byte) {
			for i := range rows {
				up(b, 2*i, 1)
			}
		}, exitFailed, []string{"row 9, element 0: ", fmt.Sprintf("and %d rows more\n", rows-10), fmt.Sprintf("%d differ", rows)}},
		{"proba.npy", h.Shape, "f8", nil, func(b []byte) { up(b, 0, 0x7ff8<<48) }, exitFailed, []string{"row 0, element 0: expected ", "1 differ"}},
		{"proba.npy", []int{2 * rows, 2}, "f4", nil, func([]byte) {}, exitFailed, []string{"proba: elements are f4 in ", "and f8 by the model\n"}},
		{"proba.npy", []int{rows * 2}, "f8", nil, func([]byte) {}, exitFailed, []string{fmt.Sprintf("proba: the shape is (%d,) in ", 2*rows), fmt.Sprintf("and (%d, 2) by the model\n", rows)}},
		{"other.npy", []int{rows, 1, 2}, "f8", []string{"--output", "proba"}, func([]byte) {}, exitFailed, []string{fmt.Sprintf("(%d, 1, 2) in", rows)}},
	} {
		path := changed(tt.name, tt.shape, tt.kind, tt.edit)
		args := append([]string{"verify", model, "--input", x, "--against", path}, tt.args...)
		code, stdout, stderr := invoke(t, args...)
		if code != tt.code || (code != exitOK) != strings.Contains(stderr, "does not answer as "+path) {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
		for _, want := range tt.want {
			if !strings.Contains(stdout, want) {
				t.Errorf("%v: %q is not in\n%s", args, want, stdout)
			}
		}
		code, stdout, _ = invoke(t, append(args, "--json")...)
		v := decode(t, stdout)
		if code != tt.code || v["equal"] != (tt.code == exitOK) || v["output"] != "proba" || v["type"] != "f8" {
			t.Errorf("%v --json: exit code %d: %s", args, code, stdout)
		}
	}
	// More rows and fewer in a CSV file, of which only the end tells.
	values, columns := rowsOfFile(t, x)
	good := filepath.Join(golden, "sklearn_gb_binary", "proba.npy")
	for _, n := range []int{rows - 1, rows + 1} {
		csv := write(t, filepath.Join(dir, "X.csv"), toCSV(append(values, values...)[:n*columns], columns, nil))
		code, stdout, _ := invoke(t, "verify", model, "--input", csv, "--against", good)
		if code != exitFailed || !strings.Contains(stdout, fmt.Sprintf("there are %d rows in ", rows)) {
			t.Errorf("%d rows: exit code %d: %s", n, code, stdout)
		}
	}
}

// TestConvert converts every model with golden rows, and finds the file to be the same model.
func TestConvert(t *testing.T) {
	for name, model := range goldenModels(t) {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "m.coppice")
			x := filepath.Join(filepath.Dir(model), "X.npy")
			said := decode(t, succeed(t, "convert", model, "--out", out, "--golden", x, "--json"))
			file, err := os.Stat(out)
			if err != nil {
				t.Fatal(err)
			}
			if said["file"] != out || said["from"] != model || said["bytes"] != float64(file.Size()) || said["golden_rows"] != 64.0 {
				t.Errorf("%v", said)
			}
			if each := said["bytes_a_node"].(float64); math.Abs(each-float64(file.Size())/said["nodes"].(float64)) > 1e-9 {
				t.Errorf("%v bytes a node", each)
			}
			for want := range answers(t, model) {
				if got := succeed(t, "verify", out, "--input", x, "--against", want); !strings.Contains(got, " 0 differ") {
					t.Errorf("%s: %s", want, got)
				}
			}
			again := decode(t, succeed(t, "inspect", out, "--verify", "--trees", "--json"))
			if again["verified"] != true || len(again["tree_list"].([]any)) != int(said["trees"].(float64)) {
				t.Errorf("%v", again)
			}
			for _, key := range []string{"library", "library_version", "objective", "trees", "nodes", "leaves", "depth", "categories", "not_preserved"} {
				if a, b := fmt.Sprint(said[key]), fmt.Sprint(again[key]); a != b {
					t.Errorf("%s: %s, then %s", key, a, b)
				}
			}
			text := succeed(t, "convert", out, "--out", out+"2")
			for _, want := range []string{"converted from   " + out + "\n", "golden rows      64\n", fmt.Sprintf("library version  %v\n", said["library_version"]), "not preserved"} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in\n%s", want, text)
				}
			}
			if !bytes.Equal(read(t, out), read(t, out+"2")) {
				t.Error("converted again it is another file")
			}
		})
	}
}

// TestInspect sees all that a model is, and a damaged promise found.
func TestInspect(t *testing.T) {
	model := goldenModels(t)["lightgbm_categorical"]
	got := succeed(t, "inspect", model, "--trees", "--verify")
	for _, want := range []string{
		"source           Booster of LightGBM\n", "objective        regression\n", "link             identity\n", "missing values   taken\n",
		"categorical      3: 0, 1, 2\n", "categories       the fraction is dropped, then negative numbers are in no set\n",
		"verified         the structure, and 0 golden rows by every kernel\n", "\n  tree  round  output  nodes  leaves  depth\n     0      0       0 ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	var lines struct {
		Trees []treeLine `json:"tree_list"`
		Nodes int        `json:"nodes"`
		Depth int        `json:"depth"`
	}
	if err := json.Unmarshal([]byte(succeed(t, "inspect", model, "--trees", "--json")), &lines); err != nil {
		t.Fatal(err)
	}
	nodes, depth := 0, 0
	for _, l := range lines.Trees {
		nodes, depth = nodes+l.Nodes, max(depth, l.Depth)
	}
	if nodes != lines.Nodes || depth != lines.Depth {
		t.Errorf("trees of %d nodes and depth %d, the model has %d and %d", nodes, depth, lines.Nodes, lines.Depth)
	}
	m, err := forest.Open(model)
	if err != nil {
		t.Fatal(err)
	}
	if err := addGolden(m, filepath.Join(golden, "lightgbm_categorical", "X.npy")); err != nil {
		t.Fatal(err)
	}
	if err := prove(m); err != nil {
		t.Fatal(err)
	}
	m.Canonical().Golden.Margins[63]++
	if err := prove(m); err == nil {
		t.Error("a wrong golden row is not found")
	}
}
