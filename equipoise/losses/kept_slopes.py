"""Backward of the losses whose forward has worked out the gradient already."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.losses.base import at_least_float32
from equipoise.losses.positives import may_look


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
            "Expected this loss to be differentiated once, but got create_graph=True; "
            "for second derivatives write the loss in plain torch operations"
        )
    else:
        batched = torch._C._functorch.is_legacy_batchedtensor(grad)  # is_grads_batched=True
        again = keeps_graph() or batched
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
