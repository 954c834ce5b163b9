"""MLRUSSampler: multilabel random undersampling, without some examples of frequent labels."""

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

__all__ = ["MLRUSSampler", "ml_rus"]


def ml_rus(targets: Any, share: float = 0.25, *, seed: int = 0) -> np.ndarray:
    """`(N,)` int64 repeats: 0 for examples left out, else 1.

    In turn each label with IRLbl below MeanIR loses one of its examples, drawn at random, until
    its IRLbl is no longer below MeanIR or share · N examples are out. MeanIR and the largest count
    are those of the data. Charte et al. (2015), Neurocomputing 163, algorithm 2; in the reading
    of the Mulan library, but for this: an example with a label of which it would be the last is
    not taken.

    Args:
        targets: `(N, C)` multi-hot.
        share: P, most examples to leave out as a share of N, below 1.
        seed: of the private generator.

    Example:
        >>> ml_rus([[1, 0], [1, 0], [1, 0], [1, 1]], share=0.5, seed=1).tolist()
        [1, 0, 0, 1]
    """
    targets = Targets.of(targets)
    members, counts, ratio, mean = imbalance(targets, "ml_rus")
    rng = generator(seed)
    repeats = np.ones(targets.num_examples, np.int64)
    left, largest = int(share_of(share, 1.0) * targets.num_examples), counts.max()
    bags = {
        int(label): rng.permutation(
            members.indices[members.indptr[label] : members.indptr[label + 1]]
        ).tolist()
        for label in np.flatnonzero((counts > 0) & (ratio < mean))
    }
    while left and bags:
        for label in list(bags):
            bag = bags[label]
            taken = None
            while left and bag and taken is None and largest / counts[label] < mean:
                example = bag.pop()
                if repeats[example] and counts[labels_at(targets, example)].min() > 1:
                    taken = example
            if taken is None:
                del bags[label]
                continue
            repeats[taken] = 0
            counts[labels_at(targets, taken)] -= 1
            left -= 1
    return repeats


class MLRUSSampler(ResamplingSampler):
    """A stream of every example once, but for some of those with frequent labels (ML-RUS).

    Which are left out is chosen once, by `seed`. See `ml_rus`.

    Args:
        targets: `(N, C)` multi-hot, anything multilabel that `Targets` takes.
        share: most examples to leave out as a share of N.
        num_samples: draws an epoch over all ranks; the number kept by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> sampler = MLRUSSampler([[1, 0], [1, 0], [1, 0], [1, 1]], share=0.5, seed=1)
        >>> len(sampler), 3 in list(sampler)
        (2, True)
    """

    resample = staticmethod(ml_rus)
