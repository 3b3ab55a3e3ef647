//go:build !unix

package store

import "os"

// mapFile reads a file where it cannot be mapped.
func mapFile(path string) (data []byte, info os.FileInfo, unmap func() error, err error) {
	if info, err = os.Stat(path); err != nil {
		return nil, nil, nil, err
	}
	data, err = os.ReadFile(path)
	return data, info, func() error { return nil }, err
}
