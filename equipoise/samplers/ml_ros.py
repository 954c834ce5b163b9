"""MLROSSampler: multilabel random oversampling, clones of examples with rare labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.samplers.resampling import (
    ResamplingSampler,
    generator,
    imbalance,
    labels_at,
    share_of,
)
from equipoise.targets import Targets

__all__ = ["MLROSSampler", "ml_ros"]


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


class MLROSSampler(ResamplingSampler):
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

    resample = staticmethod(ml_ros)
