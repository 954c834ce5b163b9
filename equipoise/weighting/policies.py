"""Policies from counts and from earlier recalls."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.weighting.base import Policy, check_above_zero
from equipoise.weighting.functions import (
    class_difficulty,
    effective_number,
    inverse_frequency,
    log_weight_of,
    recall_power,
    repeat_factor,
)

__all__ = [
    "ClassDifficulty",
    "Deferred",
    "EffectiveNumber",
    "InverseFrequency",
    "RecallPower",
    "RepeatFactor",
    "TargetShares",
]


class InverseFrequency(Policy):
    """λ = −exponent · log n_c: see `inverse_frequency`."""

    def __init__(self, exponent: float = 1.0) -> None:
        self.exponent = exponent

    def start(self, counts: np.ndarray) -> np.ndarray:
        return log_weight_of(inverse_frequency(counts, self.exponent))


class EffectiveNumber(Policy):
    """λ from the effective number of examples: see `effective_number`."""

    def __init__(self, beta: float = 0.999) -> None:
        self.beta = beta

    def start(self, counts: np.ndarray) -> np.ndarray:
        return log_weight_of(effective_number(counts, self.beta))


class RepeatFactor(Policy):
    """λ from LVIS repeat factors: see `repeat_factor`."""

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold

    def start(self, counts: np.ndarray) -> np.ndarray:
        return log_weight_of(repeat_factor(counts, self.threshold))


class TargetShares(Policy):
    """λ_c = log(s_c / n_c), with which class c makes up the share s_c of what is drawn.

    Args:
        shares: `(C,)` numbers above 0; they are divided by their sum. For a `Balancer` whose
            classes have names, `policy={"cat": 0.5, "dog": 0.25, "bird": 0.25}` says the same.

    Example:
        >>> from equipoise import Balancer
        >>> policy = TargetShares([0.5, 0.25, 0.25])
        >>> Balancer([0] * 70 + [1] * 20 + [2] * 10, policy).sampler.quotas.tolist()
        [50, 25, 25]
    """

    def __init__(self, shares: Any) -> None:
        self.shares = np.array(shares, np.float64)
        if self.shares.ndim != 1 or not np.all((self.shares > 0) & np.isfinite(self.shares)):
            raise ValueError(f"Expected shares to be (C,) numbers above 0, but got {shares!r}.")

    def start(self, counts: np.ndarray) -> np.ndarray:
        if len(self.shares) != len(counts):
            raise ValueError(
                f"Expected shares for {len(counts)} classes, but got {len(self.shares)}."
            )
        return log_weight_of(self.shares / counts)


class Deferred(Policy):
    """λ = 0 for `epochs` epochs, then that of another policy: deferred re-weighting, with any loss.

    DRW of Cao et al. 2019, "Learning imbalanced datasets with label-distribution-aware margin
    loss", §3.3, which defers `EffectiveNumber(.9999)` to the last fifth of the training.

    Args:
        policy: one that follows counts only, for example `InverseFrequency()`.
        epochs: how many epochs come before it acts.

    Example:
        >>> policy = Deferred(InverseFrequency(), epochs=2)
        >>> log_weight = policy.start(np.array([300, 100]))
        >>> for epoch in range(2):
        ...     print(log_weight.round(2).tolist())
        ...     log_weight = policy.step(log_weight, None)
        [0.0, 0.0]
        [0.0, 0.0]
        >>> log_weight.round(2).tolist()
        [-0.55, 0.55]
    """

    remembers = ("left", "later")

    def __init__(self, policy: Policy, epochs: int) -> None:
        if not isinstance(policy, Policy) or policy.needs_recalls:
            raise ValueError(f"Expected policy to be one that follows counts, but got {policy!r}.")
        if not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f"Expected epochs to be an int of at least 1, but got {epochs!r}.")
        self.policy, self.epochs = policy, epochs

    def start(self, counts: np.ndarray) -> np.ndarray:
        self.left, self.later = self.epochs, self.policy.start(counts)
        return np.zeros(len(counts))

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        self.left -= 1
        return self.later if self.left <= 0 else log_weight


class _FromRecalls(Policy):
    """λ computed afresh from the recalls of one step, or of every step."""

    remembers = ("steps",)

    def __init__(self, recalls: Any = None, after: int | None = None, limit: float = 2.0) -> None:
        check_above_zero(limit=limit)
        if after is not None and after < 1:
            raise ValueError(f"Expected after to be at least 1, but got {after}.")
        self.recalls = None if recalls is None else [float(r) for r in recalls]
        self.after, self.limit = after, limit
        self.steps = 0

    @property
    def needs_recalls(self) -> bool:  # type: ignore[override]
        return self.recalls is None and self.after in (None, self.steps + 1)

    def _log_weight(self, recalls: Any) -> np.ndarray:
        log_weight = log_weight_of(self._weight(recalls))
        middle = np.median(log_weight)
        clipped = np.clip(log_weight, middle - self.limit, middle + self.limit)
        return clipped - clipped.mean()

    def _weight(self, recalls: Any) -> np.ndarray:
        raise NotImplementedError

    def start(self, counts: np.ndarray) -> np.ndarray:
        self.steps = 0
        if self.recalls is None:
            return np.zeros(len(counts))
        if len(self.recalls) != len(counts):
            raise ValueError(
                f"Expected recalls of {len(counts)} classes, but got {len(self.recalls)}."
            )
        return self._log_weight(self.recalls)

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        self.steps += 1
        if self.recalls is not None or (self.after is not None and self.steps != self.after):
            return log_weight
        return self._log_weight(recalls)


class RecallPower(_FromRecalls):
    """λ = γ · log(r̄ / r_c), the founding formula: see `recall_power`.

    Args:
        gamma: exponent.
        recalls: `(C,)` of an earlier run: λ stands from the first epoch on and does not change.
        after: take the recalls at this step (1 is the end of the first epoch) and keep λ from
            then on: train `after` epochs, start the model afresh, train again. With neither,
            λ follows the recalls at every step.
        limit: how many nats a class may be from the median one. A class that is never right, as
            happens after a first epoch, would otherwise be given all the draws.
    """

    def __init__(self, gamma: float = 4.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.gamma = gamma

    def _weight(self, recalls: Any) -> np.ndarray:
        return recall_power(recalls, self.gamma)


class ClassDifficulty(_FromRecalls):
    """λ from 1 − recall: see `class_difficulty`; arguments as for `RecallPower`."""

    def __init__(self, tau: float | str = "dynamic", **settings: Any) -> None:
        super().__init__(**settings)
        self.tau = tau

    def _weight(self, recalls: Any) -> np.ndarray:
        return class_difficulty(recalls, self.tau)
