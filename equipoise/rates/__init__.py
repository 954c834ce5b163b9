"""Rates: what a hold-out shows of each class or label, counted on the logits' own device."""

from __future__ import annotations

from equipoise.rates.class_rates import ClassRates
from equipoise.rates.label_rates import LabelRates
from equipoise.rates.smoothing import reliabilities, smoothed_recalls

__all__ = ["ClassRates", "LabelRates", "reliabilities", "smoothed_recalls"]
