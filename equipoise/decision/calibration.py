"""Calibrated probabilities of labels from a hold-out: one slope for all, an intercept for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LabelCalibration", "calibrate_labels"]

_AT_A_TIME = 1 << 22  # elements of the temporaries
_ENOUGH = 1 << 22  # elements that the slope is fitted on: more change its third digit at most


@dataclass(frozen=True, eq=False)
class LabelCalibration:
    """p = σ(slope · z + intercept_c).

    Attributes:
        slope: of all labels; below 1 where the network is too sure of itself.
        intercept: `(C,)` float32.
    """

    slope: float
    intercept: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Probabilities, of the shape of `logits`, whose last dimension is the labels'."""
        return torch.sigmoid(self.slope * logits + self.intercept)


def calibrate_labels(
    logits: Tensor, targets: Tensor, known: Tensor | None = None
) -> LabelCalibration:
    """Slope and intercepts under which the hold-out's probabilities fit its labels.

    Platt scaling with a slope shared by all labels. A label's own intercept is drawn towards the
    common one as far as sampling noise explains their differences (empirical Bayes): with s_c the
    label's surplus of positives over the expected number, and I_c = Σ p(1−p) its information, the
    intercepts' variance is τ² = Σ (s² − I) / Σ I² or 0, and each is the most probable under
    N(common, τ²). A label with two positives is left about where the network puts it; one with
    hundreds gets as many expected positives as it has.

    Platt (1999), "Probabilistic outputs for support vector machines".

    Args:
        logits: `(N, C)` float32, finite, best corrected for sampling and loss.
        targets: `(N, C)` of 0 and 1.
        known: `(N, C)` bool, the entries to look at, where not all are.

    Example:
        >>> z = torch.linspace(-4, 4, 2000).repeat(2, 1).T
        >>> y = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> found = calibrate_labels(z, y < torch.sigmoid(0.5 * z))
        >>> round(found.slope, 1), found.intercept.round(decimals=1).abs()
        (0.5, tensor([0., 0.]))
    """
    stride = max(1, logits.numel() // _ENOUGH)
    some = None if known is None else known[::stride]
    slope, common = _slope(logits[::stride], targets[::stride], some)
    width = max(1, _AT_A_TIME // len(logits))
    parts = [slice(first, first + width) for first in range(0, logits.shape[1], width)]
    own = torch.zeros(logits.shape[1])

    def surplus_of(scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        return _surplus(scores, targets[:, part], None if known is None else known[:, part])

    seen = [surplus_of(slope * logits[:, part] + common, part) for part in parts]
    surplus, information = (torch.cat(columns) for columns in zip(*seen, strict=True))
    variance = float((surplus**2 - information).sum() / (information**2).sum())
    if variance > 0:
        for part, (surplus, information) in zip(parts, seen, strict=True):
            scores = slope * logits[:, part] + common
            for again in range(5):  # Newton's method
                step = (surplus - own[part] / variance) / (information + 1 / variance)
                own[part] += step.clamp(-1.5, 1.5)
                if again < 4:
                    surplus, information = surplus_of(scores + own[part], part)
    return LabelCalibration(slope, common + own)


def _slope(logits: Tensor, targets: Tensor, known: Tensor | None) -> tuple[float, float]:
    """Slope and common intercept by Newton's method, drawn weakly towards 1 and 0."""
    if known is not None:
        logits, targets = logits[known], targets[known]
    z, y = logits.double(), targets.double()
    prior = torch.tensor([1.0, 0.0], dtype=torch.float64)
    at = prior.clone()
    for _ in range(12):
        p = torch.sigmoid(at[0] * z + at[1])
        error, spread = y - p, p * (1 - p)
        gradient = torch.stack([(error * z).sum(), error.sum()]) - (at - prior)
        cross = (spread * z).sum()
        curvature = torch.stack(
            [torch.stack([(spread * z * z).sum(), cross]), torch.stack([cross, spread.sum()])]
        ) + torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(curvature, gradient)
        at = at + step * min(1.0, 1.0 / float(step.abs().max().clamp_min(1e-12)))
        at[0].clamp_(min=0.05)
        if float(step.abs().max()) < 1e-5:
            break
    return float(at[0]), float(at[1])


def _surplus(scores: Tensor, targets: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positives less their expected number, and that number's variance, of each label."""
    p = torch.sigmoid(scores)
    if known is not None:
        p = p * known
    expected = p.sum(0)
    variance = (expected - (p * p).sum(0)).clamp_min(1e-9)
    return targets.sum(0, dtype=torch.float32) - expected, variance
