"""What every policy is: counts and hold-out recalls in, class log-weights λ out."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Policy"]


class Policy:
    """Leaves every class as it comes: λ = 0, always. The base of the others, and `"plain"`.

    Attributes:
        needs_recalls: whether `step` does anything with recalls; a `Balancer` then asks for
            `observe` before `step`.
    """

    needs_recalls = False

    def start(self, counts: np.ndarray) -> np.ndarray:
        """λ `(C,)` of the first epoch, from the class counts."""
        return np.zeros(len(counts))

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        """λ `(C,)` of the next epoch, from the last one's and the recalls seen at its end."""
        return log_weight

    def state_dict(self) -> dict[str, Any]:
        """What the policy remembers beside λ: numbers and NumPy-free lists only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over `state_dict`."""
