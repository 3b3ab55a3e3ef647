"""Writes arguments and results of NumPy's power with the base 2 and of its exp, as bits, for libm_test.go: python numpy.py > numpy.txt

On an x86-64 processor with AVX-512 (numpy.show_config() lists AVX512_SKX as found); NumPy 2.4.6 wrote the file that is here."""
import numpy as np

rng = np.random.default_rng(1)


POWER2 = "0x1.62e42fefa398bp-1 0x1.ebfbdff84554dp-3 0x1.c6b08d4ad8eb9p-5 0x1.3b2ad1b14ebaap-7 0x1.5d7472783d27bp-10 0x1.4a1d7f58c2c10p-13"
EXP = "0x1.fffffffffff70p-1 0x1.000000000d008p-1 0x1.5555553939732p-3 0x1.55557242d68fep-5 0x1.1101cbbc265c1p-7 0x1.7411836940b40p-10"


def near(coefficients, end, n, keep):
    """Arguments r below end at which the result, 1 + r p(r), changes with the last bit of p, and that with the last bits of p's inner sum q."""
    c1, c2, c3, c4, c5, c6 = (float.fromhex(c) for c in coefficients.split())
    wide = np.longdouble
    inner = lambda r: wide(c3) + r * (c4 + r * (c5 + r * wide(c6)))
    value = lambda r: c1 + r * (c2 + r * inner(r))
    r = end * (1 + 7 * rng.random(n)) / 8
    half = np.floor((r * value(r) * wide(2) ** 52).astype(float)) + 0.5  # a tie between two results
    product = half * 2.0**-52
    tie = product + np.where(half % 2 < 1, 0.5, -0.5) * np.spacing(product).astype(wide)  # and of r p(r)
    r = (r + (tie - r * value(r)) / (c1 + r * (2 * c2 + r * (3 * c3 + r * 4 * c4)))).astype(float)
    outer = (c1 + r * wide(c2)).astype(float)
    q = inner(r.astype(wide))
    p = (outer + r * r * q).astype(float)
    rest = r * r * q - (p - outer.astype(wide))
    tied = np.abs(np.abs(rest) - np.spacing(p) / wide(2)) < r * r * np.spacing(c3)
    other = p + np.where(rest > 0, 1, -1) * np.spacing(p)
    return r[tied & (1 + r * p != 1 + r * other)][:keep]


def write(name, function, step, most, close):
    edges = np.arange(-64, 65) * step
    x = np.concatenate([
        [0.0, -0.0, -most, most],
        -3 * rng.random(400), -20 * rng.random(400), most * (2 * rng.random(200) - 1),
        -np.ldexp(rng.random(300), -rng.integers(0, 70, 300)),
        edges, np.nextafter(edges, -99), np.nextafter(edges, 99),
        close,
    ])
    for a, b in zip(x.view(np.uint64), function(x).view(np.uint64)):
        print("%s %016x %016x" % (name, a, b))


write("power2", lambda x: np.power(2.0, x), 1 / 16, 1000, near(POWER2, 1 / 16, 8_000_000, 400))
write("exp", np.exp, np.log(2) / 16, 707, near(EXP, np.log(2) / 16, 8_000_000, 400))
