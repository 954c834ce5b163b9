"""Two-way loss: positives against negatives, within each example and within each label."""

from __future__ import annotations

import math
from typing import Any

import torch
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
from equipoise.losses.curves import LOG2_E, softplus
from equipoise.losses.kept_slopes import scaled_slopes
from equipoise.losses.pointwise import rows_in_a_chunk
from equipoise.losses.positives import Positives, find_positives, may_look

REDUCTIONS = ("mean", "sum")
LARGE = 40.0  # exp of this, and sums of a million of it, are far from the end of float32


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
        targets: ``(B, C)``, 0/1 of any dtype, dense or sparse CSR; any value but 0 is a positive.
        positive_temperature: T_p > 0.
        negative_temperature: T_n > 0.
        log_weight: λ, ``(C,)``: a positive counts as ``exp(λ_c)`` positives.
        reduction: ``"mean"``, the mean over examples that have a positive plus the mean over
            labels that have one; ``"sum"``, the two sums.

    Returns:
        A scalar: float32 for half-precision logits. Only logits receive a gradient, and it can be
        differentiated once.

    Raises:
        TypeError: If logits are not floating point, or targets are sparse but not CSR.
        ValueError: If shapes do not agree or ``reduction`` is unknown.

    Example:
        >>> import torch
        >>> two_way_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.6931)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_multilabel(logits, targets)
    check_per_class("log_weight", log_weight, logits)
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
        z = logits.to(at_least_float32(logits.dtype))
        lift = z.new_zeros(z.shape[1]) if log_weight is None else log_weight.to(z.dtype)
        found = find_positives(targets, z.dtype)
        done = None
        if found is not None and may_look(z):
            done = _by_sums(z.contiguous(), found, temperatures, lift, reduction, keep)
        if done is None:
            done = _by_logarithms(z, targets, found, temperatures, lift, reduction, keep)
        total, slopes = done
        if slopes is not None:
            ctx.save_for_backward(slopes.to(logits.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return scaled_slopes(slopes, grad), None, None, None, None, None


def _by_sums(
    z: Tensor,
    found: Positives,
    temperatures: tuple[float, float],
    lift: Tensor,
    reduction: str,
    keep: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """Value and slopes from plain sums of exponentials: one exponential an element.

    ``None`` where one of the sums is outside of what float32 can hold well: logits beyond about 40,
    or a group without negatives.
    """
    t_p, t_n = temperatures
    if found.fraction is not None:  # a stored zero is a negative
        found = found.only(found.fraction != 0)
    groups = (found.example, found.label)
    falling = z.view(-1).index_select(0, found.index).mul_(-1.0 / t_p).add_(lift[found.label])
    if falling.numel() and float(falling.abs().max()) > LARGE:
        return None
    falling.exp_()
    shares = torch.empty_like(z)
    step = rows_in_a_chunk(z)
    bounds = found.bounds(step)
    by_row, by_column = z.new_empty(z.shape[0]), z.new_zeros(z.shape[1])
    for number, first in enumerate(range(0, z.shape[0], step)):
        rows = slice(first, first + step)
        share = torch.mul(z[rows], LOG2_E / t_n, out=shares[rows]).exp2_()
        here = found.index[bounds[number] : bounds[number + 1]] - first * z.shape[1]
        share.view(-1).index_fill_(0, here, 0.0)
        torch.sum(share, 1, out=by_row[rows])
        by_column += share.sum(0)
    total = z.new_zeros(())
    pulls, pushes = [], []
    for negatives, group in zip((by_row, by_column), groups, strict=True):
        if not bool(((negatives > math.exp(-LARGE)) & (negatives < math.exp(LARGE))).all()):
            return None
        positives = torch.zeros_like(negatives).index_add_(0, group, falling)
        some = positives > 0
        margin = t_n * negatives.log() + t_p * positives.log()
        divisor = some.sum().clamp_min(1).to(z.dtype) if reduction == "mean" else 1.0
        total += softplus(margin).sum() / divisor
        pull = margin.sigmoid() / divisor
        pulls.append(pull / negatives)
        pushes.append(pull / positives.masked_fill(~some, 1.0))
    if not keep:
        return total, None
    for first in range(0, z.shape[0], step):
        rows = slice(first, first + step)
        shares[rows] *= pulls[0][rows].unsqueeze(1) + pulls[1]
    push = pushes[0][found.example].add_(pushes[1][found.label])
    shares.view(-1).index_copy_(0, found.index, push.mul_(falling).neg_())
    return total, shares


def _by_logarithms(
    z: Tensor,
    targets: Tensor,
    found: Positives | None,
    temperatures: tuple[float, float],
    lift: Tensor,
    reduction: str,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """Value and slopes for logits of any size."""
    t_p, t_n = temperatures
    # The other side is set to a true −∞: it leaves no trace, whatever the size of the logits.
    infinite = float("-inf")
    rising = z / t_n
    groups: tuple[Tensor | None, Tensor | None] = (None, None)
    if found is None:
        positive = targets != 0
        falling = (z / -t_p + lift).masked_fill_(~positive, infinite)
        rising.masked_fill_(positive, infinite)
    else:
        index, values = found.index, found.fraction
        groups = (found.label, found.example)
        falling = z.reshape(-1).index_select(0, index) / -t_p + lift[found.label]
        gone = torch.full_like(falling, infinite)
        if values is not None:  # a stored zero is a negative
            falling.masked_fill_(values == 0, infinite)
            gone = torch.where(values == 0, rising.view(-1).index_select(0, index), gone)
        rising.view(-1).index_copy_(0, index, gone)
    total = z.new_zeros(())
    slopes = torch.zeros_like(rising) if keep else None
    for dim in (1, 0) if z.numel() else ():
        log_n, share_n, _ = _log_sum(rising, dim)
        size = z.shape[1 - dim]
        group = groups[dim]
        log_p, share_p, some = (
            _log_sum(falling, dim) if group is None else _log_sum_of(falling, group, size)
        )
        margin = t_n * log_n + t_p * log_p
        divisor = some.sum().clamp_min(1).to(z.dtype) if reduction == "mean" else 1.0
        total = total + softplus(margin).sum() / divisor
        if slopes is not None:
            pull = margin.sigmoid() / divisor  # 0 for a group that is empty on one side
            slopes += share_n.mul_(pull.unsqueeze(dim))
            if group is None:
                slopes -= share_p.mul_(pull.unsqueeze(dim))
            else:
                slopes.view(-1).index_add_(0, index, share_p.mul_(pull[group]), alpha=-1.0)
    return total, slopes


def _log_sum(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row or column: log Σ exp(x), each element's share of the sum, whether any is finite.

    Where all are −∞, so is the logarithm, and the shares are 0.
    """
    top = x.amax(dim, keepdim=True)
    top.masked_fill_(top == float("-inf"), 0.0)
    share = (x - top).exp_()
    total = share.sum(dim, keepdim=True)
    some = total > 0
    share.div_(total.masked_fill(~some, 1.0))
    return (top + total.log()).squeeze(dim), share, some.squeeze(dim)


def _log_sum_of(x: Tensor, group: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a list of values, of which each belongs to one of ``size`` groups."""
    top = x.new_full((size,), float("-inf")).scatter_reduce_(0, group, x, "amax")
    top.masked_fill_(top == float("-inf"), 0.0)
    share = (x - top[group]).exp_()
    total = x.new_zeros(size).index_add_(0, group, share)
    some = total > 0
    share.div_(total.masked_fill(~some, 1.0)[group])
    return top + total.log(), share, some


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
