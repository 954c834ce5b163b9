"""Policies: counts and hold-out recalls in, class log-weights λ (mean zero) out.

A policy has `start(counts)`, λ of the first epoch, and `step(log_weight, recalls)`, λ of the next.
Whatever else it remembers is in `state_dict`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.weighting.functions import (
    class_difficulty,
    effective_number,
    inverse_frequency,
    log_weight_of,
    recall_power,
    repeat_factor,
)

__all__ = [
    "POLICIES",
    "ClassDifficulty",
    "EffectiveNumber",
    "EqualRecall",
    "InverseFrequency",
    "Plain",
    "Policy",
    "RecallPower",
    "RepeatFactor",
    "WorstClass",
    "make_policy",
]


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


Plain = Policy


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


class _FromRecalls(Policy):
    """λ computed afresh from the recalls of one step, or of every step."""

    def __init__(self, recalls: Any, after: int | None) -> None:
        if after is not None and after < 1:
            raise ValueError(f"Expected after to be at least 1, but got {after}.")
        self.recalls = None if recalls is None else [float(r) for r in recalls]
        self.after = after
        self.steps = 0

    @property
    def needs_recalls(self) -> bool:  # type: ignore[override]
        return self.recalls is None

    def _weight(self, recalls: Any) -> np.ndarray:
        raise NotImplementedError

    def start(self, counts: np.ndarray) -> np.ndarray:
        if self.recalls is None:
            return np.zeros(len(counts))
        if len(self.recalls) != len(counts):
            raise ValueError(
                f"Expected recalls of {len(counts)} classes, but got {len(self.recalls)}."
            )
        return log_weight_of(self._weight(self.recalls))

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        self.steps += 1
        if self.recalls is not None or (self.after is not None and self.steps != self.after):
            return log_weight
        return log_weight_of(self._weight(recalls))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


class RecallPower(_FromRecalls):
    """λ = γ · log(r̄ / r_c), the founding formula: see `recall_power`.

    Args:
        gamma: exponent.
        recalls: `(C,)` of an earlier run: λ stands from the first epoch on and does not change.
        after: take the recalls at this step (1 is the end of the first epoch) and keep λ from
            then on: train `after` epochs, start the model afresh, train again. With neither,
            λ follows the recalls at every step.
    """

    def __init__(self, gamma: float = 4.0, recalls: Any = None, after: int | None = None) -> None:
        super().__init__(recalls, after)
        self.gamma = gamma

    def _weight(self, recalls: Any) -> np.ndarray:
        return recall_power(recalls, self.gamma)


class ClassDifficulty(_FromRecalls):
    """λ from 1 − recall: see `class_difficulty`; arguments as for `RecallPower`."""

    def __init__(
        self, tau: float | str = "dynamic", recalls: Any = None, after: int | None = None
    ) -> None:
        super().__init__(recalls, after)
        self.tau = tau

    def _weight(self, recalls: Any) -> np.ndarray:
        return class_difficulty(recalls, self.tau)


class EqualRecall(Policy):
    """Closed loop: λ_c ← λ_c + gain · (r̄ − r_c), until all recalls are the same.

    The recalls are exponential averages over the steps (`momentum`), each step moves λ_c by at
    most `max_step`, λ stays within ±`limit` and is re-centred. With `anneal`, the gain of step k
    is gain / (1 + anneal · k), so that the loop settles as the training does.

    Args:
        gain: nats for each unit of recall that a class is behind.
        momentum: of the running recalls, in [0, 1); 0 uses the last ones as they are.
        max_step: nats a step.
        limit: nats.
        anneal: at least 0.
        start: exponent of inverse frequency that λ begins with, 0 for none.
    """

    needs_recalls = True

    def __init__(
        self,
        gain: float = 3.0,
        momentum: float = 0.0,
        max_step: float = 1.0,
        limit: float = 5.0,
        anneal: float = 0.0,
        start: float = 0.0,
    ) -> None:
        for name, value in (("gain", gain), ("max_step", max_step), ("limit", limit)):
            if not value > 0:
                raise ValueError(f"Expected {name} to be above 0, but got {value}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"Expected momentum to be in [0, 1), but got {momentum}.")
        if not anneal >= 0:
            raise ValueError(f"Expected anneal to be at least 0, but got {anneal}.")
        self.gain, self.momentum, self.max_step = gain, momentum, max_step
        self.limit, self.anneal, self.exponent = limit, anneal, start
        self.steps = 0
        self.running: np.ndarray | None = None

    def start(self, counts: np.ndarray) -> np.ndarray:
        return log_weight_of(inverse_frequency(counts, self.exponent))

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        last = np.asarray(recalls, np.float64)
        if self.running is None:
            self.running = last
        else:
            self.running = self.momentum * self.running + (1 - self.momentum) * last
        gain = self.gain / (1 + self.anneal * self.steps)
        self.steps += 1
        move = gain * (self.running.mean() - self.running)
        moved = log_weight + np.clip(move, -self.max_step, self.max_step)
        moved = np.clip(moved - moved.mean(), -self.limit, self.limit)
        return moved - moved.mean()

    def state_dict(self) -> dict[str, Any]:
        running = None if self.running is None else self.running.tolist()
        return {"steps": self.steps, "running": running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.running = None if state["running"] is None else np.array(state["running"])


class WorstClass(Policy):
    """Closed loop towards the worst class: λ_c = log(C · p_c), p a mixture of uniform and softmax.

    `score_c += rate · (1 − r_c)`, `p = mix / C + (1 − mix) · softmax(score)`: the distribution
    update of class-focused online learning (CFOL, Pethick et al. 2023) with the error in place of
    the loss; group DRO (Sagawa et al. 2020) is `mix=0`. It bounds every class's share from below.

    Args:
        rate: of the multiplicative update.
        mix: share of the uniform distribution, in [0, 1).
    """

    needs_recalls = True

    def __init__(self, rate: float = 3.0, mix: float = 0.5) -> None:
        if not rate > 0:
            raise ValueError(f"Expected rate to be above 0, but got {rate}.")
        if not 0 <= mix < 1:
            raise ValueError(f"Expected mix to be in [0, 1), but got {mix}.")
        self.rate, self.mix = rate, mix
        self.score: np.ndarray | None = None

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        error = 1 - np.asarray(recalls, np.float64)
        score = self.rate * error + (0 if self.score is None else self.score)
        self.score = score - score.max()
        favoured = np.exp(self.score)
        mixed = self.mix / len(error) + (1 - self.mix) * favoured / favoured.sum()
        return log_weight_of(mixed)

    def state_dict(self) -> dict[str, Any]:
        return {"score": None if self.score is None else self.score.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.score = None if state["score"] is None else np.array(state["score"])


POLICIES: dict[str, type[Policy]] = {
    "plain": Policy,
    "inverse-frequency": InverseFrequency,
    "effective-number": EffectiveNumber,
    "repeat-factor": RepeatFactor,
    "recall-power": RecallPower,
    "class-difficulty": ClassDifficulty,
    "equal-recall": EqualRecall,
    "worst-class": WorstClass,
}


def make_policy(policy: str | Policy) -> Policy:
    """The policy itself, or the one of that name with its default settings.

    Example:
        >>> make_policy("equal-recall").needs_recalls
        True
    """
    if isinstance(policy, Policy):
        return policy
    if policy not in POLICIES:
        raise ValueError(
            f"Expected policy to be one of {', '.join(map(repr, POLICIES))} or a Policy, "
            f"but got {policy!r}."
        )
    return POLICIES[policy]()
