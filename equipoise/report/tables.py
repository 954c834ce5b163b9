"""The tables of a report, of outcomes and of classes, shared by terminal and page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from equipoise.report.numbers import array
from equipoise.report.story import last_mining

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["OUTCOMES", "Column", "columns", "notable", "outcome_rows"]

OUTCOMES = ("outcome", "mean recall", "sd", "chance leaves", "lowest", "of", "price")


def outcome_rows(report: Report) -> list[list[str]]:
    """A row of text for each outcome, under the headings `OUTCOMES`."""
    rows = []
    for row in report.outcomes:
        worst = "–" if row["worst"] is None else report.names[row["worst"]]
        numbers = [_rate(row[key]) for key in ("mean", "sd", "chance", "lowest")]
        price = "–" if row["price"] is None else _signed_rate(row["price"])
        rows.append([row["name"], *numbers, worst, price])
    return rows


@dataclass(frozen=True)
class Column:
    """A column of numbers, one for each class.

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
    counts = array(report.counts)
    found = [Column("examples", f"training examples of the {kind}", counts, _whole)]

    def add(heading: str, meaning: str, values: np.ndarray, text: Callable[[float], str]) -> None:
        if not np.isnan(values).all():
            found.append(Column(heading, meaning, values, text))

    if report.draws is not None:
        drawn = _ratio(array(report.draws), counts)
        before = ", before mining" if report.parts["mining"] else ""
        add("drawn ×", f"times an epoch draws each of them, on average{before}", drawn, _times)
    add("λ", "log-weight after the last epoch", array(report.log_weight), _signed)
    for row in report.outcomes:
        add(row["name"], f"recall of the outcome “{row['name']}”", array(row["recalls"]), _rate)
    if len(report.outcomes) > 1:
        first, last = report.outcomes[0], report.outcomes[-1]
        change = array(last["recalls"]) - array(first["recalls"])
        meaning = f"of the recall, from “{first['name']}” to “{last['name']}”"
        add("change", meaning, change, _signed_rate)
    told = [row for row in report.outcomes if row["precisions"] is not None]
    for row in told[:1] + told[-1:] if len(told) > 1 else told:
        heading = f"precision {row['name']}"
        add(heading, f"precision of “{row['name']}”", array(row["precisions"]), _rate)
    if report.support is not None:
        support = array(report.support)
        add("n", "examples that the recalls are of", support, _whole)
        for row in told[-1:]:
            ratio = _ratio(array(row["predicted"]), support)
            add("pred./true", f"predictions for each true one, {row['name']}", ratio, _times)
    if report.evaluation is not None and report.multilabel:
        add("AP", "average precision", array(report.evaluation["average_precisions"]), _rate)
    mined = last_mining(report)
    if mined is not None and "kept_by_class" in mined:
        kept = _ratio(array(mined["kept_by_class"]), array(mined["seen_by_class"]))
        add("kept", "share that mining kept in the last epoch it was at work", kept, _share)
    return found


def notable(report: Report, most: int) -> np.ndarray:
    """At most `most` classes: all, or the lowest recalls now and then the largest changes.

    In the order of their recalls in the first outcome, those without at the end.
    """
    recalls = [array(row["recalls"]) for row in report.outcomes]
    before = recalls[0] if recalls else array(report.counts)
    now = recalls[-1] if recalls else before
    if len(report.names) <= most:
        chosen = np.arange(len(report.names))
    else:
        lowest = np.argsort(now, kind="stable")[: (most + 1) // 2]
        change = np.nan_to_num(np.abs(now - before), nan=-1.0)
        change[lowest] = -2.0
        chosen = np.concatenate([lowest, np.argsort(-change, kind="stable")[: most // 2]])
    return chosen[np.argsort(before[chosen], kind="stable")]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _times(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:,.1f}"


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _signed_rate(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
