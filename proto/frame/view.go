//go:build amd64 || arm64

package frame

import (
	"unsafe"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// View is the values of a tensor where they lie on the wire, or nil when they are of another type than T. They must not
// be changed, and may lie at any address, which these processors read from as fast.
func View[T Value](t *Tensor) []T {
	size := int(unsafe.Sizeof(*new(T)))
	if len(t.Data) < size || (size == 4) != (t.Type == coppicev1.DataType_DATA_TYPE_FP32) {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(t.Data))), len(t.Data)/size)
}
