"""Every loss once: the table that the contract tests run over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equipoise import losses
from equipoise.losses import Loss

C = 5
COUNTS = [1000.0, 300.0, 60.0, 8.0, 0.0]  # the last class has no examples
WEIGHT = [0.2, 0.5, 1.0, 2.0, 4.0]
LOG_WEIGHT = torch.tensor([-0.7, -0.2, 0.0, 0.3, 0.6])


@dataclass(frozen=True)
class Case:
    """A loss with its options set, a naive reference, and the setting in which it is plain."""

    name: str
    make: Callable[..., Loss]
    naive: Callable[[list[list[float]], list], list]
    """(logits, targets) as nested lists -> per-example (or per-example-and-label) values."""
    neutral: Callable[[], Loss] | None = None
    multilabel: bool = False
    elementwise: bool = True
    """Has `unreduced`, and its mean is the loss."""
    inverts: list[Callable[[], Loss]] = field(default_factory=list)
    """Settings whose `correct` recovers the true posterior."""


def log_softmax(z: list[float]) -> list[float]:
    top = max(z)
    lse = top + math.log(sum(math.exp(v - top) for v in z))
    return [v - lse for v in z]


def weighted_ce(z: list[float], y: int, weight: list[float], smoothing: float = 0.0) -> float:
    logp = log_softmax(z)
    mixed = sum(w * lp for w, lp in zip(weight, logp, strict=True)) / len(z)
    return -(1 - smoothing) * weight[y] * logp[y] - smoothing * mixed


def rows(f: Callable[[list[float], object], object]) -> Callable[[list, list], list]:
    return lambda logits, targets: [f(z, y) for z, y in zip(logits, targets, strict=True)]


def prior() -> list[float]:
    counts = [n if n > 0 else 1.0 for n in COUNTS]
    return [math.log(n / sum(counts)) for n in counts]


CASES = [
    Case(
        "weighted cross-entropy",
        lambda **k: losses.WeightedCrossEntropy(WEIGHT, label_smoothing=0.1, **k),
        rows(lambda z, y: weighted_ce(z, y, WEIGHT, 0.1)),
        neutral=losses.WeightedCrossEntropy,
        inverts=[lambda: losses.WeightedCrossEntropy(WEIGHT, log_weight=LOG_WEIGHT)],
    ),
    Case(
        "logit-adjusted cross-entropy",
        lambda **k: losses.LogitAdjustedCrossEntropy(COUNTS, 1.5, **k),
        rows(
            lambda z, y: weighted_ce(
                [v + 1.5 * p for v, p in zip(z, prior(), strict=True)], y, [1.0] * C
            )
        ),
        neutral=losses.LogitAdjustedCrossEntropy,
        inverts=[lambda: losses.BalancedSoftmax(COUNTS, log_weight=LOG_WEIGHT)],
    ),
]

SINGLE = [case for case in CASES if not case.multilabel]
MULTI = [case for case in CASES if case.multilabel]


def batch(case: Case, rows: int = 7, dtype: torch.dtype = torch.float64, scale: float = 2.0):
    """Logits and targets, from a private generator."""
    generator = torch.Generator().manual_seed(7)
    logits = scale * torch.randn(rows, C, generator=generator, dtype=torch.float64)
    targets: Tensor
    if case.multilabel:
        targets = (torch.rand(rows, C, generator=generator) < 0.4).to(torch.uint8)
        targets[0] = 0  # an example without labels
        targets[:, 1] = 0  # a label without positives
        targets[1:, 2] = 1
    else:
        targets = torch.randint(C, (rows,), generator=generator)
    return logits.to(dtype), targets
