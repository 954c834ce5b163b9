"""Multi-hot labels that the tests share."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

matrices = arrays(
    np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 6)), elements=st.integers(0, 1)
).filter(lambda rows: rows.any())


def multi_hot(n: int, frequencies: list[float], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((n, len(frequencies))) < frequencies).astype(np.uint8)


LABELS = multi_hot(83, [0.6, 0.3, 0.3, 0.1, 0.05], seed=4)
