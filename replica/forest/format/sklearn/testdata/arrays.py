"""Makes testdata/arrays/*: lists of (array, shape, items in C order), which numpy pickles in each protocol, alone and
with joblib. Needs numpy and joblib; no network.

    python arrays.py
"""

import os
import pickle

import joblib
import numpy as np

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "arrays")


def arrays():
    cube = np.arange(24).reshape(2, 3, 4)
    for t in ("i1", "<i2", ">i4", "<i8", "u1", "<u8", "<f4", ">f8", "?", "S3", "<U2"):
        yield cube.astype(t)
    yield cube.astype("<i2").copy(order="F")
    yield cube.astype("<f8")[:, ::2].copy(order="F")
    for axes in ((1, 0, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)):
        yield cube.astype("<i4").transpose(axes)
    yield cube[:, 1:, ::-1]
    yield np.asfortranarray(cube[:1])
    yield np.asfortranarray(cube[:, :1, :1])
    yield np.array(7.5)
    yield np.zeros((0, 8), "<u4")
    yield np.asfortranarray(np.zeros((3, 0, 2), "<u4"))
    node = [("left", "<i8"), ("right", "<i8"), ("threshold", "<f8"), ("flag", "u1")]
    for align in (False, True):
        nodes = np.zeros((2, 3), np.dtype(node, align=align))
        nodes["left"] = [[1, 2, 3], [4, 5, 6]]
        nodes["threshold"] = nodes["left"] / 3
        yield nodes
        if not align:  # the padding is not copied
            yield np.asfortranarray(nodes)


def main():
    os.makedirs(OUT, exist_ok=True)
    cases = [(a, list(a.shape), a.tobytes("C")) for a in arrays()]
    for protocol in range(6):
        with open(os.path.join(OUT, "pickle_%d.pickle" % protocol), "wb") as f:
            pickle.dump(cases, f, protocol)
        joblib.dump(cases, os.path.join(OUT, "joblib_%d.pickle" % protocol), protocol=protocol)


if __name__ == "__main__":
    main()
