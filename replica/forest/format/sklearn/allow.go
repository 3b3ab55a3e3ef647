package sklearn

import (
	"fmt"
	"strings"

	"github.com/coppice-mesh/coppice/replica/forest/format/pickle"
)

// The names whose meaning matters here.
const (
	classifierName = "sklearn.ensemble._forest.RandomForestClassifier"
	regressorName  = "sklearn.ensemble._forest.RandomForestRegressor"
	treeName       = "sklearn.tree._tree.Tree"
	wrapperName    = "joblib.numpy_pickle.NumpyArrayWrapper"
	ndarrayName    = "numpy.ndarray"
	memmapName     = "numpy.memmap"
	dtypeName      = "numpy.dtype"
)

// allowed are the names that a forest's pickle may hold, as values and as things to call. Those that
// stand for parameters are never looked into.
var allowed = map[string]bool{
	classifierName: true,
	regressorName:  true,
	treeName:       true,
	wrapperName:    true,
	ndarrayName:    true,
	memmapName:     true,
	dtypeName:      true,
	"sklearn.tree._classes.DecisionTreeClassifier": true,
	"sklearn.tree._classes.DecisionTreeRegressor":  true,

	// numpy 2 renamed the module.
	"numpy.core.multiarray._reconstruct":  true,
	"numpy._core.multiarray._reconstruct": true,
	"numpy.core.multiarray.scalar":        true,
	"numpy._core.multiarray.scalar":       true,
	"numpy.core.numeric._frombuffer":      true,
	"numpy._core.numeric._frombuffer":     true,

	// random_state=RandomState(...)
	"numpy.random._pickle.__randomstate_ctor":                 true,
	"numpy.random._pickle.__bit_generator_ctor":               true,
	"numpy.random._mt19937.MT19937":                           true,
	"numpy.random._pcg64.PCG64":                               true,
	"numpy.random._pcg64.PCG64DXSM":                           true,
	"numpy.random._philox.Philox":                             true,
	"numpy.random._sfc64.SFC64":                               true,
	"numpy.random.bit_generator.SeedSequence":                 true,
	"numpy.random.bit_generator.__pyx_unpickle_SeedSequence":  true,
	"numpy.random.bit_generator._LegacySeeding":               true,
	"numpy.random.mtrand.RandomState":                         true,
	"sklearn.utils._metadata_requests.MetadataRequest":        true, // set_fit_request(...)
	"sklearn.utils._metadata_requests.MethodMetadataRequest":  true,
	"sklearn.metrics._classification.accuracy_score":          true, // oob_score=accuracy_score, and the like
	"sklearn.metrics._classification.balanced_accuracy_score": true,
	"sklearn.metrics._classification.f1_score":                true,
	"sklearn.metrics._classification.log_loss":                true,
	"sklearn.metrics._classification.matthews_corrcoef":       true,
	"sklearn.metrics._regression.mean_absolute_error":         true,
	"sklearn.metrics._regression.mean_squared_error":          true,
	"sklearn.metrics._regression.r2_score":                    true,
	"sklearn.metrics._ranking.roc_auc_score":                  true,
	"sklearn.metrics._ranking.average_precision_score":        true,
}

// ensembles are scikit-learn's models of trees, and what wraps them, that are not read yet.
var ensembles = map[string]bool{
	"sklearn.pipeline.Pipeline":                                                                 true,
	"sklearn.tree._classes.DecisionTreeClassifier":                                              true,
	"sklearn.tree._classes.DecisionTreeRegressor":                                               true,
	"sklearn.tree._classes.ExtraTreeClassifier":                                                 true,
	"sklearn.tree._classes.ExtraTreeRegressor":                                                  true,
	"sklearn.ensemble._forest.ExtraTreesClassifier":                                             true,
	"sklearn.ensemble._forest.ExtraTreesRegressor":                                              true,
	"sklearn.ensemble._forest.RandomTreesEmbedding":                                             true,
	"sklearn.ensemble._iforest.IsolationForest":                                                 true,
	"sklearn.ensemble._gb.GradientBoostingClassifier":                                           true,
	"sklearn.ensemble._gb.GradientBoostingRegressor":                                            true,
	"sklearn.ensemble._bagging.BaggingClassifier":                                               true,
	"sklearn.ensemble._bagging.BaggingRegressor":                                                true,
	"sklearn.ensemble._weight_boosting.AdaBoostClassifier":                                      true,
	"sklearn.ensemble._weight_boosting.AdaBoostRegressor":                                       true,
	"sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier": true,
	"sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor":  true,
}

// reads says what this package reads, at the end of errors about what it does not.
const reads = "Coppice reads RandomForestClassifier and RandomForestRegressor"

// allow is the consent that package pickle asks for.
func allow(g pickle.Global) error {
	name := g.String()
	switch {
	case allowed[name]:
		return nil
	case ensembles[name]:
		return fmt.Errorf("%w: %s is not read yet; %s", ErrUnsupported, name, reads)
	case strings.HasPrefix(g.Module, "sklearn."):
		return fmt.Errorf("%w: %s is not a forest that Coppice reads; it reads RandomForestClassifier, RandomForestRegressor",
			ErrUnsupported, name)
	}
	if err := oldArray(g); err != nil {
		return err
	}
	return fmt.Errorf("%w: the file names %s, which a forest has no need of; nothing of the file was run; %s", ErrForbidden, name, reads)
}
