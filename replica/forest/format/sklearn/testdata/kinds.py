"""Makes the models of testdata/kinds/<version>: one of each kind that is read and of each parameter that changes what is
saved, small, with rows and scikit-learn's answers. Needs scikit-learn, joblib and numpy; no network.

    python kinds.py       # writes kinds/<version of scikit-learn>/*

For every <case>.model there is a <case>.npz: the rows X, and the answers predict, proba (proba_0 ... of several targets),
margin, score_samples, decision_function and leaf, as far as the model gives them. refused/<version>/<case>.model are those
that cannot be read.

NumPy's log and exp differ between processors that have AVX-512 and those that have not. What is here of 1.2.1 was made without it:

    NPY_DISABLE_CPU_FEATURES="AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL" python kinds.py

and the answers of 1.9.1 with it, whose bits Coppice's have.
"""

import os
import warnings

import joblib
import numpy as np
import sklearn
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, MinMaxScaler, OneHotEncoder, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier

warnings.filterwarnings("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "kinds", sklearn.__version__)
REFUSED = os.path.join(HERE, "refused", sklearn.__version__)
VERSION = tuple(int(p) for p in sklearn.__version__.split(".")[:2])
rng = np.random.RandomState(0)


def rows(model, X, near, whole):
    """Training rows, rows beside them, and rows with special values, of which those are kept that the model answers."""
    X = np.asarray(X, dtype="f8")
    n, k = X.shape
    out = list(X[:10]) + list(X[rng.randint(n, size=6)] + rng.normal(size=(6, k)))
    for f, t in near[:: max(1, len(near) // 6)]:
        low = np.float32(t)
        for v in (t, np.nextafter(t, -np.inf), np.nextafter(t, np.inf), low, np.nextafter(low, np.float32(np.inf))):
            row = X[rng.randint(n)].copy()
            row[f] = v
            out.append(row)
    for special in (0.0, -0.0, np.nan, np.inf, -np.inf, 1e30, -1e-310, -1.0, -0.5, 1.5, 17.0):
        for row in X[rng.randint(n, size=2)].copy():
            row[rng.rand(k) < 0.4] = special
            out.append(row)
    kept = []
    for row in out:
        row[whole] = np.where(np.isinf(row[whole]) | (row[whole] > 255), 3, row[whole])  # what the library does beyond depends on the compiler
        try:
            model.predict(row[None])
        except ValueError:
            continue
        kept.append(row)
    return np.array(kept)


def thresholds(model):
    """Features and thresholds of the trees that compare the row as it is."""
    out = []
    for rounds in getattr(model, "_predictors", []):
        for tree in rounds:
            nodes = tree.nodes[(tree.nodes["is_leaf"] == 0) & (tree.nodes["is_categorical"] == 0)]
            out += [(int(f), float(t)) for f, t in zip(nodes["feature_idx"], nodes["num_threshold"]) if np.isfinite(t)]
    if hasattr(model, "is_categorical_") and model.is_categorical_ is not None:
        return []  # of other features than the row's
    trees = [model] if hasattr(model, "tree_") else np.ravel(getattr(model, "estimators_", []))
    for tree in trees:
        t = tree.tree_
        inner = t.children_left >= 0
        out += list(zip(t.feature[inner].tolist(), t.threshold[inner].tolist()))
    return out


def save(name, model, X, whole=()):
    joblib.dump(model, os.path.join(OUT, name + ".model"), compress=("xz", 9))
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    subset = isinstance(last, IsolationForest)
    R = rows(model, X, [] if subset or last is not model else thresholds(model), list(whole))
    answers = {"X": R, "predict": model.predict(R)}
    if answers["predict"].dtype == object:
        answers["predict"] = answers["predict"].astype(str)
    if hasattr(model, "predict_proba"):
        proba = model.predict_proba(R)
        answers.update({"proba_%d" % i: p for i, p in enumerate(proba)} if isinstance(proba, list) else {"proba": proba})
    if subset:
        answers["score_samples"], answers["decision_function"] = model.score_samples(R), model.decision_function(R)
    elif hasattr(model, "decision_function"):
        answers["margin"] = answers["decision_function"] = model.decision_function(R)
    if hasattr(model, "apply"):
        answers["leaf"] = model.apply(R)
    np.savez_compressed(os.path.join(OUT, name + ".npz"), **answers)


def refuse(name, model):
    joblib.dump(model, os.path.join(REFUSED, name + ".model"), compress=9)


def holes(X, p=0.1):
    X = np.array(X)
    X[rng.rand(*X.shape) < p] = np.nan
    return X


def main():
    os.makedirs(OUT, exist_ok=True)
    os.makedirs(REFUSED, exist_ok=True)
    data = {k: make_classification(300, 6, n_informative=4, n_redundant=0, n_classes=k, n_clusters_per_class=1, random_state=k) for k in (2, 3, 10)}
    X, y = data[2]
    X3, y3 = data[3]
    X10, y10 = data[10]
    Xr, yr = make_regression(300, 6, noise=5, random_state=3)
    few = dict(n_estimators=3, max_depth=3, random_state=0)
    text = np.array(["no", "yes", "p\u00e4h"])

    # Trees and forests: labels in their types, several targets.
    kinds = (("i2", (y3 * 1000 - 500).astype("i2")), ("u4", y3.astype("u4")), ("f4", y3.astype("f4")), ("bool", y3 > 0), ("object", text[y3].astype(object)))
    for kind, labels in kinds if VERSION >= (1, 9) else kinds[3:]:
        save("labels_" + kind, ExtraTreesClassifier(2, max_depth=3, random_state=0).fit(X3, labels), X3)
    save("two_text_targets", DecisionTreeClassifier(max_depth=4).fit(X3, np.column_stack([text[y3], np.array(["a longer one", "x"])[y3 % 2]])), X3)
    save("three_targets", RandomForestRegressor(**few).fit(Xr, np.column_stack([yr, -yr, Xr[:, 0]])), Xr)
    save("extra_tree", ExtraTreeClassifier(max_depth=6, class_weight="balanced", random_state=0).fit(X10, y10), X10)
    save("extra_tree_best", ExtraTreeClassifier(max_depth=4, splitter="best", random_state=0).fit(X3, y3), X3)
    save("tree_random", DecisionTreeRegressor(max_depth=4, splitter="random", random_state=0).fit(Xr, yr), Xr)
    save("tree_absolute_error", DecisionTreeRegressor(max_depth=4, criterion="absolute_error", random_state=0).fit(Xr, yr), Xr)

    # GradientBoosting: the ways to begin, losses.
    for weight in (0.03, 0.35, 0.5):
        Xw, yw = make_classification(400, 6, weights=[1 - weight], random_state=1)
        for loss in ("log_loss", "exponential"):
            save("gb_%s_%s" % (loss, weight), GradientBoostingClassifier(loss=loss, **few).fit(Xw, yw), Xw)
    save("gb_ten", GradientBoostingClassifier(n_estimators=3, max_depth=2, learning_rate=0.7, random_state=0).fit(X10, y10), X10)
    save("gb_three_sharp", GradientBoostingClassifier(n_estimators=20, max_depth=2, learning_rate=0.5, random_state=0).fit(X3, text[y3]), X3)
    save("gb_zero", GradientBoostingClassifier(init="zero", **few).fit(X3, y3), X3)
    for strategy in ("uniform", "most_frequent"):
        save("gb_init_" + strategy, GradientBoostingClassifier(init=DummyClassifier(strategy=strategy), **few).fit(X3, y3), X3)
    save("gb_init_constant", GradientBoostingClassifier(init=DummyClassifier(strategy="constant", constant=1), **few).fit(X, y), X)
    save("gb_regressor_constant", GradientBoostingRegressor(init=DummyRegressor(strategy="constant", constant=3), **few).fit(Xr, yr), Xr)
    save("gb_regressor_quantile", GradientBoostingRegressor(loss="quantile", alpha=0.3, **few).fit(Xr, yr), Xr)
    refuse("gb_init_linear", GradientBoostingRegressor(init=LinearRegression(), **few).fit(Xr, yr))
    refuse("gb_init_stratified", GradientBoostingClassifier(init=DummyClassifier(strategy="stratified"), **few).fit(X, y))

    # HistGradientBoosting: links, categories.
    hist = dict(max_iter=4, max_leaf_nodes=6, min_samples_leaf=5, max_bins=50, random_state=0)
    save("hist_ten", HistGradientBoostingClassifier(**hist).fit(holes(X10), y10), holes(X10))
    save("hist_poisson", HistGradientBoostingRegressor(loss="poisson", **hist).fit(holes(Xr), np.abs(yr)), holes(Xr))
    save("hist_infinite", HistGradientBoostingRegressor(loss="absolute_error", **hist).fit(np.where(rng.rand(*Xr.shape) < 0.1, np.inf, Xr), yr), Xr)
    save("hist_stopped", HistGradientBoostingClassifier(early_stopping=True, **hist).fit(X3, text[y3]), X3)
    Xc = np.array(X)
    Xc[:, 1], Xc[:, 4] = rng.randint(6, size=len(Xc)), rng.randint(40, size=len(Xc))
    yc = ((Xc[:, 4] % 3 == 0) ^ (Xc[:, 1] > 2) ^ (X[:, 0] > 0)).astype(int)
    Xn = holes(Xc)
    categories = dict(categorical_features=[1, 4], **hist)
    save("hist_categories", HistGradientBoostingClassifier(**categories).fit(Xn, yc), Xn, whole=[1, 4])
    save("hist_categories_imputed", make_pipeline(SimpleImputer(strategy="most_frequent"), HistGradientBoostingClassifier(**categories)).fit(Xn, yc), Xn, whole=[1, 4])
    passed = ColumnTransformer([("categories", "passthrough", [4, 1])], remainder=StandardScaler())
    save("hist_categories_moved", make_pipeline(passed, HistGradientBoostingClassifier(categorical_features=[0, 1], **hist)).fit(Xn, yc), np.where(np.isinf(Xn), 0, Xn), whole=[1, 4])
    refuse("hist_categories_scaled", make_pipeline(MinMaxScaler(), HistGradientBoostingClassifier(categorical_features=[1], **hist)).fit(np.where(np.arange(6) == 1, np.minimum(Xc, 1), Xc), yc))
    if VERSION >= (1, 4):
        Xw = np.array(Xn)
        Xw[:, 1] = Xw[:, 1] * 70000 + 100
        save("hist_categories_wide", HistGradientBoostingClassifier(**categories).fit(Xw, yc), Xw)
        refuse("hist_categories_negative", HistGradientBoostingClassifier(**categories).fit(Xn - 2, yc))
        refuse("hist_categories_halves", HistGradientBoostingClassifier(**categories).fit(Xn / 2, yc))

    # IsolationForest.
    save("isolation_features", IsolationForest(n_estimators=6, max_features=0.5, contamination=0.1, random_state=1).fit(X), X)
    save("isolation_bootstrap", IsolationForest(n_estimators=5, bootstrap=True, max_features=3, max_samples=50, random_state=1).fit(np.round(X, 1)), X)
    save("isolation_one_sample", IsolationForest(n_estimators=3, max_samples=1, random_state=1).fit(X), X)

    # Pipelines. Rows whose dropped features hold NaN or infinity are answered by the library and not by the model.
    forest = lambda: RandomForestClassifier(**few)
    scalers = {
        "standard": StandardScaler(), "standard_mean": StandardScaler(with_std=False), "min_max": MinMaxScaler((-3, 7)), "clipped": MinMaxScaler(clip=True),
        "max_abs": MaxAbsScaler(), "robust": RobustScaler(), "robust_unit": RobustScaler(with_centering=False, unit_variance=True, quantile_range=(10, 80)),
    }
    if VERSION >= (1, 9):
        scalers["max_abs_clipped"] = MaxAbsScaler(clip=True)
    else:  # they are saved alike
        scalers = {name: scalers[name] for name in ("standard", "clipped")}
    for name, scaler in scalers.items():
        save("pipeline_" + name, make_pipeline(scaler, SimpleImputer(strategy="median"), forest()).fit(holes(X), y), holes(X))
    save("pipeline_float32", make_pipeline(SimpleImputer(), MinMaxScaler(), make_pipeline(StandardScaler(), GradientBoostingRegressor(**few))).fit(holes(Xr).astype("f4"), yr), holes(Xr))
    empty = holes(X)
    empty[:, 3] = np.nan
    save("pipeline_empty_kept", make_pipeline(SimpleImputer(strategy="constant", fill_value=0.1, **({"keep_empty_features": True} if VERSION >= (1, 2) else {})), forest()).fit(empty, y), X)
    save("pipeline_isolation", make_pipeline(RobustScaler(), IsolationForest(n_estimators=3, max_samples=40, random_state=0)).fit(X), X)
    columns = ColumnTransformer(
        [("s", StandardScaler(), [5, 1]), ("i", make_pipeline(SimpleImputer(), MinMaxScaler()), slice(2, 4)), ("p", "passthrough", [True, False, False, False, True, False])],
        transformer_weights={"s": 2.5, "p": 0.3},
    )
    save("pipeline_columns", make_pipeline(columns, forest()).fit(X, y), X)
    twice = [ColumnTransformer([("q", scaler, columns)], remainder="passthrough") for scaler, columns in ((MaxAbsScaler(), [4, 0]), (RobustScaler(), np.array([1, -1])))]
    save("pipeline_columns_twice", make_pipeline(*twice, forest()).fit(X, y), X)
    for name, step in (("pca", PCA(3)), ("indicator", SimpleImputer(add_indicator=True)), ("one_hot", ColumnTransformer([("hot", OneHotEncoder(handle_unknown="ignore"), [0])], remainder="passthrough")), ("function", FunctionTransformer(np.arctan))):
        refuse("pipeline_" + name, make_pipeline(step, forest()).fit(holes(X) if name == "indicator" else np.round(X), y))
    refuse("grid_search", GridSearchCV(forest(), {"max_depth": [1, 2]}, cv=2).fit(X, y))
    refuse("ada_boost", AdaBoostClassifier(n_estimators=2).fit(X, y))


if __name__ == "__main__":
    main()
