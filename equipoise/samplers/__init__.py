"""Samplers: which examples are drawn. Each is a `torch.utils.data.Sampler`, usable alone."""

from __future__ import annotations

from equipoise._order_sampler import OrderSampler
from equipoise.samplers.class_balanced import ClassBalancedSampler
from equipoise.samplers.example_order import ExampleWeightedSampler
from equipoise.samplers.label_balancing import (
    LabelBalance,
    LabelBalancedSampler,
    label_balancing_weights,
)
from equipoise.samplers.label_weight import LabelWeightSampler, RepeatFactorSampler
from equipoise.samplers.m_per_class import MPerClassSampler
from equipoise.samplers.resampling import (
    LPROSSampler,
    LPRUSSampler,
    MLROSSampler,
    MLRUSSampler,
)

__all__ = [
    "ClassBalancedSampler",
    "ExampleWeightedSampler",
    "LPROSSampler",
    "LPRUSSampler",
    "LabelBalance",
    "LabelBalancedSampler",
    "LabelWeightSampler",
    "MLROSSampler",
    "MLRUSSampler",
    "MPerClassSampler",
    "OrderSampler",
    "RepeatFactorSampler",
    "label_balancing_weights",
]
