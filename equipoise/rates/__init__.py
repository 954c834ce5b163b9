"""Rates: streaming per-class and per-label recalls on the device, smoothed for small hold-outs."""

from __future__ import annotations

from equipoise.rates.class_rates import ClassRates
from equipoise.rates.holdout import GivenRates, HoldoutRates
from equipoise.rates.label_rates import LabelRates
from equipoise.rates.smoothing import reliabilities, smoothed_recalls

__all__ = [
    "ClassRates",
    "GivenRates",
    "HoldoutRates",
    "LabelRates",
    "reliabilities",
    "smoothed_recalls",
]
