"""Weighting: from counts and recalls to class weights, and policies that give λ each epoch."""

from __future__ import annotations

from equipoise.weighting.base import Plain, Policy
from equipoise.weighting.closed_loop import DoReMi, EqualRecall, Fair, RecallLoss, WorstClass
from equipoise.weighting.functions import (
    class_difficulty,
    effective_number,
    inverse_frequency,
    log_weight_of,
    recall_power,
    repeat_factor,
)
from equipoise.weighting.policies import (
    ClassDifficulty,
    Deferred,
    EffectiveNumber,
    InverseFrequency,
    RecallPower,
    RepeatFactor,
    TargetShares,
)

__all__ = [
    "POLICIES",
    "ClassDifficulty",
    "Deferred",
    "DoReMi",
    "EffectiveNumber",
    "EqualRecall",
    "Fair",
    "InverseFrequency",
    "Plain",
    "Policy",
    "RecallLoss",
    "RecallPower",
    "RepeatFactor",
    "TargetShares",
    "WorstClass",
    "class_difficulty",
    "effective_number",
    "inverse_frequency",
    "log_weight_of",
    "recall_power",
    "repeat_factor",
]

POLICIES: dict[str, type[Policy]] = {
    "plain": Plain,
    "inverse-frequency": InverseFrequency,
    "effective-number": EffectiveNumber,
    "repeat-factor": RepeatFactor,
    "recall-power": RecallPower,
    "class-difficulty": ClassDifficulty,
    "fair": Fair,
    "equal-recall": EqualRecall,
    "worst-class": WorstClass,
    "recall-loss": RecallLoss,
}
"""By the names that `Balancer(policy=…)` takes."""
