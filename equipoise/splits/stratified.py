"""Hold-outs and folds of class ids: every class gives its share."""

from __future__ import annotations

import heapq

import numpy as np

__all__ = ["stratified_folds", "stratified_holdout"]


def stratified_holdout(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Example ids held out, `size` of them: of every class its share, by largest remainder.

    Every class keeps at least one example, and where it has two or more gives at least one, unless
    `size` is smaller than the number of such classes.

    Raises:
        ValueError: a size that leaves some class nothing for training.
    """
    n, counts = len(labels), np.bincount(labels)
    most = np.maximum(counts - 1, 0)
    if size > most.sum():
        raise ValueError(
            f"Expected size to be at most {most.sum()} of the {n} examples, so that each of "
            f"{np.count_nonzero(counts)} classes keeps one for training, but got {size}."
        )
    least = np.minimum(most, 1) if size >= np.count_nonzero(most) else np.zeros_like(most)
    quota = _apportion(counts * (size / n), least, most, size)
    rng = np.random.default_rng(seed)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    held = [rng.permutation(ids)[:take] for ids, take in zip(members, quota, strict=True)]
    return np.concatenate(held)


def stratified_folds(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """`(N,)` fold of each example: a class's examples in random order are dealt round the folds.

    So no two folds differ by more than one example, in all or of any class.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % k
    return fold


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
