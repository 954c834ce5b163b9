"""The tables of a report, of outcomes and of classes, shared by terminal and page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from equipoise.report.numbers import array, ratio
from equipoise.report.story import last_mining

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["EPOCH", "OUTCOMES", "Column", "columns", "notable", "outcome_rows"]

WHOLE, RATE, SHARE = "{:,.0f}".format, "{:.3f}".format, "{:.0%}".format
SIGNED, CHANGE = "{:+.2f}".format, "{:+.3f}".format
# What is told of an epoch, or of its mining: the heading on the page, the tag in TensorBoard.
EPOCH = {
    "mean_recall": ("mean recall", "recall/mean"),
    "sd_recall": ("sd", "recall/spread"),
    "lowest_recall": ("lowest", "recall/lowest"),
    "price": ("price", "recall/price"),
    "mean_average_precision": ("mean AP", "precision/mean_average_precision"),
    "mean_iou": ("mean IoU", "iou/mean"),
    "share_kept": ("share kept", "mining/share_kept"),
    "mean_loss_kept": ("loss of kept", "mining/mean_loss_kept"),
    "mean_loss_dropped": ("loss of dropped", "mining/mean_loss_dropped"),
}
OUTCOMES = ("recalls", "mean", "sd", "by chance", "lowest", "of", "price")


def outcome_rows(report: Report) -> list[list[str]]:
    """A row of text for each outcome, under the headings `OUTCOMES`."""
    rows = []
    for row in report.outcomes:
        worst = "–" if row["worst"] is None else report.names[row["worst"]]
        numbers = [_written(row[key], RATE) for key in ("mean", "sd", "chance", "lowest")]
        rows.append([row["name"], *numbers, worst, _written(row["price"], CHANGE)])
    return rows


@dataclass(frozen=True)
class Column:
    """A column of numbers, one for each class, which is text by `column[c]`."""

    heading: str
    meaning: str
    values: np.ndarray  # (C,), NaN where there is none
    text: Callable[[float], str]
    rank: int  # the higher, the sooner it is left out where there is no room

    def __getitem__(self, c: int) -> str:
        return _written(self.values[c], self.text)


def columns(report: Report) -> list[Column]:
    """Those that the report has the numbers for."""
    counts, drawn = array(report.counts), ratio(array(report.draws), array(report.counts))
    found = [
        Column(report.counted, f"training {report.counted}", counts, WHOLE, 4),
        Column("drawn ×", "times an epoch draws each of them, on average", drawn, _times, 3),
        Column("λ", "log-weight after the last epoch", array(report.log_weight), SIGNED, 5),
    ]
    recalls = [array(row["recalls"]) for row in report.outcomes]
    for row, values in zip(report.outcomes, recalls, strict=True):
        found.append(Column(row["name"], "recall", values, RATE, 0))
    if len(recalls) > 1:
        first, last = report.outcomes[0]["name"], report.outcomes[-1]["name"]
        meaning = f"of the recall, from {first} to {last}"
        found.append(Column("change", meaning, recalls[-1] - recalls[0], CHANGE, 1))
    precise = [row for row in report.outcomes if row["precisions"] is not None]
    for row in precise[:1] + precise[1:][-1:]:
        now = row is precise[-1]
        heading, rank = ("precision", 2) if now else (f"precision {row['name']}", 8)
        meaning = f"share of its predictions that are true, {row['name']}"
        found.append(Column(heading, meaning, array(row["precisions"]), RATE, rank))
    support = array(report.support or [])
    if len(support):
        found.append(Column("n", "examples that the recalls are of", support, WHOLE, 6))
    for row in precise[-1:]:
        times = ratio(array(row["predicted"]), support)
        meaning = f"predictions for each true one, {row['name']}"
        found.append(Column("pred./true", meaning, times, _times, 7))
        if any("mean_iou" in epoch for epoch in report.epochs):  # of pixels or tokens
            hits, predicted = array(row["recalls"]) * support, array(row["predicted"])
            iou = ratio(hits, support + predicted - hits)
            found.append(Column("IoU", f"hits over true or predicted, {row['name']}", iou, RATE, 1))
    if report.evaluation is not None and report.multilabel:
        areas = array(report.evaluation["average_precisions"])
        found.append(Column("AP", "average precision", areas, RATE, 4))
    mined = last_mining(report)
    if mined is not None and "kept_by_class" in mined and not report.num_groups:
        kept = ratio(array(mined["kept_by_class"]), array(mined["seen_by_class"]))
        found.append(Column("kept", "share that mining kept, in its last epoch", kept, SHARE, 8))
    return [column for column in found if not np.isnan(column.values).all()]


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


def _written(value: float | None, text: Callable[[float], str]) -> str:
    return "–" if value is None or np.isnan(value) else text(value).replace("-", "−")


def _times(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:,.1f}"
