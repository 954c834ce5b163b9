"""RepeatFactorSampler: examples with rare labels are repeated, none is left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.samplers.example_order import ExampleWeightedSampler
from equipoise.samplers.label_weight import example_weights
from equipoise.targets import Targets
from equipoise.weighting import repeat_factor

__all__ = ["RepeatFactorSampler"]


class RepeatFactorSampler(ExampleWeightedSampler):
    """A stream in which example i comes r_i times an epoch, r_i ≥ 1, rounded down or up.

        r_i = max over i's labels c of max(1, √(t / f_c)),   f_c = share of examples with c

    Gupta et al. (2019), "LVIS: a dataset for large vocabulary instance segmentation", §4.2, where
    t = .001. Fractional repeats are met on average over epochs, as in detectron2; but an epoch's
    length is fixed. Examples without labels come once.

    Args:
        targets: `(N,)` class ids or `(N, C)` multi-hot.
        threshold: t in (0, 1]; classes more frequent than this stay as they are; 1 / C by default.
        num_samples: draws an epoch over all ranks; Σ r_i, rounded, by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> sampler = RepeatFactorSampler([0] * 15 + [1], threshold=0.25)
        >>> sampler.repeats.round(6).tolist()[-2:], len(sampler)
        ([1.0, 2.0], 17)
    """

    def __init__(
        self,
        targets: Any,
        threshold: float | None = None,
        *,
        num_samples: int | None = None,
        **settings: Any,
    ) -> None:
        targets = Targets.of(targets)
        counts = np.maximum(targets.counts, 1)  # a class of no example is not looked at
        factor = repeat_factor(counts, threshold, total=targets.num_examples)
        repeats = example_weights(targets, factor, "max", no_label=1.0)
        if num_samples is None:
            num_samples = round(float(repeats.sum()))
        super().__init__(repeats, targets=targets, num_samples=num_samples, **settings)
