// Package environ says what OpenTelemetry's libraries see of the OTEL_* variables. They read them when an
// exporter or a provider is made, from the process's environment and from nowhere else.
package environ

import (
	"os"
	"strings"
	"sync"
)

const prefix = "OTEL_"

// one at a time: the environment is the whole process's.
var mu sync.Mutex

// Take removes all OTEL_* variables from the process's environment and returns them.
func Take() map[string]string {
	mu.Lock()
	defer mu.Unlock()
	return take()
}

func take() map[string]string {
	taken := make(map[string]string)
	for _, kv := range os.Environ() {
		if name, value, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, prefix) {
			taken[name] = value
			os.Unsetenv(name)
		}
	}
	return taken
}

// With calls f while the OTEL_* variables are those in vars, and no others; afterwards they are as they were.
// f must not call With or Take. Values that no environment can hold, with a NUL, are left out.
func With(vars map[string]string, f func()) {
	mu.Lock()
	defer mu.Unlock()
	before := take()
	defer func() {
		take()
		put(before)
	}()
	put(vars)
	f()
}

func put(vars map[string]string) {
	for name, value := range vars {
		if strings.HasPrefix(name, prefix) {
			_ = os.Setenv(name, value) // fails only for names and values that no environment can hold
		}
	}
}
