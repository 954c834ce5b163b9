"""The methods that benchmarks.evidence compares: how each makes its Balancer.

Only what equipoise has is compared, each method with the settings of its paper; where a paper has
none for so short a training, its rule is given here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from equipoise import Balancer
from equipoise.losses import LDAM, FocalLoss, LogitAdjustedCrossEntropy
from equipoise.losses import WeightedCrossEntropy as CrossEntropy
from equipoise.mining import HardestExamples
from equipoise.weighting import (
    POLICIES,
    ClassDifficulty,
    EffectiveNumber,
    EqualRecall,
    InverseFrequency,
    Policy,
    RecallPower,
    WorstClass,
    inverse_frequency,
    log_weight_of,
)


@dataclass
class Task:
    """What a method may know before it trains."""

    counts: np.ndarray  # (C,) training images of each class
    steps: int  # in an epoch
    epochs: int
    plain_recalls: list | None  # on the hold-out, of the plain run of the same seed


class Late(Policy):
    """Plain for four fifths of the epochs, then another policy: deferred re-weighting (LDAM-DRW).

    The weights' mean over the training images is 1.
    """

    def __init__(self, policy: Policy, epochs: int) -> None:
        self.policy, self.left = policy, max(1, epochs * 4 // 5)

    def start(self, counts: np.ndarray) -> np.ndarray:
        late = self.policy.start(counts)
        self.late = late - np.log(np.average(np.exp(late), weights=counts))
        return np.zeros(len(counts))

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        self.left -= 1
        return self.late if self.left <= 0 else log_weight


class WorstOfBalanced(WorstClass):
    """`WorstClass` whose shares are of balanced classes: λ on top of inverse frequency."""

    def start(self, counts: np.ndarray) -> np.ndarray:
        self.balanced = log_weight_of(inverse_frequency(counts))
        return super().start(counts) + self.balanced

    def step(self, log_weight: np.ndarray, recalls: np.ndarray | None) -> np.ndarray:
        return super().step(log_weight, recalls) + self.balanced


@dataclass
class Method:
    """How a balancer is made for it."""

    what: str
    balancer: Callable[[Task], dict[str, Any]]
    needs_plain: bool = False
    normed: bool = False  # cosines for logits


def by_loss(policy: Any) -> dict[str, Any]:
    """Weighted cross-entropy, divided by the batch's weights as torch does."""
    return {"policy": policy, "sampler": None, "loss": CrossEntropy(normalization="weight")}


def by_logits(policy: Any, counts: np.ndarray | None = None) -> dict[str, Any]:
    """Cross-entropy of z − λ, and + log frequency where counts are given."""
    loss = LogitAdjustedCrossEntropy(None if counts is None else counts.tolist())
    return {"policy": policy, "sampler": None, "loss": loss}


METHODS: dict[str, Method] = {
    "plain": Method("cross-entropy, classes as they come", lambda t: {"policy": "plain"}),
    "founding loss": Method(
        "loss weights (r̄/r)⁴ from the plain run's hold-out recalls",
        lambda t: by_loss(RecallPower(4, recalls=t.plain_recalls)),
        needs_plain=True,
    ),
    "founding sampling": Method(
        "the same on the sampler",
        lambda t: {"policy": RecallPower(4, recalls=t.plain_recalls)},
        needs_plain=True,
    ),
    "inverse frequency loss": Method("weights 1/n", lambda t: by_loss(InverseFrequency())),
    "inverse frequency sampling": Method(
        "every class equally often", lambda t: {"policy": InverseFrequency()}
    ),
    "effective number": Method(
        "loss weights (1−β)/(1−β^n), β .9999 (Cui et al. 2019)",
        lambda t: by_loss(EffectiveNumber(0.9999)),
    ),
    "CDB": Method(
        "loss weights from 1 − recall, each epoch (Sinha et al. 2020)",
        lambda t: by_loss(ClassDifficulty()),
    ),
    "focal": Method("γ 2 (Lin et al. 2017)", lambda t: {"policy": "plain", "loss": FocalLoss(2.0)}),
    "LDAM": Method(
        "margins n^(−1/4), largest .5, s 30, cosines for logits (Cao et al. 2019)",
        lambda t: {"policy": "plain", "loss": LDAM(t.counts.tolist())},
        normed=True,
    ),
    "LDAM-DRW": Method(
        "and effective-number weights, β .9999, in the last fifth of the epochs",
        lambda t: {
            "policy": Late(EffectiveNumber(0.9999), t.epochs),
            "sampler": None,
            "loss": LDAM(t.counts.tolist()),
        },
        normed=True,
    ),
    "logit adjustment": Method(
        "z + log π in the loss (Menon et al. 2021; balanced softmax, Ren et al. 2020)",
        lambda t: by_logits("plain", t.counts),
    ),
    "minimax logits": Method(
        "z + log π − log q, q ∝ q·exp(.1 · error) each epoch (2502.16948)",
        lambda t: by_logits(WorstClass(0.1, mix=0), t.counts),
    ),
    "group DRO": Method(
        "classes' mean losses weighted by q ∝ q·exp(.01 · steps · error) (Sagawa et al. 2020)",
        lambda t: by_loss(WorstOfBalanced(0.01 * t.steps, mix=0)),
    ),
    "worst class": Method(
        "classes drawn by ½ uniform + ½ softmax of summed errors (Pethick et al. 2023)",
        lambda t: {"policy": WorstOfBalanced()},
    ),
    "OHEM": Method(
        "the hardest half of each batch (Shrivastava et al. 2016)",
        lambda t: {"policy": "plain", "mining": HardestExamples(0.5, per_class=False)},
    ),
    "closed loop, loss": Method("λ weighs the loss", lambda t: by_loss(EqualRecall())),
    "closed loop, logits": Method("λ shifts the logits", lambda t: by_logits(EqualRecall())),
    "closed loop, sampling": Method(
        "λ draws", lambda t: {"policy": EqualRecall(), "sampler_share": 1}
    ),
    "equal recall": Method(
        'Balancer(labels, "equal-recall"): half of λ draws, half shifts the logits',
        lambda t: {"policy": "equal-recall"},
    ),
    "Balancer": Method("Balancer(labels)", lambda t: {}),
}
DEFAULT = "Balancer"
LOGIT_SCALE = {"LDAM": 30.0, "LDAM-DRW": 30.0}  # what their loss multiplies cosines by


def method_of(name: str) -> Method:
    """The method of that name; or "Balancer:max_step=1,share=1", a Balancer with those settings.

    The settings are those of the Balancer's default policy; `policy=NAME` chooses another one,
    `share` is its sampler_share.
    """
    if name in METHODS:
        return METHODS[name]
    kind, _, given = name.partition(":")
    if kind != DEFAULT or not given:
        known = ", ".join(map(repr, METHODS))
        raise ValueError(
            f'Expected one of {known}, or "{DEFAULT}:setting=number,…", but got {name!r}.'
        )
    settings: dict[str, Any] = dict(setting.split("=") for setting in given.split(","))
    policy = settings.pop("policy", None)
    kind_of = POLICIES[policy] if policy else type(Balancer([0, 1]).policy)
    settings = {key: float(value) for key, value in settings.items()}
    share = settings.pop("share", None)
    kind_of(**settings)  # complains of settings it does not have
    return Method(
        f"with {given}",
        lambda t: {"policy": kind_of(**settings), "sampler_share": share},
    )
