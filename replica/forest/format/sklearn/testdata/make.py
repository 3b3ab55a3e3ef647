"""Makes the forests of testdata/made/<version>: small ones, each saved in one way, with rows and the
answers that scikit-learn gives for them. Needs scikit-learn, joblib and numpy, and lz4 for what it
compresses; no network.

    python make.py        # writes made/<version of scikit-learn>/*

For every <case>.model there is a <case>.json: what the model is (classes and feature names as Python's
str spells them, whether predict takes NaN), the rows, and for each row the probabilities or the value and
the leaf of each tree. Numbers are spelled in hexadecimal, so that no bit is lost.
"""

import json
import os
import pickle
import warnings

import joblib
import numpy as np
import sklearn
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

warnings.filterwarnings("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "made", sklearn.__version__)
VERSION = tuple(int(p) for p in sklearn.__version__.split(".")[:2])


def rows(model, X):
    """Training rows, and rows with a feature on a threshold or beside it."""
    rng = np.random.RandomState(0)
    out = [X[:8].astype("f8")]
    for tree in model.estimators_[:3]:
        tree = tree.tree_
        for node in np.flatnonzero(tree.children_left >= 0)[:2]:
            t = tree.threshold[node]
            near = np.float32(t)
            for v in (t, np.nextafter(t, np.inf), np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))):
                if np.isfinite(np.float32(v)):
                    row = X[rng.randint(len(X))].astype("f8")
                    row[tree.feature[node]] = v
                    out.append(row[None])
    out = np.vstack(out)
    out[np.isnan(out)] = 0
    if takes_nan(model, X):
        with_nan = out[:6].copy()
        with_nan[rng.rand(*with_nan.shape) < 0.4] = np.nan
        out = np.vstack([out, with_nan])
    return out


def takes_nan(model, X):
    row = np.nan_to_num(X[:1].astype("f8"))
    row[0, 0] = np.nan
    try:
        model.predict(row)
    except ValueError:
        return False
    return True


def hexes(a):
    return [[float(v).hex() for v in row] for row in np.asarray(a, dtype="f8").reshape(len(a), -1)]


def save(name, model, X, dump, most=40):
    path = os.path.join(OUT, name)
    dump(model, path + ".model")
    model.set_params(n_jobs=1)
    R = rows(model, X)
    R = R[:: -(-len(R) // most)]
    classes = getattr(model, "classes_", None)
    answer = model.predict(R) if classes is None else model.predict_proba(R)
    names = getattr(model, "feature_names_in_", None)
    with open(path + ".json", "w") as f:
        json.dump({
            "version": sklearn.__version__,
            "kind": type(model).__name__,
            "features": X.shape[1],
            "missing": takes_nan(model, X),
            "classes": None if classes is None else [str(c) for c in classes],
            "names": None if names is None else list(names),
            "rows": hexes(R),
            "scores": hexes(answer),
            "leaves": model.apply(R).tolist(),
        }, f, ensure_ascii=False)
        f.write("\n")


def by_pickle(protocol):
    def dump(model, path):
        with open(path, "wb") as f:
            pickle.dump(model, f, protocol=protocol)
    return dump


def by_joblib(**kw):
    return lambda model, path: joblib.dump(model, path, **kw)


def main():
    os.makedirs(OUT, exist_ok=True)
    C, R = RandomForestClassifier, RandomForestRegressor
    X, y = make_classification(120, 5, n_informative=4, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0)
    Xr, yr = make_regression(100, 4, noise=5, random_state=3)
    small = dict(n_estimators=3, max_depth=3, random_state=0)

    # The ways of saving.
    model = C(**small).fit(X, y)
    for p in range(6):
        save("pickle_protocol_%d" % p, model, X, by_pickle(p), most=8)
        save("joblib_protocol_%d" % p, model, X, by_joblib(protocol=p), most=8)
    for codec in ("zlib", "gzip", "bz2", "xz", "lzma", "lz4"):
        for level in (1, 3, 9):
            try:
                save("joblib_%s_%d" % (codec, level), model, X, by_joblib(compress=(codec, level)), most=8)
            except ValueError as e:  # lz4 is a package of its own
                print(e)
    save("joblib_zlib_0", model, X, by_joblib(compress=("zlib", 0)), most=8)

    # Labels and names, with and without joblib, which treats arrays of objects apart.
    labels = {
        "text": np.array(["kleine", "gro\u00df", "\u732b"]),
        "object": np.array(["a", "b b", "\u00e9"], dtype=object),
        "float64": np.array([-1.0, 0.0, 3e18]),
        "float32": np.array([-1, 0, 1024], dtype="f4"),
        "uint8": np.array([0, 7, 255], dtype="u1"),
        "int64": np.array([-(2**60), 0, 2**60]),
        "big_endian": np.array([-5, 0, 5], dtype=">i4"),
    }
    for name, values in labels.items():
        model = C(2, max_depth=2, random_state=0).fit(X, values[y])
        if name == "object":
            model.feature_names_in_ = np.array(["age", "a b", "\u00fc", "", "x4"], dtype=object)
        save("labels_%s_pickle" % name, model, X, by_pickle(4), most=8)
        save("labels_%s_joblib" % name, model, X, by_joblib(), most=8)
    save("labels_bool", C(2, max_depth=2, random_state=0).fit(X, y == 1), X, by_joblib())
    save("names_protocol_0", model_with_names(C(**small), X, y), X, by_pickle(0))
    save("names_joblib_zlib", model_with_names(C(**small), X, y), X, by_joblib(compress=3))

    # Leaves: weights, whose sums depend on the order of adding; one class; one leaf.
    X12, y12 = make_classification(500, 6, n_informative=6, n_redundant=0, n_classes=12, n_clusters_per_class=1, random_state=4)
    weights = np.random.RandomState(0).rand(500) * 3
    save("weights_12_classes", C(3, max_depth=4, min_samples_leaf=9, random_state=2).fit(X12, y12, sample_weight=weights), X12, by_joblib(compress=3))
    save("weights_no_bootstrap", C(3, max_depth=4, bootstrap=False, max_features=2, random_state=2).fit(X12, y12, sample_weight=weights), X12, by_joblib(compress=3))
    save("class_weight", C(4, class_weight={0: 0.3, 1: 1.7, 2: 1.1}, min_samples_leaf=4, random_state=2).fit(X, y), X, by_joblib())
    save("one_class", C(3, random_state=0).fit(X, np.zeros(len(y), int)), X, by_joblib())
    save("one_leaf", R(3, random_state=0).fit(Xr, np.full(len(yr), 3.25)), Xr, by_pickle(2))
    save("one_tree", C(1, random_state=0).fit(X, y), X, by_joblib())

    # Trees that are not in preorder, pruned ones, thresholds at the ends of float32's range.
    save("best_first", C(3, max_leaf_nodes=9, random_state=1).fit(X, y), X, by_joblib())
    save("best_first_regressor", R(3, max_leaf_nodes=12, random_state=1).fit(Xr, yr), Xr, by_joblib(compress=1))
    save("pruned", C(3, ccp_alpha=0.01, random_state=1).fit(X, y), X, by_joblib())
    save("denormal", C(3, max_depth=4, random_state=0).fit(X * 1e-44, y), X * 1e-44, by_joblib())
    save("large", C(3, max_depth=4, random_state=0).fit(X * 1e37, y), X * 1e37, by_joblib())
    save("large_values", R(3, max_depth=4, random_state=0).fit(Xr, yr * 1e300), Xr, by_joblib())

    # What is saved besides.
    save("random_state", C(3, max_depth=3, random_state=np.random.RandomState(5)).fit(X, y), X, by_pickle(4))
    save("random_state_joblib", C(3, max_depth=3, random_state=np.random.RandomState(5)).fit(X, y), X, by_joblib())
    save("oob_score", C(25, max_depth=2, oob_score=True, n_jobs=2, random_state=1).fit(X, y), X, by_joblib(compress=3))
    save("poisson", R(3, criterion="poisson", max_depth=3, random_state=1).fit(Xr, np.abs(yr)), Xr, by_joblib())
    save("absolute_error", R(3, criterion="absolute_error", max_depth=3, random_state=1).fit(Xr, yr), Xr, by_joblib())
    if VERSION >= (1, 4):
        Xn = X.copy()
        Xn[np.random.RandomState(0).rand(*X.shape) < 0.15] = np.nan
        save("nan", C(4, max_depth=4, random_state=1).fit(Xn, y), Xn, by_joblib())
        save("monotonic", C(4, max_depth=4, monotonic_cst=[1, -1, 0, 0, 1], random_state=1).fit(X, y > 0), X, by_joblib())
        sklearn.set_config(enable_metadata_routing=True)
        save("routing", C(**small).set_fit_request(sample_weight=True).fit(X, y), X, by_joblib())


def model_with_names(model, X, y):
    model.fit(X, y)
    model.feature_names_in_ = np.array(["n%d \u00e9\\u" % i for i in range(X.shape[1])], dtype=object)
    return model


if __name__ == "__main__":
    main()
