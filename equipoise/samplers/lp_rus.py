"""LPRUSSampler: label-powerset random undersampling, fewer examples of frequent label sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.samplers.resampling import ResamplingSampler, fill_evenly, share_of, spread
from equipoise.targets import Targets
from equipoise.targets.label_sets import label_set_ids

__all__ = ["LPRUSSampler", "lp_rus"]


def lp_rus(targets: Any, share: float = 0.25, *, seed: int = 0) -> np.ndarray:
    """`(N,)` int64 repeats: 0 for examples left out, else 1.

    share · N examples are taken in equal parts from the label sets larger than the mean size (N
    over the number of sets), none of which shrinks below it; what one cannot give the others do.
    Charte et al. (2015), Neurocomputing 163, LP-RUS.

    Args:
        targets: `(N, C)` multi-hot, or `(N,)` class ids: then the sets are the classes.
        share: P, examples to leave out as a share of N, below 1.
        seed: of the private generator.

    Example:
        >>> lp_rus([0, 0, 0, 0, 1], share=0.25).tolist()
        [1, 1, 0, 1, 1]
    """
    targets = Targets.of(targets)
    ids, _, sizes = label_set_ids(targets)
    room = np.maximum(sizes - np.ceil(sizes.mean()).astype(np.int64), 0)
    out = fill_evenly(room, int(share_of(share, 1.0) * targets.num_examples))
    return 1 - spread(ids, sizes, out, seed)


class LPRUSSampler(ResamplingSampler):
    """A stream of every example once, but for some of those of frequent label sets (LP-RUS).

    Which are left out is chosen once, by `seed`. See `lp_rus`.

    Args:
        targets: `(N, C)` multi-hot, or `(N,)` class ids.
        share: most examples to leave out as a share of N.
        num_samples: draws an epoch over all ranks; the number kept by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> len(LPRUSSampler([0, 0, 0, 0, 1], share=0.25))
        4
    """

    resample = staticmethod(lp_rus)
