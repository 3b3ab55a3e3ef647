"""Makes golden/: small models, rows, and what XGBoost 3.2.0 answers for them.

    python make.py

Other versions, or another processor, may grow other trees: the files here are the reference, not this script.
"""
import json, os
import numpy as np, xgboost as xgb

FEATURES = 4
rng = np.random.default_rng(5)
X = rng.normal(size=(160, FEATURES)).astype("f4")
X[:, 1] = rng.integers(0, 9, len(X))
X[rng.random(X.shape) < .05] = np.nan
line = np.nan_to_num(X) @ np.array([1, .1, -1, .5], "f4")
classes = np.digitize(line, [-1, 0.5]).astype("f4")
targets = np.stack([line, 1 - line], 1)


def rows(booster):
    """Training rows, rows with a feature on a threshold and one unit in the last place to either side, special values."""
    thresholds = {f: {np.float32(0)} for f in range(FEATURES)}
    gb = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    for tree in gb.get("gbtree", gb)["model"]["trees"]:
        for left, kind, f, t in zip(tree["left_children"], tree["split_type"], tree["split_indices"], tree["split_conditions"]):
            if left != -1 and kind == 0:
                thresholds[f].add(np.float32(t))
    out = list(X[:12])
    for f, some in thresholds.items():
        for t in sorted(some)[:3]:
            for v in (t, np.nextafter(t, np.float32(np.inf)), np.nextafter(t, np.float32(-np.inf))):
                out.append(X[len(out)].copy())
                out[-1][f] = v
        for v in (-0.0, np.nan, 1e-45, 3e38, 1.5, 8, 9, 40, 1e6):
            out.append(X[len(out)].copy())
            out[-1][f] = v
    return np.stack(out)


def save(name, booster, kind, types=None):
    os.makedirs(f"golden/{name}", exist_ok=True)
    booster.save_model(f"golden/{name}/model.{kind}")
    booster = xgb.Booster(model_file=f"golden/{name}/model.{kind}")
    x = rows(booster)
    d = xgb.DMatrix(x, feature_types=types, enable_categorical=types is not None)
    answers = {"X": x, "predict": booster.predict(d), "margin": booster.predict(d, output_margin=True),
               "leaf": booster.predict(d, pred_leaf=True)}
    for k, v in answers.items():
        np.save(f"golden/{name}/{k}.npy", v)


def train(objective, label, rounds, types=None, **more):
    d = xgb.DMatrix(X, label=label, feature_types=types, enable_categorical=types is not None)
    return xgb.train(dict(objective=objective, max_depth=3, nthread=1, seed=1, **more), d, rounds)


save("logitraw", train("binary:logitraw", line > 0, 3), "json")
save("logistic_base_0", train("binary:logistic", line > 0, 1, base_score=0), "json")
save("softprob_dart", train("multi:softprob", classes, 4, num_class=3, booster="dart", rate_drop=.5, num_parallel_tree=2, subsample=.7), "ubj")
save("vector_leaves", train("reg:squarederror", targets, 2, multi_strategy="multi_output_tree", tree_method="hist"), "ubj")
types = ["q", "c", "q", "q"]
waves = np.sin(3 * np.nan_to_num(X[:, 1]))
save("categories", train("reg:squarederror", waves, 3, types, max_cat_to_onehot=4, tree_method="hist"), "json")
save("one_hot", train("reg:squarederror", waves, 2, types, max_cat_to_onehot=40, tree_method="hist"), "ubj")
save("softmax", train("multi:softmax", classes, 1, num_class=3), "json")
