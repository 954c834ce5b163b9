"""What every policy is: counts and hold-out recalls in, class log-weights λ out."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Plain", "Policy"]


class Policy:
    """The base of all policies: turns class counts and recalls into class log-weights λ.

    λ_c is a natural logarithm: a class whose λ is log 2 higher counts twice as much; the mean of λ
    is 0. A policy has `start(counts)`, λ of the first epoch, which also sets what is remembered,
    and `step(log_weight, recalls)`, λ of the next. `load_state_dict` may come in place of `start`.
    A `Balancer` works on a copy of the policy that it is given.

    Attributes:
        needs_recalls: whether `step` does anything with recalls; a `Balancer` then asks for
            `observe` before `step`.
        follows_losses: whether what it follows are losses of any size, given by `observe_rates`,
            and not recalls.
        needs_training_recalls: whether these recalls are those of the training batches, which a
            `Balancer` counts in `loss`: no hold-out is asked for.
        default_loss: the name of the loss that a `Balancer` for class ids takes with this policy.
        default_sampler_share: the share of λ that the sampler carries with that loss.
        unresponsive: `(C,)` bool, the classes whose recall did not rise although their weight did;
            `None` for policies that do not look.
        remembers: names of the attributes that are kept beside λ: numbers, arrays or `None`.
    """

    needs_recalls: bool = False
    follows_losses: bool = False
    needs_training_recalls: bool = False
    default_loss: str = "weighted-cross-entropy"
    default_sampler_share: float = 1.0
    unresponsive: np.ndarray | None = None
    remembers: tuple[str, ...] = ()

    def start(self, counts: np.ndarray) -> np.ndarray:
        """λ `(C,)` of the first epoch, from the class counts, each above 0."""
        return np.zeros(len(counts))

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        """λ `(C,)` of the next epoch, from the last one's and the recalls seen at its end."""
        return log_weight

    def state_dict(self) -> dict[str, Any]:
        """What the policy remembers beside λ: numbers and NumPy-free lists only."""
        values = {name: getattr(self, name) for name in self.remembers}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over `state_dict`."""
        for name in self.remembers:
            value = state[name]
            setattr(self, name, np.array(value) if isinstance(value, list) else value)


class Plain(Policy):
    """Leaves every class as it comes: λ = 0, always."""


def check_above_zero(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"Expected {name} to be above 0, but got {value}.")
