"""Focal loss over a softmax; and `FocalLoss`, which serves multilabel targets too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.class_ids import ClassLoss, check_targets, log_odds_against, reduce, weight_of
from equipoise.losses.multilabel import check_unknown, known_labels
from equipoise.losses.sigmoid_focal import (
    check_alpha,
    correct_sigmoid_focal,
    log_focal_slope,
    sigmoid_focal_loss,
)


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


def correct_focal(logits: Tensor, gamma: float, alpha: Tensor | None) -> Tensor:
    """Log-posterior, up to a constant, at which the expected focal loss is least at `logits`.

    Charoenphakdee et al., "On Focal Loss for Class-Posterior Probability Estimation" (2021):
    `η_c ∝ p_c/φ(p_c)`, `φ(p) = (1−p)^γ − γ (1−p)^(γ−1) p log p`; divided by α.
    """
    z = base.upcast(logits)
    d = log_odds_against(z)
    log_eta = -log_focal_slope(d, gamma) + F.logsigmoid(d) + F.logsigmoid(-d)
    return base.less_log(log_eta, alpha)


class FocalLoss(ClassLoss):
    """Focal loss of class ids (softmax) or, if `multilabel`, of each label (sigmoid).

    See `focal_loss` and `sigmoid_focal_loss`. Class-balanced focal loss (Cui et al. 2019) is
    this with effective-number weights as `alpha` (for class ids).

    Args:
        gamma: γ ≥ 0; 0 is weighted cross-entropy.
        alpha: for class ids `(C,)` weights ≥ 0 by true class, by default none; for multilabel
            targets α in [0, 1], one number or `(C,)`, by default .25 (for both sides alike take
            `SigmoidFocalLoss(None)`).
        multilabel: whether targets are `(B, C)` labels rather than class ids.
        ignore_index: for class ids, the id that is left out.
        unknown: for multilabel targets, the value that marks entries to leave out.
        log_weight: λ, `(C,)`: weights of the true class, or of positives, are multiplied by
            `exp(λ)`.
        reduction: the mean is over the elements counted.
        fused: for multilabel targets, one Triton kernel on CUDA: see `sigmoid_focal_loss`.

    Example:
        >>> import torch
        >>> FocalLoss()(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.1733)
        >>> FocalLoss(multilabel=True)(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.0866)
    """

    alpha: float | Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | ClassVector | None = None,
        multilabel: bool = False,
        *,
        ignore_index: int = -100,
        unknown: float | None = None,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
        fused: bool = False,
    ) -> None:
        super().__init__(ignore_index=ignore_index, log_weight=log_weight, reduction=reduction)
        self.fused = base.check_fused(fused)
        if fused and not multilabel:
            raise ValueError("Expected fused to be False, as targets are class ids, but got True")
        self.gamma = base.check_number("gamma", gamma, 0.0)
        self.multilabel = multilabel
        self.unknown = check_unknown(unknown)
        checked: float | Tensor | None
        if multilabel:
            checked = check_alpha(0.25 if alpha is None else alpha)
        elif isinstance(alpha, int | float):
            raise ValueError(
                f"Expected alpha to be (C,) weights, as targets are class ids, but got {alpha!r}"
            )
        else:
            checked = base.class_vector("alpha", alpha, minimum=0.0)
        if isinstance(checked, Tensor):
            self.register_buffer("alpha", checked)
        else:
            self.alpha = checked

    def counted(self, targets: Tensor) -> Tensor:
        """Where class ids are not `ignore_index`, or labels not `unknown`."""
        return known_labels(targets, self.unknown) if self.multilabel else super().counted(targets)

    def _class_weight(self) -> Tensor | None:
        """α exp(λ), for class ids."""
        return self._scaled(self.alpha if isinstance(self.alpha, Tensor) else None)

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        if self.multilabel:
            return sigmoid_focal_loss(
                logits,
                targets,
                self.alpha,
                self.gamma,
                reduction,
                pos_weight=self._scaled(None),
                unknown=self.unknown,
                fused=self.fused,
            )
        alpha, options = self._class_weight(), self._options(reduction)
        return focal_loss(logits, targets, self.gamma, alpha, **options)

    def correct(self, logits: Tensor) -> Tensor:
        """Closed-form inverse, weights included: see `correct_focal`, `SigmoidFocalLoss`."""
        if self.multilabel:
            return correct_sigmoid_focal(logits, self.gamma, self.alpha, self._scaled(None))
        return correct_focal(logits, self.gamma, self._class_weight())
