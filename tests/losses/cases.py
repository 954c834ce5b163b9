"""Every loss once: the table that the contract tests run over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from scipy.special import expit as sigmoid
from scipy.special import log_softmax
from torch import Tensor

from equipoise import losses
from equipoise.losses import Loss

C = 5
COUNTS = [1000.0, 300.0, 60.0, 8.0, 0.0]  # the last class has no examples
WEIGHT = [0.2, 0.5, 1.0, 2.0, 4.0]
ALPHA = [0.25, 0.5, 0.75, 0.9, 0.99]
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
    detached: bool = False
    """Part of it is held constant in the gradient, so that gradcheck does not apply."""
    inverts: list[Callable[[], Loss]] = field(default_factory=list)
    """Settings whose `correct` recovers the true posterior."""


def weighted_ce(z: list[float], y: int, weight: list[float], smoothing: float = 0.0) -> float:
    logp = log_softmax(z)
    return -weight[y] * ((1 - smoothing) * logp[y] + smoothing * sum(logp) / len(z))


def rows(f: Callable[[list[float], object], object]) -> Callable[[list, list], list]:
    return lambda logits, targets: [f(z, y) for z, y in zip(logits, targets, strict=True)]


def elements(f: Callable[[float, int, int], float]) -> Callable[[list, list], list]:
    """From f(logit, label, class)."""
    return rows(lambda z, y: [f(z[c], y[c], c) for c in range(len(z))])


def filled() -> list[float]:
    return [n if n > 0 else 1.0 for n in COUNTS]


def prior() -> list[float]:
    return [math.log(n / sum(filled())) for n in filled()]


def ldam(z: list[float], y: int) -> float:
    margins = [n**-0.25 for n in filled()]
    shifted = list(z)
    shifted[y] -= 0.5 * margins[y] / max(margins)
    return weighted_ce([7.0 * v for v in shifted], y, WEIGHT)


def vs(z: list[float], y: int) -> float:
    n = filled()
    scaled = [v / (max(n) / m) ** 0.3 + 0.8 * p for v, m, p in zip(z, n, prior(), strict=True)]
    return weighted_ce(scaled, y, WEIGHT)


def softmax_focal(gamma: float) -> Callable[[list[float], int], float]:
    def loss(z: list[float], y: int) -> float:
        logp = log_softmax(z)[y]
        return -WEIGHT[y] * (1 - math.exp(logp)) ** gamma * logp

    return loss


def seesaw(z: list[float], y: int) -> float:
    n, p = filled(), [math.exp(v) for v in log_softmax(z)]
    factors = [
        min(1.0, (n[j] / n[y]) ** 0.8) * max(1.0, (p[j] / p[y]) ** 2.0) for j in range(len(z))
    ]
    total = sum(f * math.exp(v) for f, v in zip(factors, z, strict=True))
    return -math.log(math.exp(z[y]) / total)


def bce(z: float, y: int, c: int) -> float:
    return -WEIGHT[c] * (ALPHA[c] * y * math.log(sigmoid(z)) + (1 - y) * math.log(sigmoid(-z)))


def sigmoid_focal(gamma: float, alpha: list[float]) -> Callable[[float, int, int], float]:
    def loss(z: float, y: int, c: int) -> float:
        p = sigmoid(z) if y else sigmoid(-z)
        return -(alpha[c] if y else 1 - alpha[c]) * (1 - p) ** gamma * math.log(p)

    return loss


def asl(neg: float, pos: float, margin: float) -> Callable[[float, int, int], float]:
    def loss(z: float, y: int, c: int) -> float:
        q = sigmoid(z)
        if y:
            return -((1 - q) ** pos) * math.log(q)
        p = max(q - margin, 0.0)
        return -(p**neg if p else 0.0) * math.log(1 - p)

    return loss


def db(gamma: float) -> Callable[[list[float], list[int]], list[float]]:
    def loss(z: list[float], y: list[int]) -> list[float]:
        n, out = filled(), []
        positives = sum(1 / n[k] for k in range(C) if y[k])
        for c in range(C):
            r = 1 / n[c] / positives if positives else math.inf
            w = 0.1 + (sigmoid(10 * (r - 0.2)) if r < 1e3 else 1.0)
            u = z[c] + 0.05 * math.log(n[c] / (2000 - n[c]))
            t = -u if y[c] else 2 * u
            value = sigmoid(t) ** gamma * math.log1p(math.exp(t))
            out.append(w * (value if y[c] else value / 2))
        return out

    return loss


def two_way(logits: list[list[float]], targets: list[list[int]]) -> float:
    def side(pairs: list[tuple[float, int]]) -> float | None:
        positive = [math.exp(-z / 4.0) for z, y in pairs if y]
        negative = [math.exp(z) for z, y in pairs if not y]
        if not positive:
            return None
        if not negative:
            return 0.0
        return math.log1p(math.exp(math.log(sum(negative)) + 4.0 * math.log(sum(positive))))

    def mean(groups: list[list[tuple[float, int]]]) -> float:
        values = [v for v in map(side, groups) if v is not None]
        return sum(values) / max(len(values), 1)

    by_row = [list(zip(z, y, strict=True)) for z, y in zip(logits, targets, strict=True)]
    by_column = [list(column) for column in zip(*by_row, strict=True)]
    return mean(by_row) + mean(by_column)


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
    Case(
        "LDAM",
        lambda **k: losses.LDAM(COUNTS, 0.5, 7.0, WEIGHT, **k),
        rows(ldam),
        neutral=lambda: losses.LDAM(COUNTS, 0.0, 1.0),
        inverts=[lambda: losses.LDAM(COUNTS, 0.0, 3.0, WEIGHT, log_weight=LOG_WEIGHT)],
    ),
    Case(
        "vector scaling",
        lambda **k: losses.VectorScaling(COUNTS, 0.3, 0.8, WEIGHT, **k),
        rows(vs),
        neutral=lambda: losses.VectorScaling(COUNTS, 0.0, 0.0),
        inverts=[lambda: losses.VectorScaling(COUNTS, 0.2, 0.8, WEIGHT, log_weight=LOG_WEIGHT)],
    ),
    Case(
        "softmax focal",
        lambda **k: losses.FocalLoss(2.0, WEIGHT, **k),
        rows(softmax_focal(2.0)),
        neutral=lambda: losses.FocalLoss(0.0),
        inverts=[
            lambda: losses.FocalLoss(2.0),
            lambda: losses.FocalLoss(0.5, WEIGHT, log_weight=LOG_WEIGHT),
        ],
    ),
    Case(
        "softmax focal, gamma < 1",
        lambda **k: losses.FocalLoss(0.5, WEIGHT, **k),
        rows(softmax_focal(0.5)),
    ),
    Case(
        "seesaw",
        lambda **k: losses.Seesaw(COUNTS, **k),
        rows(seesaw),
        neutral=lambda: losses.Seesaw(COUNTS, 0.0, 0.0),
        detached=True,
        inverts=[lambda: losses.Seesaw(COUNTS, 0.0, 0.0, log_weight=LOG_WEIGHT)],
    ),
    Case(
        "weighted BCE",
        lambda **k: losses.WeightedBCE(ALPHA, WEIGHT, **k),
        elements(bce),
        neutral=losses.WeightedBCE,
        multilabel=True,
        inverts=[lambda: losses.WeightedBCE(ALPHA, WEIGHT, log_weight=LOG_WEIGHT)],
    ),
    Case(
        "sigmoid focal",
        lambda **k: losses.SigmoidFocalLoss(ALPHA, 2.0, **k),
        elements(sigmoid_focal(2.0, ALPHA)),
        neutral=lambda: losses.SigmoidFocalLoss(None, 0.0),
        multilabel=True,
        inverts=[
            losses.SigmoidFocalLoss,
            lambda: losses.SigmoidFocalLoss(ALPHA, 1.5, WEIGHT, log_weight=LOG_WEIGHT),
        ],
    ),
    Case(
        "multilabel focal, gamma < 1",
        lambda **k: losses.FocalLoss(0.5, 0.25, multilabel=True, **k),
        elements(sigmoid_focal(0.5, [0.25] * C)),
        multilabel=True,
        inverts=[lambda: losses.FocalLoss(0.5, 0.9, multilabel=True, log_weight=LOG_WEIGHT)],
    ),
    Case(
        "asymmetric",
        lambda **k: losses.AsymmetricLoss(**k),
        elements(asl(4.0, 1.0, 0.05)),
        neutral=lambda: losses.AsymmetricLoss(0.0, 0.0, 0.0),
        multilabel=True,
        inverts=[
            losses.AsymmetricLoss,
            lambda: losses.AsymmetricLoss(2.0, 0.0, 0.0, WEIGHT, log_weight=LOG_WEIGHT),
            lambda: losses.AsymmetricLoss(0.7, 0.5, 0.01),
        ],
    ),
    Case(
        "asymmetric, gamma < 1",
        lambda **k: losses.AsymmetricLoss(0.5, 0.0, 0.1, **k),
        elements(asl(0.5, 0.0, 0.1)),
        multilabel=True,
    ),
    Case(
        "asymmetric, gamma 0",
        lambda **k: losses.AsymmetricLoss(0.0, 3.0, 0.1, **k),
        elements(asl(0.0, 3.0, 0.1)),
        multilabel=True,
    ),
    Case(
        "distribution-balanced",
        lambda **k: losses.DistributionBalancedLoss(COUNTS, 2000, **k),
        rows(db(0.0)),
        neutral=lambda: losses.DistributionBalancedLoss(
            COUNTS, 2000, alpha=0.5, beta=0.0, negative_scale=1.0, kappa=0.0
        ),
        multilabel=True,
        inverts=[
            lambda: losses.DistributionBalancedLoss(COUNTS, 2000, beta=0.0, log_weight=LOG_WEIGHT),
            lambda: losses.DistributionBalancedLoss(COUNTS, 2000, beta=0.0, gamma=2.0),
        ],
    ),
    Case(
        "distribution-balanced focal",
        lambda **k: losses.DistributionBalancedLoss(COUNTS, 2000, gamma=2.0, **k),
        rows(db(2.0)),
        multilabel=True,
    ),
    Case(
        "two-way",
        lambda **k: losses.TwoWayLoss(**k),
        two_way,
        multilabel=True,
        elementwise=False,
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


def gradient(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(logits, targets).sum(), logits)
    return found


def minimise(risk: Callable[[Tensor], Tensor], rows: int, classes: int) -> Tensor:
    """The logits at which a convex risk is least."""
    logits = torch.zeros(rows, classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=400, tolerance_grad=1e-12, tolerance_change=0, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = risk(logits)
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach()
