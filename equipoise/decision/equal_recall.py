"""Offsets of class logits that give every class the same recall, and what that costs at least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equipoise.decision.soft_recalls import (
    TEMPERATURES,
    SoftRecalls,
    centred,
    check_holdout,
    minimise,
    spread_of_logits,
    warn_of_missing,
)
from equipoise.rates import reliabilities

__all__ = ["equal_recall_offset", "price_of_equality"]

SHARP = 50.0  # exponent of the p-norm that stands in for a maximum


def equal_recall_offset(logits: Tensor, targets: Tensor) -> Tensor:
    """Per-class offsets b under which argmax(z + b) has the same recall in every class.

    Minimises the spread of the recalls, Σ_c (R_c(b) − R̄(b))² + .01 · mean(b²) / scale², where
    R_c(b) is the mean of softmax((z + b) / t)_c over the examples of class c: a smooth stand-in
    for the recall, which L-BFGS can follow. `scale` is the logits' own standard deviation, and
    t = scale / 4; a second pass at a fifth of t starts where the first ended.

    Each offset is drawn towards zero by what sampling noise explains of its class's recall
    (`reliabilities`): a class of a few examples moves little, one without any not at all, and
    recalls that are equal but for noise are left alone. 10,000 × 1,000 take some seconds,
    without a sign of progress.

    Args, Returns, Raises: as for `fair_offset`, without α and κ.

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
    warn_of_missing(y, z.shape[1])
    scale = spread_of_logits(z)
    return equalise(SoftRecalls(z / scale, y), z, y) * scale


def equalise(soft: SoftRecalls, z: Tensor, y: Tensor) -> Tensor:
    """Offsets of `equal_recall_offset`, in units of the logits' spread, for recalls at hand."""
    offset = torch.zeros(z.shape[1], dtype=z.dtype)
    for t in TEMPERATURES:
        offset = soft.maximise(_less_spread, offset, t)
    hits = torch.bincount(y[z.argmax(1) == y], minlength=z.shape[1])
    return centred(reliabilities(hits, soft.support) * offset, soft.seen)


def _less_spread(recalls: Tensor) -> tuple[Tensor, Tensor]:
    behind = recalls - recalls.mean()
    return -behind.square().sum(), -2 * behind


def price_of_equality(logits: Tensor, targets: Tensor) -> float:
    """How much mean recall the best decision with equal recalls would cost, predicted.

    With p(x | c) the density of class c, deciding for arg max_c w_c · p(x | c) has the mean recall

        V(w) = Σ_x max_c w_c · p(x | c)    (w ≥ 0, Σ w = 1).

    V at uniform w is the highest mean recall there is; its minimum over w, the least favourable
    prior, is the highest recall that all classes can have at once (minimax theorem; Ferguson 1967,
    "Mathematical Statistics", ch. 2). The answer is the difference of the two. The densities are
    the network's: logits are calibrated by a temperature and an offset of each class, all classes
    weighing the same. No decision is fitted and no test label is read, so it is known beforehand.

    Args:
        logits: `(N, C)` of a hold-out, finite.
        targets: `(N,)` class ids; classes without an example are left out.

    Returns:
        A difference of mean recalls, at least 0.

    Example:
        >>> targets = torch.arange(3000) % 3  # the first class is further from the others
        >>> centres = torch.tensor([[3.0, 0.0], [0.0, 0.7], [0.0, -0.7]])
        >>> points = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
        >>> points += centres[targets]
        >>> logits = -0.5 * (points[:, None] - centres).square().sum(2)
        >>> round(price_of_equality(logits, targets), 2)
        0.04
    """
    z, y = check_holdout(logits, targets)
    seen, y = y.unique(return_inverse=True)
    z = z[:, seen]
    if len(seen) < 2:
        return 0.0
    z = z / spread_of_logits(z)
    weight = (1.0 / torch.bincount(y).double())[y] / len(seen)  # classes weigh the same

    def log_posterior(parameters: Tensor) -> Tensor:
        return torch.log_softmax(z * parameters[-1].exp() + parameters[:-1], 1)

    def likelihood(parameters: Tensor) -> Tensor:
        loss = -(weight * log_posterior(parameters).gather(1, y[:, None])[:, 0]).sum()
        return loss + parameters[:-1].square().mean() / len(z)

    log_q = log_posterior(_minimise(likelihood, torch.zeros(len(seen) + 1, dtype=torch.float64)))

    def value(log_w: Tensor) -> Tensor:
        """V(w), its maximum smoothed into a p-norm."""
        scores = SHARP * (log_q + torch.log_softmax(log_w, 0))
        return len(seen) * (weight * (scores.logsumexp(1) / SHARP).exp()).sum()

    uniform = torch.zeros(len(seen), dtype=torch.float64)
    with torch.no_grad():
        return max(0.0, float(value(uniform) - value(_minimise(value, uniform))))


def _minimise(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    @torch.enable_grad()
    def with_gradient(x: Any) -> Any:
        at = torch.from_numpy(x).requires_grad_()
        value = function(at)
        (gradient,) = torch.autograd.grad(value, at)
        return float(value.detach()), gradient.numpy()

    return minimise(with_gradient, start, 50, 1e-7)
