"""Multi-hot labels that the tests share."""

from __future__ import annotations

import numpy as np


def multi_hot(n: int, frequencies: list[float], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((n, len(frequencies))) < frequencies).astype(np.uint8)


LABELS = multi_hot(83, [0.6, 0.3, 0.3, 0.1, 0.05], seed=4)
