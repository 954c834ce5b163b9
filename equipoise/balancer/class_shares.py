"""ClassShares: what a Balancer without an index has in place of a sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from equipoise.samplers import OrderSampler
from equipoise.samplers.order import class_shares
from equipoise.targets import Targets

__all__ = ["ClassShares"]


class ClassShares(OrderSampler):
    """The share of the draws that each class of a stream is to have; it draws nothing itself.

    Attributes:
        shares: `(C,)` float64 tensor of the expected draws, which streams in other processes read.
    """

    takes_log_weight = True

    def __init__(self, targets: Targets, num_samples: int | None = None, **settings: Any) -> None:
        super().__init__(num_samples or targets.num_examples, targets=targets, **settings)
        self._log_weight = np.zeros(targets.num_classes)
        self.shares = torch.from_numpy(self.expected_draws())

    def set_log_weight(self, log_weight: Any) -> None:
        """Ask for each class exp(`log_weight`) times as often as it comes, from now on."""
        self._log_weight = np.array(log_weight, np.float64)
        self.shares.copy_(torch.from_numpy(self.expected_draws()))

    @property
    def log_weight(self) -> np.ndarray:
        return self._log_weight

    def expected_draws(self) -> np.ndarray:
        targets = self._known_targets()
        if targets.multilabel:
            return self.num_samples * targets.counts / targets.num_examples
        return self.num_samples * class_shares(targets.counts, self._log_weight)

    def draw(self, positions: np.ndarray) -> np.ndarray:
        self._known_targets().require_index("balancer.sampler")
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "log_weight": self._log_weight.tolist()}

    def _restore(self, state: dict[str, Any]) -> None:
        self.set_log_weight(state["log_weight"])
