// Package policies lists the laws of scaling.
package policies

import (
	"errors"
	"fmt"
	"strings"

	"github.com/coppice-mesh/coppice/balancer/autoscale"
	"github.com/coppice-mesh/coppice/balancer/autoscale/tutorial"
)

// all holds every law with its defaults; the first is the default.
var all = []struct {
	name string
	make func() (autoscale.Policy, error)
}{
	{tutorial.Name, func() (autoscale.Policy, error) { return tutorial.New(tutorial.Config{}) }},
}

// ErrUnknown is wrapped by the error of ByName.
var ErrUnknown = errors.New("unknown scaling policy")

// Names lists the names of all policies, the default first.
func Names() []string {
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = p.name
	}
	return names
}

// ByName makes the policy with this name. The empty name is the default.
func ByName(name string) (autoscale.Policy, error) {
	for _, p := range all {
		if p.name == name || name == "" {
			return p.make()
		}
	}
	return nil, fmt.Errorf("%w %q: expected one of %s", ErrUnknown, name, strings.Join(Names(), ", "))
}
