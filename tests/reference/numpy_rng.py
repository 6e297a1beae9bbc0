# Makes numpy_rng.txt: what numpy's two generators draw, for tests/rng_numpy.lua. Floats are hexadecimal, so exact.
# Run with any numpy from 1.17 on (Debian's 1.24 and 2.4 write the same file): python3 tests/reference/numpy_rng.py
import os
import numpy as np

here = os.path.dirname(os.path.abspath(__file__))


def line(f, name, values):
    f.write(
        name + " " + " ".join(v.hex() if isinstance(v, float) else str(v) for v in np.asarray(values).tolist()) + "\n"
    )


with open(os.path.join(here, "numpy_rng.txt"), "w") as f:
    for seed in (0, 42, 4294967295):
        g = np.random.RandomState(seed)
        line(f, f"RandomState {seed} uniform", g.random_sample(20))
        line(f, f"RandomState {seed} randint2", g.randint(0, 2, 20))
        line(f, f"RandomState {seed} randint1000", g.randint(-5, 995, 30))
        line(f, f"RandomState {seed} randint_wide", g.randint(0, 10**12, 10))
        line(f, f"RandomState {seed} normal", g.randn(21))
        line(f, f"RandomState {seed} choice", g.choice(10, 20))
        line(f, f"RandomState {seed} choice_p", g.choice(4, 20, p=[0.1, 0.2, 0.3, 0.4]))
        line(f, f"RandomState {seed} permutation", g.permutation(30))
    for seed in (0, 42, 2**40 + 3):
        g = np.random.default_rng(seed)
        line(f, f"default_rng {seed} uniform", g.random(20))
        line(f, f"default_rng {seed} integers1000", g.integers(-5, 995, 31))
        line(f, f"default_rng {seed} integers_wide", g.integers(0, 10**12, 10))
        line(f, f"default_rng {seed} normal", g.standard_normal(300))
        line(f, f"default_rng {seed} permutation", g.permutation(30))
