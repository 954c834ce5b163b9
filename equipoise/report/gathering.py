"""make_report: from a balancer, and logits if there are any, to plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unicodedata import category

import numpy as np

from equipoise.report.evaluating import evaluate
from equipoise.report.plain import plain
from equipoise.report.report import Report

__all__ = ["make_report"]

# What a report takes of a row of Balancer.history: numbers, and lists of one a class.
NUMBERS = ("mean_recall", "sd_recall", "lowest_recall", "mean_average_precision")
WHOLE = ("epoch", "num_nan", "num_invalid")
LISTS = ("recalls", "log_weight", "support")


def make_report(
    balancer: Any,
    logits: Any = None,
    targets: Any = None,
    *,
    baseline: Any = None,
    seconds: Mapping[str, float] | None = None,
    title: str | None = None,
    names: Sequence[Any] | None = None,
) -> Report:
    """What a balanced training did, from the balancer's history and, if given, from logits.

    "Before" is the baseline; without one, the first epoch whose recalls were observed, and the
    report says so. "After" is what the given logits show with the balancer's decision, or else the
    last epoch. For labels recalls are those at as many predictions as true positives
    (`LabelRates`), so a baseline has to be of those too.

    Args:
        balancer: a `Balancer` after at least one `step`.
        logits: `(N, C)` of a hold-out or test set, as the network gives them.
        targets: `(N,)` class ids, or `(N, C)` of 0 and 1, dense or sparse.
        baseline: `(C,)` recalls of a plain run, NaN where not known.
        seconds: what took how long, such as `{"training": 812, "hold-out": 20}`.
        title: of the page.
        names: C names of the classes.

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
        >>> report.after["recalls"], report.drawn
        ([1.0, 0.5], [2.0, 2.0])
    """
    held = balancer.targets
    if not balancer.history:
        raise ValueError(
            "Expected balancer to have been through an epoch, ended by step(), but got one with "
            "an empty history."
        )
    if (logits is None) != (targets is None):
        missing = "targets" if targets is None else "logits"
        raise ValueError(f"Expected logits and targets together, but got no {missing}.")
    kind = "label" if held.multilabel else "class"
    kinds = "labels" if held.multilabel else "classes"
    if title is None:
        title = f"{held.num_classes:,} {kinds}, {held.num_examples:,} training examples"
    epochs = [_epoch(row) for row in balancer.history]
    evaluation = None if logits is None else evaluate(balancer, logits, targets)
    after = _after(epochs, evaluation)
    return Report(
        title=_printable(str(title)),
        multilabel=held.multilabel,
        num_examples=held.num_examples,
        names=_names(names, kind, held.num_classes),
        counts=held.counts.tolist(),
        parts=_parts(balancer),
        drawn=_drawn(balancer),
        log_weight=[round(float(v), 6) for v in balancer.log_weight],
        epochs=epochs,
        before=_before(_baseline(baseline, held.num_classes), epochs, evaluation, after),
        after=after,
        evaluation=evaluation,
        seconds=_seconds(seconds),
    )


def _names(names: Sequence[Any] | None, kind: str, classes: int) -> list[str]:
    if names is None:
        return [f"{kind} {c}" for c in range(classes)]
    if isinstance(names, str) or len(names) != classes:
        raise ValueError(f"Expected names to be {classes} names, but got {len(names)}.")
    return [_printable(str(name)) for name in names]


def _printable(text: str) -> str:
    """Without control characters, which neither a terminal nor SVG may be given."""
    clean = "".join("�" if category(c) in ("Cc", "Cs", "Cn") else c for c in " ".join(text.split()))
    return clean or "(no name)"


def _baseline(baseline: Any, classes: int) -> list[float | None] | None:
    if baseline is None:
        return None
    if hasattr(baseline, "cpu"):
        baseline = baseline.detach().cpu()
    values = np.asarray(baseline, np.float64)
    outside = (values < 0) | (values > 1)
    if values.shape != (classes,) or outside.any() or np.isnan(values).all():
        got = values[outside][0] if outside.any() else f"shape {values.shape}"
        raise ValueError(
            f"Expected baseline to be {classes} recalls in [0, 1], one a class, but got {got}."
        )
    return plain(values)


def _seconds(seconds: Mapping[str, float] | None) -> dict[str, float] | None:
    if not seconds:
        return None
    for name, value in seconds.items():
        if not np.isfinite(value) or value < 0:
            raise ValueError(f"Expected seconds of {name!r} to be at least 0, but got {value}.")
    return {_printable(str(name)): float(value) for name, value in seconds.items()}


def _epoch(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the history in plain JSON types: NaN is None."""
    out: dict[str, Any] = {name: int(row[name]) for name in WHOLE if name in row}
    out |= {name: plain([row[name]])[0] for name in NUMBERS if name in row}
    out |= {name: plain(row[name]) for name in LISTS if row.get(name) is not None}
    if row.get("mining"):
        out["mining"] = dict(row["mining"])
    return out


def _parts(balancer: Any) -> dict[str, Any]:
    sampler = getattr(balancer.sampler, "inner", balancer.sampler)
    fitted = balancer.decision.values is not None
    return {
        "policy": type(balancer.policy).__name__,
        "sampler": type(sampler).__name__,
        "sampler_share": float(balancer.sampler_share),
        "num_samples": int(sampler.num_samples),
        "loss": type(balancer._loss).__name__,
        "mining": None if balancer.mining is None else type(balancer.mining).__name__,
        "decision": ("thresholds" if balancer.multilabel else "offsets") if fitted else None,
    }


def _drawn(balancer: Any) -> list[float] | None:
    """How many examples of each class an epoch draws, before mining takes its share."""
    sampler = getattr(balancer.sampler, "inner", balancer.sampler)
    held = balancer.targets
    if hasattr(sampler, "quotas"):
        return [float(quota) for quota in sampler.quotas]
    if not hasattr(sampler, "repeats"):
        return None
    if held.multilabel:
        return [round(float(v), 2) for v in held.matrix.T @ sampler.repeats]
    drawn = np.bincount(held.labels, weights=sampler.repeats, minlength=held.num_classes)
    return [round(float(v), 2) for v in drawn]


def _after(epochs: list[dict], evaluation: dict | None) -> dict[str, Any]:
    if evaluation is not None:
        recalls, support = evaluation["recalls"], evaluation["support"]
        return {"recalls": recalls, "source": "evaluation", "support": support}
    row = epochs[-1]
    if "recalls" not in row:
        return {"recalls": None, "source": None, "support": None}
    return {"recalls": row["recalls"], "source": "last epoch", "support": row.get("support")}


def _before(
    baseline: list[float | None] | None, epochs: list[dict], evaluation: dict | None, after: dict
) -> dict[str, Any]:
    if baseline is not None:
        return {"recalls": baseline, "source": "baseline"}
    first = next((i for i, row in enumerate(epochs) if "recalls" in row), None)
    if first is not None and not (after["source"] == "last epoch" and first == len(epochs) - 1):
        return {"recalls": epochs[first]["recalls"], "source": "first epoch"}
    if evaluation is not None and not evaluation.get("average_precisions"):
        return {"recalls": evaluation["trained"]["recalls"], "source": "as trained"}
    return {"recalls": None, "source": None}
