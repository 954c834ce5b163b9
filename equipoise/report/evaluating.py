"""What logits and targets of a hold-out or test set show, before and after the decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.rates import ClassRates, LabelRates
from equipoise.report.plain import plain

__all__ = ["evaluate"]

PAIRS = 2_000_000  # of example and label, that the curves over all labels are made of
POINTS = 80  # of a curve
BINS = 10  # of the reliability curve


def evaluate(balancer: Any, logits: Any, targets: Any) -> dict[str, Any]:
    """Recalls and how much is predicted, "trained" and "decided"; for labels curves as well.

    For class ids "trained" is the largest logit; for labels, a logit above 0. "recalls" are those
    that a report compares: "decided" for class ids; for labels, at as many predictions as true.
    Examples with NaN logits, or with targets that are none, are left out.
    """
    logits = torch.as_tensor(logits).detach().cpu().float()
    targets = torch.as_tensor(targets).detach().cpu()
    if balancer.multilabel:
        return _labels(balancer, logits, targets)
    return _classes(balancer, logits, targets)


def _classes(balancer: Any, logits: Tensor, targets: Tensor) -> dict[str, Any]:
    classes = balancer.targets.num_classes
    rates = ClassRates(classes)
    rates.update(logits, targets)
    used = ~logits.isnan().any(1) & (targets >= 0) & (targets < classes)
    _require_some(used)
    logits, targets = logits[used], targets[used].long()
    trained, decided = (
        _class_rates(predicted, targets, classes)
        for predicted in (logits.argmax(1), balancer.decide(logits))
    )
    return {
        "num_examples": len(targets),
        "num_left_out": rates.num_nan + rates.num_invalid,
        "support": rates.support.tolist(),
        "recalls": decided["recalls"],
        "trained": trained,
        "decided": decided,
    }


def _class_rates(predicted: Tensor, targets: Tensor, classes: int) -> dict[str, list]:
    from sklearn.metrics import recall_score

    predicted = predicted.cpu()
    recalls = recall_score(
        targets.numpy(),
        predicted.numpy(),
        labels=range(classes),
        average=None,
        zero_division=np.nan,
    )
    counts = torch.bincount(predicted, minlength=classes)
    return {"recalls": plain(recalls), "predicted": counts.tolist()}


def _labels(balancer: Any, logits: Tensor, targets: Tensor) -> dict[str, Any]:
    rates = LabelRates(balancer.targets.num_classes)
    rates.update(logits, targets)
    truth = targets if targets.layout == torch.strided else targets.to_dense()
    positive = truth == 1
    known = (positive | (truth == 0)) & ~logits.isnan()
    _require_some(known)
    support = rates.support
    corrected = balancer.correct(logits)

    def counted(predicted: Tensor) -> dict[str, list]:
        predicted = predicted.bool() & known
        recalls = (predicted & positive).sum(0) / support
        return {"recalls": plain(recalls), "predicted": predicted.sum(0).tolist()}

    found = {
        "num_examples": len(logits),
        "num_left_out": rates.num_nan + rates.num_invalid,
        "support": support.tolist(),
        "recalls": plain(torch.where(support > 0, rates.recalls(), torch.nan)),
        "trained": counted(logits > 0),
        "decided": counted(balancer.decide(logits)),
        "average_precisions": plain(rates.average_precisions()),
    }
    found["curves"] = _curves(corrected, positive, known, found)
    some = torch.arange(0, len(logits), -(-logits.numel() // PAIRS))
    found["reliability"] = {
        name: _reliability(z[some][known[some]], positive[some][known[some]])
        for name, z in (("trained", logits), ("corrected", corrected))
    }
    return found


def _curves(
    scores: Tensor, positive: Tensor, known: Tensor, found: dict[str, Any]
) -> list[dict[str, Any]]:
    """Precision over recall of a few labels: the rarest, the median and the best by AP, …"""
    from sklearn.metrics import precision_recall_curve

    support = np.array(found["support"])
    areas = np.array([np.nan if v is None else v for v in found["average_precisions"]])
    seen = np.flatnonzero(support > 0)
    by_area = seen[np.argsort(areas[seen], kind="stable")]
    rarest = seen[np.argsort(support[seen], kind="stable")]
    picks = {int(c): "highest average precision" for c in by_area[-1:]}
    picks |= {int(c): "rarest" for c in rarest[:2]}
    picks |= {int(c): "lowest average precision" for c in by_area[:2]}
    curves = []
    for label, why in picks.items():
        use = known[:, label]
        precision, recall, _ = precision_recall_curve(
            positive[use, label].numpy(), scores[use, label].numpy()
        )
        keep = np.unique(
            np.searchsorted(-recall, -np.linspace(1, 0, POINTS)).clip(0, len(recall) - 1)
        )
        curves.append(
            {
                "label": label,
                "why": why,
                "precision": plain(precision[keep], 4),
                "recall": plain(recall[keep], 4),
            }
        )
    return curves


def _reliability(logits: Tensor, positive: Tensor) -> dict[str, list]:
    """Share of positives by predicted probability, over all labels together."""
    from sklearn.calibration import calibration_curve

    probability = torch.sigmoid(logits).numpy()
    shares, means = calibration_curve(positive.numpy(), probability, n_bins=BINS)
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    sizes = np.bincount(np.searchsorted(inner, probability), minlength=BINS)
    return {"predicted": plain(means), "true": plain(shares), "sizes": sizes[sizes > 0].tolist()}


def _require_some(used: Tensor) -> None:
    if not used.any():
        raise ValueError(
            "Expected logits and targets with at least one example that can be used, but got "
            "only NaN logits or targets that are none."
        )
