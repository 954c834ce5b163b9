"""DoReMi: shares of the domains that follow excess losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.weighting.base import Policy
from equipoise.weighting.functions import log_weight_of

__all__ = ["DoReMi"]


class DoReMi(Policy):
    """Closed loop that draws more of a domain, the more its loss exceeds a reference model's.

    With ℓ_g the loss of domain g and α its share of the draws, uniform at first:

        α_g ← α_g · exp(rate · max(ℓ_g − reference_g, 0)), divided by the sum,
        α ← (1 − mix) · α + mix / G.

    Algorithm 1 of Xie et al. 2023, "DoReMi: optimizing data mixtures speeds up language model
    pretraining", which takes a step at every batch, and trains the final model on `mean_shares`.
    With no reference it is group DRO's rule on the losses (Sagawa et al. 2020). The shares of the
    last step may go to a single domain; a `mix` that is not tiny bounds them from below.

    It follows losses: a `Balancer` asks for `observe_rates(losses)` before `step`.

    Args:
        rate: η of a step.
        mix: share of the uniform distribution, in (0, 1]; the paper's is .001.
        reference: `(G,)` losses of the reference model; `None` where excess losses are given.

    Attributes:
        mean_shares: `(G,)` mean of α over the steps, for `TargetShares(policy.mean_shares)`.

    Example:
        >>> policy = DoReMi(reference=[2.0, 3.0, 1.0])
        >>> log_weight = policy.start(np.array([100, 100, 100]))
        >>> log_weight = policy.step(log_weight, np.array([3.0, 3.0, 0.5]))
        >>> policy.mean_shares.round(2).tolist()
        [0.58, 0.21, 0.21]
    """

    needs_recalls = follows_losses = True

    def __init__(self, rate: float = 1.0, mix: float = 1e-3, reference: Any = None) -> None:
        if not rate > 0 or not 0 < mix <= 1:
            raise ValueError(
                f"Expected rate to be above 0 and mix in (0, 1], but got {rate} and {mix}."
            )
        self.rate, self.mix = rate, mix
        self.reference = None if reference is None else np.array(reference, np.float64)

    def start(self, counts: np.ndarray) -> np.ndarray:
        if self.reference is not None and self.reference.shape != counts.shape:
            raise ValueError(
                f"Expected reference to be losses of {len(counts)} domains, but got "
                f"{self.reference.tolist()}."
            )
        self.counts, self.steps = counts, 0
        self.shares = self.mean_shares = np.full(len(counts), 1 / len(counts))
        return log_weight_of(self.shares / counts)

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        excess = np.asarray(recalls, np.float64) - (0 if self.reference is None else self.reference)
        log_share = np.log(self.shares) + self.rate * np.maximum(excess, 0)
        shares = np.exp(log_share - log_share.max())
        self.shares = (1 - self.mix) * shares / shares.sum() + self.mix / len(shares)
        self.steps += 1
        mean = self.mean_shares if self.steps > 1 else np.zeros(len(shares))
        self.mean_shares = mean + (self.shares - mean) / self.steps
        return log_weight_of(self.shares / self.counts)

    def state_dict(self) -> dict[str, Any]:
        arrays = {"shares": self.shares, "mean_shares": self.mean_shares, "counts": self.counts}
        return {name: each.tolist() for name, each in arrays.items()} | {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shares, self.mean_shares = np.array(state["shares"]), np.array(state["mean_shares"])
        self.counts, self.steps = np.array(state["counts"]), state["steps"]
