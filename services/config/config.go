// Package config fills command line flags from a file and from the environment: a value on the command
// line wins over COPPICE_* variables, which win over the file, which wins over the default.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// EnvPrefix begins the name of the variable of a flag: --grpc-addr is COPPICE_GRPC_ADDR.
const EnvPrefix = "COPPICE_"

// maxFileBytes bounds what is read of a configuration file.
const maxFileBytes = 1 << 20

// ErrConfig is wrapped by every error about a value from the file or the environment.
var ErrConfig = errors.New("configuration")

// EnvName is the name of the environment variable of a flag.
func EnvName(flag string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// onlyFlag tells whether a flag can only be given on the command line.
func onlyFlag(name string) bool { return name == "help" || name == "version" || name == "config" }

// Apply sets the flags that were not given on the command line. file is a YAML mapping from flag names to
// values, or empty for none. Names that are flags of another command are fine when known has them, so
// that one file serves all roles; any other name is an error. A variable that is empty is as good as none.
func Apply(flags *pflag.FlagSet, file string, lookup func(string) (string, bool), known func(name string) bool) error {
	settings := map[string]setting{}
	if file != "" {
		var err error
		if settings, err = read(file); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(settings)) {
			if onlyFlag(name) || (flags.Lookup(name) == nil && !known(name)) {
				return fmt.Errorf("%w: %s:%d: unknown setting %q; settings have the names of flags, without the dashes in front",
					ErrConfig, file, settings[name].line, name)
			}
		}
	}
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		if failed != nil || f.Changed || onlyFlag(f.Name) {
			return
		}
		if v, _ := lookup(EnvName(f.Name)); v != "" {
			if err := set(flags, f, []string{v}); err != nil {
				failed = fmt.Errorf("%w: %s: %w", ErrConfig, EnvName(f.Name), err)
			}
			return
		}
		if s, ok := settings[f.Name]; ok {
			if err := set(flags, f, s.values); err != nil {
				failed = fmt.Errorf("%w: %s:%d: %s: %w", ErrConfig, file, s.line, f.Name, err)
			}
		}
	})
	return failed
}

func set(flags *pflag.FlagSet, f *pflag.Flag, values []string) error {
	_, list := f.Value.(pflag.SliceValue)
	if !list && len(values) != 1 {
		return fmt.Errorf("one value is needed, got a list of %d", len(values))
	}
	for _, v := range values {
		if err := flags.Set(f.Name, v); err != nil {
			return err
		}
	}
	return nil
}

// setting is what a file says about one flag.
type setting struct {
	values []string
	line   int
}

func read(file string) (map[string]setting, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrConfig, file, maxFileBytes)
	}
	settings, at, err := parse(data)
	switch {
	case err == nil:
		return settings, nil
	case at > 0:
		return nil, fmt.Errorf("%w: %s:%d: %w", ErrConfig, file, at, err)
	}
	return nil, fmt.Errorf("%w: %s: %w", ErrConfig, file, err) // of the parser, which names the line itself
}

// parse takes a YAML mapping whose values are scalars or lists of scalars. An error comes with its line, if that
// is known. It looks at YAML's nodes alone, so that no alias makes a small file large.
func parse(data []byte) (settings map[string]setting, line int, err error) {
	settings = map[string]setting{}
	in := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := in.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return settings, 0, nil
	case err != nil:
		return nil, 0, err
	}
	switch err := in.Decode(&more); {
	case err == nil:
		return nil, more.Line, errors.New("a second document begins; one is read")
	case !errors.Is(err, io.EOF):
		return nil, 0, err
	}
	root := doc.Content[0]
	if isNull(root) {
		return settings, 0, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, root.Line, errors.New("settings are needed, a line each: name: value")
	}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if !isPlain(key) {
			return nil, key.Line, errors.New("the name of a setting is needed")
		}
		if before, twice := settings[key.Value]; twice {
			return nil, key.Line, fmt.Errorf("%s is set twice, first in line %d", key.Value, before.line)
		}
		values, err := scalars(value)
		if err != nil {
			return nil, key.Line, fmt.Errorf("%s: %w", key.Value, err)
		}
		settings[key.Value] = setting{values, key.Line}
	}
	return settings, 0, nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// isPlain tells whether a node's text is its value.
func isPlain(n *yaml.Node) bool {
	if n.Kind != yaml.ScalarNode {
		return false
	}
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
		return true
	}
	return false // such as !!binary
}

func scalars(n *yaml.Node) ([]string, error) {
	switch {
	case isNull(n):
		return nil, errors.New("it has no value")
	case isPlain(n):
		return []string{n.Value}, nil
	case n.Kind == yaml.SequenceNode:
		values := []string{}
		for _, e := range n.Content {
			if !isPlain(e) {
				return nil, errors.New("a list of plain values is needed")
			}
			values = append(values, e.Value)
		}
		return values, nil
	}
	return nil, errors.New("a plain value or a list of them is needed")
}
