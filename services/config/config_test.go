package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// values are flags of every type that commands use.
type values struct {
	addr     string
	replicas int
	ratio    float64
	seed     uint64
	drain    time.Duration
	allow    bool
	models   []string
}

func newFlags() (*pflag.FlagSet, *values) {
	v := &values{}
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.StringVar(&v.addr, "grpc-addr", "default", "")
	f.IntVar(&v.replicas, "replicas", 2, "")
	f.Float64Var(&v.ratio, "trace-ratio", 0.01, "")
	f.Uint64Var(&v.seed, "seed", 1, "")
	f.DurationVar(&v.drain, "drain-timeout", time.Second, "")
	f.BoolVar(&v.allow, "allow-work", false, "")
	f.StringArrayVar(&v.models, "model", nil, "")
	f.String("config", "", "")
	f.Bool("help", false, "")
	return f, v
}

// apply runs Apply as a command does. text is the file's, unless it is "-" for no file.
func apply(t *testing.T, args []string, env map[string]string, text string) (*pflag.FlagSet, *values, error) {
	t.Helper()
	f, v := newFlags()
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	file := ""
	if text != "-" {
		file = filepath.Join(t.TempDir(), "coppice.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := Apply(f, file, func(name string) (string, bool) { s, ok := env[name]; return s, ok },
		func(name string) bool { return name == "http-addr" })
	return f, v, err
}

func TestEnvName(t *testing.T) {
	for flag, want := range map[string]string{"grpc-addr": "COPPICE_GRPC_ADDR", "json": "COPPICE_JSON", "otlp-endpoint": "COPPICE_OTLP_ENDPOINT"} {
		if got := EnvName(flag); got != want {
			t.Errorf("%s: %s, want %s", flag, got, want)
		}
	}
}

// TestPrecedence goes through all subsets of where a value can come from.
func TestPrecedence(t *testing.T) {
	for _, tt := range []struct {
		flag, variable, file, want string
	}{
		{"", "", "", "default"},
		{"", "", "file", "file"},
		{"", "variable", "", "variable"},
		{"", "variable", "file", "variable"},
		{"flag", "", "", "flag"},
		{"flag", "", "file", "flag"},
		{"flag", "variable", "", "flag"},
		{"flag", "variable", "file", "flag"},
	} {
		var args []string
		env := map[string]string{}
		text := "-"
		if tt.flag != "" {
			args = []string{"--grpc-addr", tt.flag}
		}
		if tt.variable != "" {
			env["COPPICE_GRPC_ADDR"] = tt.variable
		}
		if tt.file != "" {
			text = "grpc-addr: " + tt.file
		}
		f, v, err := apply(t, args, env, text)
		if err != nil {
			t.Fatal(err)
		}
		if v.addr != tt.want {
			t.Errorf("flag %q, variable %q, file %q: got %q", tt.flag, tt.variable, tt.file, v.addr)
		}
		if changed := f.Changed("grpc-addr"); changed != (tt.want != "default") {
			t.Errorf("flag %q, variable %q, file %q: changed %v; commands ask that to tell a default", tt.flag, tt.variable, tt.file, changed)
		}
	}
}

func TestTypes(t *testing.T) {
	want := values{"0.0.0.0:8001", 4, 0.5, 7, 90 * time.Second, true, []string{"a=x.joblib", "b=y.pkl"}}
	_, v, err := apply(t, nil, nil, `
# A comment, and all the ways to write a value.
grpc-addr: 0.0.0.0:8001
replicas: 4
"trace-ratio": .5
seed: '7'
drain-timeout: 1m30s
allow-work: true
model:
  - a=x.joblib
  - "b=y.pkl"
http-addr: 127.0.0.1:1   # of another command
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(*v); got != fmt.Sprint(want) {
		t.Errorf("file: got %v, want %v", got, want)
	}
	_, v, err = apply(t, nil, map[string]string{
		"COPPICE_GRPC_ADDR": "0.0.0.0:8001", "COPPICE_REPLICAS": "4", "COPPICE_TRACE_RATIO": "0.5", "COPPICE_SEED": "7",
		"COPPICE_DRAIN_TIMEOUT": "1m30s", "COPPICE_ALLOW_WORK": "true", "COPPICE_MODEL": "a=x.joblib",
		"COPPICE_NONE": "is no flag",
	}, "-")
	if err != nil {
		t.Fatal(err)
	}
	want.models = []string{"a=x.joblib"}
	if got := fmt.Sprint(*v); got != fmt.Sprint(want) {
		t.Errorf("environment: got %v, want %v", got, want)
	}
}

// TestLists sees that a list is replaced as a whole, not added to.
func TestLists(t *testing.T) {
	for _, tt := range []struct {
		args []string
		env  string
		file string
		want []string
	}{
		{nil, "", "model: [a, b]", []string{"a", "b"}},
		{nil, "", "model: a", []string{"a"}},
		{nil, "", "model: []", nil},
		{nil, "", "model: 'a,b'", []string{"a,b"}}, // a file may be called so
		{nil, "c", "model: [a, b]", []string{"c"}},
		{[]string{"--model", "d", "--model=e"}, "c", "model: [a, b]", []string{"d", "e"}},
	} {
		_, v, err := apply(t, tt.args, map[string]string{"COPPICE_MODEL": tt.env}, tt.file)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(v.models, tt.want) {
			t.Errorf("%q, %q, %q: got %q", tt.args, tt.env, tt.file, v.models)
		}
	}
}

// TestEmpty is about what sets nothing.
func TestEmpty(t *testing.T) {
	for _, text := range []string{"", "\n\n", "# only a comment\n", "---\n", "{}", "null", "---\n# nothing\n...\n"} {
		f, v, err := apply(t, nil, map[string]string{"COPPICE_REPLICAS": "", "COPPICE_GRPC_ADDR": "", "COPPICE_HELP": "true", "COPPICE_CONFIG": "/none"}, text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		f.VisitAll(func(f *pflag.Flag) {
			if f.Changed {
				t.Errorf("%q: %s was set", text, f.Name)
			}
		})
		if v.replicas != 2 || v.addr != "default" {
			t.Errorf("%q: %+v", text, v)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  string // of COPPICE_REPLICAS
		file string
		want []string
	}{
		{"unknown name", "", "replicas: 3\nreplica: 3", []string{"coppice.yaml:2:", `unknown setting "replica"`, "names of flags"}},
		{"name with dashes", "", "--replicas: 3", []string{"coppice.yaml:1:", `unknown setting "--replicas"`}},
		{"underscores", "", "\ngrpc_addr: x", []string{"coppice.yaml:2:", `unknown setting "grpc_addr"`}},
		{"of the command line alone", "", "config: other.yaml", []string{"coppice.yaml:1:", `unknown setting "config"`}},
		{"help", "", "help: true", []string{`unknown setting "help"`}},
		{"text for a number", "", "\n\nreplicas: many", []string{"coppice.yaml:3:", "replicas", `"many"`}},
		{"fraction for a number", "", "replicas: 1.5", []string{"coppice.yaml:1:", "replicas", `"1.5"`}},
		{"negative seed", "", "seed: -1", []string{"seed", `"-1"`}},
		{"number for a duration", "", "drain-timeout: 30", []string{"drain-timeout", `"30"`, "missing unit"}},
		{"text for a bool", "", "allow-work: yes please", []string{"allow-work", `"yes please"`}},
		{"variable", "many", "-", []string{"COPPICE_REPLICAS", `"many"`}},
		{"variable before a good file", "many", "replicas: 3", []string{"COPPICE_REPLICAS", `"many"`}},
		{"list for one", "", "grpc-addr: [a, b]", []string{"coppice.yaml:1:", "grpc-addr", "one value is needed, got a list of 2"}},
		{"empty list for one", "", "grpc-addr: []", []string{"got a list of 0"}},
		{"mapping", "", "replicas:\n  min: 1\n  max: 2", []string{"coppice.yaml:1:", "replicas: a plain value or a list of them is needed"}},
		{"list of lists", "", "replicas: 1\nmodel: [[a], b]", []string{"coppice.yaml:2:", "model: a list of plain values is needed"}},
		{"list with nothing in it", "", "model: [a, null]", []string{"a list of plain values is needed"}},
		{"no value", "", "grpc-addr:", []string{"coppice.yaml:1:", "grpc-addr: it has no value"}},
		{"null", "", "grpc-addr: ~", []string{"grpc-addr: it has no value"}},
		{"alias", "", "grpc-addr: &a x\nmodel: *a", []string{"coppice.yaml:2:", "a plain value or a list of them is needed"}},
		{"binary", "", "grpc-addr: !!binary aGVsbG8=", []string{"grpc-addr: a plain value"}},
		{"tag of somebody's", "", "grpc-addr: !env HOST", []string{"grpc-addr: a plain value"}},
		{"merge", "", "x: &a {replicas: 3}\n<<: *a", []string{"coppice.yaml:1:"}},
		{"twice", "", "replicas: 3\nseed: 1\nreplicas: 4", []string{"coppice.yaml:3:", "replicas is set twice, first in line 1"}},
		{"list at the top", "", "- replicas", []string{"coppice.yaml:1:", "name: value"}},
		{"text at the top", "", "\nreplicas=3", []string{"coppice.yaml:2:", "name: value"}},
		{"no name", "", "? \n: 3", []string{"coppice.yaml:1:", "the name of a setting is needed"}},
		{"list as a name", "", "[a, b]: 3", []string{"the name of a setting is needed"}},
		{"second document", "", "replicas: 3\n---\nreplicas: 4", []string{"coppice.yaml:", "a second document begins"}},
		{"tab", "", "replicas: 3\n\tseed: 1", []string{"coppice.yaml", "line 2"}},
		{"not closed", "", "replicas: 3\nmodel: [a, b", []string{"coppice.yaml", "line"}},
		{"bad second document", "", "replicas: 3\n---\n[", []string{"coppice.yaml", "line"}},
		{"no text", "", "\x00\x01\x02", []string{"coppice.yaml"}},
		{"too large", "", "# " + strings.Repeat("x", maxFileBytes), []string{"coppice.yaml is larger than 1048576 bytes"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := apply(t, nil, map[string]string{"COPPICE_REPLICAS": tt.env}, tt.file)
			if !errors.Is(err, ErrConfig) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in the error: %v", want, err)
				}
			}
		})
	}
}

// TestLargest is a file just as large as may be.
func TestLargest(t *testing.T) {
	text := "replicas: 3\n# "
	_, v, err := apply(t, nil, nil, text+strings.Repeat("x", maxFileBytes-len(text)))
	if err != nil || v.replicas != 3 {
		t.Errorf("got %d, %v", v.replicas, err)
	}
}

// TestUnreadable is about files that cannot be read at all.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{filepath.Join(dir, "none.yaml"), dir} {
		f, _ := newFlags()
		err := Apply(f, file, func(string) (string, bool) { return "", false }, func(string) bool { return false })
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v", file, err)
		}
	}
}

// TestFlagBeatsBadVariable sees that what is not used cannot fail.
func TestFlagBeatsBadVariable(t *testing.T) {
	_, v, err := apply(t, []string{"--replicas", "5"}, map[string]string{"COPPICE_REPLICAS": "many"}, "replicas: also many")
	if err != nil || v.replicas != 5 {
		t.Errorf("got %d, %v", v.replicas, err)
	}
}

// FuzzParse compares what is taken of a file with what YAML says about it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "a: b", "a: [b, c]\nd: 3", "- a", "a: {b: c}", "a: &x b\nc: *x", "a: b\n---\nc: d", "a:", "? a\n: b", "a: b\na: c", "\x00",
		"a: !!binary aGVsbG8=", "a: |\n  b\n  c\n", "<<: {a: b}", "&a a: *a", "a: !!null x", "'': b", "%YAML 1.1\n---\na: b", "{a: b, ? c}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		settings, line, err := parse(data)
		if err != nil {
			if settings != nil || line < 0 {
				t.Errorf("got %v in line %d with %v", settings, line, err)
			}
			return
		}
		var doc map[string]any
		if err := yaml.Unmarshal(data, &doc); err != nil {
			return // as nodes it is fine, such as a tag that its text does not fit
		}
		if len(doc) != len(settings) {
			t.Errorf("%d settings, YAML has %d", len(settings), len(doc))
		}
		for name, s := range settings {
			if s.line < 1 {
				t.Errorf("%q is in line %d", name, s.line)
			}
			_, list := doc[name].([]any)
			if text, ok := doc[name].(string); ok && (len(s.values) != 1 || s.values[0] != text) {
				t.Errorf("%q is %q, YAML says %q", name, s.values, text)
			}
			if !list && len(s.values) != 1 {
				t.Errorf("%q is %q, and no list", name, s.values)
			}
		}
	})
}
