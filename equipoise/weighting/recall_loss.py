"""RecallLoss: each class weighs what the training batches still get wrong of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.weighting.base import Policy
from equipoise.weighting.functions import class_difficulty, log_weight_of

__all__ = ["RecallLoss"]


class RecallLoss(Policy):
    """λ = log(1 − running recall of the training batches): no hold-out is needed.

    Classes that are missed, because they are rare or hard, weigh more until they are found; one
    that is learnt weighs little, so its false alarms for others are not punished in vain. Tian et
    al. 2022, "Striking the right balance: recall loss for semantic segmentation"
    (arXiv 2106.14917), eq. 5, with the recall of an epoch in place of that of a batch. It is the
    default for pixels, tokens and boxes (`Targets.from_counts`).

    Training recalls say little where a network fits its training data: then take a policy that
    follows a hold-out.

    Args:
        momentum: of the running recall over epochs, in [0, 1); 0 takes that of the last.
        least: of the weight 1 − recall, in (0, 1), so that no class is forgotten.

    Example:
        >>> policy = RecallLoss(momentum=0)
        >>> policy.step(policy.start(np.array([900, 100])), np.array([0.9, 0.2])).round(2).tolist()
        [-1.04, 1.04]
    """

    needs_recalls = True
    needs_training_recalls = True

    def __init__(self, momentum: float = 0.5, least: float = 0.02) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"Expected momentum to be in [0, 1), but got {momentum}.")
        if not 0 < least < 1:
            raise ValueError(f"Expected least to be in (0, 1), but got {least}.")
        self.momentum, self.least = momentum, least
        self.running: np.ndarray | None = None

    def start(self, counts: np.ndarray) -> np.ndarray:
        self.running = None
        return super().start(counts)

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        recalls = np.asarray(recalls, np.float64)
        if self.running is not None:
            recalls = self.momentum * self.running + (1 - self.momentum) * recalls
        self.running = recalls
        return log_weight_of(class_difficulty(np.minimum(recalls, 1 - self.least), tau=1.0))

    def state_dict(self) -> dict[str, Any]:
        return {"running": None if self.running is None else self.running.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        running = state["running"]
        self.running = None if running is None else np.array(running)
