"""Decisions: undo at prediction time what sampling and loss did, and fit what is left."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["equal_recall_offset"]


def equal_recall_offset(
    logits: Tensor, targets: Tensor, *, temperature: float = 0.5, ridge: float = 1e-3
) -> Tensor:
    """Per-class offsets b under which argmax(z + b) has the same recall in every class.

    Minimises the spread of the recalls, Σ_c (R_c(b) − R̄(b))² + ridge · mean(b²) / scale², where
    R_c(b) is the mean of softmax((z + b) / t)_c over the examples of class c: a smooth stand-in
    for the recall, which L-BFGS can follow. `scale` is the logits' own standard deviation, and
    t = temperature · scale; a second pass at a fifth of t starts where the first ended.

    Args:
        logits: `(N, C)` of a hold-out the network did not train on.
        targets: `(N,)` class ids, every class at least once.
        temperature: of the stand-in.
        ridge: how much a larger offset has to gain.

    Returns:
        `(C,)` float64 on the CPU, mean zero.

    Raises:
        ValueError: shapes that do not match, NaN or infinite logits, a class without examples.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.5]])
        >>> offset = equal_recall_offset(logits, torch.tensor([0, 0, 1, 1]))
        >>> bool(offset[1] > offset[0])
        True
    """
    from scipy.optimize import minimize

    z, y = _checked(logits, targets)
    scale = float((z - z.mean(1, keepdim=True)).std().clamp_min(1e-6))
    z = z / scale
    share = torch.nn.functional.one_hot(y, z.shape[1]).double()
    share /= share.sum(0)  # of each example in its class's recall

    def spread(offset: np.ndarray, temperature: float) -> tuple[float, np.ndarray]:
        b = torch.tensor(offset, requires_grad=True)
        recalls = (share * torch.softmax((z + b) / temperature, 1)).sum(0)
        loss = (recalls - recalls.mean()).square().sum() + ridge * b.square().mean()
        (gradient,) = torch.autograd.grad(loss, b)
        return loss.item(), gradient.numpy()

    offset = np.zeros(z.shape[1])
    for t in (temperature, temperature / 5):
        offset = minimize(spread, offset, args=(t,), jac=True, method="L-BFGS-B").x
    return torch.from_numpy((offset - offset.mean()) * scale)


def _checked(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    z, y = logits.detach().cpu().double(), targets.detach().cpu()
    if z.ndim != 2 or y.shape != z.shape[:1] or y.dtype.is_floating_point:
        raise ValueError(
            "Expected logits (N, C) and targets (N,) class ids, "
            f"but got {tuple(logits.shape)} and {targets.dtype} {tuple(targets.shape)}."
        )
    finite = torch.isfinite(z).all(1)
    if not finite.all():
        raise ValueError(
            f"Expected logits to be finite, but got {int((~finite).sum())} rows that are not."
        )
    y = y.long()
    support = torch.bincount(y, minlength=z.shape[1])
    if len(support) > z.shape[1] or y.min() < 0 or (support == 0).any():
        raise ValueError(
            f"Expected targets to hold each of the {z.shape[1]} classes, but got these counts: "
            f"{support.tolist()}."
        )
    return z, y
