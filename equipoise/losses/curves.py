"""The pieces of which the curves of multilabel losses are made."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses.positives import may_look

Curve = Callable[[Tensor, Tensor], Tensor]
"""(logits, out) -> values, a new tensor; slopes with respect to the logit are written to out.

Any shape; logits are left as they are.
"""

LOG2_E = math.log2(math.e)


def softplus(z: Tensor) -> Tensor:
    """log(1 + exp(z)), a new tensor.

    On the CPU, torch's spends half of its time in ``exp``; its ``exp2`` takes a quarter of that.
    The relative error is about |z|/2²⁴: the exponent's own. In float64 it is torch's.
    """
    if z.dtype != torch.float32 or not may_look(z):
        return F.softplus(z, threshold=50.0)
    value = (z * LOG2_E).exp2_().log1p_()
    # A logit beyond 88 gives an infinity: rare, and a sum is the cheapest way to see it.
    return value if math.isfinite(float(value.sum())) else F.softplus(z, threshold=50.0)


def power(x: Tensor, exponent: float) -> Tensor:
    """``x ** exponent`` as a new tensor, by products where that is much faster."""
    if exponent == 0.0:
        return torch.ones_like(x)
    if exponent == 1.0:
        return x.clone()
    if exponent == 2.0:
        return x * x
    if exponent == 3.0:
        return (x * x).mul_(x)
    if exponent == 4.0:
        square = x * x
        return square.mul_(square)
    return x.pow(exponent)


def mirrored(curve: Curve) -> Curve:
    """The curve of −z: what a loss that treats both sides alike does to positives."""

    def flipped(z: Tensor, out: Tensor) -> Tensor:
        value = curve(-z, out)
        out.neg_()
        return value

    return flipped
