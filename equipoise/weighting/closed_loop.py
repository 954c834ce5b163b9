"""Closed loops: λ moves at every step by what recalls or losses show."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.weighting.base import Policy, check_above_zero
from equipoise.weighting.functions import class_difficulty, inverse_frequency, log_weight_of

__all__ = ["DoReMi", "EqualRecall", "Fair", "RecallLoss", "WorstClass"]


class _Loop(Policy):
    """A loop around inverse frequency, with a brake for classes that do not respond.

    A class does not respond if its λ has been at least log 2 above where it rests for `patience`
    steps, while its recall stayed below ¾ of the mean and has made up less than a third of what it
    lacked when its λ was first raised. λ then goes back to where it rests. The class is let go once
    its recall has made up that much.
    """

    needs_recalls = True
    default_loss = "logit-adjusted"
    default_sampler_share = 0.5
    remembers = ("rest", "at_first", "idle")

    def __init__(self, max_step: float, start: float, patience: int) -> None:
        check_above_zero(max_step=max_step, patience=patience)
        self.max_step, self.exponent, self.patience = max_step, start, patience

    def start(self, counts: np.ndarray) -> np.ndarray:
        self.rest = log_weight_of(inverse_frequency(counts, self.exponent))
        self.at_first = np.full(len(counts), np.nan)  # recall / mean when λ was first raised
        self.idle = np.zeros(len(counts), np.int64)  # steps without a response
        return self.rest.copy()

    @property
    def unresponsive(self) -> np.ndarray:  # type: ignore[override]
        return self.idle >= self.patience

    def _mean(self, recalls: np.ndarray) -> float:
        """Mean recall of the classes that respond, all if none does."""
        some = recalls[~self.unresponsive] if not self.unresponsive.all() else recalls
        return max(float(some.mean()), 1e-9)

    def _moved(self, log_weight: np.ndarray, recalls: np.ndarray, move: np.ndarray) -> np.ndarray:
        """λ after `move`, braked, of at most `max_step` a class, and with mean zero."""
        ratio = recalls / self._mean(recalls)
        raised = log_weight - self.rest
        first = np.isnan(self.at_first) & ((raised > 0) | (move > 0))
        self.at_first = np.where(first, ratio, self.at_first)
        behind = (ratio < 0.75) & ~(ratio > self.at_first + (1 - self.at_first) / 3)
        waits = behind & ((raised >= np.log(2)) | self.unresponsive)
        self.idle = np.where(waits, self.idle + 1, 0)
        move = np.clip(np.where(self.unresponsive, -raised, move), -self.max_step, self.max_step)
        move -= move.mean()
        moved = log_weight + move * min(1.0, self.max_step / max(np.abs(move).max(), 1e-9))
        return moved - moved.mean()


class Fair(_Loop):
    """Closed loop that levels up: each class counts what a point of its recall is worth.

    With r̄ the mean of the hold-out recalls r_c, a point of the recall of class c is worth
    (r̄ / r_c)^α points at the mean, but no more than κ and no less than 1 / κ (α-fairness, see
    `equipoise.decision.Fairness`; the founding formula with γ = α). λ moves towards the logarithm
    of that, on top of what the class counts ask for:

        λ_c ← λ_c + rate · (rest_c + α · log(r̄ / r_c), within ± log κ − λ_c),

    rest = −`start` · log n_c, and at most `max_step` at a step. So whatever its recall, no class
    counts more than κ times beyond balance. A class whose recall does not rise with its λ
    (mislabelled, the same as another, or without a signal) goes back to its rest and is left out of
    r̄; a `Balancer` warns of it by name.

    Its default loss shifts the logits (`LogitAdjustedCrossEntropy`), and half of λ draws
    (`sampler_share=.5`).

    Args:
        alpha: α: 0 for balanced counts alone; the larger, the closer the recalls come.
        kappa: κ, at least 1: the most that the loop multiplies or divides a class's weight by.
        rate: in (0, 1], how far λ moves towards its aim at each step.
        max_step: nats at a step. In the first epochs recalls are near 0 or 1 because little is
            learnt yet; a loop that follows them at once has to find its way back later, and with a
            small hold-out it does not.
        start: exponent of inverse frequency that λ rests at, 0 for none. A `Balancer` leaves out
            of the counts what its loss or its sampler balances already.
        patience: steps without a response after which λ goes back.

    Example:
        >>> policy = Fair(alpha=4, rate=1, max_step=1)
        >>> log_weight = policy.start(np.array([100, 100, 100]))
        >>> policy.step(log_weight, np.array([0.9, 0.9, 0.6])).round(2).tolist()
        [-0.5, -0.5, 1.0]
    """

    def __init__(
        self,
        alpha: float = 8.0,
        kappa: float = 4.0,
        rate: float = 0.3,
        max_step: float = 0.3,
        start: float = 1.0,
        patience: int = 4,
    ) -> None:
        super().__init__(max_step, start, patience)
        if not alpha >= 0 or not kappa >= 1:
            raise ValueError(
                f"Expected alpha to be at least 0 and kappa at least 1, but got {alpha}, {kappa}."
            )
        if not 0 < rate <= 1:
            raise ValueError(f"Expected rate to be in (0, 1], but got {rate}.")
        self.alpha, self.kappa, self.rate = alpha, kappa, rate

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        recalls = np.asarray(recalls, np.float64)
        most = np.log(self.kappa)
        aim = self.alpha * np.log(self._mean(recalls) / np.maximum(recalls, 1e-9))
        aim = np.where(self.unresponsive, 0.0, np.clip(aim, -most, most))
        move = self.rate * (self.rest + aim - aim.mean() - log_weight)
        return self._moved(log_weight, recalls, move)


class EqualRecall(_Loop):
    """Closed loop: λ_c ← λ_c + gain · (r̄ − r_c), until all recalls r_c are the same.

    It has no exchange rate: it equalises at any price that the network can pay, and pulls a high
    recall down as readily as it raises a low one. `Fair` is for whoever wants the low ones raised.

    Each step moves λ_c by at most `max_step`, λ is clipped to ±`limit` and re-centred (no two
    classes are further apart than twice the limit). A class that does not respond goes back to
    where λ began.

    Args:
        gain: nats for each unit of recall that a class is behind.
        max_step: nats at a step, see `Fair`.
        limit: nats.
        start: exponent of inverse frequency that λ begins with, see `Fair`.
        patience: steps without a response after which λ goes back.
    """

    def __init__(
        self,
        gain: float = 3.0,
        max_step: float = 0.3,
        limit: float = 5.0,
        start: float = 1.0,
        patience: int = 4,
    ) -> None:
        super().__init__(max_step, start, patience)
        check_above_zero(gain=gain, limit=limit)
        self.gain, self.limit = gain, limit

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        recalls = np.asarray(recalls, np.float64)
        moved = self._moved(log_weight, recalls, self.gain * (self._mean(recalls) - recalls))
        moved = np.clip(moved, -self.limit, self.limit)
        return moved - moved.mean()


class WorstClass(Policy):
    """Closed loop towards the worst class: λ_c = log(C · p_c), p a mixture of uniform and softmax.

    `score_c += rate · (1 − r_c)`, `p = mix / C + (1 − mix) · softmax(score)`: the distribution
    update of class-focused online learning (CFOL, Pethick et al. 2023) with the error in place of
    the loss; group DRO (Sagawa et al. 2020) is `mix=0`. It bounds every class's share from below;
    with `mix=0`, λ is clipped to ±`limit`.

    Args:
        rate: of the multiplicative update.
        mix: share of the uniform distribution, in [0, 1).
        limit: nats.
    """

    needs_recalls = True
    remembers = ("score",)

    def __init__(self, rate: float = 3.0, mix: float = 0.5, limit: float = 20.0) -> None:
        check_above_zero(rate=rate, limit=limit)
        if not 0 <= mix < 1:
            raise ValueError(f"Expected mix to be in [0, 1), but got {mix}.")
        self.rate, self.mix, self.limit = rate, mix, limit

    def start(self, counts: np.ndarray) -> np.ndarray:
        self.score: np.ndarray | None = None
        return np.zeros(len(counts))

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        error = 1 - np.asarray(recalls, np.float64)
        score = self.rate * error + (0 if self.score is None else self.score)
        self.score = score - score.max()
        # In logarithms: a share that float64 cannot hold is still a number here.
        log_share = self.score - np.log(np.exp(self.score).sum())
        if self.mix:
            uniform = np.log(self.mix / len(error))
            log_share = np.logaddexp(np.log1p(-self.mix) + log_share, uniform)
        clipped = np.clip(log_share - log_share.mean(), -self.limit, self.limit)
        return clipped - clipped.mean()


class RecallLoss(Policy):
    """λ = log(1 − running recall of the training batches): no hold-out is needed.

    Classes that are missed, because they are rare or hard, weigh more until they are found; one
    that is learnt weighs little, so its false alarms for others are not punished in vain. Tian et
    al. 2022, "Striking the right balance: recall loss for semantic segmentation"
    (arXiv 2106.14917), eq. 5, with the recall of an epoch in place of that of a batch. It is the
    default for pixels, tokens and boxes (`Targets.from_counts`).

    Training recalls say little where a network fits its training data: then take a policy that
    follows a hold-out.

    Args:
        momentum: of the running recall over epochs, in [0, 1); 0 takes that of the last.
        least: of the weight 1 − recall, in (0, 1), so that no class is forgotten.

    Example:
        >>> policy = RecallLoss(momentum=0)
        >>> policy.step(policy.start(np.array([900, 100])), np.array([0.9, 0.2])).round(2).tolist()
        [-1.04, 1.04]
    """

    needs_recalls = True
    needs_training_recalls = True
    remembers = ("running",)

    def __init__(self, momentum: float = 0.5, least: float = 0.02) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"Expected momentum to be in [0, 1), but got {momentum}.")
        if not 0 < least < 1:
            raise ValueError(f"Expected least to be in (0, 1), but got {least}.")
        self.momentum, self.least = momentum, least

    def start(self, counts: np.ndarray) -> np.ndarray:
        self.running: np.ndarray | None = None
        return super().start(counts)

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        recalls = np.asarray(recalls, np.float64)
        if self.running is not None:
            recalls = self.momentum * self.running + (1 - self.momentum) * recalls
        self.running = recalls
        return log_weight_of(class_difficulty(np.minimum(recalls, 1 - self.least), tau=1.0))


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
    remembers = ("shares", "mean_shares", "counts", "steps")

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
