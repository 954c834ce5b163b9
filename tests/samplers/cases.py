"""Every single-label sampler, once: the table the contract tests run over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from equipoise.samplers import ClassBalancedSampler, MPerClassSampler, OrderSampler

LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(4), [40, 25, 10, 2]))

CASES: dict[str, Callable[..., OrderSampler]] = {
    "class-balanced": lambda **kw: ClassBalancedSampler(LABELS, **kw),
    "class-balanced, weights": lambda **kw: ClassBalancedSampler(LABELS, [1, 2, 3, 0.5], **kw),
    "class-balanced, short": lambda **kw: ClassBalancedSampler(LABELS, **{"num_samples": 23} | kw),
    "class-balanced, long": lambda **kw: ClassBalancedSampler(LABELS, **{"num_samples": 999} | kw),
    "undersampling": lambda **kw: ClassBalancedSampler.undersampling(LABELS, **kw),
    "m-per-class": lambda **kw: MPerClassSampler(LABELS, m=3, batch_size=9, **kw),
}


def make(name: str, **settings: Any) -> OrderSampler:
    return CASES[name](**settings)
