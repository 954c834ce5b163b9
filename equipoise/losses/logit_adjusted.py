"""Logit-adjusted cross-entropy; with tau = 1 it is the balanced softmax."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    at_least_float32,
    check_number,
    check_per_class,
    check_reduction,
    check_single_label,
    class_counts,
    reduce,
)
from equipoise.losses.cross_entropy import adjusted_cross_entropy


def logit_adjusted_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    log_prior: Tensor | None = None,
    tau: float = 1.0,
    *,
    log_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of ``z + τ log π − λ``: rare classes have to win by a margin.

    Menon et al., "Long-tail learning via logit adjustment" (2021), eq. 10; with τ = 1, balanced
    softmax (Ren et al. 2020). The prior is taken out of the logits that the net has to learn, so
    that plain ``argmax z`` predicts as if the classes were equally frequent.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B,)`` integer class ids.
        log_prior: log π, ``(C,)``, up to a constant; ``None`` is uniform.
        tau: strength of the prior, ≥ 0.
        log_weight: λ, ``(C,)``: a larger value leads to a larger logit at prediction.
        label_smoothing: ε in [0, 1].
        reduction: ``"mean"`` over the B examples, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or ``(B,)`` for ``"none"``. dtypes: see ``equipoise.losses.base``. Only logits
        receive a gradient.

    Raises:
        TypeError: If logits are not floating point or targets are not integers.
        ValueError: If shapes do not agree or ``reduction`` is unknown.

    Example:
        >>> import torch
        >>> log_prior = torch.tensor([0.9, 0.1]).log()
        >>> logit_adjusted_cross_entropy(torch.zeros(1, 2), torch.tensor([1]), log_prior)
        tensor(2.3026)
    """
    check_reduction(reduction)
    targets = check_single_label(logits, targets)
    check_per_class("log_prior", log_prior, logits)
    check_per_class("log_weight", log_weight, logits)
    dtype = at_least_float32(logits.dtype)
    shift = _shift(log_prior, tau, log_weight)
    shift = logits.new_zeros((), dtype=dtype) if shift is None else shift.detach().to(dtype)

    def adjust(z: Tensor, y: Tensor) -> Tensor:
        return z + shift

    if label_smoothing == 0.0:
        per_example = adjusted_cross_entropy(logits, targets, adjust)
    else:
        adjusted = adjust(logits.to(dtype), targets)
        per_example = F.cross_entropy(
            adjusted, targets, reduction="none", label_smoothing=label_smoothing
        )
    return reduce(per_example, reduction, logits.dtype)


def _shift(log_prior: Tensor | None, tau: float, log_weight: Tensor | None) -> Tensor | None:
    """τ log π − λ, or ``None`` where both are absent."""
    if log_prior is None:
        return None if log_weight is None else -log_weight
    return tau * log_prior if log_weight is None else tau * log_prior - log_weight


class LogitAdjustedCrossEntropy(Loss):
    """Cross-entropy of ``z + τ log π − λ``, with π from class counts; see the function.

    On balanced data π is constant and does nothing; λ is what moves the classes then.

    Args:
        counts: ``(C,)`` class counts (or frequencies). A class without examples counts as having
            one. ``None`` is a uniform prior.
        tau: strength of the prior, ≥ 0.
        label_smoothing: ε in [0, 1].
        log_weight: λ, ``(C,)``: a larger value leads to a larger logit at prediction.
        reduction: the mean is over the B examples.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> loss = LogitAdjustedCrossEntropy([900, 100])
        >>> loss(torch.zeros(1, 2), torch.tensor([1]))
        tensor(2.3026)
        >>> loss.correct(torch.zeros(1, 2)).softmax(-1)
        tensor([[0.9000, 0.1000]])
    """

    log_prior: Tensor | None

    def __init__(
        self,
        counts: ClassVector | None = None,
        tau: float = 1.0,
        label_smoothing: float = 0.0,
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.tau = check_number("tau", tau, 0.0)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, 0.0, 1.0)
        checked = class_counts("counts", counts)
        log_prior = None if checked is None else (checked / checked.sum()).log()
        self.register_buffer("log_prior", log_prior)

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return logit_adjusted_cross_entropy(
            logits,
            targets,
            self.log_prior,
            self.tau,
            log_weight=self.log_weight,
            label_smoothing=self.label_smoothing,
            reduction=reduction,
        )

    def correct(self, logits: Tensor) -> Tensor:
        """``z + τ log π − λ``. Label smoothing is not undone; it does not move the arg max."""
        shift = _shift(self.log_prior, self.tau, self.log_weight)
        return logits if shift is None else logits + shift


BalancedSoftmax = LogitAdjustedCrossEntropy
"""The name that logit adjustment with tau = 1, the default, goes by in Ren et al. (2020)."""
