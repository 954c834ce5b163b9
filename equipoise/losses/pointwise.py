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
from equipoise.losses.positives import (
    Positives,
    as_fraction,
    find_positives,
    may_look,
)

Weight = Tensor | float | None
"""(C,), or one number for all labels, or nothing."""

CPU_CHUNK = 1 << 17  # elements for each thread: a few tensors of this size stay in the cache
DEVICE_CHUNK = 1 << 21


@dataclass(frozen=True)
class ElementWeight:
    """A weight of each element: ``floor + sigmoid(by_example · by_label − centre)``."""

    by_example: Tensor
    """(B,)"""
    by_label: Tensor
    """(C,)"""
    floor: float
    centre: float

    def combine(self, by_example: Tensor, by_label: Tensor) -> Tensor:
        """Broadcasts the two; gives a new tensor."""
        return (by_example * by_label).sub_(self.centre).sigmoid_().add_(self.floor)


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
                slope *= early
            elif kept is not None:
                kept.copy_(slope)
            if out is not None:
                out[rows] = value
                continue
            if found is not None:
                here = found.index[bounds[number] : bounds[number + 1]] - first * z.shape[1]
                value.view(-1).index_fill_(0, here, 0.0)
            sums.append(value.sum())
        if found is not None:
            value, slope = _of_positives(logits, terms, found)
            if slopes is not None:
                slope *= early
                slopes.view(-1).index_copy_(0, found.index, slope.to(slopes.dtype))
            if out is not None:
                out.view(-1).index_copy_(0, found.index, value.to(out.dtype))
            sums.append(value.sum())
        if slopes is not None:
            ctx.save_for_backward(slopes)
            ctx.scale = 1.0 if early == scale else scale
        if out is not None:
            return out if scale == 1.0 else out.mul_(scale)
        total = torch.stack(sums).sum() if sums else logits.new_zeros((), dtype=dtype)
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        if ctx.scale != 1.0:
            grad = grad.to(at_least_float32(grad.dtype)) * ctx.scale
        return scaled_slopes(slopes, grad), None, None, None, None, None


def scaled_slopes(slopes: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the logits; in the slopes' place, if they are not needed again.

    Raises:
        RuntimeError: If the gradient is to be differentiated again.
    """
    if torch.compiler.is_compiling():
        again = True
    elif torch.is_grad_enabled():
        # Without this the second derivative would silently be zero.
        raise RuntimeError(
            "Expected a multilabel loss to be differentiated once, but got create_graph=True; "
            "for second derivatives write the loss in plain torch operations"
        )
    else:
        again = keeps_graph()
    dtype = at_least_float32(slopes.dtype)
    if slopes.dtype != dtype:
        return (slopes.to(dtype) * grad.to(dtype)).to(slopes.dtype)
    if again:
        return slopes * grad
    done = grad.ndim == 0 and may_look(grad) and float(grad) == 1.0
    return slopes if done else slopes.mul_(grad)


def keeps_graph() -> bool:
    """Whether what was kept for backward, which is now running, will be needed again."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


def _of_rows(z: Tensor, slope: Tensor, terms: Terms, rows: slice, blended: Tensor | None) -> Tensor:
    """Values of a chunk; writes its slopes. All are negatives, unless targets are blended in."""
    value = _negatives(z, slope, terms, terms.shift)
    _weigh(terms.negative_weight, value, slope)
    if blended is not None:
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
        n_value = _negatives(z, n_slope, terms, shift)
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
    scale = terms.negative_scale
    if shift is not None:
        z = torch.add(shift * -scale, z, alpha=scale)
    elif scale != 1.0:
        z = z * scale
    value = terms.negative(z, slope)
    return value if scale == 1.0 else value.div_(scale)


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
