"""The engine under the multilabel losses that are a sum over examples and labels.

Such a loss is two curves of a logit, one for negatives and one for positives. The gradient is
worked out together with the value, chunk by chunk while the chunk is in the cache, and is all that
is kept for backward: one tensor of the logits' size and dtype.

Labels are sparse: everything is treated as negative first, then the positives are corrected. On the
CPU the positives of a dense target are searched for; on other devices, where the search would wait
for the device, both curves are computed everywhere and blended. Sparse CSR targets need no search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses.base import at_least_float32, check_multilabel, check_per_class

Curve = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Logits -> new tensors: values, and slopes with respect to the logit. Any shape."""

CPU_CHUNK = 1 << 18  # elements for each thread; smaller chunks cost more in calls than they save
DEVICE_CHUNK = 1 << 21
DENSE_SHARE = 1 / 8  # with more positives than this, blending beats gathering


@dataclass(frozen=True)
class Terms:
    """What a pointwise loss is made of."""

    negative: Curve
    positive: Curve
    negative_weight: Tensor | None = None
    """(C,), on elements as far as they are negative."""
    positive_weight: Tensor | None = None
    """(C,), on elements as far as they are positive."""
    example_weight: Tensor | None = None
    """(B,)"""
    shift: Tensor | None = None
    """(C,), subtracted from the logits."""
    element_weight: Callable[[int, int], Tensor] | None = None
    """(first row, end row) -> (rows, C)"""


def pointwise(logits: Tensor, targets: Tensor, terms: Terms, reduction: str) -> Tensor:
    """Sum, mean over B·C, or ``(B, C)`` of the elements' losses.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B, C)``, dense or sparse CSR. Floating values between 0 and 1 mix the two
            curves linearly; of integers, any value but 0 is a positive.
        terms: curves and weights.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or ``(B, C)`` for ``"none"``. It can be differentiated once, by the logits only.

    Raises:
        TypeError: If logits are not floating point, or targets are sparse but not CSR.
        ValueError: If shapes do not agree.
    """
    check_multilabel(logits, targets)
    check_layout(targets)
    check_per_class("pos_weight", terms.positive_weight, logits)
    check_per_class("weight", terms.negative_weight, logits)
    if terms.example_weight is not None and terms.example_weight.shape != logits.shape[:1]:
        raise ValueError(
            f"Expected example_weight to be of shape ({logits.shape[0]},), "
            f"but got {tuple(terms.example_weight.shape)}"
        )
    keep = torch.is_grad_enabled() and logits.requires_grad
    value: Tensor = _Pointwise.apply(logits, targets, terms, reduction == "none", keep)
    return value / logits.numel() if reduction == "mean" else value


def check_layout(targets: Tensor) -> None:
    """Raise unless targets are dense or sparse CSR."""
    if targets.layout not in (torch.strided, torch.sparse_csr):
        raise TypeError(f"Expected targets to be dense or sparse CSR, but got {targets.layout}")


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, terms: Terms, elements: bool, keep: bool
    ) -> Tensor:
        slopes = torch.empty_like(logits) if keep else None
        out = torch.empty_like(logits) if elements else None
        sums = []
        for first, end, value, slope in _chunks(logits, targets, terms):
            if slopes is not None:
                slopes[first:end] = slope
            if out is None:
                sums.append(value.sum())
            else:
                out[first:end] = value
        if slopes is not None:
            ctx.save_for_backward(slopes)
        if out is not None:
            return out
        if not sums:
            return logits.new_zeros((), dtype=at_least_float32(logits.dtype))
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return scaled_slopes(slopes, grad), None, None, None, None


def scaled_slopes(slopes: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the logits. A mean's 1/(B·C) does not fit into half precision.

    Raises:
        RuntimeError: If the gradient is to be differentiated again.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        # Without this the second derivative would silently be zero.
        raise RuntimeError(
            "Expected a multilabel loss to be differentiated once, but got create_graph=True; "
            "for second derivatives write the loss in plain torch operations"
        )
    dtype = at_least_float32(slopes.dtype)
    return (slopes.to(dtype) * grad.to(dtype)).to(slopes.dtype)


def _chunks(
    logits: Tensor, targets: Tensor, terms: Terms
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """First row, end row, values and slopes of one chunk of rows after another."""
    num_rows, num_classes = logits.shape
    dtype = at_least_float32(logits.dtype)
    on_cpu = may_look(logits)
    chunk = CPU_CHUNK * torch.get_num_threads() if on_cpu else DEVICE_CHUNK
    step = max(1, chunk // max(1, num_classes))
    if torch.compiler.is_compiling() or (targets.layout != torch.strided and not on_cpu):
        step = max(1, num_rows)  # the compiler fuses; and where rows begin is on the device
    found = find_positives(targets, dtype, step, on_cpu) if logits.numel() else None
    negative_weight, positive_weight, example_weight, shift = (
        None if w is None else w.detach().to(dtype)
        for w in (terms.negative_weight, terms.positive_weight, terms.example_weight, terms.shift)
    )
    for number, first in enumerate(range(0, num_rows, step)):
        end = min(first + step, num_rows)
        z = logits[first:end].to(dtype)
        if shift is not None:
            z = z - shift
        value, slope = terms.negative(z)
        if negative_weight is not None:
            value *= negative_weight
            slope *= negative_weight
        if found is None:
            y = _as_fraction(targets[first:end], dtype)
            p_value, p_slope = terms.positive(z)
            if positive_weight is not None:
                p_value *= positive_weight
                p_slope *= positive_weight
            value = torch.lerp(value, p_value, y)
            slope = torch.lerp(slope, p_slope, y)
        else:
            index, values, bounds = found
            here = slice(bounds[number], bounds[number + 1])
            at = index[here] - first * num_classes
            p_value, p_slope = terms.positive(z.reshape(-1).index_select(0, at))
            if positive_weight is not None:
                by_label = positive_weight.index_select(0, at % num_classes)
                p_value *= by_label
                p_slope *= by_label
            flat_value, flat_slope = value.view(-1), slope.view(-1)
            if values is not None:
                y = values[here]
                p_value = torch.lerp(flat_value.index_select(0, at), p_value, y)
                p_slope = torch.lerp(flat_slope.index_select(0, at), p_slope, y)
            flat_value.index_copy_(0, at, p_value)
            flat_slope.index_copy_(0, at, p_slope)
        if terms.element_weight is not None:
            by_element = terms.element_weight(first, end)
            value *= by_element
            slope *= by_element
        if example_weight is not None:
            by_example = example_weight[first:end].unsqueeze(1)
            value *= by_example
            slope *= by_example
        yield first, end, value, slope


def may_look(tensor: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device or breaking a graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def find_positives(
    targets: Tensor, dtype: torch.dtype, step: int, on_cpu: bool
) -> tuple[Tensor, Tensor | None, list[int]] | None:
    """Flat positions of the positives, their values unless all 1, and where each chunk begins.

    ``None`` if blending is the better way.
    """
    num_rows, num_classes = targets.shape
    if targets.layout == torch.sparse_csr:
        row_begins, columns = targets.crow_indices(), targets.col_indices()
        index = csr_rows(targets) * num_classes + columns
        values = _as_fraction(targets.values(), dtype)
        if not on_cpu:
            return index, values, [0, columns.numel()]
        starts = [*range(0, num_rows, step), num_rows]
        return index, values, row_begins[starts].tolist()
    if not on_cpu:
        return None
    flat = targets.reshape(-1)
    index = _nonzero(flat)
    if index.numel() > DENSE_SHARE * flat.numel():
        return None
    starts_at = torch.arange(0, num_rows + step, step).clamp_(max=num_rows) * num_classes
    bounds = torch.searchsorted(index, starts_at).tolist()
    if not flat.is_floating_point():
        return index, None, bounds
    fractions = flat.index_select(0, index).to(dtype)
    return index, None if bool((fractions == 1).all()) else fractions, bounds


def _nonzero(flat: Tensor) -> Tensor:
    """Positions of non-zero elements, looking at eight at a time first."""
    bits = flat.bool()
    if bits.numel() % 8 or bits.data_ptr() % 8 or bits.storage_offset() % 8:
        return bits.nonzero().view(-1)
    words = bits.view(torch.int64).nonzero().view(-1)
    within = bits.view(-1, 8).index_select(0, words).nonzero()
    return words.index_select(0, within[:, 0]).mul_(8).add_(within[:, 1])


def _as_fraction(values: Tensor, dtype: torch.dtype) -> Tensor:
    return (values if values.is_floating_point() else values.bool()).to(dtype)


def csr_rows(targets: Tensor) -> Tensor:
    """The row of each stored element of a sparse CSR matrix."""
    row_begins = targets.crow_indices()
    rows = torch.arange(targets.shape[0], device=row_begins.device)
    size = targets.col_indices().numel()
    return rows.repeat_interleave(row_begins.diff(), output_size=size)


def positive_sums(targets: Tensor, vector: Tensor) -> Tensor:
    """``(B,)``: for each example, the sum of ``vector`` over its positives. Dense or CSR."""
    if targets.layout == torch.sparse_csr:
        terms = vector.index_select(0, targets.col_indices().long())
        terms = terms * _as_fraction(targets.values(), vector.dtype)
        return vector.new_zeros(targets.shape[0]).index_add_(0, csr_rows(targets), terms)
    return _as_fraction(targets, vector.dtype) @ vector


def softplus(z: Tensor) -> Tensor:
    """log(1 + exp(z)), to the last digit also in float64."""
    return F.softplus(z, threshold=50.0)


def mirrored(curve: Curve) -> Curve:
    """The curve of −z: what a loss that treats both sides alike does to positives."""

    def flipped(z: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = curve(-z)
        return value, slope.neg_()

    return flipped
