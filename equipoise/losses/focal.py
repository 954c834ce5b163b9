"""Focal loss over a softmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.class_ids import ClassLoss, check_targets, log_odds_against, reduce, weight_of
from equipoise.losses.sigmoid_focal import SigmoidFocalLoss, log_focal_slope


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    gamma: float = 2.0,
    alpha: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Focal loss `−α_y (1−p_y)^γ log p_y` over a softmax: examples already right count little.

    Lin et al., "Focal Loss for Dense Object Detection" (2017), with the softmax in place of the
    sigmoid. For multilabel targets see `sigmoid_focal_loss`.

    The arguments are explained at `FocalLoss` and `ClassLoss`.

    Example:
        >>> import torch
        >>> focal_loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.1733)
    """
    base.check_reduction(reduction)
    base.check_number("gamma", gamma, 0.0)
    targets = check_targets(logits, targets)
    alpha = base.per_class("alpha", alpha, logits)
    z = base.upcast(logits)
    soft = targets.is_floating_point()
    if soft:
        surprise = -z.log_softmax(1)  # of every class
    else:
        surprise = F.cross_entropy(z, targets, ignore_index=ignore_index, reduction="none")
    value = surprise
    if gamma > 0.0:
        wrong = -torch.expm1(-surprise)  # 1 − p
        if gamma < 1.0:  # kept off zero, where the power's slope is infinite
            wrong = wrong.clamp_min(torch.finfo(z.dtype).tiny)
        value = wrong.pow(gamma) * surprise
    if soft:
        value = (
            value * (targets if alpha is None else targets * base.along_classes(alpha, z))
        ).sum(1)
    elif alpha is not None:
        value = value * weight_of(targets, alpha, ignore_index, z)
    return reduce(value, targets, ignore_index, reduction)


class FocalLoss(ClassLoss):
    """Focal loss of class ids; with `multilabel=True` it is a `SigmoidFocalLoss`.

    See `focal_loss`. Class-balanced focal loss (Cui et al. 2019) is this with effective-number
    weights as `alpha`.

    Args:
        gamma: γ ≥ 0; 0 is weighted cross-entropy.
        alpha: `(C,)` weights ≥ 0 by true class, by default none. For multilabel targets as
            `SigmoidFocalLoss` takes it, by default .25 (for both sides alike take
            `SigmoidFocalLoss(None)`).
        multilabel: whether targets are `(B, C)` labels rather than class ids.
        log_weight: λ, `(C,)`: the weights are multiplied by `exp(λ)` of the true class.
        options: see `ClassLoss`; for multilabel targets `LabelLoss`.

    Example:
        >>> import torch
        >>> FocalLoss()(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.1733)
        >>> FocalLoss(multilabel=True)(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.0866)
    """

    alpha: Tensor | None

    def __new__(
        cls,
        gamma: float = 2.0,
        alpha: float | ClassVector | None = None,
        multilabel: bool = False,
        **options: Any,
    ) -> Any:
        if multilabel:  # both go by this name
            return SigmoidFocalLoss(0.25 if alpha is None else alpha, gamma, **options)
        return super().__new__(cls)

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: ClassVector | None = None,
        multilabel: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.gamma = base.check_number("gamma", gamma, 0.0)
        self.register_buffer("alpha", base.class_vector("alpha", alpha, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        alpha, options = self._scaled(self.alpha), self._options(reduction)
        return focal_loss(logits, targets, self.gamma, alpha, **options)

    def correct(self, logits: Tensor) -> Tensor:
        """Log-posterior, up to a constant, at which the expected loss is least at `logits`.

        Charoenphakdee et al., "On Focal Loss for Class-Posterior Probability Estimation" (2021):
        `η_c ∝ p_c/φ(p_c)`, `φ(p) = (1−p)^γ − γ (1−p)^(γ−1) p log p`; divided by α exp(λ).
        """
        d = log_odds_against(base.upcast(logits))
        log_eta = -log_focal_slope(d, self.gamma) + F.logsigmoid(d) + F.logsigmoid(-d)
        return base.less_log(log_eta, self._scaled(self.alpha))
