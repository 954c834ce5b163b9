"""LPROSSampler: label-powerset random oversampling, clones of examples of rare label sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.samplers.example_order import ExampleWeightedSampler
from equipoise.samplers.ml_ros import generator, share_of
from equipoise.targets import Targets
from equipoise.targets.label_sets import label_set_ids

__all__ = ["LPROSSampler", "fill_evenly", "lp_ros", "spread"]


def lp_ros(targets: Any, share: float = 0.25, *, seed: int = 0) -> np.ndarray:
    """`(N,)` int64 repeats: 1, and 1 more for each clone.

    share · N clones go in equal parts to the label sets smaller than the mean size (N over the
    number of sets), none of which grows beyond it; what a set has no room for goes to the others.
    Within a set clones are spread evenly, the odd ones at random. Charte et al. (2015),
    Neurocomputing 163, LP-ROS (there the clones within a set are drawn independently).

    Args:
        targets: `(N, C)` multi-hot, or `(N,)` class ids: then the sets are the classes.
        share: P, clones as a share of N.
        seed: of the private generator.

    Example:
        >>> lp_ros([0, 0, 0, 0, 1, 1], share=0.25).tolist()
        [1, 1, 1, 1, 1, 2]
    """
    targets = Targets.of(targets)
    ids, _, sizes = label_set_ids(targets)
    room = np.maximum(np.floor(sizes.mean()).astype(np.int64) - sizes, 0)
    clones = fill_evenly(room, int(share_of(share) * targets.num_examples))
    return 1 + spread(ids, sizes, clones, seed)


class LPROSSampler(ExampleWeightedSampler):
    """A stream of every example once and some of those with rare label sets again (LP-ROS).

    The clones are chosen once, by `seed`, and are not copied. See `lp_ros`.

    Args:
        targets: `(N, C)` multi-hot, or `(N,)` class ids.
        share: clones as a share of N.
        num_samples: draws an epoch over all ranks; N plus the clones by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> sorted(LPROSSampler([0, 0, 0, 0, 1, 1], share=0.25))
        [0, 1, 2, 3, 4, 5, 5]
    """

    def __init__(
        self,
        targets: Any,
        share: float = 0.25,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        targets = Targets.of(targets)
        repeats = lp_ros(targets, share, seed=seed)
        num_samples = int(repeats.sum()) if num_samples is None else num_samples
        super().__init__(repeats, targets=targets, num_samples=num_samples, seed=seed, **settings)


def fill_evenly(room: np.ndarray, amount: int) -> np.ndarray:
    """Hand out `amount` in equal whole parts, none larger than its `room`.

    Example:
        >>> fill_evenly(np.array([1, 5, 0, 9]), 8).tolist()
        [1, 4, 0, 3]
    """
    amount = min(amount, int(room.sum()))
    given = np.zeros_like(room)
    while amount:
        open_to = np.flatnonzero(given < room)
        part = amount // len(open_to)
        if part == 0:
            given[open_to[:amount]] += 1
            break
        more = np.minimum(part, room[open_to] - given[open_to])
        given[open_to] += more
        amount -= int(more.sum())
    return given


def spread(ids: np.ndarray, sizes: np.ndarray, amount: np.ndarray, seed: int) -> np.ndarray:
    """`(N,)` how much each example gets of its set's `amount`: equal whole parts, odd ones drawn.

    Example:
        >>> spread(np.array([0, 0, 1]), np.array([2, 1]), np.array([4, 3]), seed=0).tolist()
        [2, 2, 3]
    """
    shuffled = generator(seed).permutation(len(ids))
    by_set = shuffled[np.argsort(ids[shuffled], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(ids), np.int64)
    place[by_set] = np.arange(len(ids)) - np.repeat(starts, sizes)
    return (amount // sizes)[ids] + (place < (amount % sizes)[ids])
