"""How far recalls lie apart, and how far noise alone would have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from equipoise.report.plain import numbers

__all__ = ["Spread", "noise_floor", "spread_of"]


@dataclass(frozen=True)
class Spread:
    """Recalls of the classes that have one: mean, standard deviation, and both ends."""

    mean: float
    sd: float
    lowest: float
    highest: float
    worst: int  # the class of the lowest
    best: int


def spread_of(recalls: Sequence[float | None] | None) -> Spread | None:
    """`None` where no recall is known.

    Example:
        >>> spread_of([0.5, None, 1.0])
        Spread(mean=0.75, sd=0.25, lowest=0.5, highest=1.0, worst=0, best=2)
    """
    values = numbers(recalls or [])
    if np.isnan(values).all():
        return None
    worst, best = int(np.nanargmin(values)), int(np.nanargmax(values))
    mean, sd = float(np.nanmean(values)), float(np.nanstd(values))
    return Spread(mean, sd, float(values[worst]), float(values[best]), worst, best)


def noise_floor(
    recalls: Sequence[float | None] | None, support: Sequence[int] | None
) -> float | None:
    """Standard deviation that equal recalls would show by chance: √(mean of r̄(1 − r̄) / n_c).

    Args:
        recalls: `(C,)`, of which only the mean r̄ counts.
        support: `(C,)` n, examples of each class; those of none are left out.

    Example:
        >>> noise_floor([0.75, 0.85], [1000, 1000])
        0.0126...
    """
    found = spread_of(recalls)
    if found is None or support is None:
        return None
    n = np.array(support, np.float64)
    n = n[n > 0]
    return float(np.sqrt(found.mean * (1 - found.mean) * np.mean(1 / n))) if len(n) else None
