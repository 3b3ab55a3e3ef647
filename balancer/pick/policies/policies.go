// Package policies lists the ways of choosing a replica.
package policies

import (
	"errors"
	"fmt"
	"strings"

	"github.com/coppice-mesh/coppice/balancer/pick"
	"github.com/coppice-mesh/coppice/balancer/pick/leastcost"
)

// all holds every policy; the first is the default.
var all = []pick.Policy{
	leastcost.Policy{},
}

// ErrUnknown is wrapped by the error of ByName.
var ErrUnknown = errors.New("unknown pick policy")

// Default is the policy of a gateway whose user selects none.
func Default() pick.Policy { return all[0] }

// Names lists the names of all policies, the default first.
func Names() []string {
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = p.Name()
	}
	return names
}

// ByName returns the policy with this name.
func ByName(name string) (pick.Policy, error) {
	for _, p := range all {
		if p.Name() == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w %q: expected one of %s", ErrUnknown, name, strings.Join(Names(), ", "))
}
