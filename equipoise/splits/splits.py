"""Hold-outs, folds and three-way splits of any targets, with or without groups."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from equipoise.splits.grouped import grouped_parts
from equipoise.splits.multilabel import multilabel_folds, multilabel_holdout
from equipoise.targets import Targets

__all__ = ["holdout_split", "k_folds", "three_way_split"]

Split = tuple[np.ndarray, np.ndarray]


def holdout_split(targets: Any, size: float | int, *, groups: Any = None, seed: int = 0) -> Split:
    """A stratified split: sorted example ids for training, and for the hold-out.

    The hold-out is where a `Balancer` measures recalls.

    * Class ids: the hold-out has exactly the asked size. Every class gives its share of it (whole
      numbers by largest remainder), keeps at least one example for training, and where it has two
      or more gives at least one, unless the hold-out is smaller than the number of such classes;
      the other classes make up for that.
    * Several labels, or elements, in each example: the hold-out has every label's share of
      examples, as nearly as whole examples allow, and the distribution of the number of labels an
      example. Every label keeps an example for training; one of two or more examples has one in
      the hold-out too, as far as its size, and labels that share their examples, leave a choice.
      The hold-out has exactly the asked size, unless what training must keep leaves fewer. How it
      is found: `equipoise/splits/multilabel.py`.
    * With groups: no group is on both sides, so that size and shares are met as nearly as whole
      groups allow, and a class all of whose examples are in one group is on one side only. How
      it is found: `equipoise/splits/grouped.py`.

    Args:
        targets: anything that `Targets` takes.
        size: how many examples to hold out, or which share of them (a float below 1).
        groups: `(N,)` ids or names of what must stay together: the patient, writer, scene or
            track of each example.
        seed: of the private generator.

    Raises:
        ValueError: a size not below N, or for class ids one that leaves some class nothing for
            training; groups of another length than N, or fewer than two of them.

    Example:
        >>> train, held = holdout_split([0] * 6 + [1] * 4, 5)
        >>> len(train), np.bincount(np.array([0] * 6 + [1] * 4)[held]).tolist()
        (5, [3, 2])
        >>> labels = [[1, 0, 0]] * 6 + [[0, 1, 0]] * 4 + [[1, 1, 1]] * 2
        >>> np.array(labels)[holdout_split(labels, 6)[1]].sum(axis=0).tolist()
        [4, 3, 1]
    """
    values = _values(targets, "holdout_split")
    n = values.shape[0]
    held = np.sort(_held(values, _count(size, n, "size"), _group_ids(groups, n), seed))
    return _others(n, held), held


def k_folds(targets: Any, k: int, *, groups: Any = None, seed: int = 0) -> list[Split]:
    """k stratified splits, in which every example is held out once: sorted ids, training first.

    Of class ids no two hold-outs differ by more than one example, in all or of any class. Of
    several labels, and with groups, they are as `holdout_split` has them. A class of fewer than k
    examples is missing from some hold-outs.

    Args:
        targets: anything that `Targets` takes.
        k: number of folds, from 2 to N, or to the number of groups.
        groups: `(N,)` ids or names of what must stay together.
        seed: of the private generator.

    Example:
        >>> labels = np.array([0] * 6 + [1] * 3)
        >>> [np.bincount(labels[held]).tolist() for _, held in k_folds(labels, 3)]
        [[2, 1], [2, 1], [2, 1]]
    """
    values = _values(targets, "k_folds")
    n = values.shape[0]
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 2 <= k <= n:
        raise ValueError(f"Expected k to be an int from 2 to the {n} examples, but got {k!r}.")
    group_ids = _group_ids(groups, n, k)
    if group_ids is not None:
        fold = grouped_parts(values, group_ids, np.full(k, 1 / k), seed)
    elif isinstance(values, np.ndarray):
        fold = _stratified_folds(values, k, seed)
    else:
        fold = multilabel_folds(values, k, seed)
    return [(np.flatnonzero(fold != j), np.flatnonzero(fold == j)) for j in range(k)]


def three_way_split(
    targets: Any, holdout: float | int, test: float | int, *, groups: Any = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted example ids for training, for the hold-out and for the test: `holdout_split` twice.

    Args:
        targets: anything that `Targets` takes.
        holdout: how many examples to hold out, or which share of all (a float below 1).
        test: how many examples to test on, or which share of all.
        groups: `(N,)` ids or names of what must stay together.
        seed: of the private generator.

    Example:
        >>> labels = np.array([0] * 60 + [1] * 40)
        >>> parts = three_way_split(labels, holdout=0.1, test=0.2)
        >>> [np.bincount(labels[ids]).tolist() for ids in parts]
        [[42, 28], [6, 4], [12, 8]]
    """
    values = _values(targets, "three_way_split")
    n = values.shape[0]
    held_size, test_size = _count(holdout, n, "holdout"), _count(test, n, "test")
    if held_size + test_size >= n:
        raise ValueError(
            f"Expected holdout and test to leave some of the {n} examples for training, but got "
            f"{holdout!r} and {test!r}."
        )
    group_ids = _group_ids(groups, n, 3)
    tested = np.sort(_held(values, test_size, group_ids, seed))
    rest = _others(n, tested)
    if group_ids is not None:
        group_ids = _group_ids(group_ids[rest], len(rest))
    held = np.sort(rest[_held(values[rest], held_size, group_ids, seed)])
    return np.setdiff1d(rest, held, assume_unique=True), held, tested


def _values(targets: Any, user: str) -> Any:
    """Class ids, or a CSR matrix."""
    targets = Targets.of(targets)
    targets.require_index(user)
    return targets.labels if targets.matrix is None else targets.matrix


def _count(size: float | int, n: int, name: str) -> int:
    whole = isinstance(size, int | np.integer)
    count = int(size) if whole else round(float(size) * n)
    if isinstance(size, bool) or not 0 < count < n:
        raise ValueError(
            f"Expected {name} to be a share in (0, 1) or a number of examples below {n}, "
            f"but got {size!r}."
        )
    return count


def _group_ids(groups: Any, n: int, parts: int = 2) -> np.ndarray | None:
    if groups is None:
        return None
    found = np.asarray(groups)
    if found.shape != (n,):
        raise ValueError(
            f"Expected groups to be (N,), one for each of the {n} examples, but got shape "
            f"{found.shape}."
        )
    names, ids = np.unique(found, return_inverse=True)
    if len(names) < parts:
        raise ValueError(
            f"Expected groups to be at least {parts} different ones, one for each part, but got "
            f"{len(names)}."
        )
    return ids


def _held(values: Any, size: int, group_ids: np.ndarray | None, seed: int) -> np.ndarray:
    if group_ids is not None:
        share = size / values.shape[0]
        parts = grouped_parts(values, group_ids, np.array([1 - share, share]), seed)
        return np.flatnonzero(parts)
    if isinstance(values, np.ndarray):
        return _stratified_holdout(values, size, seed)
    return multilabel_holdout(values, size, seed)


def _others(n: int, ids: np.ndarray) -> np.ndarray:
    return np.setdiff1d(np.arange(n), ids, assume_unique=True)


def _stratified_holdout(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Example ids held out, `size` of them: of every class its share, by largest remainder.

    Every class keeps at least one example, and where it has two or more gives at least one, unless
    `size` is smaller than the number of such classes.
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


def _stratified_folds(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
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
