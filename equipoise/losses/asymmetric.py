"""Asymmetric loss (ASL): focusing, more on negatives, with easy negatives dropped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.multilabel import LabelLoss, LabelOptions, check_labels, label_loss
from equipoise.losses.pointwise import Terms
from equipoise.losses.sigmoid_focal import log_focal_slope

LEAST = 1e-6  # stands for a shifted probability of zero where its logarithm is taken


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    margin: float = 0.05,
    pos_weight: Tensor | None = None,
    *,
    detach_focusing: bool = False,
    unknown: float | Tensor | None = None,
    reduction: str = "mean",
    fused: bool = False,
) -> Tensor:
    """Asymmetric loss `−y (1−q)^γ+ log q − (1−y) p^γ− log(1−p)`, `p = max(q − m, 0)`.

    Ridnik et al., "Asymmetric Loss For Multi-Label Classification" (2021); q is
    sigmoid(z). Nothing is clamped but p: the slope of a positive goes to −1 for very negative
    logits, and all is finite in half precision.

    The arguments are explained at `AsymmetricLoss` and `LabelLoss`.

    Example:
        >>> import torch
        >>> asymmetric_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), reduction="none")
        tensor([[0.3466, 0.0245]])
    """
    base.check_reduction(reduction)
    gamma_neg = base.check_number("gamma_neg", gamma_neg, 0.0)
    gamma_pos = base.check_number("gamma_pos", gamma_pos, 0.0)
    margin = base.check_number("margin", margin, 0.0, 0.999)
    check_labels(logits, targets)
    pos_weight = base.per_class("pos_weight", pos_weight, logits)
    if fused and detach_focusing:
        raise ValueError("Expected fused to be False with detach_focusing=True, but got True")

    def elements(z: Tensor, y: Tensor) -> Tensor:
        log_q = F.logsigmoid(z)
        if margin > 0.0:
            p = (torch.sigmoid(z) - margin).clamp_min(torch.finfo(z.dtype).tiny)
            log_rest, on_negatives = torch.log1p(-p), p.pow(gamma_neg)
        else:
            log_rest, on_negatives = F.logsigmoid(-z), torch.exp(gamma_neg * log_q)
        on_positives = torch.exp(gamma_pos * (log_q - z))  # log_q − z is log(1 − q)
        if detach_focusing:
            on_positives, on_negatives = on_positives.detach(), on_negatives.detach()
        positives = y if pos_weight is None else y * pos_weight
        return -(positives * on_positives * log_q + (1 - y) * on_negatives * log_rest)

    def terms() -> Terms:
        return Terms(gamma_neg, gamma_pos, margin, detach_focusing, positive_weight=pos_weight)

    return label_loss(
        logits,
        targets,
        elements,
        terms,
        unknown=unknown,
        reduction=reduction,
        fused=fused,
        sooner=5,
    )


class AsymmetricLoss(LabelLoss):
    """Asymmetric loss of each label; see the function.

    Args:
        gamma_neg: γ− ≥ 0.
        gamma_pos: γ+ ≥ 0.
        margin: m in [0, 1): negatives predicted below it cost nothing.
        pos_weight: `(C,)` weights ≥ 0 of positives.
        detach_focusing: whether the factors (1−q)^γ+ and p^γ− are weights without a gradient, which
            is the default of the authors' code (`disable_torch_grad_focal_loss`).
        log_weight: λ, `(C,)`: positives are weighted by `pos_weight · exp(λ)`.
        options: see `LabelLoss`.

    Example:
        >>> import torch
        >>> loss = AsymmetricLoss()
        >>> loss.correct(torch.zeros(1, 1)).sigmoid()  # .5 is predicted where .147 is true
        tensor([[0.1473]])
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 1.0,
        margin: float = 0.05,
        pos_weight: ClassVector | None = None,
        *,
        detach_focusing: bool = False,
        **options: Unpack[LabelOptions],
    ) -> None:
        super().__init__(**options)
        self.detach_focusing = bool(detach_focusing)
        self.gamma_neg = base.check_number("gamma_neg", gamma_neg, 0.0)
        self.gamma_pos = base.check_number("gamma_pos", gamma_pos, 0.0)
        self.margin = base.check_number("margin", margin, 0.0, 0.999)
        self.register_buffer("pos_weight", base.class_vector("pos_weight", pos_weight, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return asymmetric_loss(
            logits,
            targets,
            self.gamma_neg,
            self.gamma_pos,
            self.margin,
            self._scaled(self.pos_weight),
            detach_focusing=self.detach_focusing,
            **self._options(reduction),
        )

    def correct(self, logits: Tensor) -> Tensor:
        """Log-odds of `η = B/(vA + B)`: A, B the slopes of the two sides, v pos_weight·exp(λ).

        `A(q) = (1−q)^γ+/q − γ+ (1−q)^(γ+−1) ln q`,
        `B(q) = p^γ−/(1−p) − γ− p^(γ−−1) ln(1−p)`, of which the second terms are absent where the
        focusing has no gradient. Where `q ≤ m` no positive was expected at all and η is 0; as
        log-odds a large negative number is given (for γ− > 0: about `−14 γ−`), in which `p = 1e-6`
        stands for 0.
        """
        z = base.upcast(logits)
        if self.margin == 0.0:
            log_b = log_focal_slope(z, self.gamma_neg, self.detach_focusing)
        else:
            p = (torch.sigmoid(z) - self.margin).clamp_min(LEAST)
            factor = 1.0 / (1.0 - p)
            if not self.detach_focusing:
                factor = factor - self.gamma_neg * torch.log1p(-p) / p
            log_b = self.gamma_neg * p.log() + factor.log() + F.logsigmoid(z) + F.logsigmoid(-z)
        log_odds = log_b - log_focal_slope(-z, self.gamma_pos, self.detach_focusing)
        return base.less_log(log_odds, self._scaled(self.pos_weight))
