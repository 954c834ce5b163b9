"""What a run reached: recalls of classes; precision, F1 and how much is predicted of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from equipoise.targets import Targets

__all__ = ["average_precisions", "class_figures", "label_figures"]


def class_figures(predicted: Tensor, targets: Targets) -> dict[str, Any]:
    """Recall of each class; their mean, standard deviation and least; and the accuracy.

    Classes without an example have recall NaN, and are left out of the other figures.
    """
    truth = targets.require_single_label("class_figures").astype(np.int64)
    hit = predicted.cpu().numpy() == truth
    found = np.bincount(truth[hit], minlength=targets.num_classes)
    with np.errstate(invalid="ignore"):
        recalls = found / targets.counts
    return {
        "mean_recall": float(np.nanmean(recalls)),
        "sd_recall": float(np.nanstd(recalls)),
        "lowest_recall": float(np.nanmin(recalls)),
        "accuracy": float(hit.mean()),
        "recalls": recalls.tolist(),
    }


def label_figures(scores: Tensor, predicted: Tensor, targets: Targets) -> dict[str, Any]:
    """Macro AUPRC and F1, and the median of predicted over true positives; and those of each label.

    Labels without a positive example are NaN, and are left out of the means.
    """
    if targets.matrix is None:
        raise ValueError(f"Expected targets to be (N, C) multi-hot, but got {targets!r}.")
    truth = targets.matrix.toarray().astype(bool)
    chosen = predicted.cpu().numpy().astype(bool)
    true = targets.counts.astype(float)
    both, positives = (truth & chosen).sum(0), chosen.sum(0)
    auprc = average_precisions(scores.cpu().numpy(), truth)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(true > 0, 2 * both / (true + positives), np.nan)
        ratios = np.where(true > 0, positives / true, np.nan)
    return {
        "macro_auprc": float(np.nanmean(auprc)),
        "macro_f1": float(np.nanmean(f1)),
        "median_predicted_over_true": float(np.nanmedian(ratios)),
        "auprc": auprc.tolist(),
        "f1": f1.tolist(),
        "predicted_over_true": ratios.tolist(),
    }


def average_precisions(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`(C,)` average precision Σ (R_k − R_{k−1}) P_k over the distinct scores of each label.

    NaN for labels without a positive.

    Args:
        scores: `(N, C)`, higher for what is more likely.
        truth: `(N, C)` bool.

    Example:
        >>> scores, truth = np.array([[0.9, 0.7, 0.7, 0.1]]).T, np.array([[1, 0, 1, 0]]).T > 0
        >>> average_precisions(scores, truth).tolist()
        [0.833...]
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked = np.take_along_axis(scores, order, 0)
    hits = np.take_along_axis(truth, order, 0)
    n = len(scores)
    # Of equal scores all or none are predicted: each place looks at the last one of its score
    last = np.ones_like(hits)
    last[:-1] = ranked[:-1] != ranked[1:]
    place = np.where(last, np.arange(n)[:, None], n)
    place = np.minimum.accumulate(place[::-1], axis=0)[::-1]
    found = np.take_along_axis(np.cumsum(hits, axis=0), place, 0)
    positives = hits.sum(0)
    with np.errstate(invalid="ignore"):
        return np.where(hits, found / (place + 1), 0).sum(0) / np.where(
            positives, positives, np.nan
        )
