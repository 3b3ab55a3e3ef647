// Package config fills command line flags from a file and from the environment: a value on the command
// line wins over COPPICE_* variables, which win over the file, which wins over the default.
package config

import (
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

// Apply sets the flags that were not given on the command line. file is a YAML mapping from flag names to
// values, or empty for none. Names that are flags of another command are fine when known has them, so
// that one file serves all roles; any other name is an error.
func Apply(flags *pflag.FlagSet, file string, lookup func(string) (string, bool), known func(name string) bool) error {
	values := map[string][]string{}
	if file != "" {
		var err error
		if values, err = read(file); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			if flags.Lookup(name) == nil && !known(name) {
				return fmt.Errorf("%w: %s: unknown setting %q; settings have the names of flags, without the dashes in front", ErrConfig, file, name)
			}
		}
	}
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		if failed != nil || f.Changed || f.Name == "help" || f.Name == "config" {
			return
		}
		if v, ok := lookup(EnvName(f.Name)); ok {
			if err := set(flags, f, []string{v}); err != nil {
				failed = fmt.Errorf("%w: %s: %w", ErrConfig, EnvName(f.Name), err)
			}
			return
		}
		if vs, ok := values[f.Name]; ok {
			if err := set(flags, f, vs); err != nil {
				failed = fmt.Errorf("%w: %s: %s: %w", ErrConfig, file, f.Name, err)
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

// read takes a YAML mapping whose values are scalars or lists of scalars.
func read(file string) (map[string][]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrConfig, file, err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrConfig, file, maxFileBytes)
	}
	var doc map[string]yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrConfig, file, err)
	}
	out := map[string][]string{}
	for name, node := range doc {
		vs, err := scalars(&node)
		if err != nil {
			return nil, fmt.Errorf("%w: %s:%d: %s: %w", ErrConfig, file, node.Line, name, err)
		}
		out[name] = vs
	}
	return out, nil
}

func scalars(n *yaml.Node) ([]string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		return []string{n.Value}, nil
	case yaml.SequenceNode:
		var out []string
		for _, e := range n.Content {
			if e.Kind != yaml.ScalarNode {
				return nil, errors.New("a list of plain values is needed")
			}
			out = append(out, e.Value)
		}
		return out, nil
	}
	return nil, errors.New("a plain value or a list of them is needed")
}
