"""Folds and hold-outs that keep groups whole, through scikit-learn's `StratifiedGroupKFold`."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = ["grouped_folds", "grouped_holdout"]

_FOLDS = 20  # a hold-out is made of some of up to so many folds


def grouped_folds(values: Any, groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """`(N,)` fold of each example, no group in two folds and every class spread over them.

    Folds are alike in the classes' examples, and, as one more class, in the number of examples.

    Args:
        values: `(N,)` class ids, or an `(N, C)` CSR matrix.
        groups: `(N,)` ids from 0 up without gaps.
        k: number of folds.
        seed: of the order in which groups are dealt out.
    """
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise ImportError(
            "Splits by groups need scikit-learn: pip install 'equipoise[splits]'."
        ) from error
    found = int(groups.max()) + 1
    if found < k:
        raise ValueError(f"Expected groups to be {k} or more different ones, but got {found}.")
    classes, examples = _pairs(values)
    folds = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    out = np.zeros(len(groups), np.int64)
    with warnings.catch_warnings():
        # A class of fewer examples than folds, or of one example: nothing can be done about it.
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, held) in enumerate(folds.split(classes, classes, groups[examples])):
            out[examples[held]] = number
    return out


def grouped_holdout(values: Any, groups: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Example ids held out: whole groups, about `size` examples and the share of every class.

    They are m of k folds with m/k near the share. Which, is chosen by Σ_c (h_c − s n_c)² / n_c,
    h_c of the n_c examples of class c held out, s the share, over folds that are next to one
    another in size.
    """
    n, found = len(groups), int(groups.max()) + 1
    if found < 2:
        raise ValueError("Expected groups to be two or more different ones, but got one.")
    finest = min(found, max(_FOLDS, math.ceil(n / size), math.ceil(n / (n - size))))
    share = Fraction(size, n).limit_denominator(finest)
    share = min(max(share, Fraction(1, finest)), Fraction(finest - 1, finest))
    m, k = share.numerator, share.denominator
    fold = grouped_folds(values, groups, k, seed)
    classes, examples = _pairs(values)
    width = int(classes.max()) + 1
    table = np.bincount(fold[examples] * width + classes, minlength=k * width).reshape(k, width)
    table = table[order := np.argsort(table[:, -1], kind="stable")]
    sums = np.concatenate([np.zeros((1, width)), np.cumsum(table, axis=0)])
    total = sums[-1]
    off = (sums[m:] - sums[:-m] - total * (size / n)) ** 2 / np.maximum(total, 1)
    first = int(np.argmin(off.sum(axis=1)))
    return np.flatnonzero(np.isin(fold, order[first : first + m]))


def _pairs(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Class and example of everything that examples carry; all carry one last class besides."""
    if isinstance(values, np.ndarray):
        every = np.arange(len(values))
        last, classes, examples = int(values.max()) + 1, values.astype(np.int64), every
    else:
        every, last = np.arange(values.shape[0]), values.shape[1]
        classes, examples = values.indices, np.repeat(every, np.diff(values.indptr))
    return np.concatenate([classes, np.full(len(every), last)]), np.concatenate([examples, every])
