"""The parts of a Balancer: made from their names, or checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.losses import (
    Loss,
    WeightedBCE,
    WeightedCrossEntropy,
    pos_weight_from_counts,
)
from equipoise.samplers import (
    ClassBalancedSampler,
    ExampleWeightedSampler,
    LabelBalancedSampler,
    OrderSampler,
)
from equipoise.targets import Targets

__all__ = ["check_share", "make_loss", "make_sampler"]


def check_share(share: float | None, sampler: Any) -> float:
    """The sampler's share of λ, 1 by default and 0 without a sampler."""
    if sampler is None:
        if share not in (None, 0, 0.0):
            raise ValueError(f"Expected sampler_share to be 0 without a sampler, but got {share}.")
        return 0.0
    share = 1.0 if share is None else float(share)
    if not 0 <= share <= 1:
        raise ValueError(f"Expected sampler_share to be in [0, 1], but got {share}.")
    return share


def make_sampler(sampler: Any, targets: Targets, settings: dict[str, Any]) -> Any:
    """The sampler itself if it takes a λ, or the one of that name; `None` gives plain shuffling."""
    name = "label-balanced" if targets.multilabel else "class-balanced"
    wanted = "set_log_weight"
    if isinstance(sampler, OrderSampler) and hasattr(sampler, wanted):
        return sampler
    if sampler not in (None, "auto", name):
        raise ValueError(
            f'Expected sampler to be "{name}", None or a sampler with {wanted}, '
            f"but got {sampler!r}."
        )
    if not targets.multilabel:
        return ClassBalancedSampler(targets, np.ones(targets.num_classes), **settings)
    if sampler is None:
        return ExampleWeightedSampler(np.ones(targets.num_examples), **settings)
    return LabelBalancedSampler(targets, log_weight=np.zeros(targets.num_classes), **settings)


def make_loss(loss: Any, targets: Targets) -> Loss:
    """The loss itself, if it is for these targets; or the default."""
    if loss is None and targets.multilabel:
        return WeightedBCE(
            pos_weight_from_counts(targets.counts.tolist(), targets.num_examples).sqrt()
        )
    if loss is None:
        return WeightedCrossEntropy()
    if not isinstance(loss, Loss):
        raise TypeError(f"Expected loss to be an equipoise.losses.Loss, but got {loss!r}.")
    if loss.multilabel != targets.multilabel:
        kind = "multilabel targets" if targets.multilabel else "class ids"
        raise ValueError(f"Expected loss to be one for {kind}, but got {loss!r}.")
    return loss
