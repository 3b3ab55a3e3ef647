"""Makes values_<protocol>.pickle: the same values in each protocol of pickle, by Python's own pickler.
Sets exist from protocol 4 on and bytearrays from 5; earlier ones spell them with names."""

import os
import pickle

HERE = os.path.dirname(os.path.abspath(__file__))


def values(protocol):
    shared = ["shared"]
    v = {
        "constants": [None, True, False],
        "ints": [0, 1, -1, 255, 256, 65535, 65536, -(2**31), 2**31, 2**63 - 1, -(2**63), 2**63, -(2**64), 10**40],
        "floats": [0.0, -0.0, 1.5, -1e300, 5e-324, float("inf"), float("-inf"), 0.1],
        "texts": ["", "a", "\u00e9", "\u732b", "\U0001f333", "back\\slash\nand\tmore\r\x00", "x" * 300],
        "bytes": [b"", b"\x00\xff", bytes(range(256)), b"y" * 300],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), [()])],
        "shared": (shared, shared),
        "many": list(range(2500)),
        "dict": {"a": 1, 2: 3, (4, 5): 6, None: 7, "b": {}},
    }
    v["self"] = v
    if protocol >= 4:
        v["sets"] = [set(), {1, 2}, frozenset("abc")]
    if protocol >= 5:
        v["bytearray"] = bytearray(b"z")
    return v


for p in range(6):
    with open(os.path.join(HERE, "values_%d.pickle" % p), "wb") as f:
        pickle.dump(values(p), f, protocol=p)
