"""make_report: from a balancer, and logits if there are any, to plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unicodedata import category

import numpy as np
import torch

from equipoise.balancer.grouping import require_no_groups
from equipoise.report.evaluation import evaluate, outcome
from equipoise.report.numbers import plain
from equipoise.report.report import Report
from equipoise.report.tables import EPOCH

__all__ = ["make_report"]

# What a report takes of a row of Balancer.history, beside EPOCH, and of a point of the front.
WHOLE = ("epoch", "num_nan", "num_invalid")
LISTS = ("recalls", "log_weight", "support")
OF_THE_FRONT = ("alpha", "mean", "sd", "lowest", "price", "mean_interval", "lowest_interval")


def make_report(
    balancer: Any,
    logits: Any = None,
    targets: Any = None,
    *,
    groups: Any = None,
    baseline: Any = None,
    title: str | None = None,
    names: Sequence[Any] | None = None,
    max_price: float | None = 0.01,
) -> Report:
    """What a balanced training did, from the balancer's history and, if given, from logits.

    With logits and targets the report compares the plain decision (arg max of
    `balancer.correct(z)`), the network as trained (arg max z) and the decision (`decide`). Without
    them it compares the last epoch with the first. For labels the recalls to compare are those at
    as many predictions as true positives (`LabelRates`), so a baseline has to be of those too.

    Args:
        balancer: a `Balancer` after at least one `step`.
        logits: `(N, C)` of a hold-out or test set, as the network gives them.
        targets: `(N,)` class ids, or `(N, C)` of 0 and 1, dense or sparse.
        groups: `(N,)` of the same examples, of a balancer made with groups: what is said of classes
            is then said of the cells class × group.
        baseline: `(C,)` recalls of a plain run, NaN where not known.
        title: of the page.
        names: C names of the classes; by default those of `balancer.targets`.
        max_price: the price cap that is drawn into the picture of the front.

    Raises:
        ValueError: a balancer without an epoch, logits without targets, or anything of another
            shape than it should be.

    Example:
        >>> import torch
        >>> from equipoise import Balancer
        >>> balancer = Balancer([0, 0, 0, 1], policy="inverse-frequency")
        >>> balancer.observe(torch.eye(2)[[0, 0, 0, 1]], torch.tensor([0, 0, 1, 1]))
        >>> balancer.step()
        >>> report = make_report(balancer, names=["frequent", "rare"])
        >>> report.outcomes[-1]["recalls"], report.draws
        ([1.0, 0.5], [2.0, 2.0])
    """
    held, grouping = balancer.cells, balancer.grouping
    if not balancer.history:
        raise ValueError(
            "Expected balancer to have been through an epoch, ended by step(), but got one with "
            "an empty history."
        )
    if (logits is None) != (targets is None):
        missing = "targets" if targets is None else "logits"
        raise ValueError(f"Expected logits and targets together, but got no {missing}.")
    epochs = [_epoch(row) for row in balancer.history]
    if logits is None:
        (outcomes, support), evaluation = _observed(epochs), None
    else:
        if grouping is None:
            require_no_groups(groups)
        outcomes, support, evaluation = evaluate(balancer, logits, targets, groups)
    if baseline is not None:
        outcomes.insert(0, outcome("baseline", _baseline(baseline, held.num_classes)))
    kinds = "labels" if held.multilabel else "classes"
    if grouping is not None:
        kinds = "groups" if grouping.num_classes is None else "cells"
    if title is None:
        title = f"{held.num_classes:,} {kinds}, {held.num_examples:,} training examples"
    return Report(
        title=_printable(str(title)),
        multilabel=held.multilabel,
        num_examples=held.num_examples,
        names=_names(held.names if names is None else names, held),
        counts=held.counts.tolist(),
        known=(held.num_examples - held.unknown_counts).tolist(),
        parts=_parts(balancer),
        draws=plain(balancer.sampler.expected_draws(), 2),
        log_weight=plain(balancer.log_weight.reshape(-1)),
        epochs=epochs,
        outcomes=outcomes,
        support=support,
        evaluation=evaluation,
        decision=_decision(balancer),
        max_price=max_price,
        num_groups=None if grouping is None else grouping.num_groups,
    )


def _observed(epochs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int] | None]:
    """Outcomes of the first and of the last epoch whose recalls were observed."""
    seen = [row for row in epochs if row.get("recalls")]
    names = ("first epoch", "last epoch") if len(seen) > 1 else ("last epoch",)
    rows = [
        outcome(name, row["recalls"], row["support"]) | {"price": row.get("price")}
        for name, row in zip(names, seen[:1] + seen[1:][-1:], strict=False)
    ]
    return rows, [int(n) for n in seen[-1]["support"]] if seen else None


def _epoch(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the history in plain JSON types: NaN is None."""
    out: dict[str, Any] = {name: int(row[name]) for name in WHOLE if name in row}
    out |= {name: plain(row[name]) for name in EPOCH if row.get(name) is not None}
    out |= {name: plain(np.ravel(row[name])) for name in LISTS if row.get(name) is not None}
    if row.get("mining"):
        out["mining"] = dict(row["mining"])
    return out


def _decision(balancer: Any) -> dict[str, Any] | None:
    """What was fitted; thresholds of labels have neither a front nor prices."""
    found = balancer.decision
    if found is None:
        return None
    fitted: dict[str, Any] = {"objective": str(found.objective), "values": plain(found.values)}
    if balancer.targets.multilabel:
        return fitted | {"price": None, "equality_price": None, "front": []}
    fitted |= {"price": plain(found.price), "equality_price": plain(found.equality_price)}
    chosen = np.inf if found.alpha is None else found.alpha  # α = ∞ of equal recalls
    fitted["front"] = [
        {key: plain(point[key]) for key in OF_THE_FRONT}  # where α = ∞ becomes None
        | {"chosen": bool(point["alpha"] == chosen)}
        for point in found.front
    ]
    return fitted


def _parts(balancer: Any) -> dict[str, Any]:
    mining, decision = balancer.mining, balancer.decision
    return {
        "policy": type(balancer.policy).__name__,
        "sampler": type(balancer.sampler).__name__,
        "sampler_share": float(balancer.sampler_share),
        "num_samples": int(balancer.sampler.num_samples),
        "loss": type(balancer.loss_function).__name__,
        "mining": None if mining is None else type(mining).__name__,
        "decision": None if decision is None else str(decision.objective),
    }


def _names(names: Sequence[Any] | None, held: Any) -> list[str]:
    classes = held.num_classes
    if names is None:
        kind = "label" if held.multilabel else "class"
        return [f"{kind} {c}" for c in range(classes)]
    if isinstance(names, str) or len(names) != classes:
        raise ValueError(f"Expected names to be {classes} names, but got {len(names)}.")
    return [_printable(str(name)) for name in names]


def _printable(text: str) -> str:
    """Without control characters, which neither a terminal nor SVG may be given."""
    clean = "".join("�" if category(c) in ("Cc", "Cs", "Cn") else c for c in " ".join(text.split()))
    return clean or "(no name)"


def _baseline(baseline: Any, classes: int) -> np.ndarray:
    if isinstance(baseline, torch.Tensor):
        baseline = baseline.detach().cpu()
    values = np.asarray(baseline, np.float64)
    outside = (values < 0) | (values > 1)
    if values.shape != (classes,) or outside.any() or np.isnan(values).all():
        got = values[outside][0] if outside.any() else f"shape {values.shape}"
        raise ValueError(
            f"Expected baseline to be {classes} recalls in [0, 1], one for each class, but got "
            f"{got}."
        )
    return values
