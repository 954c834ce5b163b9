"""ClassBalancedSampler: every class in a chosen proportion, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from equipoise.order_sampler import OrderSampler
from equipoise.samplers.class_stream import ClassStream
from equipoise.samplers.order import ClassOrder
from equipoise.targets import Targets

__all__ = ["ClassBalancedSampler", "class_shares"]


def class_shares(counts: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Each class's share of the draws: in proportion to count · exp(log-weight).

    Example:
        >>> class_shares(np.array([90, 10]), np.log([1.0, 9.0])).tolist()
        [0.5, 0.5]
    """
    shares = counts * np.exp(log_weight - log_weight.max())
    return shares / shares.sum()


class ClassBalancedSampler(OrderSampler):
    """A stream of N example ids in which class c takes its share of the data × `weight[c]`.

    With no `weight`, all classes come equally often. Class counts of an epoch are exact (whole
    numbers next to `num_samples` · share, the same total each epoch), not random. Within a class,
    members come without replacement, in a fresh order at every pass, and passes go on over the
    epochs: every example is seen before any is seen twice. Choose a smaller `num_samples` to
    undersample; `ClassBalancedSampler.undersampling(targets)` draws each class as often as the
    rarest has examples.

    Args:
        targets: `(N,)` class ids, or anything single-label that `Targets` takes.
        weight: `(C,)` positive factors on each class's natural share; `None` for inverse
            frequency, which balances the classes.
        num_samples: draws an epoch over all ranks; N by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Raises:
        ValueError: a class without examples, multi-hot targets, weights of the wrong shape or not
            positive and finite.

    Example:
        >>> sampler = ClassBalancedSampler([0, 0, 0, 0, 0, 0, 1, 1], seed=1)
        >>> drawn = list(sampler)
        >>> sum(i < 6 for i in drawn), sum(i >= 6 for i in drawn)
        (4, 4)
    """

    def __init__(
        self,
        targets: Any,
        weight: Any = None,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        self.targets = Targets.of(targets)
        self.targets.require_single_label(type(self).__name__)
        self.targets.require_every_class(type(self).__name__)
        super().__init__(
            self.targets.num_examples if num_samples is None else num_samples,
            seed=seed,
            rank=rank,
            num_replicas=num_replicas,
        )
        self._order = ClassOrder(
            self.targets.members, self.targets.counts, self.num_samples, self.seed
        )
        self._stream = ClassStream(self._order)
        weight = 1.0 / self.targets.counts if weight is None else _as_weight(weight, self.targets)
        self.set_log_weight(np.log(weight))

    @classmethod
    def undersampling(cls, targets: Any, **settings: Any) -> ClassBalancedSampler:
        """A balanced sampler whose epoch takes as many of each class as the rarest class has."""
        targets = Targets.of(targets)
        targets.require_every_class(cls.__name__)
        return cls(targets, num_samples=int(targets.counts.min()) * targets.num_classes, **settings)

    def set_log_weight(self, log_weight: Any) -> None:
        """Multiply each class's natural share by exp(`log_weight`) from the current epoch on.

        Call it between epochs. Only where the running epoch is drawn by `take` (which
        `equipoise.ffcv.BalancedLoader(just_in_time=True)` does) it acts on what is left of that.
        """
        log_weight = np.asarray(log_weight, np.float64)
        if log_weight.shape != (self.targets.num_classes,) or not np.isfinite(log_weight).all():
            raise ValueError(
                f"Expected log_weight to be {self.targets.num_classes} finite numbers, "
                f"but got {log_weight!r}."
            )
        self._order.set_shares(class_shares(self.targets.counts, log_weight))
        self._stream.change()
        self.log_weight = log_weight

    @property
    def quotas(self) -> np.ndarray:
        """`(C,)` int64: how many draws of each class the current epoch holds."""
        return self._order.quotas

    def draw(self, positions: np.ndarray) -> np.ndarray:
        return self._order(positions)

    def _whole_epoch(self) -> np.ndarray:
        return self._order.epoch_at_once()

    def take(self, first: int, last: int) -> np.ndarray:
        """Example ids (int64) at global positions [first, last), for an epoch drawn just in time.

        Positions are taken one after another, from 0 on. Weights set in between act on those not
        taken yet, whose quotas they make anew; no member of a class is skipped or doubled by it.
        See `ClassStream`.
        """
        return self._stream.take(first, last)

    def _go_to_epoch(self, epoch: int) -> None:
        moves = epoch != self._order.epoch
        self._order.set_epoch(epoch)
        if moves:
            self._stream = ClassStream(self._order)

    def state_dict(self) -> dict[str, Any]:
        order = self._order
        return {
            **super().state_dict(),
            "base_epoch": order.base_epoch,
            "cursors": torch.from_numpy(order.cursors.copy()),
            "log_weight": torch.from_numpy(self.log_weight.copy()),
            "stream": self._stream.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if "stream" in state:
            self._stream.load_state_dict(state["stream"])

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "num_classes": self.targets.num_classes}

    def _restore(self, state: dict[str, Any]) -> None:
        self.log_weight = torch.as_tensor(state["log_weight"]).double().numpy().copy()
        shares = class_shares(self.targets.counts, self.log_weight)
        self._order.restore(state["base_epoch"], state["cursors"].numpy(), shares)
        self._stream = ClassStream(self._order)


def _as_weight(weight: Any, targets: Targets) -> np.ndarray:
    values = np.asarray(weight, np.float64)
    if values.shape != (targets.num_classes,) or not ((values > 0) & np.isfinite(values)).all():
        raise ValueError(
            f"Expected weight to be {targets.num_classes} positive finite numbers, "
            f"one a class, but got {weight!r}."
        )
    return values
