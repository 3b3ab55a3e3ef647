package worker

import (
	"encoding/binary"
	"math"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// The field numbers of PredictResponse, Prediction, NamedTensor and Tensor. TestEncode compares what is
// written here with the generated types.
const (
	responseRequestID   = 3
	responsePredictions = 5
	responseTensors     = 6

	predictionLabel   = 1
	predictionValue   = 2
	predictionScores  = 3
	predictionMargins = 4
	predictionLeaves  = 5
	predictionValues  = 6
	predictionLabels  = 7

	namedTensorName   = 1
	namedTensorTensor = 2

	tensorType  = 1
	tensorShape = 2
	tensorData  = 3
)

// outputs is the set of outputs that a request asks for.
type outputs uint8

const (
	wantLabel outputs = 1 << iota
	wantProbability
	wantMargin
	wantLeaf
)

func outputSet(list []coppicev1.Output) outputs {
	if len(list) == 0 {
		return wantLabel | wantProbability
	}
	var o outputs
	for _, v := range list {
		switch v {
		case coppicev1.Output_OUTPUT_LABEL:
			o |= wantLabel
		case coppicev1.Output_OUTPUT_PROBABILITY:
			o |= wantProbability
		case coppicev1.Output_OUTPUT_MARGIN:
			o |= wantMargin
		case coppicev1.Output_OUTPUT_LEAF:
			o |= wantLeaf
		}
	}
	return o
}

// results are what was evaluated for the rows of one request, row-major.
type results struct {
	f       Forest
	rows    int
	margins []float64
	scores  []float64
	leaves  []int64 // only if they were asked for
}

// of cuts out one row. Its rows is 1.
func (r results) of(i int) results {
	k, n, trees := r.f.NumMargins(), r.f.NumScores(), r.f.NumTrees()
	one := results{f: r.f, rows: 1, margins: r.margins[i*k : (i+1)*k], scores: r.scores[i*n : (i+1)*n]}
	if r.leaves != nil {
		one.leaves = r.leaves[i*trees : (i+1)*trees]
	}
	return one
}

// label is the index of the class of a target, for the results of one row.
func (r results) label(target int) int { return r.f.LabelOf(target, r.margins, r.scores) }

// appendResponse encodes the PredictResponse for one request.
func appendResponse(b []byte, m *Model, requestID []byte, want outputs, tensor bool, r results) []byte {
	b = append(b, m.prefix...)
	if len(requestID) > 0 {
		b = protowire.AppendTag(b, responseRequestID, protowire.BytesType)
		b = protowire.AppendBytes(b, requestID)
	}
	if tensor {
		return appendTensors(b, m, want, r)
	}
	for i := range r.rows {
		row := r.of(i)
		b = protowire.AppendTag(b, responsePredictions, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(predictionSize(m, want, row)))
		b = appendPrediction(b, m, want, row)
	}
	return b
}

func predictionSize(m *Model, want outputs, row results) int {
	n := 0
	switch targets := row.f.NumTargets(); {
	case want&wantLabel == 0:
	case m.labels != nil:
		for t := range targets {
			n += len(m.labels[row.label(t)])
		}
	case targets == 1:
		n += protowire.SizeTag(predictionValue) + 8
	default:
		n += doublesSize(predictionValues, targets)
	}
	if want&wantProbability != 0 && m.labels != nil {
		n += doublesSize(predictionScores, len(row.scores))
	}
	if want&wantMargin != 0 {
		n += doublesSize(predictionMargins, len(row.margins))
	}
	if row.leaves != nil {
		n += protowire.SizeTag(predictionLeaves) + protowire.SizeBytes(varintsSize(row.leaves))
	}
	return n
}

func appendPrediction(b []byte, m *Model, want outputs, row results) []byte {
	switch targets := row.f.NumTargets(); {
	case want&wantLabel == 0:
	case m.labels != nil:
		for t := range targets {
			b = append(b, m.labels[row.label(t)]...)
		}
	case targets == 1:
		b = protowire.AppendTag(b, predictionValue, protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, math.Float64bits(row.scores[0]))
	default:
		b = appendDoubles(b, predictionValues, row.scores)
	}
	if want&wantProbability != 0 && m.labels != nil {
		b = appendDoubles(b, predictionScores, row.scores)
	}
	if want&wantMargin != 0 {
		b = appendDoubles(b, predictionMargins, row.margins)
	}
	if row.leaves != nil {
		b = protowire.AppendTag(b, predictionLeaves, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(varintsSize(row.leaves)))
		for _, id := range row.leaves {
			b = protowire.AppendVarint(b, uint64(id))
		}
	}
	return b
}

func appendTensors(b []byte, m *Model, want outputs, r results) []byte {
	floats := func(name string, columns int, values []float64) {
		b = appendTensor(b, name, coppicev1.DataType_DATA_TYPE_FP64, r.rows, columns, func(b []byte) []byte { return appendRaw(b, values) })
	}
	targets := r.f.NumTargets()
	switch {
	case want&wantLabel == 0:
	case m.labels == nil:
		floats("value", targets, r.scores)
	default:
		b = appendTensor(b, "label", coppicev1.DataType_DATA_TYPE_INT64, r.rows, targets, func(b []byte) []byte {
			for i := range r.rows {
				row := r.of(i)
				for t := range targets {
					b = binary.LittleEndian.AppendUint64(b, uint64(row.label(t)))
				}
			}
			return b
		})
	}
	if want&wantProbability != 0 && m.labels != nil {
		floats("probability", r.f.NumScores(), r.scores)
	}
	if want&wantMargin != 0 {
		floats("margin", r.f.NumMargins(), r.margins)
	}
	if want&wantLeaf != 0 {
		b = appendTensor(b, "leaf", coppicev1.DataType_DATA_TYPE_INT64, r.rows, r.f.NumTrees(), func(b []byte) []byte {
			for _, id := range r.leaves {
				b = binary.LittleEndian.AppendUint64(b, uint64(id))
			}
			return b
		})
	}
	return b
}

func appendTensor(b []byte, name string, typ coppicev1.DataType, rows, columns int, data func([]byte) []byte) []byte {
	shape := protowire.SizeVarint(uint64(rows)) + protowire.SizeVarint(uint64(columns))
	bytes := rows * columns * 8
	inner := protowire.SizeTag(tensorType) + protowire.SizeVarint(uint64(typ)) +
		protowire.SizeTag(tensorShape) + protowire.SizeBytes(shape) +
		protowire.SizeTag(tensorData) + protowire.SizeBytes(bytes)
	size := protowire.SizeTag(namedTensorName) + protowire.SizeBytes(len(name)) +
		protowire.SizeTag(namedTensorTensor) + protowire.SizeBytes(inner)
	b = protowire.AppendTag(b, responseTensors, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = appendString(b, namedTensorName, name)
	b = protowire.AppendTag(b, namedTensorTensor, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(inner))
	b = protowire.AppendTag(b, tensorType, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(typ))
	b = protowire.AppendTag(b, tensorShape, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(shape))
	b = protowire.AppendVarint(b, uint64(rows))
	b = protowire.AppendVarint(b, uint64(columns))
	b = protowire.AppendTag(b, tensorData, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(bytes))
	return data(b)
}

func doublesSize(num protowire.Number, n int) int {
	return protowire.SizeTag(num) + protowire.SizeBytes(8*n)
}

func appendDoubles(b []byte, num protowire.Number, v []float64) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(8*len(v)))
	return appendRaw(b, v)
}

func appendRaw(b []byte, v []float64) []byte {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
	}
	return b
}

func varintsSize(v []int64) int {
	n := 0
	for _, x := range v {
		n += protowire.SizeVarint(uint64(x))
	}
	return n
}

func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}
