"""Numbers of a report: plain ones for JSON, arrays for arithmetic, and what chance alone leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["array", "noise_floor", "plain", "ratio", "still_improving"]


def plain(values: Any, digits: int = 6) -> Any:
    """Rounded floats for JSON, of any shape; what is not finite is `None`.

    Example:
        >>> plain([0.25, float("nan")]), plain(None)
        ([0.25, None], None)
    """
    rounded = np.array(np.round(np.asarray(values, np.float64), digits))
    found = rounded.astype(object)
    found[~np.isfinite(rounded)] = None
    return found.tolist()


def array(values: Any) -> np.ndarray:
    """A float64 array; `None` is NaN."""
    return np.array(values, np.float64)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`above / below`, NaN where that would divide by zero."""
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)


def noise_floor(mean: float, support: Sequence[int] | np.ndarray) -> float | None:
    """Standard deviation that equal recalls would show by chance: √(mean of r̄(1 − r̄) / n_c).

    r̄ is the mean recall, n_c the examples of class c; classes without any are left out. `None`
    where no class has one.

    Example:
        >>> noise_floor(0.8, [1000, 1000])
        0.0126...
    """
    n = np.asarray(support, np.float64)
    n = n[n > 0]
    return float(np.sqrt(mean * (1 - mean) * np.mean(1 / n))) if len(n) else None


def still_improving(epochs: Sequence[dict[str, Any]]) -> bool | None:
    """Whether the network's mean recall on the hold-out still rises by more than chance explains.

    Of the rows of `Balancer.history`, the mean over the last quarter has to be higher than that
    over the quarter before by two standard errors of a mean recall over so many examples. The
    recalls are those of the plain decision where there is a price, because those as trained also
    move with the log-weights. `None` where fewer than two epochs were observed.
    """
    rows = [row for row in epochs if row.get("mean_recall") is not None]
    if len(rows) < 2:
        return None
    means = np.array([row["mean_recall"] + (row.get("price") or 0.0) for row in rows])
    quarter = max(len(rows) // 4, 1)
    gain = means[-quarter:].mean() - means[-2 * quarter : -quarter].mean()
    support = np.array(rows[-1]["support"])
    floor = noise_floor(min(max(means[-1], 0.0), 1.0), support) or 0.0
    return bool(gain > 2 * floor / np.sqrt((support > 0).sum()))
