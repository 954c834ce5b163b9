"""Asymmetric loss (ASL): focusing, more on negatives, with easy negatives dropped."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    at_least_float32,
    check_fused,
    check_number,
    check_reduction,
    class_vector,
    log_of,
)
from equipoise.losses.curves import Curve, mirrored, power, softplus
from equipoise.losses.pointwise import Terms, pointwise
from equipoise.losses.sigmoid_focal import focal_curve, log_focal_slope

NOTHING = 1e-7  # stands for a shifted probability of zero where it divides; smaller is slow
LEAST = 1e-6  # stands for a shifted probability of zero where its logarithm is taken


def shifted_focal_curve(gamma: float, margin: float) -> Curve:
    """ASL of a negative, ``−p^γ log(1−p)`` with ``p = max(σ(z) − m, 0)``, and its slope."""
    if margin == 0.0:
        return focal_curve(gamma)

    def curve(z: Tensor, out: Tensor) -> Tensor:
        sigma = torch.sigmoid(z, out=out)
        minus_p = torch.rsub(sigma, margin).clamp_max_(-NOTHING)
        factor = power(minus_p if gamma % 2.0 == 0.0 else -minus_p, gamma)
        if gamma < 2.0:  # otherwise it vanishes by itself
            factor *= sigma > margin
        value = torch.log1p(minus_p).mul_(factor).neg_()
        slope = factor.div_(minus_p + 1.0)
        slope.add_(torch.div(value, minus_p, out=minus_p), alpha=-gamma)  # of p
        torch.ops.aten.sigmoid_backward.grad_input(slope, sigma, grad_input=out)
        return value

    return curve


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    margin: float = 0.05,
    pos_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    fused: bool = False,
) -> Tensor:
    """Asymmetric loss ``−y (1−q)^γ+ log q − (1−y) p^γ− log(1−p)``, ``p = max(q − m, 0)``.

    Ridnik et al., "Asymmetric Loss For Multi-Label Classification" (2021); q is
    sigmoid(z). Nothing is clamped but p: the slope of a positive goes to −1 for very negative
    logits, and all is finite in half precision.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B, C)``, 0/1 of any dtype; dense or sparse CSR.
        gamma_neg: γ− ≥ 0.
        gamma_pos: γ+ ≥ 0.
        margin: m in [0, 1): negatives predicted below it cost nothing.
        pos_weight: ``(C,)``, on positives.
        reduction: ``"mean"`` over B·C elements, ``"sum"`` (as the paper's code) or ``"none"``.
        fused: use one Triton kernel, on CUDA; not yet run on a GPU: see ``equipoise.losses.fused``.

    Returns:
        A scalar, or ``(B, C)`` for ``"none"``. dtypes: see ``equipoise.losses.base``. Only logits
        receive a gradient, and it can be differentiated once.

    Raises:
        TypeError: If logits are not floating point, or targets are sparse but not CSR.
        ValueError: If shapes do not agree, ``reduction`` is unknown, or ``fused`` cannot be had.

    Example:
        >>> import torch
        >>> asymmetric_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), reduction="none")
        tensor([[0.3466, 0.0245]])
    """
    check_reduction(reduction)
    positive = mirrored(focal_curve(gamma_pos))
    terms = Terms(
        shifted_focal_curve(gamma_neg, margin),
        positive,
        positive_weight=pos_weight,
        focusing=(float(gamma_neg), float(gamma_pos), float(margin)) if fused else None,
    )
    return pointwise(logits, targets, terms, reduction)


class AsymmetricLoss(Loss):
    """Asymmetric loss of each label; see the function.

    Args:
        gamma_neg: γ− ≥ 0.
        gamma_pos: γ+ ≥ 0.
        margin: m in [0, 1).
        pos_weight: ``(C,)`` weights ≥ 0 of positives.
        log_weight: λ, ``(C,)``: positives are weighted by ``pos_weight · exp(λ)``.
        reduction: the mean is over the B·C elements.
        fused: one Triton kernel on CUDA, opt-in: see the function.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> loss = AsymmetricLoss()
        >>> loss.correct(torch.zeros(1, 1)).sigmoid()  # .5 is predicted where .147 is true
        tensor([[0.1473]])
    """

    multilabel = True
    pos_weight: Tensor | None

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 1.0,
        margin: float = 0.05,
        pos_weight: ClassVector | None = None,
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
        fused: bool = False,
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.fused = check_fused(fused)
        self.gamma_neg = check_number("gamma_neg", gamma_neg, 0.0)
        self.gamma_pos = check_number("gamma_pos", gamma_pos, 0.0)
        self.margin = check_number("margin", margin, 0.0, 0.999)
        self.register_buffer("pos_weight", class_vector("pos_weight", pos_weight, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return asymmetric_loss(
            logits,
            targets,
            self.gamma_neg,
            self.gamma_pos,
            self.margin,
            self._scaled(self.pos_weight),
            reduction=reduction,
            fused=self.fused,
        )

    def correct(self, logits: Tensor) -> Tensor:
        """Log-odds of ``η = B/(vA + B)``: A, B the slopes of the two sides, v pos_weight·exp(λ).

        ``A(q) = (1−q)^γ+/q − γ+ (1−q)^(γ+−1) ln q``,
        ``B(q) = p^γ−/(1−p) − γ− p^(γ−−1) ln(1−p)``. Where ``q ≤ m`` no positive was expected at
        all and η is 0; as log-odds a large negative number is given (for γ− > 0: about
        ``−14 γ−``), in which ``p = 1e-6`` stands for 0.
        """
        z = logits.to(at_least_float32(logits.dtype))
        if self.margin == 0.0:
            log_b = log_focal_slope(z, self.gamma_neg)
        else:
            p = (torch.sigmoid(z) - self.margin).clamp_min(LEAST)
            log = torch.log1p(-p)
            factor = (1.0 / (1.0 - p) - self.gamma_neg * log / p).log()
            log_b = self.gamma_neg * p.log() + factor - softplus(z) - softplus(-z)
        log_odds = log_b - log_focal_slope(-z, self.gamma_pos)
        pos_weight = self._scaled(self.pos_weight)
        return log_odds if pos_weight is None else log_odds - log_of(pos_weight)
