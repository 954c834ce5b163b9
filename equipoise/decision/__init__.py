"""Decisions: from logits to predictions, with offsets or thresholds fitted on a hold-out."""

from __future__ import annotations

from equipoise.decision.calibration import LabelCalibration, calibrate_labels
from equipoise.decision.decisions import ClassDecision, LabelDecision
from equipoise.decision.elements import ElementSample
from equipoise.decision.equal_recall import equal_recall_offset, price_of_equality
from equipoise.decision.fair import Fairness, fair_offset
from equipoise.decision.fitting import fit_class_decision, fit_label_decision
from equipoise.decision.front import front, strongest_below
from equipoise.decision.iou import iou_offset, mean_iou
from equipoise.decision.thresholds import OBJECTIVES, label_thresholds, thresholds_at_prevalence
from equipoise.decision.top_k import top_k, top_k_front

__all__ = [
    "OBJECTIVES",
    "ClassDecision",
    "ElementSample",
    "Fairness",
    "LabelCalibration",
    "LabelDecision",
    "calibrate_labels",
    "equal_recall_offset",
    "fair_offset",
    "fit_class_decision",
    "fit_label_decision",
    "front",
    "iou_offset",
    "label_thresholds",
    "mean_iou",
    "price_of_equality",
    "strongest_below",
    "thresholds_at_prevalence",
    "top_k",
    "top_k_front",
]
