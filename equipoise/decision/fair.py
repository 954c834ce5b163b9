"""Offsets of class logits that raise low recalls, with a limit to what others may pay for it."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.decision.soft_recalls import (
    TEMPERATURES,
    SoftRecalls,
    centred,
    check_holdout,
    recalls_of,
    spread_of_logits,
    warn_of_missing,
)

__all__ = ["Fairness", "fair_offset"]


class Fairness:
    """U(R) = mean_c u(R_c), with u'(R) = min((R / r̄)^(−α), κ): α-fairness with an exchange rate.

    α = 0 is the mean recall, 1 the geometric mean, and as α grows the lowest recall decides. A
    point of a weak class's recall is worth at most κ points of others': below r̄ · κ^(−1/α), u is a
    straight line. Source of α-fairness: Mo and Walrand (2000), "Fair end-to-end window-based
    congestion control"; u'(R_c) is the weight (r̄ / R_c)^α that `recall_power` gives a class.

    Args:
        alpha: α, at least 0.
        kappa: κ, at least 1.
        mean: r̄, the recall at which a point is worth a point.

    Example:
        >>> fairness = Fairness(alpha=4, kappa=20, mean=0.8)
        >>> fairness.worth(torch.tensor([0.8, 0.6, 0.01])).round(decimals=2).tolist()
        [1.0, 3.16..., 20.0]
    """

    def __init__(self, alpha: float, kappa: float = 20.0, mean: float = 1.0) -> None:
        if not alpha >= 0 or alpha == float("inf"):
            raise ValueError(f"Expected alpha to be finite and at least 0, but got {alpha}.")
        if not kappa >= 1:
            raise ValueError(f"Expected kappa to be at least 1, but got {kappa}.")
        self.alpha, self.kappa, self.mean = float(alpha), float(kappa), max(float(mean), 1e-6)

    def worth(self, recalls: Tensor) -> Tensor:
        """u'(R): how many points of recall at r̄ a point of each recall is worth."""
        return (recalls.clamp_min(1e-12) / self.mean).pow(-self.alpha).clamp_max(self.kappa)

    def __call__(self, recalls: Tensor) -> tuple[Tensor, Tensor]:
        """U, and its gradient in the recalls."""
        floor = self.mean * self.kappa ** (-1 / self.alpha) if self.alpha > 0 else 0.0
        above = recalls.clamp_min(floor) / self.mean
        if self.alpha == 1:
            curve = above.log()
        else:
            curve = (above.pow(1 - self.alpha) - 1) / (1 - self.alpha)
        line = self.kappa * (recalls - recalls.clamp_min(floor))
        return (self.mean * curve + line).mean(), self.worth(recalls) / len(recalls)


def fair_offset(logits: Tensor, targets: Tensor, alpha: float = 4.0, kappa: float = 20.0) -> Tensor:
    """Per-class offsets b under which arg max(z + b) has the highest U on a hold-out.

    `Fairness` defines U; r̄ is the mean recall of arg max z. Low recalls are raised as long as that
    raises U, so a class that cannot be had costs little. U is followed by L-BFGS on a smooth
    stand-in for the recalls, first at a temperature of .25 times the logits' spread, then of .05
    times.

    These are the offsets at full strength, as they fit this hold-out. One with few examples of a
    class flatters them: `front` shows what they reach on examples they were not fitted on, and
    `Balancer.fit_decision` chooses by that. 10,000 × 1,000 logits take one or two seconds.

    Args:
        logits: `(N, C)`, finite, of a hold-out that the network was not trained on; or dense,
            `(N, C, d1, …)`, whose elements with a target of −100 are left out.
        targets: class ids, `(N,)` or `(N, d1, …)`. A `UserWarning` names classes
            without an example: their offset is 0.
        alpha: α ≥ 0: 0 for the highest mean recall, larger values for a higher lowest one.
        kappa: κ ≥ 1: the most points of others' recall that a point of a weak class's is worth.

    Returns:
        `(C,)` float64 on the CPU, with mean zero over the classes that have examples.

    Raises:
        ValueError: shapes that do not match, NaN or infinite logits, targets that are no class,
            α or κ out of range.

    Example:
        >>> targets = torch.arange(400) % 2
        >>> logits = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> logits += torch.eye(2)[targets] + torch.tensor([1.0, 0.0])
        >>> offset = fair_offset(logits, targets)
        >>> for z in (logits, logits + offset):
        ...     print([round((z.argmax(1) == targets)[targets == c].float().mean().item(), 2)
        ...            for c in (0, 1)])
        [0.9, 0.49]
        [0.78, 0.71]
    """
    fairness = Fairness(alpha, kappa)
    z, y = check_holdout(logits, targets)
    warn_of_missing(y, z.shape[1])
    recalls, scale = recalls_of(z, y), spread_of_logits(z)
    seen = ~recalls.isnan()
    fairness.mean = float(recalls[seen].mean())
    offset = torch.zeros(z.shape[1], dtype=z.dtype)
    for t in TEMPERATURES:
        offset = SoftRecalls(z / scale, y, near=offset).maximise(fairness, offset, t)
    return centred(offset, seen) * scale
