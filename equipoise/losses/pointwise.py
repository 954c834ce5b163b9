"""The engine under the multilabel losses that are a sum over examples and labels.

Such a loss is two curves of a logit, one for negatives and one for positives. The gradient is
worked out together with the value, chunk by chunk while the chunk is in the cache, and is all that
is kept for backward: one tensor of the logits' size and dtype, which then becomes the gradient.

Labels are sparse: everything is treated as negative, and the positives, gathered into one short
vector, replace what they were taken for. On the CPU the positives of a dense target are searched
for; on other devices, where the search would wait for the device, both curves are computed
everywhere and blended. Sparse CSR targets need no search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equipoise.losses.base import at_least_float32, check_multilabel, check_per_class
from equipoise.losses.curves import Curve
from equipoise.losses.kept_slopes import scaled_slopes
from equipoise.losses.positives import (
    Positives,
    as_fraction,
    find_positives,
    may_look,
)

Weight = Tensor | float | None
"""(C,), or one number for all labels, or nothing."""

CPU_CHUNK = 3 << 16  # elements for each thread: a few tensors of this size stay near the core
DEVICE_CHUNK = 1 << 21


@dataclass(frozen=True)
class ElementWeight:
    """A weight of each element: ``scale (floor + sigmoid(by_example · by_label − centre))``."""

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

    negative: Curve
    positive: Curve
    negative_weight: Weight = None
    """On elements as far as they are negative."""
    positive_weight: Weight = None
    """On elements as far as they are positive."""
    example_weight: Tensor | None = None
    """(B,)"""
    shift: Tensor | None = None
    """(C,), subtracted from the logits."""
    negative_scale: float = 1.0
    """s: a negative costs ``curve(s·z)/s``."""
    element_weight: ElementWeight | None = None
    focusing: tuple[float, float, float] | None = None
    """What the curves are, if the fused kernel is to do it: γ−, γ+, and the negatives' margin."""
    scale: float = 1.0
    """On everything. Costs less than the same weight on both sides."""

    def cast(self, dtype: torch.dtype) -> Terms:
        """The same with its vectors by label and by example in ``dtype``, without gradients."""

        def vector(given: Any) -> Any:
            return given.detach().to(dtype) if isinstance(given, Tensor) else given

        return replace(
            self,
            negative_weight=vector(self.negative_weight),
            positive_weight=vector(self.positive_weight),
            example_weight=vector(self.example_weight),
            shift=vector(self.shift),
        )


def pointwise(
    logits: Tensor,
    targets: Tensor,
    terms: Terms,
    reduction: str,
    found: Positives | None = None,
) -> Tensor:
    """Sum, mean over B·C, or ``(B, C)`` of the elements' losses.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B, C)``, dense or sparse CSR. Floating values between 0 and 1 mix the two
            curves linearly; of integers, any value but 0 is a positive.
        terms: curves and weights.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        found: what ``find_positives`` gives, if it has been called already.

    Returns:
        A scalar, or ``(B, C)`` for ``"none"``. It can be differentiated once, by the logits only.

    Raises:
        TypeError: If logits are not floating point, or targets are sparse but not CSR.
        ValueError: If shapes do not agree.
    """
    check_multilabel(logits, targets)
    for name, weight in (("pos_weight", terms.positive_weight), ("weight", terms.negative_weight)):
        check_per_class(name, weight if isinstance(weight, Tensor) else None, logits)
    if terms.example_weight is not None and terms.example_weight.shape != logits.shape[:1]:
        raise ValueError(
            f"Expected example_weight to be of shape ({logits.shape[0]},), "
            f"but got {tuple(terms.example_weight.shape)}"
        )
    terms = terms.cast(at_least_float32(logits.dtype))
    if reduction == "mean":
        terms = replace(terms, scale=terms.scale / logits.numel() if logits.numel() else math.nan)
    if terms.focusing is not None and logits.numel() and not torch.compiler.is_compiling():
        from equipoise.losses.fused import fused_pointwise

        return fused_pointwise(logits, targets, terms, reduction == "none")
    keep = torch.is_grad_enabled() and logits.requires_grad
    found = found or find_positives(targets, at_least_float32(logits.dtype))
    value: Tensor = _Pointwise.apply(logits, targets, terms, found, reduction == "none", keep)
    return value


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        terms: Terms,
        found: Positives | None,
        elements: bool,
        keep: bool,
    ) -> Tensor:
        dtype, scale = at_least_float32(logits.dtype), terms.scale
        # A mean's 1/(B·C) does not fit into half precision: there backward applies it.
        early = scale if logits.dtype == dtype and may_look(logits) else 1.0
        if terms.element_weight is not None:  # it takes the scale along, at no cost
            terms = replace(terms, element_weight=replace(terms.element_weight, scale=early))
            on_values, on_slopes = scale / early, 1.0
        else:
            on_values, on_slopes = scale, early
        slopes = _like(logits) if keep else None
        out = _like(logits) if elements else None
        step = rows_in_a_chunk(logits)
        if torch.compiler.is_compiling() or (found is not None and not may_look(logits)):
            step = max(1, logits.shape[0])  # the compiler fuses; where rows begin is on the device
        bounds = found.bounds(step) if found is not None else []
        sums = []
        for number, first in enumerate(range(0, logits.shape[0], step)):
            rows = slice(first, first + step)
            z = logits[rows].to(dtype).contiguous()
            kept = slopes[rows] if slopes is not None else None
            slope = kept if kept is not None and kept.dtype == dtype else torch.empty_like(z)
            value = _of_rows(z, slope, terms, rows, targets if found is None else None)
            if kept is slope:
                if on_slopes != 1.0:
                    slope *= on_slopes
            elif kept is not None:
                kept.copy_(slope)
            if out is not None:
                out[rows] = value if found is None else value / terms.negative_scale
                continue
            if found is not None:
                here = found.index[bounds[number] : bounds[number + 1]] - first * z.shape[1]
                value.view(-1).index_fill_(0, here, 0.0)
            sums.append(value.sum())
        if found is not None:
            value, slope = _of_positives(logits, terms, found)
            if slopes is not None:
                slope *= on_slopes
                slopes.view(-1).index_copy_(0, found.index, slope.to(slopes.dtype))
            if out is not None:
                out.view(-1).index_copy_(0, found.index, value.to(out.dtype))
            sums = [_total(sums, logits) / terms.negative_scale, value.sum()]
        if slopes is not None:
            ctx.save_for_backward(slopes)
            ctx.scale = 1.0 if early == scale else scale
        if out is not None:
            return out if on_values == 1.0 else out.mul_(on_values)
        return _total(sums, logits) * on_values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        if ctx.scale != 1.0:
            grad = grad.to(at_least_float32(grad.dtype)) * ctx.scale
        return scaled_slopes(slopes, grad), None, None, None, None, None


def _total(sums: list[Tensor], logits: Tensor) -> Tensor:
    dtype = at_least_float32(logits.dtype)
    return torch.stack(sums).sum() if sums else logits.new_zeros((), dtype=dtype)


def _of_rows(z: Tensor, slope: Tensor, terms: Terms, rows: slice, blended: Tensor | None) -> Tensor:
    """Values of a chunk; writes its slopes. All are negatives, unless targets are blended in.

    Without these, values are still to be divided by the negatives' scale.
    """
    value = _negatives(z, slope, terms, terms.shift)
    _weigh(terms.negative_weight, value, slope)
    if blended is not None:
        value /= terms.negative_scale
        z = z if terms.shift is None else z - terms.shift
        y = as_fraction(blended[rows], z.dtype)
        p_slope = torch.empty_like(z)
        p_value = terms.positive(z, p_slope)
        _weigh(terms.positive_weight, p_value, p_slope)
        value.lerp_(p_value, y)
        slope.lerp_(p_slope, y)
    if terms.element_weight is not None:
        w = terms.element_weight
        _weigh(w.combine(w.by_example[rows].unsqueeze(1), w.by_label), value, slope)
    if terms.example_weight is not None:
        _weigh(terms.example_weight[rows].unsqueeze(1), value, slope)
    return value


def _of_positives(logits: Tensor, terms: Terms, found: Positives) -> tuple[Tensor, Tensor]:
    """Values and slopes of the elements found."""
    z = logits.reshape(-1).index_select(0, found.index).to(at_least_float32(logits.dtype))
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
    if terms.example_weight is not None:
        _weigh(terms.example_weight.index_select(0, found.example), value, slope)
    return value, slope


def _negatives(z: Tensor, slope: Tensor, terms: Terms, shift: Tensor | None) -> Tensor:
    """Values times the negatives' scale; writes the slopes."""
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


def _like(logits: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def rows_in_a_chunk(logits: Tensor) -> int:
    """How many rows to treat at a time."""
    chunk = CPU_CHUNK * torch.get_num_threads() if may_look(logits) else DEVICE_CHUNK
    return max(1, chunk // max(1, logits.shape[1]))
