"""Every multilabel sampler, once: the table the contract tests run over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from equipoise.samplers import (
    ExampleWeightedSampler,
    LabelBalancedSampler,
    LabelWeightSampler,
    LPROSSampler,
    LPRUSSampler,
    MLROSSampler,
    MLRUSSampler,
    OrderSampler,
    RepeatFactorSampler,
)


def multi_hot(n: int, frequencies: list[float], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((n, len(frequencies))) < frequencies).astype(np.uint8)


LABELS = multi_hot(83, [0.6, 0.3, 0.3, 0.1, 0.05], seed=4)
WEIGHT = np.random.default_rng(9).gamma(1.0, size=len(LABELS))

CASES: dict[str, Callable[..., OrderSampler]] = {
    "example-weighted": lambda **kw: ExampleWeightedSampler(WEIGHT, **kw),
    "example-weighted, short": lambda **kw: ExampleWeightedSampler(WEIGHT, num_samples=19, **kw),
    "label-balanced": lambda **kw: LabelBalancedSampler(LABELS, **kw),
    "label-balanced, flat, mean kept": lambda **kw: LabelBalancedSampler(
        LABELS, exponent=0, cardinality="mean", **kw
    ),
    "label-balanced, long": lambda **kw: LabelBalancedSampler(LABELS, num_samples=301, **kw),
    "label-balanced, given": lambda **kw: LabelBalancedSampler(
        LABELS, log_weight=[0, 0.1, 0.2, 0.5, 1], **kw
    ),
    "repeat-factor": lambda **kw: RepeatFactorSampler(LABELS, 0.5, **kw),
    "repeat-factor, class ids": lambda **kw: RepeatFactorSampler([0] * 60 + [1] * 3, **kw),
    "label-weight, largest": lambda **kw: LabelWeightSampler(LABELS, **kw),
    "label-weight, mean": lambda **kw: LabelWeightSampler(LABELS, reduce="mean", **kw),
    "ml-ros": lambda **kw: MLROSSampler(LABELS, **kw),
    "ml-rus": lambda **kw: MLRUSSampler(LABELS, **kw),
    "lp-ros": lambda **kw: LPROSSampler(LABELS, **kw),
    "lp-rus": lambda **kw: LPRUSSampler(LABELS, **kw),
}


def make(name: str, **settings: Any) -> OrderSampler:
    return CASES[name](**settings)
