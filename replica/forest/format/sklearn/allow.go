package sklearn

import (
	"fmt"
	"strings"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
)

// The names whose meaning matters here, besides those of the estimators.
const (
	treeName     = "sklearn.tree._tree.Tree"
	pipelineName = "sklearn.pipeline.Pipeline"
	wrapperName  = "joblib.numpy_pickle.NumpyArrayWrapper"
	ndarrayName  = "numpy.ndarray"
	memmapName   = "numpy.memmap"
	dtypeName    = "numpy.dtype"
)

// allowed are the names outside of scikit-learn that a model's pickle may hold, as values and as things to call. Those
// that stand for parameters are never looked into.
var allowed = map[string]bool{
	wrapperName: true,
	ndarrayName: true,
	memmapName:  true,
	dtypeName:   true,

	// numpy 2 renamed the module.
	"numpy.core.multiarray._reconstruct":  true,
	"numpy._core.multiarray._reconstruct": true,
	"numpy.core.multiarray.scalar":        true,
	"numpy._core.multiarray.scalar":       true,
	"numpy.core.numeric._frombuffer":      true,
	"numpy._core.numeric._frombuffer":     true,

	// random_state=RandomState(...)
	"numpy.random._pickle.__randomstate_ctor":                true,
	"numpy.random._pickle.__bit_generator_ctor":              true,
	"numpy.random._pickle.__generator_ctor":                  true,
	"numpy.random._mt19937.MT19937":                          true,
	"numpy.random._pcg64.PCG64":                              true,
	"numpy.random._pcg64.PCG64DXSM":                          true,
	"numpy.random._philox.Philox":                            true,
	"numpy.random._sfc64.SFC64":                              true,
	"numpy.random.bit_generator.SeedSequence":                true,
	"numpy.random.bit_generator.__pyx_unpickle_SeedSequence": true,
	"numpy.random.bit_generator._LegacySeeding":              true,
	"numpy.random.mtrand.RandomState":                        true,

	// Types as parameters, and the parts of scikit-learn's own function transformer and column indices.
	"numpy.float64":     true,
	"numpy.float32":     true,
	"numpy.int64":       true,
	"numpy.int32":       true,
	"functools.partial": true,
	"builtins.slice":    true,
	"builtins.object":   true,
	"builtins.float":    true,
	"builtins.int":      true,
	"builtins.bool":     true,
	"builtins.str":      true,

	// The same in the protocols of Python 2.
	"__builtin__.slice":   true,
	"__builtin__.object":  true,
	"__builtin__.float":   true,
	"__builtin__.int":     true,
	"__builtin__.long":    true,
	"__builtin__.bool":    true,
	"__builtin__.unicode": true,
}

// reads says what this package reads, at the end of errors about what it does not.
const reads = "Coppice reads RandomForest, ExtraTrees, DecisionTree, ExtraTree, GradientBoosting and HistGradientBoosting " +
	"classifiers and regressors, IsolationForest, and pipelines of scalers and imputers before one of them"

// allow is the consent that package pickle asks for.
func allow(g pickle.Global) error {
	name := g.String()
	// A class of scikit-learn's is a record here, whatever it is: so an unknown one can be refused by what it is for.
	if allowed[name] || strings.HasPrefix(g.Module, "sklearn.") {
		return nil
	}
	switch g.Module {
	case "numpy", "numpy.core._multiarray_umath", "numpy._core._multiarray_umath": // a FunctionTransformer's function
		return nil
	case "numpy.ma", "numpy.ma.core": // the masked arrays of a GridSearchCV's results
		return nil
	}
	if err := oldArray(g); err != nil {
		return err
	}
	return fmt.Errorf("%w: the file names %s, which a model of trees has no need of; nothing of the file was run; %s", ErrForbidden, name, reads)
}
