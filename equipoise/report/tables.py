"""The table of classes, shared by terminal and page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from equipoise.report.plain import numbers
from equipoise.report.telling import last_mining, per_example

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["Column", "columns", "notable"]


@dataclass(frozen=True)
class Column:
    """A column of numbers, one a class.

    Attributes:
        heading: short.
        meaning: what the numbers are, in a sentence.
        values: `(C,)`, NaN where there is none.
        text: how one is written.
    """

    heading: str
    meaning: str
    values: np.ndarray
    text: Callable[[float], str]

    def __getitem__(self, c: int) -> str:
        value = self.values[c]
        return "–" if np.isnan(value) else self.text(value)


def columns(report: Report) -> list[Column]:
    """Those that the report has the numbers for."""
    kind = "label" if report.multilabel else "class"
    found = [Column("examples", f"training examples of the {kind}", _array(report.counts), _whole)]

    def add(heading: str, meaning: str, values: np.ndarray, text: Callable[[float], str]) -> None:
        if not np.isnan(values).all():
            found.append(Column(heading, meaning, values, text))

    drawn = per_example(report)
    if drawn is not None:
        meaning = "times an epoch draws each of them, on average"
        if report.parts["mining"]:
            meaning += ", before mining"
        add("drawn ×", meaning, drawn, _times)
    add("λ", "log-weight after the last epoch", _array(report.log_weight), _signed)
    before, after = _array(report.before["recalls"]), _array(report.after["recalls"])
    if before.shape == after.shape:
        add("before", "recall before, see below", before, _rate)
        add("now", "recall now", after, _rate)
        add("change", "of the recall", after - before, _signed_rate)
    else:
        for heading, values in (("before", before), ("now", after)):
            if len(values):
                add(heading, "recall", values, _rate)
    if report.after["support"] is not None:
        support = _array(report.after["support"])
        add("n", "examples that the recall now is of", support, _whole)
    if report.evaluation is not None:
        found += _of_evaluation(report)
    mined = last_mining(report)
    if mined is not None and "kept_by_class" in mined:
        seen, kept = _array(mined["seen_by_class"]), _array(mined["kept_by_class"])
        share = np.divide(kept, seen, out=np.full(len(seen), np.nan), where=seen > 0)
        add("kept", "share that mining kept in the last epoch it was at work", share, _share)
    return found


def _of_evaluation(report: Report) -> list[Column]:
    found = report.evaluation or {}
    n = _array(found["support"])
    columns = []
    if "average_precisions" in found:
        areas = _array(found["average_precisions"])
        columns.append(Column("AP", "average precision", areas, _rate))
    for key, heading, meaning in (
        ("trained", "pred./true", "predictions for each true one, as trained"),
        ("decided", "decided", "predictions for each true one, with the decision"),
    ):
        ratio = np.divide(
            _array(found[key]["predicted"]), n, out=np.full(len(n), np.nan), where=n > 0
        )
        columns.append(Column(heading, meaning, ratio, _times))
    if np.allclose(columns[-1].values, columns[-2].values, equal_nan=True):
        columns.pop()
    return columns


def notable(report: Report, most: int) -> np.ndarray:
    """At most `most` classes: all, or the lowest recalls now and then the largest changes.

    In the order of their recalls before, those without at the end.
    """
    classes = len(report.names)
    before, after = _array(report.before["recalls"]), _array(report.after["recalls"])
    key = before if len(before) else after if len(after) else _array(report.counts)
    if classes <= most:
        chosen = np.arange(classes)
    elif len(before) and len(after):
        lowest = np.argsort(after, kind="stable")[: (most + 1) // 2]
        change = np.nan_to_num(np.abs(after - before), nan=-1.0)
        change[lowest] = -2.0
        chosen = np.concatenate([lowest, np.argsort(-change, kind="stable")[: most // 2]])
    else:
        chosen = np.argsort(key, kind="stable")[:most]
    return chosen[np.argsort(key[chosen], kind="stable")]


def _array(values: list | None) -> np.ndarray:
    return numbers(values or [])


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _times(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:,.1f}"


def _rate(value: float) -> str:
    return f"{value:.3f}"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _signed_rate(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
