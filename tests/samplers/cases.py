"""Every sampler, once: the table the contract tests run over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from equipoise.mining import LossPruning
from equipoise.samplers import (
    ClassBalancedSampler,
    ExampleWeightedSampler,
    LabelBalancedSampler,
    LabelWeightSampler,
    LPROSSampler,
    LPRUSSampler,
    MLROSSampler,
    MLRUSSampler,
    MPerClassSampler,
    OrderSampler,
    RepeatFactorSampler,
)
from tests.multilabel.cases import LABELS as MULTI_HOT

LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(4), [40, 25, 10, 2]))
WEIGHT = np.random.default_rng(9).gamma(1.0, size=len(MULTI_HOT))


class InOrder(OrderSampler):
    """A user's own: nothing but `draw`."""

    def draw(self, positions):
        return (positions + self.epoch) % self.num_samples


BY_CLASS: dict[str, Callable[..., OrderSampler]] = {
    "class-balanced": lambda **kw: ClassBalancedSampler(LABELS, **kw),
    "class-balanced, weights": lambda **kw: ClassBalancedSampler(LABELS, [1, 2, 3, 0.5], **kw),
    "class-balanced, short": lambda **kw: ClassBalancedSampler(LABELS, **{"num_samples": 23} | kw),
    "class-balanced, long": lambda **kw: ClassBalancedSampler(LABELS, **{"num_samples": 999} | kw),
    "undersampling": lambda **kw: ClassBalancedSampler.undersampling(LABELS, **kw),
    "m-per-class": lambda **kw: MPerClassSampler(LABELS, m=3, batch_size=9, **kw),
    "own": lambda **kw: InOrder(len(LABELS), targets=LABELS, **kw),
    "pruned": lambda **kw: LossPruning(0.5).over(ClassBalancedSampler(LABELS, **kw)),
}
BY_LABELS: dict[str, Callable[..., OrderSampler]] = {
    "example-weighted": lambda **kw: ExampleWeightedSampler(WEIGHT, **kw),
    "example-weighted, short": lambda **kw: ExampleWeightedSampler(WEIGHT, num_samples=19, **kw),
    "label-balanced": lambda **kw: LabelBalancedSampler(MULTI_HOT, **kw),
    "label-balanced, flat": lambda **kw: LabelBalancedSampler(
        MULTI_HOT, exponent=0, cardinality=None, **kw
    ),
    "label-balanced, long": lambda **kw: LabelBalancedSampler(MULTI_HOT, num_samples=301, **kw),
    "label-balanced, given": lambda **kw: LabelBalancedSampler(
        MULTI_HOT, log_weight=[0, 0.1, 0.2, 0.5, 1], **kw
    ),
    "repeat-factor": lambda **kw: RepeatFactorSampler(MULTI_HOT, 0.5, **kw),
    "repeat-factor, class ids": lambda **kw: RepeatFactorSampler([0] * 60 + [1] * 3, **kw),
    "label-weight, largest": lambda **kw: LabelWeightSampler(MULTI_HOT, **kw),
    "label-weight, mean": lambda **kw: LabelWeightSampler(MULTI_HOT, reduce="mean", **kw),
    "ml-ros": lambda **kw: MLROSSampler(MULTI_HOT, **kw),
    "ml-rus": lambda **kw: MLRUSSampler(MULTI_HOT, **kw),
    "lp-ros": lambda **kw: LPROSSampler(MULTI_HOT, **kw),
    "lp-rus": lambda **kw: LPRUSSampler(MULTI_HOT, **kw),
}
CASES = BY_CLASS | BY_LABELS
# How often an epoch draws each example on average, up to a factor: what the sampler is for.
COUNTS = np.bincount(LABELS)
RARITY = 1 / MULTI_HOT.mean(axis=0)
OFTEN = {
    "class-balanced": 1 / COUNTS[LABELS],
    "class-balanced, weights": np.array([1, 2, 3, 0.5])[LABELS],
    "class-balanced, short": 1 / COUNTS[LABELS],
    "undersampling": 1 / COUNTS[LABELS],
    "own": np.ones(len(LABELS)),
    "example-weighted": WEIGHT,
    "repeat-factor": [max([1, *np.sqrt(0.5 * RARITY[row == 1])]) for row in MULTI_HOT],
    "label-weight, largest": [max(RARITY[row == 1], default=min(RARITY)) for row in MULTI_HOT],
}
# Samplers whose arrangement within a global batch depends on the number of ranks
GLOBAL_BATCH = {"m-per-class": 9}


def make(name: str, **settings: Any) -> OrderSampler:
    return CASES[name](**settings)


def num_examples(name: str) -> int:
    """How many examples the case's ids number."""
    if name == "repeat-factor, class ids":
        return 63
    return len(LABELS if name in BY_CLASS else MULTI_HOT)
