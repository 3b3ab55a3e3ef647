package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// Input is the rows that a load sends.
type Input struct {
	features int
	rows     []float32 // row-major
}

// NewInput takes rows, row-major, of the given number of features.
func NewInput(rows []float32, features int) (*Input, error) {
	if features < 1 || len(rows) == 0 || len(rows)%features != 0 {
		return nil, fmt.Errorf("%d values are not one or more rows of %d features", len(rows), features)
	}
	return &Input{features: features, rows: rows}, nil
}

// RandomInput draws rows from a normal distribution.
func RandomInput(n, features int, seed uint64) (*Input, error) {
	if n < 1 || features < 1 {
		return nil, errors.New("at least one row and one feature are needed")
	}
	random := rand.New(rand.NewPCG(seed, 1))
	rows := make([]float32, n*features)
	for i := range rows {
		rows[i] = float32(2 * random.NormFloat64())
	}
	return &Input{features: features, rows: rows}, nil
}

// Len is the number of rows.
func (in *Input) Len() int { return len(in.rows) / in.features }

// Rows are all rows, row-major.
func (in *Input) Rows() []float32 { return in.rows }

// Request asks about n rows from first on, around the end of the input, and says which ones they are.
func (in *Input) Request(first, n int, tensor bool) (req *coppicev1.PredictRequest, rows []int) {
	req = &coppicev1.PredictRequest{}
	var data []byte
	for i := range n {
		at := (first + i) % in.Len()
		rows = append(rows, at)
		row := in.rows[at*in.features : (at+1)*in.features]
		if tensor {
			for _, v := range row {
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
			}
			continue
		}
		values := make([]float64, len(row))
		for j, v := range row {
			values[j] = float64(v)
		}
		req.Instances = append(req.Instances, &coppicev1.Instance{Values: values})
	}
	if tensor {
		req.Tensor = &coppicev1.Tensor{
			DataType: coppicev1.DataType_DATA_TYPE_FP32,
			Shape:    []int64{int64(n), int64(in.features)}, Data: data,
		}
	}
	return req, rows
}
