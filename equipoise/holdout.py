"""holdout_split: a hold-out in which every class has its share."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from equipoise.targets import Targets

__all__ = ["holdout_split"]


def holdout_split(
    targets: Any, holdout: float | int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A stratified split: sorted example ids for training, and for the hold-out.

    The hold-out has exactly the asked size. Every class gives its share of it (whole numbers by
    largest remainder), keeps at least one example for training, and where it has two or more gives
    at least one, unless the hold-out is smaller than the number of such classes; the other classes
    make up for that. The hold-out is where a `Balancer` measures recalls.

    Args:
        targets: `(N,)` class ids, or anything `Targets` takes that is single-label.
        holdout: how many examples to hold out, or which share of them (a float below 1).
        seed: of the private generator.

    Raises:
        ValueError: multi-hot targets, or a size that leaves some class nothing for training.

    Example:
        >>> train, held = holdout_split([0] * 6 + [1] * 4, holdout=5)
        >>> len(train), np.bincount(np.array([0] * 6 + [1] * 4)[held]).tolist()
        (5, [3, 2])
    """
    targets = Targets.of(targets)
    targets.require_single_label("holdout_split")
    n, counts = targets.num_examples, targets.counts
    whole = isinstance(holdout, int | np.integer)
    size = int(holdout) if whole else round(float(holdout) * n)
    if isinstance(holdout, bool) or not 0 < size < n:
        raise ValueError(
            f"Expected holdout to be a share in (0, 1) or a number of examples below {n}, "
            f"but got {holdout!r}."
        )
    most = np.maximum(counts - 1, 0)
    if size > most.sum():
        raise ValueError(
            f"Expected holdout to be at most {most.sum()} of the {n} examples, so that each of "
            f"{np.count_nonzero(counts)} classes keeps one for training, but got {holdout!r}."
        )
    least = np.minimum(most, 1) if size >= np.count_nonzero(most) else np.zeros_like(most)
    quota = _apportion(counts * (size / n), least, most, size)
    rng = np.random.default_rng(seed)
    held = np.sort(
        np.concatenate(
            [
                rng.permutation(targets.members[start : start + count])[:take]
                for start, count, take in zip(targets.starts, counts, quota, strict=False)
            ]
        )
    )
    return np.setdiff1d(np.arange(n), held, assume_unique=True), held


def _apportion(exact: np.ndarray, least: np.ndarray, most: np.ndarray, size: int) -> np.ndarray:
    """Whole numbers with sum `size` within bounds, by largest remainder: C log C.

    From the whole parts, one at a time is added where most is lacking, or taken where least is.
    """
    quota = np.clip(np.floor(exact).astype(np.int64), least, most)
    missing = size - int(quota.sum())
    step, bound = (1, most) if missing > 0 else (-1, least)
    lacking = step * (exact - quota)
    heap = [(-lacking[c], c) for c in np.flatnonzero(quota != bound)]
    heapq.heapify(heap)
    for _ in range(abs(missing)):
        lack, c = heap[0]
        quota[c] += step
        if quota[c] == bound[c]:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (lack + 1, c))
    return quota
