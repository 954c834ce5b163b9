"""The engine under the multilabel losses that are a sum over examples and labels.

Each of them is an asymmetric loss, of which `Terms` has the parts. Labels are sparse: everything is
treated as negative, chunk by chunk, and the positives, gathered into one short vector, replace what
they were taken for. The gradient is all that is kept for backward: one tensor of the logits' size
and dtype, which then becomes the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.losses.base import at_least_float32
from equipoise.losses.engine import power, rows_in_a_chunk, softplus, worked_out

Weight = Tensor | float | None
"""(C,), or one number for all labels, or nothing."""
DENSE_SHARE = 1 / 8  # with more positives than this, they are not listed
NOTHING = 1e-7  # stands for a shifted probability of zero where it divides; smaller is slow


@dataclass(frozen=True)
class Positives:
    """The positives of `(B, C)` targets."""

    index: Tensor
    """Their places in the flattened matrix, row after row."""
    shape: torch.Size

    @cached_property
    def example(self) -> Tensor:
        """The row of each."""
        return self.index.div(self.shape[1], rounding_mode="floor")

    @cached_property
    def label(self) -> Tensor:
        """The column of each."""
        return self.index - self.example * self.shape[1]

    def chunks(self, step: int) -> Iterator[tuple[slice, Tensor]]:
        """`step` rows at a time, and the places of their positives in the flattened chunk."""
        num_rows, num_classes = self.shape
        starts = torch.arange(0, num_rows + step, step) * num_classes
        begins = torch.searchsorted(self.index, starts).tolist()
        for number, first in enumerate(range(0, num_rows, step)):
            here = self.index[begins[number] : begins[number + 1]] - first * num_classes
            yield slice(first, first + step), here

    def sums(self, vector: Tensor) -> Tensor:
        """`(B,)`: for each example, the sum of a `(C,)` vector over its positives."""
        each = vector.index_select(0, self.label)
        return vector.new_zeros(self.shape[0]).index_add_(0, self.example, each)


def find_positives(targets: Tensor) -> Positives | None:
    """The positives, or `None` if there are too many to be worth a list, or labels are soft."""
    if targets.layout == torch.sparse_csr:
        columns = targets.col_indices()
        begins = torch.arange(targets.shape[0]) * targets.shape[1]
        index = begins.repeat_interleave(targets.crow_indices().diff(), output_size=columns.numel())
        index = index.add_(columns)
        values = targets.values()
    else:
        flat = targets.detach().reshape(-1)
        index = _nonzero(flat)
        if index.numel() > DENSE_SHARE * flat.numel():
            return None
        values = flat.index_select(0, index)
    return Positives(index, targets.shape) if bool((values == 1).all()) else None


def _nonzero(flat: Tensor) -> Tensor:
    """Places of the non-zero elements, looking at eight at a time first.

    By NumPy, which is about three times as fast here as `torch.nonzero`.
    """
    bits = flat.bool().numpy()
    whole = bits.size // 8 * 8
    eights = bits[:whole].view(np.int64)
    some = np.flatnonzero(eights != 0)
    within = np.flatnonzero(eights[some].view(np.bool_))
    index = (some * 8)[within >> 3]
    index += within & 7
    rest = whole + np.flatnonzero(bits[whole:])
    return torch.from_numpy(np.concatenate([index, rest]) if rest.size else index)


@dataclass(frozen=True)
class ElementWeight:
    """A weight of each element: `floor + sigmoid(rate · by_label_c / S_i − centre)`.

    `S_i`, at least `least`, is the sum of `by_label` over the positives of example i.
    """

    by_label: Tensor
    """(C,)"""
    rate: float
    centre: float
    floor: float
    least: float

    def by_example(self, sums: Tensor) -> Tensor:
        """`(B,)`, given the sums of `by_label` over each example's positives."""
        return self.rate / sums.clamp_min(self.least)

    def combine(self, by_example: Tensor, by_label: Tensor, scale: float) -> Tensor:
        """Weights times `scale`, a new tensor; broadcasts the two."""
        centre = torch.full_like(by_label, -self.centre)  # as a number it would be slow
        weight = torch.addcmul(centre, by_example, by_label).sigmoid_()
        floor = by_label.new_full((), self.floor * scale)
        return torch.add(floor, weight, alpha=scale, out=weight)


@dataclass
class Terms:
    """A pointwise loss as the engine and the fused kernel take it.

    With `u = z − shift` and `F(t; γ, m) = −p^γ log(1−p)`, `p = max(σ(t) − m, 0)`, a negative costs
    `F(s·u; γ−, m)/s` and a positive `F(−u; γ+, 0)`, each times its weights.
    """

    gamma_neg: float = 0.0
    gamma_pos: float = 0.0
    margin: float = 0.0
    detached: bool = False
    """Whether p^γ is a weight without a gradient."""
    negative_weight: Weight = None
    """On elements as far as they are negative."""
    positive_weight: Weight = None
    """On elements as far as they are positive."""
    shift: Tensor | None = None
    """(C,)"""
    negative_scale: float = 1.0
    """s"""
    element_weight: ElementWeight | None = None
    scale: float = 1.0
    """On everything. Costs less than the same weight on both sides."""


def curve(z: Tensor, slope: Tensor, gamma: float, margin: float, detached: bool) -> Tensor:
    """`F(z; γ, m)` of any shape, a new tensor; its derivative is written to `slope`.

    Without a margin that is `σ^γ softplus(z)` and `σ^γ (γ (1−σ) softplus(z) + σ)`, which has no
    power γ − 1, so that nothing is divided by zero where σ vanishes; if detached, `σ^(γ+1)`.
    """
    sigma = torch.sigmoid(z, out=slope)
    if margin == 0.0:
        value = softplus(z)
        if gamma == 0.0:
            return value
        factor = power(sigma, gamma)
        value.mul_(factor)
        rest = None if detached else torch.rsub(sigma, 1.0)
        slope.mul_(factor)
        if rest is not None:
            slope.addcmul_(rest, value, value=gamma)
        return value
    minus_p = torch.rsub(sigma, margin).clamp_max_(-NOTHING)
    factor = power(minus_p if gamma % 2.0 == 0.0 else -minus_p, gamma)
    if gamma < 2.0:  # otherwise it vanishes by itself
        factor *= sigma > margin
    value = torch.log1p(minus_p).mul_(factor).neg_()
    by_p = factor.div_(minus_p + 1.0)
    if not detached:
        by_p.add_(torch.div(value, minus_p, out=minus_p), alpha=-gamma)
    torch.ops.aten.sigmoid_backward.grad_input(by_p, sigma, grad_input=slope)
    return value


def pointwise(
    logits: Tensor,
    found: Positives,
    terms: Terms,
    reduction: str,
    plain: Callable[[Tensor], Tensor],
) -> Tensor:
    """Sum times the terms' scale, or `(B, C)` of the elements' losses; differentiable by logits.

    Weights are in the dtype to compute in; of a mean the scale has the 1/(B·C). `plain` is the same
    in torch's operations, for second derivatives.
    """
    return worked_out(
        logits, lambda keep: _value_and_slopes(logits, found, terms, reduction, keep), plain
    )


def _value_and_slopes(
    logits: Tensor, found: Positives, terms: Terms, reduction: str, keep: bool
) -> tuple[Tensor, Tensor | None, float]:
    dtype, scale, of_elements = at_least_float32(logits.dtype), terms.scale, terms.element_weight
    # A mean's 1/(B·C) does not fit into half precision: there backward applies it.
    early = scale if logits.dtype == dtype else 1.0
    on_values, on_slopes = scale, early
    if of_elements is not None:  # these weights take the scale along, at no cost
        on_values, on_slopes = scale / early, 1.0
        by_example = of_elements.by_example(found.sums(of_elements.by_label))
    slopes = _like(logits, logits.dtype) if keep else None
    out = _like(logits, dtype) if reduction == "none" else None
    s, shift = terms.negative_scale, terms.shift
    down = None if shift is None else shift * -s
    sums = [logits.new_zeros((), dtype=dtype)] if not len(logits) else []
    for rows, here in found.chunks(rows_in_a_chunk(logits)):
        z = logits[rows].to(dtype).contiguous()
        kept = slopes[rows] if slopes is not None else None
        slope = kept if kept is not None and kept.dtype == dtype else torch.empty_like(z)
        if down is not None:
            z = torch.add(down, z, alpha=s)
        elif s != 1.0:
            z = z * s
        value = curve(z, slope, terms.gamma_neg, terms.margin, terms.detached)
        _weigh(terms.negative_weight, value, slope)
        if of_elements is not None:
            of_rows = by_example[rows].unsqueeze(1)
            _weigh(of_elements.combine(of_rows, of_elements.by_label, early), value, slope)
        if kept is not None and kept is not slope:
            kept.copy_(slope)
        elif on_slopes != 1.0:
            slope *= on_slopes
        if out is not None:
            torch.div(value, s, out=out[rows])
            continue
        value.view(-1).index_fill_(0, here, 0.0)
        sums.append(value.sum())

    z = logits.reshape(-1).index_select(0, found.index).to(dtype)
    slope = torch.empty_like(z)
    minus_u = -z if shift is None else shift.index_select(0, found.label) - z
    value = curve(minus_u, slope, terms.gamma_pos, 0.0, terms.detached)
    slope.neg_()
    weight = terms.positive_weight
    if isinstance(weight, Tensor):
        weight = weight.index_select(0, found.label)
    _weigh(weight, value, slope)
    if of_elements is not None:
        of_positives = by_example.index_select(0, found.example)
        by_label = of_elements.by_label.index_select(0, found.label)
        _weigh(of_elements.combine(of_positives, by_label, early), value, slope)
    if slopes is not None:
        slope *= on_slopes
        slopes.view(-1).index_copy_(0, found.index, slope.to(slopes.dtype))
    if out is not None:
        total = out
        total.view(-1).index_copy_(0, found.index, value)
    else:
        total = torch.stack(sums).sum() / s + value.sum()
    total = total if on_values == 1.0 else total.mul_(on_values)
    return total, slopes, 1.0 if early == scale else scale


def _weigh(weight: Weight, value: Tensor, slope: Tensor) -> None:
    if weight is not None:
        value *= weight
        slope *= weight


def _like(logits: Tensor, dtype: torch.dtype) -> Any:
    return torch.empty_like(logits, dtype=dtype, memory_format=torch.contiguous_format)
