"""Losses: how much each example counts. Each is a function and a thin ``nn.Module``."""

from equipoise.losses.base import Loss
from equipoise.losses.logit_adjusted import (
    BalancedSoftmax,
    LogitAdjustedCrossEntropy,
    logit_adjusted_cross_entropy,
)
from equipoise.losses.weighted_cross_entropy import WeightedCrossEntropy, weighted_cross_entropy

__all__ = [
    "BalancedSoftmax",
    "LogitAdjustedCrossEntropy",
    "Loss",
    "WeightedCrossEntropy",
    "logit_adjusted_cross_entropy",
    "weighted_cross_entropy",
]
