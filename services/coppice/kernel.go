package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-mesh/coppice/balancer"
	"github.com/coppice-mesh/coppice/replica/forest"
	"github.com/coppice-mesh/coppice/replica/forest/engine"
	"github.com/coppice-mesh/coppice/replica/forest/store"
)

func kernelFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "kernel", "", "`NAME` of the only kernel to use: "+strings.Join(engine.Names(), ", ")+" (default the fastest for each batch)")
}

func checkKernel(name string) error {
	if name != "" && !slices.Contains(engine.Names(), name) {
		return usageError("--kernel is %q, it can be %s", name, strings.Join(engine.Names(), ", "))
	}
	return nil
}

// evaluatedBy is a model that a kernel evaluates, or without a name those that are the fastest. Its error wraps
// engine.ErrKernel and lists the kernels that are for the model.
func evaluatedBy(m *forest.Model, kernel string, threads int) (*forest.Model, error) {
	forced, err := m.With(forest.Options{Kernel: kernel, Threads: threads})
	if !errors.Is(err, engine.ErrKernel) {
		return forced, err
	}
	var others []string
	for _, name := range engine.Names() {
		if _, err := m.With(forest.Options{Kernel: name}); err == nil {
			others = append(others, name)
		}
	}
	return nil, fmt.Errorf("--kernel: %w; it can be %s", err, strings.Join(others, ", "))
}

// checkModels tells before replicas start whether the kernel is for all models: a replica would only find out alone,
// one after the other.
func checkModels(s *store.Store, models []balancer.Model, kernel string) error {
	if kernel == "" {
		return nil
	}
	for _, served := range models {
		m, err := s.Open(served.Served.GetSha256())
		if err != nil {
			return err
		}
		_, err = evaluatedBy(m.Model, kernel, 1)
		if err := errors.Join(err, m.Close()); err != nil {
			return fmt.Errorf("model %q: %w", served.Served.GetName(), err)
		}
	}
	return nil
}
