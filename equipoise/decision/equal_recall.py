"""Offsets of class logits that give every class the same recall."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.decision.soft_recalls import (
    SoftRecalls,
    centred,
    check_holdout,
    spread_of_logits,
    warn_of_missing,
)
from equipoise.rates import reliabilities

__all__ = ["equal_recall_offset"]


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
        logits: `(N, C)` or `(N, C, d1, …)` of a hold-out the network did not train on.
        targets: class ids, `(N,)` or `(N, d1, …)`, −100 where they are left out. A
            `UserWarning` tells of classes without an example.
        temperature: of the stand-in.
        ridge: how much a larger offset has to gain.

    Returns:
        `(C,)` float64 on the CPU, with mean zero over the classes that have examples.

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
    z, y = check_holdout(logits, targets)
    scale = spread_of_logits(z)
    soft = SoftRecalls(z / scale, y)
    warn_of_missing(soft.support)
    return equalise(soft, z, y, temperature, ridge) * scale


def equalise(
    soft: SoftRecalls, z: Tensor, y: Tensor, temperature: float = 0.25, ridge: float = 0.01
) -> Tensor:
    """Offsets of `equal_recall_offset`, in units of the logits' spread, for recalls at hand."""
    offset = torch.zeros(z.shape[1], dtype=z.dtype)
    for t in (temperature, temperature / 5):
        offset = soft.maximise(_less_spread, offset, t, ridge)
    hits = torch.bincount(y[z.argmax(1) == y], minlength=z.shape[1])
    return centred(reliabilities(hits, soft.support) * offset, soft.seen)


def _less_spread(recalls: Tensor) -> tuple[Tensor, Tensor]:
    behind = recalls - recalls.mean()
    return -behind.square().sum(), -2 * behind
