package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/coppice-mesh/coppice/proto/frame"
)

// body is the tutorial's request.
type body struct {
	Features json.RawMessage `json:"features"`
	Work     string          `json:"work"`
	Model    string          `json:"model"`
	Version  string          `json:"version"`
}

// works are the names of amounts of work.
var works = map[string]coppicev1.Work{
	"":       coppicev1.Work_WORK_UNSPECIFIED,
	"light":  coppicev1.Work_WORK_LIGHT,
	"medium": coppicev1.Work_WORK_MEDIUM,
	"heavy":  coppicev1.Work_WORK_HEAVY,
}

// Fields of PredictRequest.
const (
	modelField     = 1
	versionField   = 2
	instancesField = 3
	workField      = 6
	requestIDField = 7
	valuesField    = 1 // of Instance
)

// parse reads {"features": [...] or [[...], ...], "work": "light"}, with an optional model and version, and encodes
// it as a PredictRequest of at most limit bytes. null among the features is a missing value. Nothing is built on
// the way there: what a body costs in memory is a few times its size, however many rows it cuts it into. The error
// wraps frame.ErrRequest or frame.ErrTooLarge.
func parse(b []byte, requestID string, limit int) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var in body
	if err := dec.Decode(&in); err != nil {
		return nil, fmt.Errorf("%w: %w; expected {\"features\": [...] or [[...], ...], \"work\": \"light\"}", frame.ErrRequest, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the JSON object", frame.ErrRequest)
	}
	work, ok := works[in.Work]
	if !ok {
		return nil, fmt.Errorf("%w: work is %.100q, it can be light, medium or heavy", frame.ErrRequest, in.Work)
	}
	if len(in.Features) == 0 {
		return nil, fmt.Errorf("%w: features are missing", frame.ErrRequest)
	}
	var out []byte
	for _, f := range []struct {
		field protowire.Number
		value string
	}{{modelField, in.Model}, {versionField, in.Version}, {requestIDField, requestID}} {
		if f.value != "" {
			out = protowire.AppendString(protowire.AppendTag(out, f.field, protowire.BytesType), f.value)
		}
	}
	if work != 0 {
		out = protowire.AppendVarint(protowire.AppendTag(out, workField, protowire.VarintType), uint64(work))
	}
	m := matrix{rest: in.Features, out: out, limit: limit}
	if err := m.read(); err != nil {
		return nil, err
	}
	return m.out, nil
}

// matrix turns JSON that is known to be valid into instances.
type matrix struct {
	rest    []byte
	out     []byte
	row     []byte // the values of the row that is being read
	rows    int
	columns int // of row 0
	limit   int // of out
}

// peek is the next byte that is no space.
func (m *matrix) peek() byte {
	for {
		switch m.rest[0] {
		case ' ', '\t', '\r', '\n':
			m.rest = m.rest[1:]
		default:
			return m.rest[0]
		}
	}
}

// next goes over a comma, or the end of a list, which it reports.
func (m *matrix) next() (end bool) {
	end = m.peek() == ']'
	m.rest = m.rest[1:]
	return end
}

func (m *matrix) read() error {
	if m.peek() != '[' {
		return fmt.Errorf("%w: features are no list", frame.ErrRequest)
	}
	m.rest = m.rest[1:]
	switch m.peek() {
	case ']':
		return fmt.Errorf("%w: features are empty, at least one row is needed", frame.ErrRequest)
	case '[':
	default:
		return m.readRow()
	}
	for {
		if m.peek() != '[' {
			return fmt.Errorf("%w: features: row %d is no list of numbers, row 0 is one", frame.ErrRequest, m.rows)
		}
		m.rest = m.rest[1:]
		if err := m.readRow(); err != nil {
			return err
		}
		if m.next() {
			return nil
		}
	}
}

// readRow reads a row behind its bracket.
func (m *matrix) readRow() error {
	m.row = m.row[:0]
	if m.peek() == ']' {
		return fmt.Errorf("%w: features: row %d is empty", frame.ErrRequest, m.rows)
	}
	columns := 0
	for end := false; !end; end = m.next() {
		v, err := m.value(columns)
		if err != nil {
			return err
		}
		if len(m.out)+len(m.row) > m.limit {
			return fmt.Errorf("%w: the features have more than %d bytes as numbers of 8 bytes (--max-message-bytes)", frame.ErrTooLarge, m.limit)
		}
		m.row = protowire.AppendFixed64(m.row, math.Float64bits(v))
		columns++
	}
	if m.rows == 0 {
		m.columns = columns
	}
	if columns != m.columns {
		return fmt.Errorf("%w: features: row %d has %d values, row 0 has %d", frame.ErrRequest, m.rows, columns, m.columns)
	}
	m.out = protowire.AppendTag(m.out, instancesField, protowire.BytesType)
	m.out = protowire.AppendVarint(m.out, uint64(protowire.SizeTag(valuesField)+protowire.SizeBytes(len(m.row))))
	m.out = protowire.AppendBytes(protowire.AppendTag(m.out, valuesField, protowire.BytesType), m.row)
	m.rows++
	return nil
}

// value reads a number or null.
func (m *matrix) value(column int) (float64, error) {
	c := m.peek()
	n := bytes.IndexAny(m.rest, ",] \t\r\n") // a list ends behind it, or the JSON were not valid
	switch {
	case c == '-' || (c >= '0' && c <= '9'):
		v, err := strconv.ParseFloat(string(m.rest[:n]), 64)
		if err != nil {
			break
		}
		m.rest = m.rest[n:]
		return v, nil
	case c == 'n':
		m.rest = m.rest[n:]
		return math.NaN(), nil
	}
	var bad json.RawMessage
	if err := json.NewDecoder(bytes.NewReader(m.rest)).Decode(&bad); err != nil {
		bad = m.rest
	}
	return 0, fmt.Errorf("%w: features: row %d, value %d is %.40s, which is no number in the range of float64", frame.ErrRequest, m.rows, column, bad)
}
