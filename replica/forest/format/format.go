// Package format recognises model files by their content and reads them. A new format is a package beside
// this file and a line in the list.
package format

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/coppice-mesh/coppice/replica/forest/format/coppice"
	"github.com/coppice-mesh/coppice/replica/forest/format/lightgbm"
	"github.com/coppice-mesh/coppice/replica/forest/format/sklearn"
	"github.com/coppice-mesh/coppice/replica/forest/format/xgboost"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// MaxFileBytes is the size up to which a file is read.
const MaxFileBytes = 8 << 30

// headBytes is what a file is recognised by.
const headBytes = 4 << 10

// Errors about a file.
var (
	// ErrUnknown is wrapped by the error about a file of no known format.
	ErrUnknown = errors.New("not a model file that Coppice knows")
	// ErrUnsupported is wrapped by the error about a file whose format is known but not read.
	ErrUnsupported = errors.New("a format that this version does not read")
	// ErrTooLarge is wrapped by the error about a file over MaxFileBytes.
	ErrTooLarge = errors.New("file too large")
)

// Format is one way in which models are stored.
type Format struct {
	// Name is what people call it.
	Name string
	// Detect tells by the first bytes of a file whether it is in this format.
	Detect func(head []byte) bool
	// Import reads a whole file. Nil: the format is known, so that it can be refused by name.
	Import func(data []byte) (*model.Model, error)
}

// Formats are tried in this order.
var Formats = []Format{
	{"Coppice .coppice", coppice.Detect, coppice.Decode},
	{"XGBoost JSON", xgboost.DetectJSON, xgboost.ImportJSON},
	{"XGBoost UBJSON", xgboost.DetectUBJSON, xgboost.ImportUBJSON},
	{"XGBoost binary", prefix("binf"), nil},
	{"LightGBM text", lightgbm.Detect, lightgbm.Import},
	{"CatBoost .cbm", prefix("CBM1"), nil},
	{"CatBoost JSON", detectCatBoostJSON, nil},
	{"Treelite checkpoint", detectTreelite, nil},
	{"ONNX", detectONNX, nil},
	{"scikit-learn joblib or pickle", sklearn.Detect, sklearn.Import},
}

// Import reads a model from the bytes of a file, in whatever format they are. The model's arrays may lie in
// data, which must not change. Errors wrap ErrUnknown, ErrUnsupported or those of the format's package.
func Import(data []byte) (*model.Model, error) {
	head := data[:min(len(data), headBytes)]
	if len(head) == 0 {
		return nil, fmt.Errorf("%w: the file is empty", ErrUnknown)
	}
	for _, f := range Formats {
		if !f.Detect(head) {
			continue
		}
		if f.Import == nil {
			return nil, fmt.Errorf("%w: %s; it reads %s", ErrUnsupported, f.Name, readable())
		}
		return f.Import(data)
	}
	return nil, fmt.Errorf("%w; it reads %s", ErrUnknown, readable())
}

// readable lists the formats that are read.
func readable() string {
	out := ""
	for _, f := range Formats {
		if f.Import != nil {
			if out != "" {
				out += ", "
			}
			out += f.Name
		}
	}
	return out
}

// ImportFile reads a model from a file; errors name it.
func ImportFile(path string) (*model.Model, error) {
	data, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := Import(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// OpenFile opens a regular file of at most MaxFileBytes and tells its size.
func OpenFile(path string) (*os.File, int64, error) {
	// Asked before it is opened: to open a named pipe is to wait for its writer.
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	if info, err = f.Stat(); err == nil && info.Size() > MaxFileBytes {
		err = fmt.Errorf("%s: %w: %d bytes, at most %d are read", path, ErrTooLarge, info.Size(), int64(MaxFileBytes))
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// ReadFile reads what OpenFile opens into memory.
func ReadFile(path string) ([]byte, error) {
	f, size, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("%s: it changed while it was read: %w", path, err)
	}
	return data, nil
}

func prefix(prefixes ...string) func([]byte) bool {
	return func(head []byte) bool {
		for _, p := range prefixes {
			if bytes.HasPrefix(head, []byte(p)) {
				return true
			}
		}
		return false
	}
}

// jsonWith tells whether the head is the beginning of a JSON object in which one of the keys stands.
func jsonWith(head []byte, keys ...string) bool {
	head = bytes.TrimLeft(head, " \t\r\n")
	if len(head) == 0 || head[0] != '{' {
		return false
	}
	for _, k := range keys {
		if bytes.Contains(head, []byte(`"`+k+`"`)) {
			return true
		}
	}
	return false
}

func detectCatBoostJSON(head []byte) bool {
	return jsonWith(head, "oblivious_trees", "features_info", "model_info", "float_features")
}

// detectTreelite: version 4 begins with its version, three little-endian int32, and with the types of
// thresholds and leaves.
func detectTreelite(head []byte) bool {
	return len(head) > 14 && bytes.Equal(head[:4], []byte{4, 0, 0, 0}) && bytes.Equal(head[5:8], []byte{0, 0, 0}) &&
		bytes.Equal(head[9:12], []byte{0, 0, 0}) && head[12] <= 4 && head[13] <= 4
}

// detectONNX: ModelProto begins with the IR version as field 1 and a producer or a graph behind it.
func detectONNX(head []byte) bool {
	return len(head) > 4 && head[0] == 0x08 && head[1] >= 3 && head[1] < 32 && (head[2] == 0x12 || head[2] == 0x3a)
}
