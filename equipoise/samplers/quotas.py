"""Whole-number quotas of classes: the expected numbers, each rounded down or up."""

from __future__ import annotations

import numpy as np

from equipoise.samplers.permutation import CHUNK

__all__ = ["quotas", "sum_of_quotas"]


def quotas(expected: np.ndarray, offset: float) -> np.ndarray:
    """Whole numbers with the sum of `expected`, each its floor or ceiling.

    Systematic rounding: the fractional parts are laid end to end and one in each unit is rounded
    up, at `offset` in [0, 1). Uniform offsets make every quota's mean its expected value; whole
    expected numbers are returned as they are.

    Example:
        >>> quotas(np.array([2.0, 0.5, 0.5]), offset=0.3).tolist()
        [2, 1, 0]
    """
    whole, parts = _laid_out(expected)
    return whole + np.diff(_rounded_up(parts, offset), prepend=0)


def sum_of_quotas(expected: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sum of `quotas(expected, offset)` over `offsets`, in blocks that stay in cache.

    Example:
        >>> sum_of_quotas(np.array([2.0, 0.5, 0.5]), np.array([0.3, 0.8])).tolist()
        [4, 1, 1]
    """
    whole, parts = _laid_out(expected)
    total = np.zeros(len(whole), np.int64)
    rows = max(1, CHUNK // len(whole))
    for first in range(0, len(offsets), rows):
        total += _rounded_up(parts, offsets[first : first + rows, None]).sum(axis=0)
    return len(offsets) * whole + np.diff(total, prepend=0)


def _laid_out(expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole parts, and the ends of the fractional ones laid end to end (the last end is whole)."""
    rounding = np.minimum(1e-9 * np.maximum(expected, 1), 1e-3)
    whole = np.floor(expected + rounding).astype(np.int64)
    missing = round(float(expected.sum())) - int(whole.sum())
    if missing <= 0:
        return whole, np.zeros(len(whole))
    parts = np.cumsum(np.maximum(expected - whole, 0))
    parts *= missing / parts[-1]
    parts[-1] = missing
    return whole, parts


def _rounded_up(parts: np.ndarray, offset: float | np.ndarray) -> np.ndarray:
    """How many of the fractional parts up to each are rounded up, for one offset or a column."""
    steps = np.minimum(np.floor(parts + (1 - offset)), parts[-1]).astype(np.int64)
    steps[..., -1] = parts[-1]
    return steps
