package sklearn

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"strings"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
)

// dtype is what a numpy dtype says about the bytes of one item.
type dtype struct {
	kind   byte // i, u, f, b, U, S, O, V and others
	size   int  // bytes
	big    bool // most significant byte first
	fields map[string]field
}

// field is one field of a structured dtype.
type field struct {
	dtype  dtype
	offset int
}

// String gives it as numpy does, such as "<f8".
func (t dtype) String() string {
	order := "<"
	if t.big {
		order = ">"
	}
	if t.kind == 'U' {
		return fmt.Sprintf("%sU%d", order, t.size/4)
	}
	return fmt.Sprintf("%s%c%d", order, t.kind, t.size)
}

// array is a numpy array: raw items, or Python objects when the kind is O.
type array struct {
	dtype   dtype
	shape   []int
	count   int // the product of shape
	data    []byte
	objects []any
}

const (
	maxDims     = 8
	maxItemSize = 1 << 20 // bytes of an item; the longest class label
	maxFields   = 64
)

// built takes the place of joblib's reader: it follows each NumpyArrayWrapper with the bytes of its
// array, which stand in the file right after the instruction that completes the wrapper.
func built(d *pickle.Decoder, o *pickle.Object) (any, error) {
	if o.Class.String() != wrapperName {
		return o, nil
	}
	state, ok := o.State.(*pickle.Dict)
	if !ok {
		return nil, fmt.Errorf("%w: the state of a joblib array is %s", ErrMalformed, pickle.Describe(o.State))
	}
	get := func(key string) any { v, _ := state.Get(key); return v }
	if c, ok := get("subclass").(pickle.Global); !ok || (c.String() != ndarrayName && c.String() != memmapName) {
		return nil, fmt.Errorf("%w: an array of class %s", ErrUnsupported, pickle.Describe(get("subclass")))
	}
	t, err := parseDType(get("dtype"))
	if err != nil {
		return nil, err
	}
	if t.kind == 'O' {
		// "We contain Python objects so we cannot write out the data directly. Instead, we will pickle it
		// out" - joblib's write_array. That pickle holds a whole array.
		v, err := d.Nested()
		if err != nil {
			return nil, err
		}
		return parseArray(v)
	}
	a := &array{dtype: t}
	if err := a.setShape(get("shape")); err != nil {
		return nil, err
	}
	strides, err := a.parseOrder(get("order"), nil)
	if err != nil {
		return nil, err
	}
	// joblib 1.2 and later align the data: a byte tells how many bytes of padding follow it.
	if n, ok := state.Get("numpy_array_alignment_bytes"); ok && n != nil {
		pad, err := d.Raw(1, "the padding of an array")
		if err != nil {
			return nil, err
		}
		if _, err := d.Raw(uint64(pad[0]), "the padding of an array"); err != nil {
			return nil, err
		}
	}
	hi, size := bits.Mul64(uint64(a.count), uint64(t.size))
	if hi != 0 {
		return nil, fmt.Errorf("%w: an array of shape %v", ErrMalformed, a.shape)
	}
	if a.data, err = d.Raw(size, fmt.Sprintf("an array of shape %v and type %s", a.shape, t)); err != nil {
		return nil, err
	}
	a.arrange(strides)
	return a, nil
}

// oldArray refuses the arrays of old versions of joblib by their name: their data lie in files of their own.
func oldArray(g pickle.Global) error {
	if strings.HasPrefix(g.Module, "joblib.") && strings.HasSuffix(g.Name, "NDArrayWrapper") {
		return fmt.Errorf("%w: %s, an array of joblib before 0.10, is not read; save the model again with joblib.dump", ErrUnsupported, g)
	}
	return nil
}

// parseArray understands the ways in which an array is pickled.
func parseArray(v any) (*array, error) {
	if a, ok := v.(*array); ok {
		return a, nil
	}
	o, ok := v.(*pickle.Object)
	if !ok {
		return nil, fmt.Errorf("%w: expected an array, got %s", ErrMalformed, pickle.Describe(v))
	}
	var typ, shape, data, order, axes any
	switch o.Class.String() {
	case "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct":
		// _reconstruct(class, (0,), b'b'), then the state (version, shape, dtype, is_fortran, data).
		if len(o.Args) == 0 {
			return nil, fmt.Errorf("%w: an array without a class", ErrMalformed)
		}
		if c, ok := o.Args[0].(pickle.Global); !ok || (c.String() != ndarrayName && c.String() != memmapName) {
			return nil, fmt.Errorf("%w: an array of class %s", ErrUnsupported, pickle.Describe(o.Args[0]))
		}
		s, ok := o.State.(pickle.Tuple)
		if !ok || len(s) != 5 {
			return nil, fmt.Errorf("%w: the state of an array is not a tuple of 5", ErrMalformed)
		}
		shape, typ, data = s[1], s[2], s[4]
		if fortran, _ := s[3].(bool); fortran {
			order = "F"
		}
	case "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer":
		// Protocol 5: _frombuffer(data, dtype, shape, order), and with order K the axes since numpy 2.3.
		if len(o.Args) < 4 {
			return nil, fmt.Errorf("%w: an array from a buffer has %d of 4 arguments", ErrMalformed, len(o.Args))
		}
		data, typ, shape, order = o.Args[0], o.Args[1], o.Args[2], o.Args[3]
		if len(o.Args) > 4 {
			axes = o.Args[4]
		}
	default:
		return nil, fmt.Errorf("%w: expected an array, got %s", ErrMalformed, pickle.Describe(v))
	}
	t, err := parseDType(typ)
	if err != nil {
		return nil, err
	}
	a := &array{dtype: t}
	if err := a.setShape(shape); err != nil {
		return nil, err
	}
	// Objects are always listed in C order.
	if l, ok := data.(*pickle.List); ok && t.kind == 'O' {
		if len(l.Items) != a.count {
			return nil, fmt.Errorf("%w: an array of shape %v has %d objects", ErrMalformed, a.shape, len(l.Items))
		}
		a.objects = l.Items
		return a, nil
	}
	b, ok := data.([]byte)
	if !ok || t.kind == 'O' {
		return nil, fmt.Errorf("%w: the data of an array of %s are %s", ErrMalformed, t, pickle.Describe(data))
	}
	if hi, size := bits.Mul64(uint64(a.count), uint64(t.size)); hi != 0 || size != uint64(len(b)) {
		return nil, fmt.Errorf("%w: an array of shape %v and type %s has %d bytes", ErrMalformed, a.shape, t, len(b))
	}
	strides, err := a.parseOrder(order, axes)
	if err != nil {
		return nil, err
	}
	a.data = b
	a.arrange(strides)
	return a, nil
}

// parseOrder tells in which order the items lie: numpy's C, F, or K, which is C with the axes in another order after
// it. It gives the bytes from one item to the next along each axis, and nil for C.
func (a *array) parseOrder(order, axes any) ([]int, error) {
	strides := make([]int, len(a.shape))
	switch {
	case order == nil || order == "C" || order == "K" && axes == nil:
		return nil, nil
	case order == "F":
		step := a.dtype.size
		for i, side := range a.shape {
			strides[i] = step
			step *= side
		}
		return strides, nil
	}
	t, ok := axes.(pickle.Tuple)
	if order != "K" || !ok || len(t) != len(a.shape) {
		return nil, fmt.Errorf("%w: an array of shape %v in order %s by %s", ErrMalformed, a.shape, pickle.Describe(order), pickle.Describe(axes))
	}
	shape := make([]int, len(t))
	seen := make([]bool, len(t))
	for i, v := range t {
		axis, err := parseInt(v)
		if err != nil {
			return nil, err
		}
		if axis < 0 || axis >= int64(len(t)) || seen[axis] {
			return nil, fmt.Errorf("%w: axis %d of an array of shape %v stands for axis %d", ErrMalformed, i, a.shape, axis)
		}
		seen[axis] = true
		shape[i], strides[i] = a.shape[axis], a.dtype.size
		for _, side := range a.shape[axis+1:] {
			strides[i] *= side
		}
	}
	a.shape = shape
	return strides, nil
}

// arrange puts items that lie in another order into C order.
func (a *array) arrange(strides []int) {
	long := 0 // sides of more than one item, of which one alone has no order
	for _, side := range a.shape {
		if side > 1 {
			long++
		}
	}
	if strides == nil || long < 2 || a.count == 0 {
		return
	}
	out := make([]byte, 0, len(a.data))
	index := make([]int, len(strides))
	at := 0
	for len(out) < len(a.data) {
		out = append(out, a.data[at:at+a.dtype.size]...)
		for k := len(index) - 1; k >= 0; k-- {
			index[k]++
			at += strides[k]
			if index[k] < a.shape[k] {
				break
			}
			at -= strides[k] * a.shape[k]
			index[k] = 0
		}
	}
	a.data = out
}

// setShape takes the shape, a tuple of integers, and their product.
func (a *array) setShape(v any) error {
	dims, ok := v.(pickle.Tuple)
	if !ok {
		return fmt.Errorf("%w: the shape of an array is %s", ErrMalformed, pickle.Describe(v))
	}
	if len(dims) > maxDims {
		return fmt.Errorf("%w: an array of %d dimensions", ErrMalformed, len(dims))
	}
	a.count = 1
	for _, dim := range dims {
		n, err := parseInt(dim)
		if err != nil {
			return err
		}
		if n < 0 {
			return fmt.Errorf("%w: an array with a side of %d", ErrMalformed, n)
		}
		a.shape = append(a.shape, int(n))
		hi, lo := bits.Mul64(uint64(a.count), uint64(n))
		if hi != 0 || lo > math.MaxInt64 {
			return fmt.Errorf("%w: an array of shape %v and more", ErrMalformed, a.shape)
		}
		a.count = int(lo)
	}
	return nil
}

// parseDType understands numpy.dtype(name, align, copy) with its state (version, byte order, subarray,
// names, fields, item size, alignment, flags and more).
func parseDType(v any) (dtype, error) {
	t, state, err := simpleDType(v)
	if err != nil || t.kind != 'V' {
		return t, err
	}
	if len(state) < 6 || state[2] != nil {
		return t, fmt.Errorf("%w: dtype V%d with a subarray", ErrUnsupported, t.size)
	}
	names, _ := state[3].(pickle.Tuple)
	fields, _ := state[4].(*pickle.Dict)
	if len(names) > maxFields {
		return t, fmt.Errorf("%w: a dtype with %d fields", ErrMalformed, len(names))
	}
	size, err := parseInt(state[5])
	if err != nil {
		return t, err
	}
	if size != int64(t.size) {
		return t, fmt.Errorf("%w: dtype V%d says that it has %d bytes", ErrMalformed, t.size, size)
	}
	t.fields = make(map[string]field, len(names))
	for _, n := range names {
		name, ok := n.(string)
		if !ok {
			return t, fmt.Errorf("%w: the name of a field is %s", ErrMalformed, pickle.Describe(n))
		}
		def, _ := fields.Get(name)
		parts, ok := def.(pickle.Tuple)
		if !ok || len(parts) < 2 {
			return t, fmt.Errorf("%w: field %q of a dtype is %s", ErrMalformed, name, pickle.Describe(def))
		}
		ft, _, err := simpleDType(parts[0])
		if err != nil {
			return t, err
		}
		offset, err := parseInt(parts[1])
		if err != nil {
			return t, err
		}
		if offset < 0 || offset > int64(t.size-ft.size) {
			return t, fmt.Errorf("%w: field %q at byte %d of an item of %d", ErrMalformed, name, offset, t.size)
		}
		t.fields[name] = field{dtype: ft, offset: int(offset)}
	}
	return t, nil
}

// simpleDType is parseDType without the fields, which it leaves in the state.
func simpleDType(v any) (dtype, pickle.Tuple, error) {
	o, ok := v.(*pickle.Object)
	if !ok || o.Class.String() != dtypeName || len(o.Args) == 0 {
		return dtype{}, nil, fmt.Errorf("%w: expected a dtype, got %s", ErrMalformed, pickle.Describe(v))
	}
	name, ok := o.Args[0].(string)
	if !ok || len(name) < 2 {
		return dtype{}, nil, fmt.Errorf("%w: a dtype by the name of %s", ErrMalformed, pickle.Describe(o.Args[0]))
	}
	state, ok := o.State.(pickle.Tuple)
	if !ok || len(state) < 2 {
		return dtype{}, nil, fmt.Errorf("%w: dtype %q has no state", ErrMalformed, name)
	}
	t := dtype{kind: name[0]}
	for _, c := range name[1:] {
		if c < '0' || c > '9' || t.size > maxItemSize {
			return dtype{}, nil, fmt.Errorf("%w: dtype %q", ErrUnsupported, name)
		}
		t.size = 10*t.size + int(c-'0')
	}
	if t.kind == 'U' {
		t.size *= 4
	}
	if t.size == 0 || t.size > maxItemSize {
		return dtype{}, nil, fmt.Errorf("%w: dtype %q, an item may have 1 to %d bytes", ErrUnsupported, name, maxItemSize)
	}
	switch state[1] {
	case "<", "|", "=": // "=" is the machine's own order, and a pickle never says so
	case ">":
		t.big = true
	default:
		return dtype{}, nil, fmt.Errorf("%w: dtype %q in byte order %s", ErrMalformed, name, pickle.Describe(state[1]))
	}
	switch t.kind {
	case 'i', 'u', 'f', 'b':
		if t.size != 1 && t.size != 2 && t.size != 4 && t.size != 8 {
			return dtype{}, nil, fmt.Errorf("%w: dtype %q", ErrUnsupported, name)
		}
	}
	return t, state, nil
}

// uint gives the bytes of an item of 1, 2, 4 or 8 bytes as a number.
func (t dtype) uint(b []byte) uint64 {
	switch {
	case t.size == 1:
		return uint64(b[0])
	case t.size == 8 && !t.big:
		return binary.LittleEndian.Uint64(b)
	case t.size == 8:
		return binary.BigEndian.Uint64(b)
	case t.size == 4 && !t.big:
		return uint64(binary.LittleEndian.Uint32(b))
	case t.size == 4:
		return uint64(binary.BigEndian.Uint32(b))
	case !t.big:
		return uint64(binary.LittleEndian.Uint16(b))
	default:
		return uint64(binary.BigEndian.Uint16(b))
	}
}

// int gives an item of kind i or u. A u8 above the range of int64 comes out negative.
func (t dtype) int(b []byte) int64 {
	v := t.uint(b)
	if t.kind == 'i' {
		shift := 64 - 8*t.size
		return int64(v<<shift) >> shift
	}
	return int64(v)
}

// float gives an item of kind f, of 4 or 8 bytes.
func (t dtype) float(b []byte) float64 {
	if t.size == 4 {
		return float64(math.Float32frombits(uint32(t.uint(b))))
	}
	return math.Float64frombits(t.uint(b))
}

// item gives the bytes of one item.
func (a *array) item(i int) []byte { return a.data[i*a.dtype.size : (i+1)*a.dtype.size] }

// parseInt understands an integer of Python's or of numpy's.
func parseInt(v any) (int64, error) {
	switch v := v.(type) {
	case int64:
		return v, nil
	case *pickle.Object:
		t, b, err := parseScalar(v)
		if err != nil {
			return 0, err
		}
		if t.kind == 'i' || t.kind == 'u' {
			return t.int(b), nil
		}
	}
	return 0, fmt.Errorf("%w: expected an integer, got %s", ErrMalformed, pickle.Describe(v))
}

// parseScalar understands numpy's scalar(dtype, bytes).
func parseScalar(o *pickle.Object) (dtype, []byte, error) {
	switch o.Class.String() {
	case "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar":
	default:
		return dtype{}, nil, fmt.Errorf("%w: expected a number, got %s", ErrMalformed, pickle.Describe(o))
	}
	if len(o.Args) != 2 {
		return dtype{}, nil, fmt.Errorf("%w: a numpy scalar with %d arguments", ErrMalformed, len(o.Args))
	}
	t, _, err := simpleDType(o.Args[0])
	if err != nil {
		return dtype{}, nil, err
	}
	b, ok := o.Args[1].([]byte)
	if !ok || len(b) != t.size {
		return dtype{}, nil, fmt.Errorf("%w: a numpy scalar of type %s is %s", ErrMalformed, t, pickle.Describe(o.Args[1]))
	}
	return t, b, nil
}
