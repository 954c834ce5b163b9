"""Offsets of class logits that give every class the same recall."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from equipoise.rates import reliabilities

__all__ = ["equal_recall_offset"]

_AT_A_TIME = 1 << 16  # logits


def equal_recall_offset(
    logits: Tensor, targets: Tensor, *, temperature: float = 0.25, ridge: float = 0.01
) -> Tensor:
    """Per-class offsets b under which argmax(z + b) has the same recall in every class.

    Minimises the spread of the recalls, Σ_c (R_c(b) − R̄(b))² + ridge · mean(b²) / scale², where
    R_c(b) is the mean of softmax((z + b) / t)_c over the examples of class c: a smooth stand-in
    for the recall, which L-BFGS can follow. `scale` is the logits' own standard deviation, and
    t = temperature · scale; a second pass at a fifth of t starts where the first ended.

    Each offset is drawn towards zero by what sampling noise explains of its class's recall
    (`reliabilities`): a class of a few examples moves little, one without any not at all, and
    recalls that are equal but for noise are left alone. 10,000 × 1,000 take some seconds,
    without a sign of progress.

    Args:
        logits: `(N, C)` of a hold-out the network did not train on.
        targets: `(N,)` class ids. A `UserWarning` tells of classes without an example.
        temperature: of the stand-in.
        ridge: how much a larger offset has to gain.

    Returns:
        `(C,)` float64 on the CPU, mean zero.

    Raises:
        ValueError: shapes that do not match, NaN or infinite logits, targets that are no class.

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
    classes = z.shape[1]
    scale = float((z - z.mean(1, keepdim=True)).std(correction=0).clamp_min(1e-6))
    z = z / scale
    support = torch.bincount(y, minlength=classes)
    hits = torch.bincount(y[z.argmax(1) == y], minlength=classes)
    spread = _Spread(z, y, support, ridge)
    offset = np.zeros(classes)
    for t in (temperature, temperature / 5):
        offset = minimize(
            spread,
            offset,
            args=(t,),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 60, "ftol": 1e-7},
        ).x
    shrunk = reliabilities(hits, support) * torch.from_numpy(offset)
    return (shrunk - shrunk.mean()) * scale


class _Spread:
    """The objective of `equal_recall_offset` as a function of the offsets, with its gradient."""

    def __init__(self, z: Tensor, y: Tensor, support: Tensor, ridge: float) -> None:
        self.z, self.y, self.support, self.ridge = z, y, support, ridge
        self.seen = support > 0
        # Kept: fresh memory of this size costs more than the exponentials written into it
        self.soft = torch.empty_like(z)
        self.shifted = torch.empty_like(z[: max(1, _AT_A_TIME // z.shape[1])])

    def __call__(self, offset: np.ndarray, temperature: float) -> tuple[float, np.ndarray]:
        b, y, seen, support = torch.from_numpy(offset), self.y, self.seen, self.support[self.seen]
        rows = len(self.shifted)
        for z, soft in zip(self.z.split(rows), self.soft.split(rows), strict=True):
            shifted = torch.add(z, b, out=self.shifted[: len(z)]).div_(temperature)
            torch.softmax(shifted, 1, out=soft)
        own = self.soft.gather(1, y[:, None])[:, 0]
        recalls = torch.zeros_like(b).index_add_(0, y, own)[seen] / support
        behind = recalls - recalls.mean()
        slope = torch.zeros_like(b)
        slope[seen] = 2 * behind / support  # of the loss in each example's own probability
        pull = slope[y] * own
        gradient = torch.zeros_like(b).index_add_(0, y, pull) - pull @ self.soft
        gradient = (gradient / temperature + 2 * self.ridge * b / len(b)) * seen
        return float(behind.square().sum() + self.ridge * b.square().mean()), gradient.numpy()


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
    if len(y) == 0 or y.min() < 0 or y.max() >= z.shape[1]:
        raise ValueError(
            f"Expected targets to be class ids below the {z.shape[1]} columns of logits, "
            f"but got {sorted(set(y.tolist()))[:10]}."
        )
    missing = sorted(set(range(z.shape[1])) - set(y.tolist()))
    if missing:
        warnings.warn(
            f"Classes without an example in the hold-out get no offset: {missing[:10]} "
            f"({len(missing)} of {z.shape[1]}).",
            stacklevel=3,
        )
    return z, y
