"""Focal loss over a softmax; and ``FocalLoss``, which serves multilabel targets too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    at_least_float32,
    check_fused,
    check_number,
    check_per_class,
    check_reduction,
    check_single_label,
    class_vector,
    log_of,
    reduce,
)
from equipoise.losses.curves import softplus
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
    reduction: str = "mean",
) -> Tensor:
    """Focal loss ``−α_y (1−p_y)^γ log p_y`` over a softmax: examples already right count little.

    Lin et al., "Focal Loss for Dense Object Detection" (2017), with the softmax in place of the
    sigmoid. For multilabel targets see ``sigmoid_focal_loss``.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B,)`` integer class ids.
        gamma: γ ≥ 0; 0 is weighted cross-entropy.
        alpha: ``(C,)`` weights ≥ 0 by true class.
        reduction: ``"mean"`` over the B examples, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or ``(B,)`` for ``"none"``. dtypes: see ``equipoise.losses.base``.

    Raises:
        TypeError: If logits are not floating point or targets are not integers.
        ValueError: If shapes do not agree or ``reduction`` is unknown.

    Example:
        >>> import torch
        >>> focal_loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.1733)
    """
    check_reduction(reduction)
    targets = check_single_label(logits, targets)
    check_per_class("alpha", alpha, logits)
    dtype = at_least_float32(logits.dtype)
    surprise = F.cross_entropy(logits.to(dtype), targets, reduction="none")
    per_example = surprise
    if gamma != 0.0:
        # 1 − p, kept off zero: for γ < 1 the power's slope is infinite there.
        tiny = torch.finfo(dtype).tiny
        wrong = -torch.expm1(-surprise.clamp_min(tiny))
        per_example = wrong.pow(gamma) * surprise
    if alpha is not None:
        per_example = per_example * alpha.detach().to(dtype)[targets]
    return reduce(per_example, reduction, logits.dtype)


def correct_focal(logits: Tensor, gamma: float, alpha: Tensor | None) -> Tensor:
    """Log-posterior, up to a constant, at which the expected focal loss is least at ``logits``.

    Charoenphakdee et al., "On Focal Loss for Class-Posterior Probability Estimation" (2021):
    ``η_c ∝ p_c/φ(p_c)``, ``φ(p) = (1−p)^γ − γ (1−p)^(γ−1) p log p``; divided by α.
    """
    z = logits.to(at_least_float32(logits.dtype))
    # d = log((1−p)/p), with 1−p of the largest class summed over the others: no cancellation.
    top = torch.zeros_like(z, dtype=torch.bool).scatter_(-1, z.argmax(-1, keepdim=True), True)
    others = z.masked_fill(top, float("-inf")).logsumexp(-1, keepdim=True)
    log_p = z.log_softmax(-1)
    of_top = others - z
    of_rest = torch.log1p(-log_p.exp().masked_fill(top, 0.0)) - log_p
    d = torch.where(top, of_top, of_rest)
    log_eta = -(log_focal_slope(d, gamma) + softplus(d) + softplus(-d))
    return log_eta if alpha is None else log_eta - log_of(alpha)


class FocalLoss(Loss):
    """Focal loss of class ids (softmax) or, if ``multilabel``, of each label (sigmoid).

    See ``focal_loss`` and ``sigmoid_focal_loss``. Class-balanced focal loss (Cui et al. 2019) is
    this with effective-number weights as ``alpha`` (for class ids).

    Args:
        gamma: γ ≥ 0.
        alpha: for class ids ``(C,)`` weights ≥ 0 by true class; for multilabel targets α in
            [0, 1], one number or ``(C,)``. ``None``: no weights.
        multilabel: whether targets are ``(B, C)`` 0/1 rather than ``(B,)`` class ids.
        log_weight: λ, ``(C,)``: weights of the true class, or of positives, are multiplied by
            ``exp(λ)``.
        reduction: the mean is over the B examples, or the B·C elements.
        fused: for multilabel targets, one Triton kernel on CUDA: see ``sigmoid_focal_loss``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> FocalLoss()(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.1733)
        >>> FocalLoss(multilabel=True)(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.1733)
    """

    alpha: float | Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | ClassVector | None = None,
        multilabel: bool = False,
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
        fused: bool = False,
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.fused = check_fused(fused)
        if fused and not multilabel:
            raise ValueError("Expected fused to be False, as targets are class ids, but got True")
        self.gamma = check_number("gamma", gamma, 0.0)
        self.multilabel = multilabel
        checked: float | Tensor | None
        if multilabel:
            checked = check_alpha(alpha)
        elif isinstance(alpha, int | float):
            raise ValueError(
                f"Expected alpha to be (C,) weights, as targets are class ids, but got {alpha!r}"
            )
        else:
            checked = class_vector("alpha", alpha, minimum=0.0)
        if isinstance(checked, Tensor):
            self.register_buffer("alpha", checked)
        else:
            self.alpha = checked

    def _class_weight(self) -> Tensor | None:
        """α exp(λ), for class ids."""
        return self._scaled(self.alpha if isinstance(self.alpha, Tensor) else None)

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        if self.multilabel:
            return sigmoid_focal_loss(
                logits,
                targets,
                self.gamma,
                self.alpha,
                self._scaled(None),
                reduction=reduction,
                fused=self.fused,
            )
        return focal_loss(logits, targets, self.gamma, self._class_weight(), reduction=reduction)

    def correct(self, logits: Tensor) -> Tensor:
        """Closed-form inverse, weights included: see ``correct_focal``, ``SigmoidFocalLoss``."""
        if self.multilabel:
            return correct_sigmoid_focal(logits, self.gamma, self.alpha, self._scaled(None))
        return correct_focal(logits, self.gamma, self._class_weight())
