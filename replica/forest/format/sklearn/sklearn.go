// Package sklearn imports the tree ensembles that scikit-learn 1.1 to 1.9 saved with joblib or pickle.
//
// Import reads the file's own format and runs nothing of it: the pickle is interpreted over an
// allow-list (package pickle), and what the allowed classes mean is worked out here:
//
//	container.go  what the file is wrapped in: nothing, or a compression
//	allow.go      the names that a model's pickle may hold
//	ndarray.go    numpy's arrays, scalars and dtypes, in the shapes that pickle and joblib give them
//	forest.go     the estimators: random forests, extra trees, single trees
//	boosting.go   GradientBoosting
//	hist.go       HistGradientBoosting
//	isolation.go  IsolationForest
//	pipeline.go   scalers and imputers before one of them
//	tree.go       sklearn.tree._tree.Tree, to the canonical form
//	label.go      class labels and feature names as text
//	log.go        a logarithm of old
//
// # Exactness
//
// A row's features are float32 in scikit-learn, its thresholds float64. Each threshold is rounded down
// to the largest float32 that is not above it, which no comparison of a float32 can tell from the
// original. HistGradientBoosting compares float64. Up to scikit-learn 1.3 a leaf of a classifier holds counts that
// predict_proba divides by their sum; from 1.4 on it holds fractions that are used as they are. The division is done here
// once, with the order of summation that numpy has. A booster's learning rate is multiplied into its leaves. Leaf ids are
// scikit-learn's node indices.
//
// Probabilities of boosters of three classes or more and means of Poisson and gamma models go through numpy's exp, whose last bits
// depend on the processor: on one with AVX-512 probabilities were up to 4 units in the last place away. So do those of its power,
// through which the scores of isolation forests go: they have the bits of a processor with AVX-512. What GradientBoosting of classes begins with is not in the file but worked out again when
// the library predicts, from the classes' priors; see oldLog for versions before 1.4. From 1.4 on it is SciPy's logit, as SciPy
// has had it since it treats what is near 1/2 apart. Up to 1.3 HistGradientBoosting takes a category modulo 256; here
// categories from 256 on are unknown.
//
// # Pipelines
//
// A step of a pipeline that makes each feature of one value, by a function that never falls, is folded into the
// thresholds: instead of the image of a value with the threshold, the model compares the value with the largest float64
// whose image is not above it. That is what the pipeline answers for rows of float64; for rows of float32 scikit-learn does
// the steps in float32, and may answer otherwise beside a threshold. Whether rows may hold NaN and infinities is one answer
// for all features of a model, and may differ by feature in a pipeline: NaN is taken if any feature is imputed, infinities
// if no step checks for them. Meta.Lost says where that differs.
package sklearn

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
	"github.com/coppice-mesh/coppice/replica/forest/model"
)

// Errors that every refusal wraps one of. A file that is not a sound pickle is refused with an error of
// package pickle, and a tree that the canonical form cannot hold with model.ErrInvalid.
var (
	// ErrUnsupported is wrapped when the file is sound, as far as it was read, and is not a model that this
	// package reads with all its bits: another class, another version, another compression, another step of a pipeline.
	ErrUnsupported = errors.New("unsupported model")
	// ErrForbidden is wrapped when the file names something that a forest has no need of. Nothing was run.
	ErrForbidden = errors.New("forbidden name")
	// ErrMalformed is wrapped when the parts of a forest are missing or contradict each other.
	ErrMalformed = errors.New("malformed scikit-learn forest")
)

// Import reads a model, or a pipeline that ends in one, from the bytes of a file. Memory and
// time stay within a small multiple of len(data), of which compressed files get more. The model does not
// alias data, has no golden rows, and has not been validated.
func Import(data []byte) (*model.Model, error) {
	m, err := load(data)
	if err != nil {
		return nil, fmt.Errorf("scikit-learn file: %w", err)
	}
	sum := sha256.Sum256(data)
	m.Meta.Source.SHA256 = hex.EncodeToString(sum[:])
	return m, nil
}

func load(data []byte) (*model.Model, error) {
	v, size, err := unpickle(data)
	if errors.Is(err, pickle.ErrLimit) && codecOf(data) != nil {
		return nil, fmt.Errorf("%w; a forest that shrinks so well is read when it is saved uncompressed", err)
	}
	if err != nil {
		return nil, err
	}
	return (&reader{size: size}).understand(v)
}

// unpickle gives the value of a file and its bytes, unpacked.
func unpickle(data []byte) (v any, size int64, err error) {
	src, memory, err := open(data)
	if err != nil {
		return nil, 0, err
	}
	v, err = pickle.NewDecoder(src, pickle.Options{Allow: allow, Built: built, MaxMemory: memory}).Decode()
	if err != nil {
		return nil, 0, err
	}
	return v, src.Consumed(), src.End()
}
