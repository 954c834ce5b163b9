"""Offsets of class logits that give every class the same recall."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from equipoise.rates import share_beyond_noise

__all__ = ["equal_recall_offset"]


def equal_recall_offset(
    logits: Tensor, targets: Tensor, *, temperature: float = 0.25, ridge: float = 0.01
) -> Tensor:
    """Per-class offsets b under which argmax(z + b) has the same recall in every class.

    Minimises the spread of the recalls, Σ_c (R_c(b) − R̄(b))² + ridge · mean(b²) / scale², where
    R_c(b) is the mean of softmax((z + b) / t)_c over the examples of class c: a smooth stand-in
    for the recall, which L-BFGS can follow. `scale` is the logits' own standard deviation, and
    t = temperature · scale; a second pass at a fifth of t starts where the first ended.

    The answer is drawn towards zero by the share of the recalls' variance that sampling noise
    explains (`share_beyond_noise`, after James and Stein): a hold-out of a few examples a class
    moves little, and recalls that are equal but for noise are left alone.

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
        >>> targets = torch.arange(400) % 2
        >>> logits = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> logits += torch.eye(2)[targets] + torch.tensor([1.0, 0.0])
        >>> offset = equal_recall_offset(logits, targets)
        >>> for z in (logits, logits + offset):
        ...     print([round((z.argmax(1) == targets)[targets == c].float().mean().item(), 2)
        ...            for c in (0, 1)])
        [0.9, 0.49]
        [0.75, 0.74]
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

    support = torch.bincount(y, minlength=z.shape[1])
    hits = torch.bincount(y[z.argmax(1) == y], minlength=z.shape[1])
    offset = np.zeros(z.shape[1])
    for t in (temperature, temperature / 5):
        offset = minimize(spread, offset, args=(t,), jac=True, method="L-BFGS-B").x
    shrunk = share_beyond_noise(hits, support) * (offset - offset.mean())
    return torch.from_numpy(shrunk * scale)


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
    classes = torch.unique(y)
    if not torch.equal(classes, torch.arange(z.shape[1])):
        raise ValueError(
            f"Expected targets to hold each of the {z.shape[1]} classes, "
            f"but got these: {classes.tolist()}."
        )
    return z, y
