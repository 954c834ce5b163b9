"""Decision: from logits to predictions, with what was fitted on a hold-out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equipoise.decision import equal_recall_offset, label_thresholds

__all__ = ["Decision"]


class Decision:
    """Offsets of class logits, or thresholds of label logits.

    Args:
        multilabel: whether predictions are 0 and 1 for each label.

    Attributes:
        values: `(C,)` as fitted; `None` before.
        corrected: whether they are for corrected logits, or for logits as the network gives them.
    """

    def __init__(self, multilabel: bool) -> None:
        self.multilabel = self.corrected = multilabel
        self.values: Tensor | None = None

    def fit(
        self,
        logits: Tensor,
        targets: Tensor,
        correct: Callable[[Tensor], Tensor],
        objective: str | None,
        at_least: float | None,
    ) -> Tensor:
        """Fit to an objective; see `Balancer.fit_decision`."""
        if self.multilabel:
            self.values = label_thresholds(
                correct(logits), targets, objective or "prevalence", at_least=at_least
            )
        elif objective in (None, "equal-recall") and at_least is None:
            self.values, self.corrected = equal_recall_offset(logits, targets), False
        elif objective == "accuracy" and at_least is None:
            self.values, self.corrected = torch.zeros(logits.shape[1]), True
        else:
            raise ValueError(
                'Expected objective to be "equal-recall" or "accuracy", without at_least, '
                f"but got {objective!r} and {at_least}."
            )
        return self.values

    def __call__(self, logits: Tensor, correct: Callable[[Tensor], Tensor]) -> Tensor:
        """Predictions; see `Balancer.decide`."""
        scores = correct(logits) if self.corrected else logits
        if self.multilabel:
            cut = 0.0 if self.values is None else self.values.to(scores)
            return (scores > cut).to(torch.uint8)
        return (scores if self.values is None else scores + self.values.to(scores)).argmax(1)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "corrected": self.corrected}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values, self.corrected = state["values"], state["corrected"]
