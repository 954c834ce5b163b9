"""LabelBalancedSampler: multilabel examples weighted so that label frequencies even out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from equipoise._order_sampler import numbers_by_class
from equipoise.samplers.example_order import ExampleWeightedSampler
from equipoise.samplers.label_balancing import LabelBalance, LogLinearWeights

__all__ = ["LabelBalancedSampler"]


class LabelBalancedSampler(ExampleWeightedSampler):
    """A stream in which rare labels come more often, at a bounded loss of variety.

    Example i comes v_i times in N draws, v_i ∝ exp((Yλ)_i): the weights of least distortion, of
    λ the one that brings label frequencies nearest to p^exponent at an effective sample size of at
    least `min_effective` · N. No example comes more than `max_repeat` times in N draws, and (by
    default) the distribution of the number of labels an example stays as it is. See
    `label_balancing_weights` for the formula, the sources and the arguments.

    Examples come as in `ExampleWeightedSampler`: each its expected number of times, rounded down
    or up, every epoch. Use it alone, or hand it to a `Balancer`, which moves λ by what a hold-out
    shows.

    Args:
        targets: `(N, C)` multi-hot, anything multilabel that `Targets` takes; or
            `Targets.from_counts`, so that drawing examples moves the shares of their elements:
            Y_ic is then the number of class c in example i over its root mean square over i.
        exponent, min_effective, max_repeat, cardinality: see `label_balancing_weights`.
        log_weight: `(C,)` λ to start from instead of solving for one.
        num_samples: draws an epoch over all ranks; N by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Attributes:
        balance: what is reached: a `LabelBalance`; print it.

    Example:
        >>> targets = [[1, 0], [1, 0], [1, 0], [1, 0], [1, 1], [0, 1]]
        >>> sampler = LabelBalancedSampler(targets, exponent=0, seed=1)
        >>> round(sampler.balance.mean_ir_before, 2), round(sampler.balance.mean_ir, 2)
        (1.75, 1.0)
        >>> len(list(sampler))
        6
    """

    takes_log_weight = True

    def __init__(
        self,
        targets: Any,
        *,
        exponent: float = 0.5,
        min_effective: float = 0.5,
        max_repeat: float = 20.0,
        cardinality: str | None = "distribution",
        log_weight: Any = None,
        **settings: Any,
    ) -> None:
        self._links = LogLinearWeights(targets, exponent, min_effective, max_repeat, cardinality)
        targets = self._links.targets
        super().__init__(np.ones(targets.num_examples), targets=targets, **settings)
        iterations = 0
        if log_weight is None:
            solved = self._links.solved()
            log_weight, iterations = solved.log_weight, solved.iterations
        self._asked = self._checked(log_weight)
        self._balance_by(self._asked, iterations)

    def set_log_weight(self, log_weight: Any) -> None:
        """Draw example i in proportion to exp((Yλ)_i).

        It acts from the current epoch on, or if that has been handed out, from the next; see
        `OrderSampler.set_log_weight`. The cap and the cardinality are kept; a λ that would take the
        effective sample size below its floor is scaled down to it (`log_weight` is the λ in force).
        """
        self._asked = self._checked(log_weight)
        if not self.handed_out:
            self._balance_by(self._asked)

    def _checked(self, log_weight: Any) -> np.ndarray:
        classes = self._known_targets().num_classes
        return numbers_by_class("log_weight", log_weight, classes, positive=False)

    def _balance_by(self, asked: np.ndarray, iterations: int = 0) -> None:
        self._in_force = asked
        self.balance: LabelBalance = self._links.balance(asked, iterations)
        self._order = self._order.reweighted(self.balance.weight)

    def _go_to_epoch(self, epoch: int) -> None:
        if epoch != self.epoch and self._in_force is not self._asked:
            self._balance_by(self._asked)

    @property
    def log_weight(self) -> np.ndarray:
        """`(C,)` float64: λ in force."""
        return self.balance.log_weight

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "log_weight": torch.tensor(self._in_force),
            "next_log_weight": torch.tensor(self._asked),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self._balance_by(state["log_weight"].numpy().copy(), self.balance.iterations)
        self._asked = state["next_log_weight"].numpy().copy()
        if np.array_equal(self._asked, self._in_force):
            self._asked = self._in_force
