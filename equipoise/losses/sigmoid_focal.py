"""Focal loss of each label: confident, correct labels count for little."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    at_least_float32,
    check_fused,
    check_multilabel,
    check_number,
    check_per_class,
    check_reduction,
    class_vector,
    log_of,
)
from equipoise.losses.curves import Curve, mirrored, power, softplus
from equipoise.losses.pointwise import Terms, Weight, pointwise


def focal_curve(gamma: float) -> Curve:
    """Focal loss of a negative, ``σ(z)^γ softplus(z)``, and its slope.

    The slope ``σ^γ (γ (1−σ) softplus(z) + σ)`` has no power γ − 1, so that nothing is divided by
    zero where σ vanishes.
    """

    def curve(z: Tensor, out: Tensor) -> Tensor:
        sigma, value = torch.sigmoid(z, out=out), softplus(z)
        if gamma == 0.0:
            return value
        factor = power(sigma, gamma)
        value.mul_(factor)
        rest = torch.rsub(sigma, 1.0)
        out.mul_(factor).addcmul_(rest, value, value=gamma)
        return value

    return curve


def log_focal_slope(z: Tensor, gamma: float) -> Tensor:
    """Log of the slope of ``focal_curve``, stable for all z.

    The slope is ``σ^(γ+1) (1 + γ r)``, where ``r = exp(−z) softplus(z)`` lies between 0 and 1.
    """
    ratio = torch.where(z < -15.0, 1.0, (-z.clamp_min(-15.0)).exp() * softplus(z))
    return torch.log1p(gamma * ratio) - (gamma + 1.0) * softplus(-z)


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    gamma: float = 2.0,
    alpha: float | Tensor | None = 0.25,
    pos_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    fused: bool = False,
) -> Tensor:
    """Focal loss ``−α_t (1−p_t)^γ log p_t`` of each label, p = sigmoid(z).

    Lin et al., "Focal Loss for Dense Object Detection" (2017), eq. 5. ``p_t`` and ``α_t`` are p and
    α for positives, 1−p and 1−α for negatives.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B, C)``, 0/1 of any dtype; dense or sparse CSR.
        gamma: γ ≥ 0; 0 is binary cross-entropy.
        alpha: in [0, 1], one number or ``(C,)``; ``None`` weights both sides by 1.
        pos_weight: ``(C,)``, on positives, on top of α.
        reduction: ``"mean"`` over B·C elements, ``"sum"`` or ``"none"``. (Detectors divide the sum
            by the number of positives; do so outside.)
        fused: use one Triton kernel, on CUDA; not yet run on a GPU: see ``equipoise.losses.fused``.

    Returns:
        A scalar, or ``(B, C)`` for ``"none"``. dtypes: see ``equipoise.losses.base``. Only logits
        receive a gradient, and it can be differentiated once.

    Raises:
        TypeError: If logits are not floating point, or targets are sparse but not CSR.
        ValueError: If shapes do not agree, ``reduction`` is unknown, or ``fused`` cannot be had.

    Example:
        >>> import torch
        >>> sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), reduction="none")
        tensor([[0.0433, 0.1300]])
    """
    check_reduction(reduction)
    check_multilabel(logits, targets)
    check_per_class("pos_weight", pos_weight, logits)
    curve = focal_curve(gamma)
    positive, negative = focal_weights(alpha, pos_weight, logits)
    terms = Terms(
        curve,
        mirrored(curve),
        negative,
        positive,
        focusing=(float(gamma), float(gamma), 0.0) if fused else None,
    )
    if isinstance(negative, float) and negative > 0.0 and positive is not None:
        positive, scale = positive / negative, negative  # one factor on all is applied for free
        terms = replace(terms, negative_weight=None, positive_weight=positive, scale=scale)
    return pointwise(logits, targets, terms, reduction)


def focal_weights(
    alpha: float | Tensor | None, pos_weight: Tensor | None, logits: Tensor
) -> tuple[Weight, Weight]:
    """α·pos_weight and 1−α; ``None`` where they are 1."""
    if pos_weight is not None:
        pos_weight = pos_weight.to(at_least_float32(logits.dtype))
    if alpha is None:
        return pos_weight, None
    if isinstance(alpha, Tensor):
        alpha = alpha.expand(logits.shape[1:]) if alpha.ndim == 0 else alpha
        check_per_class("alpha", alpha, logits)
    return alpha if pos_weight is None else alpha * pos_weight, 1.0 - alpha


def check_alpha(alpha: float | ClassVector | None) -> float | Tensor | None:
    """α as a number or a ``(C,)`` tensor in [0, 1]."""
    if alpha is None or isinstance(alpha, int | float):
        return None if alpha is None else check_number("alpha", alpha, 0.0, 1.0)
    vector: Tensor = class_vector("alpha", alpha, minimum=0.0)
    if bool((vector > 1.0).any()):
        raise ValueError(f"Expected alpha to be at most 1, but got {vector.tolist()}")
    return vector


def correct_sigmoid_focal(
    logits: Tensor, gamma: float, alpha: float | Tensor | None, pos_weight: Tensor | None
) -> Tensor:
    """Log-odds of η at which the expected focal loss is least at ``logits``."""
    z = logits.to(at_least_float32(logits.dtype))
    log_odds = log_focal_slope(z, gamma) - log_focal_slope(-z, gamma)
    if alpha is not None:
        share = alpha if isinstance(alpha, Tensor) else z.new_full((), alpha)
        log_odds = log_odds + log_of(1.0 - share) - log_of(share)
    return log_odds if pos_weight is None else log_odds - log_of(pos_weight)


class SigmoidFocalLoss(Loss):
    """Focal loss of each label; see the function.

    Args:
        gamma: γ ≥ 0.
        alpha: in [0, 1], one number or ``(C,)``; ``None`` weights both sides by 1.
        pos_weight: ``(C,)`` weights ≥ 0 of positives, on top of α.
        log_weight: λ, ``(C,)``: positives are weighted by ``pos_weight · exp(λ)``.
        reduction: the mean is over the B·C elements.
        fused: one Triton kernel on CUDA, opt-in: see the function.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> loss = SigmoidFocalLoss()
        >>> loss.correct(torch.zeros(1, 1)).sigmoid()  # .5 is predicted where .75 is true
        tensor([[0.7500]])
    """

    multilabel = True
    alpha: float | Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | ClassVector | None = 0.25,
        pos_weight: ClassVector | None = None,
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
        fused: bool = False,
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.fused = check_fused(fused)
        self.gamma = check_number("gamma", gamma, 0.0)
        checked = check_alpha(alpha)
        if isinstance(checked, Tensor):
            self.register_buffer("alpha", checked)
        else:
            self.alpha = checked
        self.register_buffer("pos_weight", class_vector("pos_weight", pos_weight, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        pos_weight = self._scaled(self.pos_weight)
        return sigmoid_focal_loss(
            logits,
            targets,
            self.gamma,
            self.alpha,
            pos_weight,
            reduction=reduction,
            fused=self.fused,
        )

    def correct(self, logits: Tensor) -> Tensor:
        """Log-odds of ``η = (1−α)B/(αA + (1−α)B)``, with A and B the slopes of the two sides.

        ``A(q) = (1−q)^γ/q − γ (1−q)^(γ−1) ln q`` and ``B(q) = A(1−q)``, q = sigmoid(z); α includes
        ``pos_weight · exp(λ)``.
        """
        pos_weight = self._scaled(self.pos_weight)
        return correct_sigmoid_focal(logits, self.gamma, self.alpha, pos_weight)
