"""The engine under the losses that are a cross-entropy of logits adjusted by class.

On the CPU the gradient, softmax less one-hot, is worked out together with the value, chunk by
chunk while the chunk is in the cache, and is kept for backward beside the logits. Elsewhere, under
``torch.compile`` and ``torch.func``, and for second derivatives, it is plain torch operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses.base import at_least_float32
from equipoise.losses.curves import LOG2_E
from equipoise.losses.kept_slopes import keeps_graph, scaled_slopes
from equipoise.losses.pointwise import rows_in_a_chunk
from equipoise.losses.positives import may_look

LEAST_POWER = -100.0  # of 2, below which a share of a softmax is 0: denormal numbers are slow

Adjust = Callable[[Tensor, Tensor], Tensor]
"""(logits of some rows, their targets) -> adjusted logits, a new tensor, differentiable."""


def adjusted_cross_entropy(
    logits: Tensor, targets: Tensor, adjust: Adjust, factor: Tensor | float = 1.0
) -> Tensor:
    """``−log softmax(adjust(z))_y`` of each example, ``(B,)``, in at least float32.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B,)`` int64 class ids in 0..C−1.
        adjust: works row by row.
        factor: the slope of ``adjust``, by class ``(C,)`` or one for all.

    Only logits receive a gradient.
    """
    if (
        not may_look(logits)
        or torch._C._are_functorch_transforms_active()
        or (targets.numpy() < 0).any()  # ignored, or refused, as by torch
    ):
        return _plain(logits, targets, adjust)
    keep = torch.is_grad_enabled() and logits.requires_grad
    value: Tensor = _AdjustedCrossEntropy.apply(logits, targets, adjust, factor, keep)
    return value


def _plain(logits: Tensor, targets: Tensor, adjust: Adjust) -> Tensor:
    adjusted = adjust(logits.to(at_least_float32(logits.dtype)), targets)
    return F.cross_entropy(adjusted, targets, reduction="none")


class _AdjustedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        adjust: Adjust,
        factor: Tensor | float,
        keep: bool,
    ) -> Tensor:
        dtype = at_least_float32(logits.dtype)
        # Shares times ``total``: dividing waits for backward, which passes over them anyway. In
        # float32 for half precision too: small shares count once a GradScaler multiplies them.
        slopes = logits.new_empty(logits.shape, dtype=dtype) if keep else None
        own = logits.new_empty(logits.shape[0], dtype=dtype)
        total = torch.empty_like(own)
        step = rows_in_a_chunk(logits)
        for first in range(0, logits.shape[0], step):
            rows = slice(first, first + step)
            true = targets[rows].unsqueeze(1)
            power = adjust(logits[rows].to(dtype), targets[rows])
            power.sub_(power.amax(1, keepdim=True)).mul_(LOG2_E)  # exp2 is faster than exp
            own[rows] = power.gather(1, true).squeeze(1)
            torch.threshold_(power, LEAST_POWER, -math.inf)
            share = torch.exp2(power, out=power if slopes is None else slopes[rows])
            total[rows] = share.sum(1)
            if slopes is not None:
                share.scatter_add_(1, true, -total[rows].unsqueeze(1))
                if isinstance(factor, Tensor):
                    share *= factor
        if slopes is not None:
            scale = total.reciprocal()
            scale = scale if isinstance(factor, Tensor) else scale.mul_(factor)
            ctx.save_for_backward(targets, slopes, scale)
            ctx.adjust, ctx.logits, ctx.version = adjust, logits, logits._version
        return total.log2_().sub_(own).div_(LOG2_E)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        targets, slopes, scale = ctx.saved_tensors
        logits = ctx.logits
        if not keeps_graph():  # whoever keeps the loss's value does not keep the logits with it
            ctx.logits = None
        if torch.is_grad_enabled():  # the gradient will be differentiated: by torch's operations
            if logits._version != ctx.version:
                raise RuntimeError(
                    "Expected logits as the loss was given them, for second derivatives, but they "
                    "were changed in place"
                )
            value = _plain(logits, targets, ctx.adjust)
            (found,) = torch.autograd.grad(value, logits, grad, create_graph=True)
        else:
            found = scaled_slopes(slopes, (scale * grad).unsqueeze(1)).to(logits.dtype)
        return found, None, None, None, None
