"""Focal loss of each label: confident, correct labels count for little."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.multilabel import LabelLoss, LabelOptions, check_labels, label_loss
from equipoise.losses.pointwise import Terms, Weight


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float | ClassVector | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "mean",
    *,
    pos_weight: Tensor | None = None,
    unknown: float | Tensor | None = None,
    fused: bool = False,
) -> Tensor:
    """Focal loss `−α_t (1−p_t)^γ log p_t` of each label, p = sigmoid(z).

    Lin et al., "Focal Loss for Dense Object Detection" (2017), eq. 5. `p_t` and `α_t` are p and α
    for positives, 1−p and 1−α for negatives. The arguments are in the order of
    `torchvision.ops.sigmoid_focal_loss`, of which the default of `reduction` is "none".

    The arguments are explained at `SigmoidFocalLoss` and `LabelLoss`. (Detectors divide the sum by
    the number of positives; do so outside.)

    Example:
        >>> import torch
        >>> sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), reduction="none")
        tensor([[0.0433, 0.1300]])
    """
    base.check_reduction(reduction)
    gamma = base.check_number("gamma", gamma, 0.0)
    check_labels(logits, targets)
    pos_weight = base.per_class("pos_weight", pos_weight, logits)
    on_positives: Weight = pos_weight
    on_negatives: Weight = None
    if alpha is not None:
        if isinstance(alpha, int | float):
            share = check_alpha(alpha)
        else:
            share = base.per_class("alpha", alpha, logits)
        on_positives = share if pos_weight is None else share * pos_weight
        on_negatives = 1.0 - share

    def elements(z: Tensor, y: Tensor) -> Tensor:
        positive, negative = F.softplus(-z), F.softplus(z)  # −log p, −log(1−p)
        if gamma > 0.0:  # (1−p)^γ is exp(γ log(1−p))
            positive, negative = (
                positive * torch.exp(-gamma * negative),
                negative * torch.exp(-gamma * positive),
            )
        y_positive = y if on_positives is None else y * on_positives
        y_negative = 1 - y if on_negatives is None else (1 - y) * on_negatives
        return y_positive * positive + y_negative * negative

    def terms() -> Terms:
        # One number on everything is applied for free.
        if isinstance(on_negatives, float) and on_negatives > 0.0 and on_positives is not None:
            positive = on_positives / on_negatives
            return Terms(gamma, gamma, positive_weight=positive, scale=on_negatives)
        return Terms(gamma, gamma, negative_weight=on_negatives, positive_weight=on_positives)

    return label_loss(
        logits,
        targets,
        elements,
        terms,
        unknown=unknown,
        reduction=reduction,
        fused=fused,
        sooner=4,
    )


def log_focal_slope(z: Tensor, gamma: float, detached: bool = False) -> Tensor:
    """Log of the slope of a focal negative, stable for all z.

    The slope is `σ^(γ+1) (1 + γ r)`, where `r = exp(−z) softplus(z)` lies between 0 and 1; if the
    factor σ^γ has no gradient, it is `σ^(γ+1)`.
    """
    log_sigma = -F.softplus(-z, threshold=50.0)
    if detached:
        return (gamma + 1.0) * log_sigma
    ratio = (-z.clamp_min(-15.0)).exp() * F.softplus(z, threshold=50.0)
    return torch.log1p(gamma * torch.where(z < -15.0, 1.0, ratio)) + (gamma + 1.0) * log_sigma


def check_alpha(alpha: float | ClassVector | None) -> Any:
    """α as a number or a `(C,)` tensor in [0, 1]."""
    if alpha is None or isinstance(alpha, int | float):
        return None if alpha is None else base.check_number("alpha", alpha, 0.0, 1.0)
    vector: Tensor = base.class_vector("alpha", alpha, minimum=0.0)
    if bool((vector > 1.0).any()):
        raise ValueError(f"Expected alpha to be at most 1, but got {vector.tolist()}")
    return vector


class SigmoidFocalLoss(LabelLoss):
    """Focal loss of each label; see the function.

    Args:
        alpha: in [0, 1], one number or `(C,)`; `None` weights both sides by 1.
        gamma: γ ≥ 0; 0 is binary cross-entropy.
        pos_weight: `(C,)` weights ≥ 0 of positives, on top of α.
        log_weight: λ, `(C,)`: positives are weighted by `pos_weight · exp(λ)`.
        options: see `LabelLoss`.

    Example:
        >>> import torch
        >>> loss = SigmoidFocalLoss()
        >>> loss.correct(torch.zeros(1, 1)).sigmoid()  # .5 is predicted where .75 is true
        tensor([[0.7500]])
    """

    alpha: float | Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        alpha: float | ClassVector | None = 0.25,
        gamma: float = 2.0,
        pos_weight: ClassVector | None = None,
        **options: Unpack[LabelOptions],
    ) -> None:
        super().__init__(**options)
        self.gamma = base.check_number("gamma", gamma, 0.0)
        checked = check_alpha(alpha)
        if isinstance(checked, Tensor):
            self.register_buffer("alpha", checked)
        else:
            self.alpha = checked
        self.register_buffer("pos_weight", base.class_vector("pos_weight", pos_weight, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        options = {"pos_weight": self._scaled(self.pos_weight), **self._options(reduction)}
        return sigmoid_focal_loss(logits, targets, self.alpha, self.gamma, **options)

    def correct(self, logits: Tensor) -> Tensor:
        """Log-odds of `η = (1−α)B/(αA + (1−α)B)`, with A and B the slopes of the two sides.

        `A(q) = (1−q)^γ/q − γ (1−q)^(γ−1) ln q` and `B(q) = A(1−q)`, q = sigmoid(z); α includes
        `pos_weight · exp(λ)`.
        """
        z = base.upcast(logits)
        log_odds = log_focal_slope(z, self.gamma) - log_focal_slope(-z, self.gamma)
        if self.alpha is not None:
            share = self.alpha if isinstance(self.alpha, Tensor) else z.new_full((), self.alpha)
            log_odds = log_odds + base.log_of(1.0 - share) - base.log_of(share)
        return base.less_log(log_odds, self._scaled(self.pos_weight))
