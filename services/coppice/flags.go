package main

import (
	"context"
	"errors"
	"net"
	"time"
)

// What several commands ask of their flags.

// checkAddr says whether a flag is an address that can be listened on or dialled.
func checkAddr(flag, value string) error {
	if _, port, err := net.SplitHostPort(value); err != nil || port == "" {
		return usageError("--%s is %q, host:port is needed", flag, value)
	}
	return nil
}

func checkPositive(flag string, d time.Duration) error {
	if d <= 0 {
		return usageError("--%s is %v, it must be more than 0", flag, d)
	}
	return nil
}

func checkAtLeastOne(flag string, n int) error {
	if n < 1 {
		return usageError("--%s is %d, at least 1 is needed", flag, n)
	}
	return nil
}

// interrupted leaves out the error of what a signal ended. Whoever is told to stop while it starts has not
// failed.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
