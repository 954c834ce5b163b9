"""Plain numbers for JSON, and back to arrays for arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["numbers", "plain"]


def plain(values: Any, digits: int = 6) -> list[float | None]:
    """Floats, rounded; what is not finite is `None`.

    Example:
        >>> plain([0.25, float("nan")])
        [0.25, None]
    """
    rounded = np.round(np.asarray(values, np.float64), digits)
    if np.isfinite(rounded).all():
        return rounded.tolist()
    return [value if np.isfinite(value) else None for value in rounded.tolist()]


def numbers(values: Iterable[float | None]) -> np.ndarray:
    """A float64 array; `None` is NaN.

    Example:
        >>> numbers([0.25, None]).tolist()
        [0.25, nan]
    """
    return np.array([np.nan if value is None else value for value in values], np.float64)
