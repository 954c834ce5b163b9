"""ClassStream: a class-balanced epoch drawn from front to back, under weights that may change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from equipoise.samplers.order import ClassPlan
from equipoise.samplers.permutation import keys_of

__all__ = ["ClassStream"]


class ClassStream:
    """Example ids of consecutive positions of an epoch; new class weights act from the next on.

    Each position has the class that the plan gives it. The members of a class come in turn,
    counted as they are drawn: every one is drawn before any is drawn twice, also where weights
    change in mid-epoch. (The plan itself gives a position its member without counting, so within
    a class the same members of an epoch come in another order here.)

    When weights change after t of M positions, the other M − t get whole-number quotas of the new
    shares, in a fresh keyed arrangement, and the next epoch goes on where they end. So all
    depends on seed, epoch, and which weights were set at which t alone. The state is O(C).

    Args:
        plan: of the epoch.

    Attributes:
        plan: of what is left since weights last changed.
        position: how much of the epoch is drawn.
    """

    def __init__(self, plan: ClassPlan) -> None:
        self.plan, self.position = plan, 0
        self._cursors = plan.cursors

    def take(self, first: int, last: int) -> np.ndarray:
        """Example ids (int64) of positions [first, last), the next ones.

        Raises:
            ValueError: positions elsewhere: the epoch was set anew while it was being drawn.
        """
        if first != self.position:
            raise ValueError(
                f"Expected to draw from position {self.position} on, which comes next, but got "
                f"{first}. An epoch drawn just in time is drawn in one go: call Balancer.step, "
                "set_epoch and load_state_dict between epochs, and iterate it once at a time."
            )
        if first == last:  # a plan of no positions has nothing to look up
            return np.empty(0, np.int64)
        order = self.plan.order
        classes = self.plan.classes(np.arange(first, last) - self.plan.begin)
        counts, before = np.bincount(classes, minlength=len(self._cursors)), self._cursors
        turns, ranks = np.divmod(
            before.take(classes) + _occurrences(classes, counts), order.counts.take(classes)
        )
        keys = keys_of(order.class_keys.take(classes), turns)
        ids = order.members_at(ranks.astype(order.word), classes, keys)
        self.position, self._cursors = last, before + counts
        return ids.astype(np.int64)

    def change(self, log_weight: np.ndarray) -> ClassPlan:
        """Draw what is left of the epoch by other weights; returns the next epoch's plan."""
        self.plan = replace(
            self.plan, log_weight=log_weight, cursors=self._cursors, begin=self.position
        )
        return self.plan.next(log_weight)

    def state_dict(self) -> dict[str, Any]:
        return {
            "plan": self.plan.state_dict(),
            "position": self.position,
            "cursors": torch.tensor(self._cursors),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.plan = self.plan.restored(state["plan"])
        self.position, self._cursors = state["position"], state["cursors"].numpy().copy()


def _occurrences(classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How often each element's class came before it, from how often each comes in all.

    Example:
        >>> _occurrences(np.array([1, 0, 1, 1]), np.array([1, 3])).tolist()
        [0, 0, 1, 2]
    """
    by_class = np.argsort(classes, kind="stable")
    earlier = np.empty(len(classes), np.int64)
    earlier[by_class] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return earlier
