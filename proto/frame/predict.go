package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"unicode/utf8"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// Limits on what a PredictRequest may hold besides its rows.
const (
	MaxNameBytes = 256 // of a model's name
	MaxIDBytes   = 128 // of a request id or a version
	MaxOutputs   = 16  // outputs asked for
)

// ErrRequest is wrapped by errors about a request that is well-formed but asks for what makes no sense.
var ErrRequest = errors.New("invalid request")

// Predict is a PredictRequest as it lies on the wire. Its byte slices lie in the message that it was read
// from. Reading it costs the same for a tensor of any size: the rows themselves are not looked at.
type Predict struct {
	Model     []byte
	Version   []byte
	RequestID []byte
	Outputs   [MaxOutputs]coppicev1.Output
	NumOut    int
	Work      coppicev1.Work
	// Rows is the number of rows, from the tensor's shape or the number of instances.
	Rows int
	// Tensor is nil when the request has instances.
	Tensor *Tensor
	tensor Tensor

	body []byte // the whole request, for the instances
}

// Tensor is a tensor as it lies on the wire: Data holds Rows*Columns values.
type Tensor struct {
	Type    coppicev1.DataType
	Rows    int
	Columns int
	Data    []byte
}

// Read takes the envelope of an encoded PredictRequest. Its error wraps ErrMalformed or ErrRequest; Model,
// Version and RequestID are set as far as they were read.
func (p *Predict) Read(b []byte) error {
	*p = Predict{body: b}
	instances := 0
	var tensor []byte
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return malformed("PredictRequest", protowire.ParseError(n))
		}
		b = b[n:]
		if typ == protowire.BytesType && num <= 7 {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return malformed("PredictRequest", protowire.ParseError(n))
			}
			b = b[n:]
			var err error
			switch num {
			case 1:
				p.Model, err = text("model", v, MaxNameBytes)
			case 2:
				p.Version, err = text("version", v, MaxIDBytes)
			case 3:
				instances++
			case 4:
				if tensor != nil {
					return fmt.Errorf("%w: tensor is given twice", ErrRequest)
				}
				tensor = v
				if v == nil {
					tensor = []byte{}
				}
			case 5:
				for err == nil && len(v) > 0 {
					o, n := protowire.ConsumeVarint(v)
					if n < 0 {
						return malformed("outputs", protowire.ParseError(n))
					}
					v = v[n:]
					err = p.addOutput(o)
				}
			case 7:
				p.RequestID, err = text("request_id", v, MaxIDBytes)
			}
			if err != nil {
				return err
			}
			continue
		}
		if typ == protowire.VarintType && (num == 5 || num == 6) {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return malformed("PredictRequest", protowire.ParseError(n))
			}
			b = b[n:]
			if num == 6 {
				// Enums are int32: protobuf, too, leaves off what is above.
				if p.Work = coppicev1.Work(int32(v)); p.Work < 0 || p.Work > coppicev1.Work_WORK_HEAVY {
					p.Work = 0
					return fmt.Errorf("%w: work is %d, it can be WORK_LIGHT, WORK_MEDIUM or WORK_HEAVY", ErrRequest, int32(v))
				}
			} else if err := p.addOutput(v); err != nil {
				return err
			}
			continue
		}
		n = protowire.ConsumeFieldValue(num, typ, b)
		if n < 0 {
			return malformed("PredictRequest", protowire.ParseError(n))
		}
		b = b[n:]
	}
	if tensor == nil {
		p.Rows = instances
		if instances == 0 {
			return fmt.Errorf("%w: no instances and no tensor, at least one row is needed", ErrRequest)
		}
		return nil
	}
	if instances > 0 {
		return fmt.Errorf("%w: both instances and a tensor, one of them is needed", ErrRequest)
	}
	if err := p.tensor.read(tensor); err != nil {
		return err
	}
	p.Tensor = &p.tensor
	p.Rows = p.tensor.Rows
	return nil
}

func (p *Predict) addOutput(v uint64) error {
	o := coppicev1.Output(int32(v))
	if o <= 0 || o > coppicev1.Output_OUTPUT_LEAF {
		return fmt.Errorf("%w: output %d, it can be OUTPUT_LABEL, OUTPUT_PROBABILITY, OUTPUT_MARGIN or OUTPUT_LEAF", ErrRequest, int32(v))
	}
	for _, have := range p.Outputs[:p.NumOut] {
		if have == o {
			return nil
		}
	}
	p.Outputs[p.NumOut] = o
	p.NumOut++
	return nil
}

// text takes a string field: bounded, and valid UTF-8, since it is repeated in answers.
func text(field string, v []byte, limit int) ([]byte, error) {
	if len(v) > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are taken", ErrRequest, field, len(v), limit)
	}
	if !utf8.Valid(v) {
		return nil, fmt.Errorf("%w: %s is not valid UTF-8", ErrRequest, field)
	}
	return v, nil
}

func (t *Tensor) read(b []byte) error {
	var shape [2]int64
	dims := 0
	add := func(v uint64) {
		if dims < len(shape) {
			shape[dims] = int64(v)
		}
		dims++
	}
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return malformed("tensor", protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case typ == protowire.VarintType && (num == 1 || num == 2):
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return malformed("tensor", protowire.ParseError(n))
			}
			b = b[n:]
			if num == 1 {
				t.Type = coppicev1.DataType(int32(v))
			} else {
				add(v)
			}
		case typ == protowire.BytesType && (num == 2 || num == 3):
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return malformed("tensor", protowire.ParseError(n))
			}
			b = b[n:]
			if num == 3 {
				t.Data = v
				continue
			}
			for len(v) > 0 {
				d, n := protowire.ConsumeVarint(v)
				if n < 0 {
					return malformed("tensor shape", protowire.ParseError(n))
				}
				v = v[n:]
				add(d)
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return malformed("tensor", protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	var size uint64
	switch t.Type {
	case coppicev1.DataType_DATA_TYPE_FP32:
		size = 4
	case coppicev1.DataType_DATA_TYPE_FP64:
		size = 8
	default:
		return fmt.Errorf("%w: tensor data_type is %v, it can be DATA_TYPE_FP32 or DATA_TYPE_FP64", ErrRequest, t.Type)
	}
	if dims != 2 {
		return fmt.Errorf("%w: tensor shape has %d dimensions, [rows, columns] is needed", ErrRequest, dims)
	}
	if shape[0] < 1 || shape[1] < 1 {
		return fmt.Errorf("%w: tensor shape is [%d, %d], at least [1, 1] is needed", ErrRequest, shape[0], shape[1])
	}
	hi, cells := bits.Mul64(uint64(shape[0]), uint64(shape[1]))
	over, want := bits.Mul64(cells, size)
	if hi != 0 || over != 0 || want != uint64(len(t.Data)) {
		return fmt.Errorf("%w: tensor shape [%d, %d] of %v does not match its %d bytes of data", ErrRequest, shape[0], shape[1], t.Type, len(t.Data))
	}
	t.Rows, t.Columns = int(shape[0]), int(shape[1])
	return nil
}

// Value is the type in which a model takes its rows.
type Value interface{ float32 | float64 }

// AppendTensor appends the tensor's values and returns the index of the first that is finite and not in T's range, or -1.
func AppendTensor[T Value](dst []T, t *Tensor) (rows []T, overflow int) {
	overflow = -1
	if view := View[T](t); view != nil {
		return append(dst, view...), overflow
	}
	if t.Type == coppicev1.DataType_DATA_TYPE_FP32 {
		for i := 0; i+4 <= len(t.Data); i += 4 {
			dst = append(dst, T(math.Float32frombits(binary.LittleEndian.Uint32(t.Data[i:]))))
		}
		return dst, overflow
	}
	for i := 0; i+8 <= len(t.Data); i += 8 {
		var ok bool
		if dst, ok = appendValue(dst, binary.LittleEndian.Uint64(t.Data[i:])); !ok && overflow < 0 {
			overflow = i / 8
		}
	}
	return dst, overflow
}

// AppendInstances appends the values of all instances, columns of them each. It returns the index
// of the first that is finite and not in T's range, or -1; its error wraps ErrMalformed, or
// ErrRequest for an instance that has another number of values.
func AppendInstances[T Value](dst []T, p *Predict, columns int) (rows []T, overflow int, err error) {
	overflow = -1
	start := len(dst)
	row := 0
	for b := p.body; len(b) > 0; {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return dst, overflow, malformed("PredictRequest", protowire.ParseError(n))
		}
		b = b[n:]
		if num != 3 || typ != protowire.BytesType {
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return dst, overflow, malformed("PredictRequest", protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return dst, overflow, malformed("PredictRequest", protowire.ParseError(n))
		}
		b = b[n:]
		got := 0
		for len(v) > 0 {
			num, typ, n := consumeTag(v)
			if n < 0 {
				return dst, overflow, malformed("instance", protowire.ParseError(n))
			}
			v = v[n:]
			var values []byte
			switch {
			case num == 1 && typ == protowire.BytesType:
				if values, n = protowire.ConsumeBytes(v); n < 0 || len(values)%8 != 0 {
					return dst, overflow, fmt.Errorf("%w: instance %d: values are not whole doubles", ErrMalformed, row)
				}
			case num == 1 && typ == protowire.Fixed64Type && len(v) >= 8:
				values, n = v[:8], 8
			default:
				if n = protowire.ConsumeFieldValue(num, typ, v); n < 0 {
					return dst, overflow, malformed("instance", protowire.ParseError(n))
				}
			}
			v = v[n:]
			for got += len(values) / 8; len(values) > 0 && got <= columns; values = values[8:] {
				var ok bool
				if dst, ok = appendValue(dst, binary.LittleEndian.Uint64(values)); !ok && overflow < 0 {
					overflow = len(dst) - 1 - start
				}
			}
		}
		if got != columns {
			return dst, overflow, fmt.Errorf("%w: instance %d has %d values, the model has %d features", ErrRequest, row, got, columns)
		}
		row++
	}
	return dst, overflow, nil
}

// appendValue rounds a float64 to T, as libraries do that compare float32, and tells whether a finite one stayed so.
func appendValue[T Value](dst []T, bits uint64) ([]T, bool) {
	wide := math.Float64frombits(bits)
	v := T(wide)
	ok := !math.IsInf(float64(v), 0) || math.IsInf(wide, 0)
	return append(dst, v), ok
}
