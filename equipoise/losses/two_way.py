"""Two-way loss: positives against negatives, within each example and within each label."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    at_least_float32,
    check_choice,
    check_multilabel,
    check_number,
    check_per_class,
)
from equipoise.losses.pointwise import scaled_slopes

REDUCTIONS = ("mean", "sum")


def two_way_loss(
    logits: Tensor,
    targets: Tensor,
    positive_temperature: float = 4.0,
    negative_temperature: float = 1.0,
    log_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Soft margin between a group's positives and its negatives; groups are rows and columns.

    Kobayashi, "Two-Way Multi-Label Loss" (2023)::

        softplus( T_n log Σ_negatives exp(z/T_n) + T_p log Σ_positives exp(λ_c − z/T_p) )

    over each example's labels, and over each label's examples in the batch. Groups without
    positives are left out; a group without negatives costs nothing.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B, C)``, 0/1 of any dtype, dense; any value above 0 is a positive.
        positive_temperature: T_p > 0.
        negative_temperature: T_n > 0.
        log_weight: λ, ``(C,)``: a positive counts as ``exp(λ_c)`` positives.
        reduction: ``"mean"``, the mean over examples that have a positive plus the mean over
            labels that have one; ``"sum"``, the two sums.

    Returns:
        A scalar: float32 for half-precision logits. Only logits receive a gradient, and it can be
        differentiated once.

    Raises:
        TypeError: If logits are not floating point, or targets are sparse.
        ValueError: If shapes do not agree or ``reduction`` is unknown.

    Example:
        >>> import torch
        >>> two_way_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.6931)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_multilabel(logits, targets)
    check_per_class("log_weight", log_weight, logits)
    if targets.layout != torch.strided:
        raise TypeError(f"Expected targets to be dense, but got {targets.layout}")
    keep = torch.is_grad_enabled() and logits.requires_grad
    temperatures = (positive_temperature, negative_temperature)
    weight = None if log_weight is None else log_weight.detach()
    value: Tensor = _TwoWay.apply(logits, targets, temperatures, weight, reduction, keep)
    return value


class _TwoWay(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        temperatures: tuple[float, float],
        log_weight: Tensor | None,
        reduction: str,
        keep: bool,
    ) -> Tensor:
        t_p, t_n = temperatures
        dtype = at_least_float32(logits.dtype)
        z, positive = logits.to(dtype), targets > 0
        rising = z / t_n
        falling = z / -t_p
        if log_weight is not None:
            falling += log_weight.to(dtype)
        # A true −∞ leaves no trace, whatever the size of the logits.
        negatives = rising.masked_fill(positive, float("-inf"))
        positives = falling.masked_fill(~positive, float("-inf"))
        exponent = torch.where(positive, falling, rising)
        total = z.new_zeros(())
        slopes = torch.zeros_like(z) if keep else None
        for dim in (1, 0):
            if not logits.numel():
                break
            log_n = negatives.logsumexp(dim, keepdim=True)
            log_p = positives.logsumexp(dim, keepdim=True)
            margin = t_n * log_n + t_p * log_p
            divisor = torch.ones_like(total)
            if reduction == "mean":
                divisor = positive.any(dim).sum().clamp_min(1).to(dtype)
            total = total + F.softplus(margin).sum() / divisor
            if slopes is not None:
                pull = margin.sigmoid() / divisor  # 0 for a group with an empty side
                push = torch.where(positive, log_p, log_n)
                share = (exponent - push).exp_().mul_(pull)
                # The other side's elements of a group that is empty on one side: exp(x − x) is
                # finite, pull is 0.
                slopes += torch.where(positive, -share, share)
        if slopes is not None:
            ctx.save_for_backward(slopes.to(logits.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return scaled_slopes(slopes, grad), None, None, None, None, None


class TwoWayLoss(Loss):
    """Two-way loss; see the function. It has no per-element form, so it cannot be mined.

    Args:
        positive_temperature: T_p > 0.
        negative_temperature: T_n > 0.
        log_weight: λ, ``(C,)``: a positive counts as ``exp(λ_c)`` positives.
        reduction: ``"mean"`` (over examples, plus over labels) or ``"sum"``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> TwoWayLoss()(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.6931)
    """

    multilabel = True

    def __init__(
        self,
        positive_temperature: float = 4.0,
        negative_temperature: float = 1.0,
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
    ) -> None:
        check_choice("reduction", reduction, REDUCTIONS)
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.positive_temperature = check_number("positive_temperature", positive_temperature, 1e-6)
        self.negative_temperature = check_number("negative_temperature", negative_temperature, 1e-6)

    def unreduced(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Not there: the loss compares elements with each other.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "Expected a loss with a per-element form, but got TwoWayLoss, which compares the "
            "elements of a batch with each other; for mining, use another loss"
        )

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return two_way_loss(
            logits,
            targets,
            self.positive_temperature,
            self.negative_temperature,
            self.log_weight,
            reduction=reduction,
        )

    def correct(self, logits: Tensor) -> Tensor:
        """The logits as they are: they are ranks, without a closed form for probabilities."""
        return logits
