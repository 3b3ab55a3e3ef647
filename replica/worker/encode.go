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

	predictionValue   = 2
	predictionScores  = 3
	predictionMargins = 4
	predictionLeaves  = 5

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

// appendResponse encodes the PredictResponse for one request. scores has outputs values a row, leaves one
// a tree and row if they were asked for.
func appendResponse(b []byte, m *Model, requestID []byte, rows int, want outputs, tensor bool, scores []float64, leaves []int64) []byte {
	b = append(b, m.prefix...)
	if len(requestID) > 0 {
		b = protowire.AppendTag(b, responseRequestID, protowire.BytesType)
		b = protowire.AppendBytes(b, requestID)
	}
	if tensor {
		return appendTensors(b, m, rows, want, scores, leaves)
	}
	k, trees := m.Forest.NumOutputs(), m.Forest.NumTrees()
	for i := range rows {
		row := scores[i*k : (i+1)*k]
		var ids []int64
		if want&wantLeaf != 0 {
			ids = leaves[i*trees : (i+1)*trees]
		}
		size := predictionSize(m, want, row, ids)
		b = protowire.AppendTag(b, responsePredictions, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
		b = appendPrediction(b, m, want, row, ids)
	}
	return b
}

func predictionSize(m *Model, want outputs, row []float64, ids []int64) int {
	n := 0
	if m.labels == nil {
		if want&wantLabel != 0 {
			n += protowire.SizeTag(predictionValue) + 8
		}
	} else {
		if want&wantLabel != 0 {
			n += len(m.labels[argmax(row)])
		}
		if want&wantProbability != 0 {
			n += doublesSize(predictionScores, len(row))
		}
	}
	if want&wantMargin != 0 {
		n += doublesSize(predictionMargins, len(row))
	}
	if len(ids) > 0 {
		n += protowire.SizeTag(predictionLeaves) + protowire.SizeBytes(varintsSize(ids))
	}
	return n
}

func appendPrediction(b []byte, m *Model, want outputs, row []float64, ids []int64) []byte {
	if m.labels == nil {
		if want&wantLabel != 0 {
			b = protowire.AppendTag(b, predictionValue, protowire.Fixed64Type)
			b = protowire.AppendFixed64(b, math.Float64bits(row[0]))
		}
	} else {
		if want&wantLabel != 0 {
			b = append(b, m.labels[argmax(row)]...)
		}
		if want&wantProbability != 0 {
			b = appendDoubles(b, predictionScores, row)
		}
	}
	if want&wantMargin != 0 {
		b = appendDoubles(b, predictionMargins, row)
	}
	if len(ids) > 0 {
		b = protowire.AppendTag(b, predictionLeaves, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(varintsSize(ids)))
		for _, id := range ids {
			b = protowire.AppendVarint(b, uint64(id))
		}
	}
	return b
}

func appendTensors(b []byte, m *Model, rows int, want outputs, scores []float64, leaves []int64) []byte {
	k, trees := m.Forest.NumOutputs(), m.Forest.NumTrees()
	if want&wantLabel != 0 {
		if m.labels == nil {
			b = appendTensor(b, "value", coppicev1.DataType_DATA_TYPE_FP64, rows, 1, func(b []byte) []byte {
				return appendRaw(b, scores[:rows])
			})
		} else {
			b = appendTensor(b, "label", coppicev1.DataType_DATA_TYPE_INT64, rows, 1, func(b []byte) []byte {
				for i := range rows {
					b = binary.LittleEndian.AppendUint64(b, uint64(argmax(scores[i*k:(i+1)*k])))
				}
				return b
			})
		}
	}
	if want&wantProbability != 0 && m.labels != nil {
		b = appendTensor(b, "probability", coppicev1.DataType_DATA_TYPE_FP64, rows, k, func(b []byte) []byte {
			return appendRaw(b, scores[:rows*k])
		})
	}
	if want&wantMargin != 0 {
		b = appendTensor(b, "margin", coppicev1.DataType_DATA_TYPE_FP64, rows, k, func(b []byte) []byte {
			return appendRaw(b, scores[:rows*k])
		})
	}
	if want&wantLeaf != 0 {
		b = appendTensor(b, "leaf", coppicev1.DataType_DATA_TYPE_INT64, rows, trees, func(b []byte) []byte {
			for _, id := range leaves[:rows*trees] {
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
