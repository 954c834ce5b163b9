"""ClassBalancedSampler: every class in a chosen proportion, exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from typing_extensions import Unpack

from equipoise._order_sampler import OrderSampler, Settings, numbers_by_class
from equipoise.samplers.order import ClassOrder, ClassPlan
from equipoise.targets import Targets

__all__ = ["ClassBalancedSampler"]


class ClassBalancedSampler(OrderSampler):
    """A stream of N example ids in which class c takes its share of the data × `weight[c]`.

    With no `weight`, all classes come equally often. Class counts of an epoch are exact (whole
    numbers next to `num_samples` · share, the same total each epoch), not random. Within a class,
    members come without replacement, in a fresh order at every pass, and passes go on over the
    epochs: every example is seen before any is seen twice. Choose a smaller `num_samples` to
    undersample; `ClassBalancedSampler.undersampling(targets)` draws each class as often as the
    rarest has examples. A class without examples is never drawn.

    Args:
        targets: `(N,)` class ids, or anything single-label that `Targets` takes.
        weight: `(C,)` positive factors on each class's natural share; `None` for inverse
            frequency, which balances the classes.
        num_samples: draws an epoch over all ranks; N by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Raises:
        ValueError: multi-hot targets, weights of the wrong shape or not positive and finite.

    Example:
        >>> sampler = ClassBalancedSampler([0, 0, 0, 0, 0, 0, 1, 1], seed=1)
        >>> drawn = list(sampler)
        >>> sum(i < 6 for i in drawn), sum(i >= 6 for i in drawn)
        (4, 4)
    """

    takes_log_weight = True

    def __init__(
        self,
        targets: Any,
        weight: Any = None,
        *,
        num_samples: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        targets = Targets.of(targets)
        targets.require_single_label(type(self).__name__)
        if num_samples is None:
            num_samples = targets.num_examples
        super().__init__(num_samples, targets=targets, **settings)
        if weight is None:
            weight = 1.0 / np.maximum(targets.counts, 1)
        else:
            weight = numbers_by_class("weight", weight, targets.num_classes, positive=True)
        order = ClassOrder(targets.members, targets.counts, self.num_samples, self.seed)
        self._begin_with(order.plan(np.log(weight)))

    def _begin_with(self, plan: ClassPlan) -> None:
        self._plan = self._since = plan  # of the current epoch, and of the one weights began in

    @classmethod
    def undersampling(cls, targets: Any, **settings: Unpack[Settings]) -> ClassBalancedSampler:
        """A balanced sampler whose epoch takes as many of each class as the rarest class has."""
        targets = Targets.of(targets)
        present = targets.counts[targets.counts > 0]
        return cls(targets, num_samples=int(present.min()) * len(present), **settings)

    def set_log_weight(self, log_weight: Any) -> None:
        """Multiply each class's natural share by exp(`log_weight`), in place of `weight`.

        It acts from the current epoch on, or if that has been handed out, from the next; see
        `OrderSampler.set_log_weight`.
        """
        log_weight = numbers_by_class("log_weight", log_weight, len(self.quotas))
        if self.handed_out:
            self._since = self._plan.next(log_weight)
        else:
            self._begin_with(replace(self._plan, log_weight=log_weight))

    @property
    def log_weight(self) -> np.ndarray:
        """`(C,)` float64: λ of the current epoch, in nats."""
        return self._plan.log_weight

    @property
    def quotas(self) -> np.ndarray:
        """`(C,)` int64: how many draws of each class the current epoch holds."""
        return self._plan.quotas

    def expected_draws(self) -> np.ndarray:
        """`(C,)` float64: `num_samples` · share; the mean of `quotas` over epochs."""
        return self.num_samples * self._plan.shares

    def draw(self, positions: np.ndarray) -> np.ndarray:
        return self._plan(positions)

    def _whole_epoch(self) -> np.ndarray:
        return self._plan.at_once()

    def _go_to_epoch(self, epoch: int) -> None:
        if epoch == self._plan.epoch:
            return
        if epoch < self._since.epoch:
            raise ValueError(
                f"Expected epoch to be at least {self._since.epoch}, where the class weights last "
                f"changed, but got {epoch}."
            )
        near = self._plan if self._since.epoch <= self._plan.epoch <= epoch else self._since
        self._plan = near.at(epoch)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "plan": self._plan.state_dict(),
            "since": self._since.state_dict(),
        }

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "num_classes": len(self._plan.log_weight)}

    def _restore(self, state: dict[str, Any]) -> None:
        self._begin_with(self._plan.restored(state["plan"]))
        self._since = self._plan.restored(state["since"])
