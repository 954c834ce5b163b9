"""Every miner of a batch's losses once: the table the contract tests run over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from equipoise.mining import HardestExamples, HardNegatives, LossPruning, Miner
from equipoise.samplers import ClassBalancedSampler

LABELS = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2] * 6


def pruning(**settings: Any) -> LossPruning:
    miner = LossPruning(**{"keep": 0.5} | settings)
    miner.over(ClassBalancedSampler(LABELS))
    return miner


CASES: dict[str, Callable[..., Miner]] = {
    "hardest": lambda **kw: HardestExamples(**{"keep": 0.5} | kw),
    "hardest, exact quotas": lambda **kw: HardestExamples(**{"keep": 0.3, "num_classes": 3} | kw),
    "hardest, whole batch": lambda **kw: HardestExamples(
        **{"keep": 0.3, "per_class": False, "trim": 0.1} | kw
    ),
    "threshold and share": lambda **kw: HardestExamples(**{"keep": 0.25, "threshold": 1.0} | kw),
    "hard negatives": lambda **kw: HardNegatives(**{"ratio": 2} | kw),
    "hard negatives, label": lambda **kw: HardNegatives(
        **{"keep": 0.3, "per": "label", "trim": 0.1} | kw
    ),
    "hard negatives, most": lambda **kw: HardNegatives(**{"most": 3} | kw),
    "pruning": pruning,
}


def batch(miner: Miner, size: int = 20, seed: int = 0):
    """Losses, targets and indices as the miner wants them."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randperm(len(LABELS), generator=generator)[:size]
    if miner.multilabel:
        losses = torch.rand(size, 7, generator=generator)
        return losses, (torch.rand(size, 7, generator=generator) < 0.2).float(), indices
    return torch.rand(size, generator=generator) * 2, torch.tensor(LABELS)[indices], indices
