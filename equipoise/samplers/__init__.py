"""Samplers: which examples are drawn. Each is a `torch.utils.data.Sampler`, usable alone."""

from __future__ import annotations

from equipoise.samplers.base import OrderSampler
from equipoise.samplers.class_balanced import ClassBalancedSampler
from equipoise.samplers.m_per_class import MPerClassSampler

__all__ = ["ClassBalancedSampler", "MPerClassSampler", "OrderSampler"]
