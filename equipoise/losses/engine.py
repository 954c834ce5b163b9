"""What stands in for plain torch operations where logits are large and lie on the CPU.

There the value and the gradient are worked out together, chunk by chunk while a chunk is in the
cache, and the gradient is kept for backward. Small inputs, other devices, `torch.compile` and
`torch.func` get the plain operations, which also give the second derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses.base import at_least_float32

LARGE = 1 << 18
"""Elements of the logits from which on the engine is faster than a few plain operations."""

CHUNK = 3 << 16  # elements for each thread: a few tensors of this size stay near the core
LOG2_E = math.log2(math.e)

Work = Callable[[bool], tuple[Tensor, Tensor | None, Tensor | float]]
"""whether a gradient is wanted -> (value, the gradient's unscaled elements, their scale)"""


def is_large(logits: Tensor, sooner: int = 0) -> bool:
    """Whether the engine is to be used: from LARGE / 2^`sooner` elements on."""
    return logits.numel() >= LARGE >> sooner and logits.ndim == 2 and may_look(logits)


def may_look(tensor: Tensor) -> bool:
    """Whether values can be looked at: on the CPU, and not traced, batched or transformed."""
    if not tensor.is_cpu or torch.compiler.is_compiling():
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:  # a tensor of torch.func, or of a batched backward, holds no data
        return False
    return True


def rows_in_a_chunk(logits: Tensor) -> int:
    """How many rows to treat at a time."""
    return max(1, CHUNK * torch.get_num_threads() // max(1, logits.shape[1]))


def worked_out(logits: Tensor, work: Work, plain: Callable[[Tensor], Tensor]) -> Tensor:
    """The value that `work` gives, `()`, `(B,)` or `(B, C)`, differentiable by the logits.

    `plain` gives the same from logits by torch's operations, for second derivatives.
    """
    keep = torch.is_grad_enabled() and logits.requires_grad
    value: Tensor = _WorkedOut.apply(logits, work, plain, keep)
    return value


class _WorkedOut(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, work: Work, plain: Callable[[Tensor], Tensor], keep: bool
    ) -> Tensor:
        value, slopes, ctx.scale = work(keep)
        if slopes is not None:
            ctx.save_for_backward(slopes)
            ctx.plain, ctx.logits, ctx.version = plain, logits, logits._version
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        logits, plain = ctx.logits, ctx.plain
        if not keeps_graph():  # whoever keeps the loss's value does not keep the logits with it
            ctx.logits = ctx.plain = None
        if torch.is_grad_enabled():  # the gradient will be differentiated: by torch's operations
            if logits._version != ctx.version:
                raise RuntimeError(
                    "Expected logits as the loss was given them, for second derivatives, but they "
                    "were changed in place"
                )
            (found,) = torch.autograd.grad(plain(logits), logits, grad, create_graph=True)
            return found, None, None, None
        if isinstance(ctx.scale, Tensor) or ctx.scale != 1.0:
            grad = grad.to(at_least_float32(grad.dtype)) * ctx.scale
        grad = grad.unsqueeze(1) if grad.ndim == 1 else grad
        return scaled_slopes(slopes, grad).to(logits.dtype), None, None, None


def scaled_slopes(slopes: Tensor, grad: Tensor) -> Tensor:
    """`slopes · grad`; in the slopes' place, if they are not needed again."""
    dtype = at_least_float32(slopes.dtype)
    if slopes.dtype != dtype:
        return (slopes.to(dtype) * grad.to(dtype)).to(slopes.dtype)
    if keeps_graph() or not may_look(grad):
        return slopes * grad
    return slopes if grad.ndim == 0 and float(grad) == 1.0 else slopes.mul_(grad)


def keeps_graph() -> bool:
    """Whether what was kept for backward, which is now running, will be needed again.

    torch tells this in an internal function alone. Without it the answer is yes, which costs one
    more tensor of the logits' size.
    """
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


def softplus(z: Tensor) -> Tensor:
    """log(1 + exp(z)), a new tensor.

    torch's spends half of its time in `exp`; its `exp2` takes a quarter of that. The relative error
    is about |z|/2²⁴: the exponent's own. In float64 it is torch's.
    """
    if z.dtype != torch.float32:
        return F.softplus(z, threshold=50.0)
    value = (z * LOG2_E).exp2_().log1p_()
    # A logit beyond 88 gives an infinity: rare, and a sum is the cheapest way to see it.
    return value if math.isfinite(float(value.sum())) else F.softplus(z, threshold=50.0)


def power(x: Tensor, exponent: float) -> Tensor:
    """`x ** exponent` as a new tensor; torch takes products up to the third power only."""
    return x.square().square_() if exponent == 4.0 else x.pow(exponent)
