"""ClassStream: a class-balanced epoch drawn from front to back, under weights that may change."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from equipoise.samplers.order import ClassOrder
from equipoise.samplers.permutation import key_of, keys_of

__all__ = ["ClassStream"]

AHEAD = 16384  # positions drawn at a time, at most


class ClassStream:
    """Example ids of consecutive positions of an epoch; new class shares act from the next one on.

    Each position has the class that the order gives it. The members of a class come in turn,
    counted as they are drawn: every one is drawn before any is drawn twice, also where shares
    change in mid-epoch. (The order itself gives a position its member without counting, so within
    a class the same members of an epoch come in another order here.)

    When shares change after t of M positions, the other M − t get whole-number quotas of the new
    shares, in a fresh keyed arrangement, and the next epoch goes on where they end. So all
    depends on seed, epoch, and which shares were set at which t alone. The state is O(C).

    Positions are drawn ahead of what is asked for, twice as many each time, up to 16,384; when
    shares change those not taken yet are forgotten, and it begins anew with as many as are asked
    for.

    Args:
        order: of the epochs; its shares are those in force.
    """

    def __init__(self, order: ClassOrder) -> None:
        self.order = order
        self._begin()

    def _begin(self) -> None:
        """Go to the start of the order's epoch."""
        self.position = self.origin = 0  # drawn so far, and when shares last changed
        self.cursors = self.order._cursors_at(self.order.epoch)
        self._plan = self.order
        self._forget()

    def _forget(self) -> None:
        """Draw nothing ahead any more; `cursors` are those of `position`."""
        self._first, self._ids = self.position, np.empty(0, np.int64)  # drawn ahead, from where
        self._classes = np.empty(0, np.int64)

    def _settle(self) -> None:
        """Count what was taken, and forget what was drawn ahead of it."""
        taken = self._classes[: self.position - self._first]
        self.cursors = self.cursors + np.bincount(taken, minlength=len(self.cursors))
        self._forget()

    def take(self, first: int, last: int) -> np.ndarray:
        """Example ids (int64) of positions [first, last): those after what was taken before, or 0.

        Raises:
            ValueError: positions elsewhere: the epoch was set anew while it was being drawn.
        """
        if first == 0:
            self._begin()
        if first != self.position:
            raise ValueError(
                f"Expected to draw from position {self.position} on, which comes next, but got "
                f"{first}. An epoch drawn just in time is drawn in one go: call Balancer.step, "
                "set_epoch and load_state_dict between epochs, and iterate it once at a time."
            )
        if last > self._first + len(self._ids):
            self._draw(first, max(last, min(first + 2 * len(self._ids), first + AHEAD)))
        self.position = last
        return self._ids[first - self._first : last - self._first].copy()

    def _draw(self, first: int, last: int) -> None:
        """Draw positions [first, last), as far as there are, by the shares in force."""
        self._settle()
        plan, order = self._plan, self.order
        rest = np.arange(first, min(last, order.num_samples)) - self.origin
        self._classes = plan.classes(rest)
        ranks = self.cursors.take(self._classes)
        ranks += _occurrences(self._classes, len(order.counts))
        turns, ranks = np.divmod(ranks, order.counts.take(self._classes))
        keys = keys_of(order._class_keys.take(self._classes), turns)
        ids = order.members_at(ranks.astype(order._word), self._classes, keys)
        self._ids = ids.astype(np.int64, copy=False)

    def change(self) -> None:
        """Draw what is left of the epoch by the order's shares, which have just been set."""
        if not self.position:
            self._begin()
            return
        self._settle()
        order, self.origin = self.order, self.position
        ends = self.cursors
        if self.origin < order.num_samples:
            self._plan_rest()
            ends = ends + self._plan.quotas
        # The next epoch begins at `ends` if this one began, all under these shares, here:
        order.cursors = ends - order.quotas
        order._known = order.base_epoch, order.cursors
        order.set_epoch(order.epoch)

    def _plan_rest(self) -> None:
        """Arrange the classes of the positions from `origin` on."""
        order = self.order
        rest = order.num_samples - self.origin
        self._plan = ClassOrder(order.members, order.counts, rest, order.seed)
        self._plan.restore(order.epoch, np.zeros_like(order.counts), order.shares)
        self._plan._slot_key = key_of(order.seed, 3, order.epoch, self.origin)

    def state_dict(self) -> dict[str, Any]:
        self._settle()
        return {
            "position": self.position,
            "origin": self.origin,
            "cursors": torch.from_numpy(self.cursors.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the order as it was then."""
        self._begin()
        self.position, self.origin = state["position"], state["origin"]
        if self.position:
            self.cursors = state["cursors"].numpy().copy()
        self._forget()
        if 0 < self.origin < self.order.num_samples:
            self._plan_rest()


def _occurrences(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each element's class came before it.

    Example:
        >>> _occurrences(np.array([1, 0, 1, 1]), 2).tolist()
        [0, 0, 1, 2]
    """
    counts = np.bincount(classes, minlength=num_classes)
    by_class = np.argsort(classes, kind="stable")
    earlier = np.empty(len(classes), np.int64)
    earlier[by_class] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return earlier
