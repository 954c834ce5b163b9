"""Decisions: undo at prediction time what sampling and loss did, and fit what is left."""

from __future__ import annotations

from equipoise.decision.calibration import LabelCalibration, calibrate_labels
from equipoise.decision.equal_recall import equal_recall_offset
from equipoise.decision.thresholds import OBJECTIVES, label_thresholds
from equipoise.decision.unlabelled import thresholds_at_prevalence

__all__ = [
    "OBJECTIVES",
    "LabelCalibration",
    "calibrate_labels",
    "equal_recall_offset",
    "label_thresholds",
    "thresholds_at_prevalence",
]
