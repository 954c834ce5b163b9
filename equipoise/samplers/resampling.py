"""ResamplingSampler: examples repeated or left out, as chosen once; and how they are chosen."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from equipoise._order_sampler import require_int
from equipoise.samplers.example_order import ExampleWeightedSampler
from equipoise.targets import Targets

__all__ = [
    "ResamplingSampler",
    "fill_evenly",
    "generator",
    "imbalance",
    "labels_at",
    "share_of",
    "spread",
]


class Resampling(Protocol):
    """`(N,)` int64: how often each example comes."""

    def __call__(self, targets: Any, share: float, *, seed: int) -> np.ndarray: ...


class ResamplingSampler(ExampleWeightedSampler):
    """A stream in which each example comes as often as `resample` says.

    Args:
        targets: `(N, C)` multi-hot, or whatever else `resample` takes.
        share: of N: how many to add, or to leave out, at most.
        num_samples: draws in an epoch, over all ranks; by default as many as there are repeats.
        seed, rank, num_replicas: see `OrderSampler`; `seed` also decides the choice.
    """

    resample: Resampling

    def __init__(
        self,
        targets: Any,
        share: float = 0.25,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        targets = Targets.of(targets)
        repeats = self.resample(targets, share, seed=seed)
        super().__init__(
            repeats,
            targets=targets,
            num_samples=int(repeats.sum()) if num_samples is None else num_samples,
            seed=seed,
            rank=rank,
            num_replicas=num_replicas,
        )


def imbalance(targets: Targets, user: str) -> tuple[Any, np.ndarray, np.ndarray, float]:
    """Examples of each label (CSC), counts, IRLbl, and MeanIR over the labels with examples."""
    if targets.matrix is None:
        raise ValueError(
            f"Expected targets of {user} to be (N, C) multi-hot, but got {targets!r}. "
            "For class ids use ClassBalancedSampler."
        )
    if not targets.counts.any():
        raise ValueError(f"Expected targets of {user} to have a positive label, but got none.")
    counts = targets.counts.astype(np.float64)
    ratio = np.where(counts > 0, counts.max() / np.maximum(counts, 1), 0.0)
    return targets.matrix.tocsc(), counts, ratio, float(ratio[counts > 0].mean())


def labels_at(targets: Targets, example: int) -> np.ndarray:
    """Class ids of one example of multi-hot targets."""
    matrix: Any = targets.matrix
    return matrix.indices[matrix.indptr[example] : matrix.indptr[example + 1]]


def generator(seed: int) -> np.random.Generator:
    """A private generator; seeds are checked as those of samplers are."""
    require_int("seed", seed, 0)
    return np.random.default_rng(seed)


def share_of(share: float, most: float = np.inf) -> float:
    """`share`, checked to be in (0, most)."""
    if isinstance(share, bool) or not 0 < share < most:
        raise ValueError(f"Expected share to be in (0, {most}), but got {share!r}.")
    return float(share)


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
