"""The engine under the two-way loss: one exponential for each element."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.losses.base import at_least_float32
from equipoise.losses.engine import LOG2_E, rows_in_a_chunk, softplus, worked_out
from equipoise.losses.pointwise import find_positives

LARGEST = 40.0  # exp of this, and sums of a million of it, are far from the end of float32


def two_way_by_sums(
    logits: Tensor,
    targets: Tensor,
    t_p: float,
    t_n: float,
    log_weight: Tensor | None,
    reduction: str,
    plain: Callable[[Tensor], Tensor],
) -> Tensor | None:
    """The loss from plain sums of exponentials.

    `None` where these do not do: without positives found, or where a sum is outside of what float32
    can hold well (logits beyond about 40, or a group without negatives).
    """
    z = logits.detach().to(at_least_float32(logits.dtype)).contiguous()
    found = find_positives(targets)
    if found is None:
        return None
    groups = (found.example, found.label)
    falling = z.view(-1).index_select(0, found.index).mul_(-1.0 / t_p)
    if log_weight is not None:
        falling += log_weight[found.label]
    if falling.numel() and float(falling.abs().max()) > LARGEST:
        return None
    falling.exp_()
    shares = torch.empty_like(z)
    step = rows_in_a_chunk(z)
    by_row, by_column = z.new_empty(z.shape[0]), z.new_zeros(z.shape[1])
    for rows, here in found.chunks(step):
        share = torch.mul(z[rows], LOG2_E / t_n, out=shares[rows]).exp2_()
        share.view(-1).index_fill_(0, here, 0.0)
        torch.sum(share, 1, out=by_row[rows])
        by_column += share.sum(0)
    total = z.new_zeros(())
    pulls, pushes = [], []
    for negatives, group in zip((by_row, by_column), groups, strict=True):
        if not bool(((negatives > math.exp(-LARGEST)) & (negatives < math.exp(LARGEST))).all()):
            return None
        positives = torch.zeros_like(negatives).index_add_(0, group, falling)
        some = positives > 0
        margin = t_n * negatives.log() + t_p * positives.log()
        divisor = some.sum().clamp_min(1).to(z.dtype) if reduction == "mean" else 1.0
        total += softplus(margin).sum() / divisor
        pull = margin.sigmoid() / divisor
        pulls.append(pull / negatives)
        pushes.append(pull / positives.masked_fill(~some, 1.0))

    def work(keep: bool) -> tuple[Tensor, Tensor | None, float]:
        if not keep:
            return total, None, 1.0
        for first in range(0, z.shape[0], step):
            rows = slice(first, first + step)
            shares[rows] *= pulls[0][rows].unsqueeze(1) + pulls[1]
        push = pushes[0][found.example].add_(pushes[1][found.label])
        shares.view(-1).index_copy_(0, found.index, push.mul_(falling).neg_())
        return total, shares.to(logits.dtype), 1.0

    return worked_out(logits, work, plain)
