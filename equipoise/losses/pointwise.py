"""The engine under the multilabel losses that are a sum over examples and labels.

Such a loss is two functions of a logit, one for negatives and one for positives. Labels are sparse:
everything is treated as negative, chunk by chunk, and the positives, gathered into one short
vector, replace what they were taken for. The gradient is all that is kept for backward: one tensor
of the logits' size and dtype, which then becomes the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equipoise.losses.base import at_least_float32
from equipoise.losses.engine import rows_in_a_chunk, worked_out
from equipoise.losses.positives import Positives

ValueAndSlope = Callable[[Tensor, Tensor], Tensor]
"""(logits, out) -> losses, a new tensor; their derivatives by the logit are written to out.

Any shape; logits are left as they are.
"""
Weight = Tensor | float | None
"""(C,), or one number for all labels, or nothing."""


def mirrored(negative: ValueAndSlope) -> ValueAndSlope:
    """The same of −z: what a loss that treats both sides alike does to positives."""

    def positive(z: Tensor, out: Tensor) -> Tensor:
        value = negative(-z, out)
        out.neg_()
        return value

    return positive


@dataclass(frozen=True)
class ElementWeight:
    """A weight of each element: `scale (floor + sigmoid(by_example · by_label − centre))`."""

    by_example: Tensor
    """(B,)"""
    by_label: Tensor
    """(C,)"""
    floor: float
    centre: float
    scale: float = 1.0

    def combine(self, by_example: Tensor, by_label: Tensor) -> Tensor:
        """Broadcasts the two; gives a new tensor."""
        centre = torch.full_like(by_label, -self.centre)  # as a number it would be slow
        weight = torch.addcmul(centre, by_example, by_label).sigmoid_()
        floor = by_label.new_full((), self.floor * self.scale)
        return torch.add(floor, weight, alpha=self.scale, out=weight)


@dataclass(frozen=True)
class Terms:
    """What a pointwise loss is made of."""

    negative: ValueAndSlope
    positive: ValueAndSlope
    negative_weight: Weight = None
    """On elements as far as they are negative."""
    positive_weight: Weight = None
    """On elements as far as they are positive."""
    shift: Tensor | None = None
    """(C,), subtracted from the logits."""
    negative_scale: float = 1.0
    """s: a negative costs `negative(s·z)/s`."""
    element_weight: ElementWeight | None = None
    focusing: tuple[float, float, float] | None = None
    """What the two functions are for the fused kernel: γ−, γ+, and the negatives' margin."""
    scale: float = 1.0
    """On everything. Costs less than the same weight on both sides."""

    def over(self, logits: Tensor, reduction: str) -> Terms:
        """The same, with a mean's 1/(B·C) in the scale."""
        return replace(self, scale=self.scale / logits.numel()) if reduction == "mean" else self


def pointwise(
    logits: Tensor,
    found: Positives,
    terms: Terms,
    reduction: str,
    plain: Callable[[Tensor], Tensor],
) -> Tensor:
    """Sum, mean over B·C, or `(B, C)` of the elements' losses; differentiable by the logits.

    Args:
        logits: `(B, C)`, any floating dtype.
        found: the positives.
        terms: functions and weights, `(C,)` in the dtype to compute in.
        reduction: `"mean"`, `"sum"` or `"none"`.
        plain: the same in torch's operations, for second derivatives.
    """
    over = terms.over(logits, reduction)
    return worked_out(
        logits, lambda keep: _value_and_slopes(logits, found, over, reduction, keep), plain
    )


def _value_and_slopes(
    logits: Tensor, found: Positives, terms: Terms, reduction: str, keep: bool
) -> tuple[Tensor, Tensor | None, float]:
    dtype, scale = at_least_float32(logits.dtype), terms.scale
    # A mean's 1/(B·C) does not fit into half precision: there backward applies it.
    early = scale if logits.dtype == dtype else 1.0
    on_values, on_slopes = scale, early
    if terms.element_weight is not None:  # it takes the scale along, at no cost
        terms = replace(terms, element_weight=replace(terms.element_weight, scale=early))
        on_values, on_slopes = scale / early, 1.0
    slopes = _like(logits, logits.dtype) if keep else None
    out = _like(logits, dtype) if reduction == "none" else None
    step = rows_in_a_chunk(logits)
    bounds = found.bounds(step)
    sums = [logits.new_zeros((), dtype=dtype)] if not len(logits) else []
    for number, first in enumerate(range(0, logits.shape[0], step)):
        rows = slice(first, first + step)
        z = logits[rows].to(dtype).contiguous()
        kept = slopes[rows] if slopes is not None else None
        slope = kept if kept is not None and kept.dtype == dtype else torch.empty_like(z)
        value = _negatives(z, slope, terms, terms.shift)
        _weigh(terms.negative_weight, value, slope)
        if terms.element_weight is not None:
            w = terms.element_weight
            _weigh(w.combine(w.by_example[rows].unsqueeze(1), w.by_label), value, slope)
        if kept is not None and kept is not slope:
            kept.copy_(slope)
        elif on_slopes != 1.0:
            slope *= on_slopes
        if out is not None:
            torch.div(value, terms.negative_scale, out=out[rows])
            continue
        here = found.index[bounds[number] : bounds[number + 1]] - first * z.shape[1]
        value.view(-1).index_fill_(0, here, 0.0)
        sums.append(value.sum())
    value, slope = _of_positives(logits, terms, found)
    if slopes is not None:
        slope *= on_slopes
        slopes.view(-1).index_copy_(0, found.index, slope.to(slopes.dtype))
    if out is not None:
        out.view(-1).index_copy_(0, found.index, value)
        total = out
    else:
        total = torch.stack(sums).sum() / terms.negative_scale + value.sum()
    total = total if on_values == 1.0 else total.mul_(on_values)
    return total, slopes, 1.0 if early == scale else scale


def _of_positives(logits: Tensor, terms: Terms, found: Positives) -> tuple[Tensor, Tensor]:
    """Losses and slopes of the elements found."""
    z = logits.reshape(-1).index_select(0, found.index)
    z = z.to(at_least_float32(logits.dtype))
    shift = None if terms.shift is None else terms.shift.index_select(0, found.label)
    slope = torch.empty_like(z)
    value = terms.positive(z if shift is None else z - shift, slope)
    _weigh(_at(terms.positive_weight, found.label), value, slope)
    if found.fraction is not None:
        n_slope = torch.empty_like(z)
        n_value = _negatives(z, n_slope, terms, shift).div_(terms.negative_scale)
        _weigh(_at(terms.negative_weight, found.label), n_value, n_slope)
        value = torch.lerp(n_value, value, found.fraction)
        slope = torch.lerp(n_slope, slope, found.fraction)
    if terms.element_weight is not None:
        w = terms.element_weight
        by_example = w.by_example.index_select(0, found.example)
        _weigh(w.combine(by_example, w.by_label.index_select(0, found.label)), value, slope)
    return value, slope


def _negatives(z: Tensor, slope: Tensor, terms: Terms, shift: Tensor | None) -> Tensor:
    """Losses times the negatives' scale; writes the slopes."""
    scale = terms.negative_scale
    if shift is not None:
        z = torch.add(shift * -scale, z, alpha=scale)
    elif scale != 1.0:
        z = z * scale
    return terms.negative(z, slope)


def _weigh(weight: Weight, value: Tensor, slope: Tensor) -> None:
    if weight is not None:
        value *= weight
        slope *= weight


def _at(weight: Weight, label: Tensor) -> Weight:
    return weight.index_select(0, label) if isinstance(weight, Tensor) else weight


def _like(logits: Tensor, dtype: torch.dtype) -> Any:
    return torch.empty_like(logits, dtype=dtype, memory_format=torch.contiguous_format)
