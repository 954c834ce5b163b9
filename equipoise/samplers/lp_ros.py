"""LPROSSampler: label-powerset random oversampling, clones of examples of rare label sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.samplers.resampling import ResamplingSampler, fill_evenly, share_of, spread
from equipoise.targets import Targets
from equipoise.targets.label_sets import label_set_ids

__all__ = ["LPROSSampler", "lp_ros"]


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


class LPROSSampler(ResamplingSampler):
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

    resample = staticmethod(lp_ros)
