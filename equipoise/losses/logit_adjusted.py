"""Logit-adjusted cross-entropy; with tau = 1 it is the balanced softmax."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.class_ids import (
    ClassLoss,
    ClassOptions,
    check_targets,
    reduce,
    softmax_loss,
    weight_of,
)


def logit_adjusted_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    counts: ClassVector | None = None,
    log_prior: Tensor | None = None,
    tau: float = 1.0,
    log_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of `z + a`, `a = τ log π − λ`: rare classes have to win by a margin.

    Menon et al., "Long-tail learning via logit adjustment" (2021), eq. 10; with τ = 1, balanced
    softmax (Ren et al. 2020). The prior is taken out of the logits that the net has to learn, so
    that plain `argmax z` predicts as if the classes were equally frequent.

    Label smoothing ε draws the logits z together rather than the adjusted ones, which would favour
    rare classes: the target of the adjusted softmax is `(1−ε) q + ε softmax(a)`.

    Instead of counts `log_prior` gives log π, `(C,)`, up to a constant. Without either π is
    uniform. The other arguments are explained at `LogitAdjustedCrossEntropy` and `ClassLoss`.

    Example:
        >>> import torch
        >>> z, y = torch.zeros(1, 2), torch.tensor([1])
        >>> logit_adjusted_cross_entropy(z, y, counts=[900, 100])
        tensor(2.3026)
        >>> logit_adjusted_cross_entropy(z, y, log_prior=torch.tensor([0.9, 0.1]).log())
        tensor(2.3026)
    """
    base.check_reduction(reduction)
    base.check_number("tau", tau, 0.0)
    base.check_number("label_smoothing", label_smoothing, 0.0, 1.0)
    targets = check_targets(logits, targets)
    log_prior = base.per_class("log_prior", log_prior, logits)
    if counts is not None:
        if log_prior is not None:
            raise ValueError("Expected counts or log_prior, but got both")
        log_prior = base.fill_empty(base.per_class("counts", counts, logits)).log()
        log_prior = log_prior - log_prior.logsumexp(0)
    shift = _shift(log_prior, tau, base.per_class("log_weight", log_weight, logits))
    shift = None if shift is None else base.along_classes(shift, logits)

    def adjust(z: Tensor, y: Tensor) -> Tensor:
        return z.clone() if shift is None else z + shift

    value = softmax_loss(
        logits, targets, adjust, weight=None, ignore_index=ignore_index, reduction=reduction
    )
    if label_smoothing == 0.0:
        return value
    log_p = adjust(base.upcast(logits), targets).log_softmax(1)
    smooth = log_p.mean(1) if shift is None else (log_p * shift.softmax(0)).sum(1)
    smooth = -smooth * weight_of(targets, None, ignore_index, log_p)
    return torch.lerp(value, reduce(smooth, targets, ignore_index, reduction), label_smoothing)


def _shift(log_prior: Tensor | None, tau: float, log_weight: Tensor | None) -> Tensor | None:
    """τ log π − λ, or `None` where both are absent."""
    shift = log_prior if log_prior is None or tau == 1.0 else tau * log_prior
    if log_weight is None:
        return shift
    return -log_weight if shift is None else shift - log_weight


class LogitAdjustedCrossEntropy(ClassLoss):
    """Cross-entropy of `z + τ log π − λ`, with π from class counts; see the function.

    On balanced data π is constant and does nothing; λ is what moves the classes then.

    Args:
        counts: `(C,)` class counts (or frequencies). A class without examples counts as having one.
            `None` is a uniform prior.
        tau: strength of the prior, ≥ 0.
        label_smoothing: ε in [0, 1].
        log_weight: λ, `(C,)`: a larger value leads to a larger logit at prediction.
        options: see `ClassLoss`.

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
        **options: Unpack[ClassOptions],
    ) -> None:
        super().__init__(**options)
        self.tau = base.check_number("tau", tau, 0.0)
        self.label_smoothing = base.check_number("label_smoothing", label_smoothing, 0.0, 1.0)
        checked = base.class_counts("counts", counts)
        log_prior = None if checked is None else (checked / checked.sum()).log()
        self.register_buffer("log_prior", log_prior)

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return logit_adjusted_cross_entropy(
            logits,
            targets,
            log_prior=self.log_prior,
            tau=self.tau,
            log_weight=self.log_weight,
            label_smoothing=self.label_smoothing,
            **self._options(reduction),
        )

    def correct(self, logits: Tensor) -> Tensor:
        """`z + τ log π − λ`. Label smoothing is not undone; it does not move the arg max."""
        shift = _shift(self.log_prior, self.tau, self.log_weight)
        return logits if shift is None else logits + base.along_classes(shift, logits)


BalancedSoftmax = LogitAdjustedCrossEntropy
"""The name that logit adjustment with tau = 1, the default, goes by in Ren et al. (2020)."""
