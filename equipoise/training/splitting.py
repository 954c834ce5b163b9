"""Who trains, who is held out, who tests: stratified splits of a data set's examples."""

from __future__ import annotations

import numpy as np

from equipoise.splits import holdout_split, multilabel_holdout_split
from equipoise.targets import Targets

__all__ = ["HELD", "TEST", "TRAIN", "few", "split_ids", "targets_of"]

TRAIN, TEST, HELD = 0, 1, 2  # what a file's `split` says of an example


def targets_of(targets: Targets, ids: np.ndarray) -> Targets:
    """The targets of some examples, of all the classes."""
    if targets.matrix is not None:
        return Targets(targets.matrix[ids])
    return Targets(targets.require_single_label("targets_of")[ids], targets.num_classes)


def split_ids(
    targets: Targets,
    given: np.ndarray | None,
    *,
    holdout: float | None = None,
    test: float | None = None,
    limit: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted ids of the examples to train on, to hold out and to test on.

    What `given` says stands; where it names no test or no hold-out examples, a stratified share of
    the rest is taken. The draw is the same whatever a run's seed, so that runs can be compared.

    Args:
        targets: of all N examples.
        given: `(N,)` of 0 (training), 1 (test) and 2 (hold-out), or `None`.
        holdout: share of the training examples, by default .1, or .2 of fewer than 10,000.
        test: share of all examples where `given` names none, by default .2.
        limit: take this many training and as many test examples at most, stratified.

    Raises:
        ValueError: too few examples for such a split.

    Example:
        >>> parts = split_ids(Targets([0, 1] * 50), None)
        >>> [len(part) for part in parts]
        [64, 16, 20]
    """
    n = targets.num_examples
    given = np.zeros(n, np.int8) if given is None else given
    rest, held, tested = (np.flatnonzero(given == part) for part in (TRAIN, HELD, TEST))
    if limit is not None:
        rest, held, tested = (few(targets, ids, limit) for ids in (rest, held, tested))
    if not len(rest):
        raise ValueError("Expected examples to train on, but all are for testing or held out.")
    if not len(tested):
        rest, tested = _apart(targets, rest, 0.2 if test is None else test, "test")
    if not len(held):
        share = (0.2 if len(rest) < 10_000 else 0.1) if holdout is None else holdout
        rest, held = _apart(targets, rest, share, "holdout")
    return rest, held, tested


def few(targets: Targets, ids: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of some examples, every class with its share."""
    return ids if len(ids) <= most else _apart(targets, ids, most, "limit")[1]


def _apart(
    targets: Targets, ids: np.ndarray, size: float | int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    mine = targets_of(targets, ids)
    count = size if isinstance(size, int) else round(size * len(ids))
    if not 0 < count < len(ids):
        raise ValueError(
            f"Expected {name} to leave some of the {len(ids)} examples on either side, "
            f"but got {size}."
        )
    split = multilabel_holdout_split if mine.multilabel else holdout_split
    kept, taken = split(mine, count, seed=0)
    return ids[kept], ids[taken]
