"""LabelWeightSampler, RepeatFactorSampler: an example counts as its heaviest or average label."""

from __future__ import annotations

from typing import Any

import numpy as np
from typing_extensions import Unpack

from equipoise._order_sampler import LengthSettings, Settings
from equipoise.samplers.example_order import ExampleWeightedSampler, example_weight
from equipoise.targets import Targets
from equipoise.weighting import repeat_factor

__all__ = ["LabelWeightSampler", "RepeatFactorSampler"]


def example_weights(targets: Any, weight: Any, reduce: str, no_label: float) -> np.ndarray:
    """`(N,)` weights of examples, from `(C,)` of labels: the largest or the mean of theirs.

    Example:
        >>> example_weights([[1, 1], [1, 0], [0, 0]], [1.0, 3.0], "mean", no_label=0.5).tolist()
        [2.0, 1.0, 0.5]
    """
    targets = Targets.of(targets)
    weight = example_weight(weight)
    if weight.shape != (targets.num_classes,):
        raise ValueError(
            f"Expected weight to be {targets.num_classes} numbers, one a label, but got "
            f"{len(weight)}."
        )
    if reduce not in ("max", "mean"):
        raise ValueError(f'Expected reduce to be "max" or "mean", but got {reduce!r}.')
    if targets.matrix is None:
        return weight[targets.require_single_label("example_weights")]
    starts = targets.matrix.indptr[:-1].astype(np.int64)
    lengths = np.diff(targets.matrix.indptr)
    out = np.full(targets.num_examples, float(no_label))
    some = np.flatnonzero(lengths)
    if len(some):
        ufunc = np.maximum if reduce == "max" else np.add
        out[some] = ufunc.reduceat(weight[targets.matrix.indices], starts[some])
        if reduce == "mean":
            out[some] /= lengths[some]
    return out


class LabelWeightSampler(ExampleWeightedSampler):
    """A stream in which example i comes in proportion to the largest or mean weight of its labels.

    The usual way to carry class weights over to several labels an example. It looks at one
    example at a time, so frequent labels that come with rare ones are raised too:
    `LabelBalancedSampler` solves for all labels at once. Examples without labels weigh as much as
    the lightest label.

    Args:
        targets: `(N,)` class ids or `(N, C)` multi-hot.
        weight: `(C,)` positive; one over the label's count by default.
        reduce: "max" or "mean".
        num_samples: draws an epoch over all ranks; N by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> sampler = LabelWeightSampler([[1, 0], [1, 0], [1, 1]], reduce="max")
        >>> sampler.repeats.round(2).tolist()
        [0.6, 0.6, 1.8]
    """

    def __init__(
        self,
        targets: Any,
        weight: Any = None,
        *,
        reduce: str = "max",
        **settings: Unpack[LengthSettings],
    ) -> None:
        targets = Targets.of(targets)
        if weight is None:
            weight = 1.0 / np.maximum(targets.counts, 1)
        values = np.ravel(np.asarray(weight, np.float64))
        present = values[np.flatnonzero(targets.counts[: len(values)])]
        lightest = float(present.min()) if len(present) else 1.0
        examples = example_weights(targets, weight, reduce, lightest)
        super().__init__(examples, targets=targets, **settings)


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
        **settings: Unpack[Settings],
    ) -> None:
        targets = Targets.of(targets)
        counts = np.maximum(targets.counts, 1)  # a class of no example is not looked at
        factor = repeat_factor(counts, threshold, total=targets.num_examples)
        repeats = example_weights(targets, factor, "max", no_label=1.0)
        if num_samples is None:
            num_samples = round(float(repeats.sum()))
        super().__init__(repeats, targets=targets, num_samples=num_samples, **settings)
