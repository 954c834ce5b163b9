"""MLROSSampler: multilabel random oversampling, clones of examples with rare labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise._order_sampler import require_int
from equipoise.samplers.example_order import ExampleWeightedSampler
from equipoise.targets import Targets

__all__ = ["MLROSSampler", "generator", "imbalance", "labels_at", "ml_ros", "share_of"]


def ml_ros(targets: Any, share: float = 0.25, *, seed: int = 0) -> np.ndarray:
    """`(N,)` int64 repeats: 1, and 1 more for each clone.

    In turn each label with IRLbl above MeanIR gets a clone of one of its examples, drawn with
    replacement, until its IRLbl is no longer above MeanIR or share · N clones are made. MeanIR and
    the largest count are those of the data, so it often stops early. Charte et al. (2015),
    "Addressing imbalance in multilabel classification: measures and random resampling algorithms",
    Neurocomputing 163, algorithm 1; in the reading of the Mulan library.

    Args:
        targets: `(N, C)` multi-hot.
        share: P, most clones as a share of N, in (0, 1] or above.
        seed: of the private generator.

    Example:
        >>> ml_ros([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]], share=0.5).tolist()
        [1, 1, 1, 2]
    """
    targets = Targets.of(targets)
    members, counts, ratio, mean = imbalance(targets, "ml_ros")
    rng = generator(seed)
    repeats = np.ones(targets.num_examples, np.int64)
    left, largest = int(share_of(share) * targets.num_examples), counts.max()
    rare = np.flatnonzero(ratio > mean).tolist()
    while left and rare:
        still = []
        for label in rare:
            if largest / counts[label] <= mean or not left:
                continue
            still.append(label)
            bag = members.indices[members.indptr[label] : members.indptr[label + 1]]
            example = bag[rng.integers(len(bag))]
            repeats[example] += 1
            counts[labels_at(targets, example)] += 1
            left -= 1
        rare = still
    return repeats


class MLROSSampler(ExampleWeightedSampler):
    """A stream of every example once and some of those with rare labels again (ML-ROS).

    The clones are chosen once, by `seed`, and are not copied: their ids come several times an
    epoch. See `ml_ros`.

    Args:
        targets: `(N, C)` multi-hot, anything multilabel that `Targets` takes.
        share: most clones as a share of N.
        num_samples: draws an epoch over all ranks; N plus the clones by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> targets = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]]
        >>> sorted(MLROSSampler(targets, share=0.5))
        [0, 1, 2, 3, 3]
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
        repeats = ml_ros(targets, share, seed=seed)
        num_samples = int(repeats.sum()) if num_samples is None else num_samples
        super().__init__(repeats, targets=targets, num_samples=num_samples, seed=seed, **settings)


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
