"""What logits and targets of a hold-out or test set show under each way to predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.rates import LabelRates
from equipoise.report.numbers import noise_floor, plain

__all__ = ["evaluate", "outcome"]

PAIRS = 2_000_000  # of example and label, that the reliability curve is made of
BINS = 10  # of the reliability curve


def outcome(
    name: str,
    recalls: Any,
    support: Any = None,
    precisions: Any = None,
    predicted: list[int] | None = None,
) -> dict[str, Any]:
    """A row of `Report.outcomes`; its price is not known yet."""
    recalls = np.asarray(recalls, np.float64)
    known = recalls[~np.isnan(recalls)]
    mean = float(known.mean()) if len(known) else None
    return {
        "name": name,
        "recalls": plain(recalls),
        "precisions": None if precisions is None else plain(precisions),
        "predicted": predicted,
        "mean": mean,
        "sd": float(known.std()) if len(known) else None,
        "lowest": float(known.min()) if len(known) else None,
        "worst": int(np.nanargmin(recalls)) if len(known) else None,
        "chance": None if mean is None or support is None else noise_floor(mean, support),
        "price": None,
    }


def evaluate(
    balancer: Any, logits: Any, targets: Any, groups: Any = None
) -> tuple[list[dict[str, Any]], list[int], dict[str, Any]]:
    """`Report.outcomes`, `support` and `evaluation`, for the arguments of `make_report`.

    The outcomes are "plain", "as trained" and, once a decision is fitted, "decided": arg max of
    `balancer.correct(z)`, arg max z and `balancer.decide(z)`. For labels the first two are
    `correct(z) > 0` and `z > 0`, and "as many as true" is added. A plain decision that predicts the
    same as the one as trained is left out, and so are examples with NaN logits, or with targets
    that are no class.
    """
    classes, multilabel = balancer.targets.num_classes, balancer.targets.multilabel
    logits = torch.as_tensor(logits).detach().cpu().float()
    targets = balancer.targets.as_tensor(targets).detach().cpu()
    if balancer.grouping is not None and balancer.grouping.num_classes is None:
        classes = logits.shape[-1]
    targets = targets if targets.layout == torch.strided else targets.to_dense()
    if logits.ndim > 2 and not multilabel:
        logits, targets = logits.movedim(1, -1).reshape(-1, logits.shape[1]), targets.reshape(-1)
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ValueError(
            f"Expected logits to have shape (N, {classes}), a column for each class, but got "
            f"{tuple(logits.shape)}."
        )
    shape = logits.shape if multilabel else logits.shape[:1]
    if targets.shape != shape:
        raise ValueError(
            f"Expected targets to have shape {tuple(shape)}, but got {tuple(targets.shape)}."
        )
    rows, support, facts = (_labels if multilabel else _classes)(balancer, logits, targets, groups)
    for row in rows:
        if row["mean"] is not None:
            row["price"] = plain(rows[0]["mean"] - row["mean"])
    return rows, support, facts


def _predictions(balancer: Any, logits: Tensor) -> dict[str, Tensor]:
    """Class ids, or 0 and 1 of each label, under each way to predict."""
    multilabel = balancer.targets.multilabel
    shown = {"plain": balancer.correct(logits).cpu(), "as trained": logits}
    found = {name: z > 0 if multilabel else z.argmax(1) for name, z in shown.items()}
    if torch.equal(found["plain"], found["as trained"]):
        del found["plain"]
    if balancer.decision is not None:
        found["decided"] = balancer.decide(logits).cpu()
    return found


def _classes(
    balancer: Any, logits: Tensor, targets: Tensor, groups: Any
) -> tuple[list[dict[str, Any]], list[int], dict[str, Any]]:
    grouping, classes = balancer.grouping, balancer.cells.num_classes
    predictions = _predictions(balancer, logits)
    used = ~logits.isnan().any(1) & (targets >= 0) & (targets < logits.shape[1])
    if grouping is not None:
        targets, *found = grouping.cells_of(groups, targets, *predictions.values())
        predictions, used = dict(zip(predictions, found, strict=True)), used & (targets >= 0)
    _require_some(used)
    targets = targets[used].long()
    support = torch.bincount(targets, minlength=classes)
    rows = []
    for name, predicted in predictions.items():
        predicted = predicted[used]
        hits = torch.bincount(targets[predicted == targets], minlength=classes).double()
        counts = torch.bincount(predicted[predicted >= 0], minlength=classes)
        groups_alone = grouping is not None and grouping.num_classes is None  # are not predicted
        precisions = None if groups_alone else hits / counts
        rows.append(outcome(name, hits / support, support, precisions, counts.tolist()))
    return (
        rows,
        support.tolist(),
        {"num_examples": len(targets), "num_left_out": int((~used).sum())},
    )


def _labels(
    balancer: Any, logits: Tensor, targets: Tensor, _: Any
) -> tuple[list[dict[str, Any]], list[int], dict[str, Any]]:
    rates = LabelRates(balancer.targets.num_classes)
    rates.update(logits, targets)
    positive = targets == 1
    known = (positive | (targets == 0)) & ~logits.isnan()
    _require_some(known)
    support = rates.support
    at_support = torch.where(support > 0, rates.recalls(), torch.nan)
    at_counts = outcome("as many as true", at_support, support)
    rows = []
    for name, predicted in _predictions(balancer, logits).items():
        predicted = predicted.bool() & known
        hits, counts = (predicted & positive).sum(0), predicted.sum(0)
        rows.append(outcome(name, hits / support, support, hits / counts, counts.tolist()))
    rows.insert(-1 if rows[-1]["name"] == "decided" else len(rows), at_counts)
    corrected = balancer.correct(logits).cpu()
    some = torch.arange(0, len(logits), -(-logits.numel() // PAIRS))
    facts = {
        "num_examples": len(logits),
        "num_left_out": rates.num_nan + rates.num_invalid,
        "average_precisions": plain(rates.average_precisions()),
        "reliability": {
            name: _reliability(z[some][known[some]], positive[some][known[some]])
            for name, z in (("as trained", logits), ("corrected", corrected))
        },
    }
    return rows, support.tolist(), facts


def _reliability(logits: Tensor, positive: Tensor) -> dict[str, Any]:
    """Share of positives by predicted probability, over all labels; and the mean distance."""
    probability, truth = torch.sigmoid(logits).numpy(), positive.numpy()
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability)
    sizes = np.bincount(bins, minlength=BINS)
    some = sizes > 0
    means, shares = (np.bincount(bins, v, BINS)[some] / sizes[some] for v in (probability, truth))
    sizes = sizes[some]
    gap = float(np.average(np.abs(shares - means), weights=sizes))
    return {"predicted": plain(means), "true": plain(shares), "sizes": sizes.tolist(), "gap": gap}


def _require_some(used: Tensor) -> None:
    if not used.any():
        raise ValueError(
            "Expected logits and targets with at least one example that can be used, but got "
            "only NaN logits or targets that are no class."
        )
