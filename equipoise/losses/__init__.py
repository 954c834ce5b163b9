"""Losses: how much each example counts. Each is a function and a thin `nn.Module`."""

from __future__ import annotations

from collections.abc import Callable

from equipoise.losses.asymmetric import AsymmetricLoss, asymmetric_loss
from equipoise.losses.base import Loss
from equipoise.losses.class_ids import ClassLoss
from equipoise.losses.cosine_classifier import CosineClassifier
from equipoise.losses.distribution_balanced import (
    DistributionBalancedLoss,
    distribution_balanced_loss,
)
from equipoise.losses.focal import FocalLoss, focal_loss
from equipoise.losses.ldam import LDAM, ldam, ldam_margins
from equipoise.losses.logit_adjusted import (
    BalancedSoftmax,
    LogitAdjustedCrossEntropy,
    logit_adjusted_cross_entropy,
)
from equipoise.losses.multilabel import LabelLoss
from equipoise.losses.seesaw import Seesaw, seesaw
from equipoise.losses.sigmoid_focal import SigmoidFocalLoss, sigmoid_focal_loss
from equipoise.losses.two_way import TwoWayLoss, two_way_loss
from equipoise.losses.vector_scaling import VectorScaling, vector_scaling
from equipoise.losses.weighted_bce import WeightedBCE, pos_weight_from_counts, weighted_bce
from equipoise.losses.weighted_cross_entropy import WeightedCrossEntropy, weighted_cross_entropy
from equipoise.targets import Targets

__all__ = [
    "LDAM",
    "LOSSES",
    "AsymmetricLoss",
    "BalancedSoftmax",
    "ClassLoss",
    "CosineClassifier",
    "DistributionBalancedLoss",
    "FocalLoss",
    "LabelLoss",
    "LogitAdjustedCrossEntropy",
    "Loss",
    "Seesaw",
    "SigmoidFocalLoss",
    "TwoWayLoss",
    "VectorScaling",
    "WeightedBCE",
    "WeightedCrossEntropy",
    "asymmetric_loss",
    "distribution_balanced_loss",
    "focal_loss",
    "ldam",
    "ldam_margins",
    "logit_adjusted_cross_entropy",
    "pos_weight_from_counts",
    "seesaw",
    "sigmoid_focal_loss",
    "two_way_loss",
    "vector_scaling",
    "weighted_bce",
    "weighted_cross_entropy",
]

LOSSES: dict[str, Callable[[Targets], Loss]] = {
    "weighted-cross-entropy": lambda t: WeightedCrossEntropy(),
    "logit-adjusted": lambda t: LogitAdjustedCrossEntropy(),
    "balanced-softmax": lambda t: BalancedSoftmax(t.counts.tolist()),
    "ldam": lambda t: LDAM(t.counts.tolist()),
    "vector-scaling": lambda t: VectorScaling(t.counts.tolist()),
    "seesaw": lambda t: Seesaw(t.counts.tolist()),
    "focal": lambda t: FocalLoss(multilabel=t.multilabel),
    "weighted-bce": lambda t: WeightedBCE(
        pos_weight_from_counts(t.counts, t.num_examples - t.unknown_counts).sqrt()
    ),
    "asymmetric": lambda t: AsymmetricLoss(),
    "distribution-balanced": lambda t: DistributionBalancedLoss(t.counts.tolist(), t.num_examples),
    "two-way": lambda t: TwoWayLoss(),
}
"""By the names that `Balancer(loss=…)` takes: what makes each for a training set's labels."""
