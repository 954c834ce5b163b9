"""Closed loops: λ moves at every step by what the hold-out shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.weighting.base import Policy
from equipoise.weighting.functions import inverse_frequency, log_weight_of

__all__ = ["EqualRecall", "WorstClass"]


class EqualRecall(Policy):
    """Closed loop: λ_c ← λ_c + gain · (r̄ − r_c), until all recalls are the same.

    The recalls are exponential averages over the steps (`momentum`), each step moves λ_c by at
    most `max_step`, λ is clipped to ±`limit` and re-centred (no two classes are further apart than
    twice the limit). With `anneal`, the gain of step k
    is gain / (1 + anneal · k), so that the loop settles as the training does.

    Args:
        gain: nats for each unit of recall that a class is behind.
        momentum: of the running recalls, in [0, 1); 0 uses the last ones as they are.
        max_step: nats a step. In the first epochs recalls are near 0 or 1 because little is learnt
            yet; a loop that follows them at once has to find its way back later, and with a small
            hold-out it does not.
        limit: nats.
        anneal: at least 0.
        start: exponent of inverse frequency that λ begins with, 0 for none. What counts alone
            ask for is then there from the first epoch, and the loop moves the rest. A `Balancer`
            begins at 0 where its loss has the counts in it already.
    """

    needs_recalls = True

    def __init__(
        self,
        gain: float = 3.0,
        momentum: float = 0.0,
        max_step: float = 0.3,
        limit: float = 5.0,
        anneal: float = 0.0,
        start: float = 1.0,
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
        self.steps, self.running = 0, None
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

    def start(self, counts: np.ndarray) -> np.ndarray:
        self.score = None
        return np.zeros(len(counts))

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
