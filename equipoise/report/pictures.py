"""Which pictures a report has, and what is on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.figures import (
    COLOURS,
    MARKERS,
    NAMED,
    caption,
    class_axis,
    finish,
    new_figure,
    plain_log,
    style,
)
from equipoise.report.front import front_figure
from equipoise.report.numbers import array

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["Picture", "pictures"]

WORST, BEST = 15, 5  # classes named where there are too many to name all
LINES = 3  # classes that stand out at each end, in pictures over epochs
DRAWN = 60  # lines that can be drawn for all classes; of more, bands hold 50% and 90% of them
POINTS = 400  # of a curve over classes
CHANCE = 1.96  # standard errors: of equal recalls, 95 of 100 lie within so many
STYLES = ("-", "--", "-.")

Outcomes = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Picture:
    """A figure of matplotlib; its title; what it shows and how to read it; the name of its file."""

    name: str
    title: str
    note: str
    figure: Any


def _finished(
    name: str, title: str, note: str, figure: Any, axes: Any, columns: int = 2
) -> Picture:
    finish(figure, axes, title, columns)
    return Picture(name, title, note, figure)


def pictures(report: Report) -> list[Picture]:
    """All that the report has the numbers for, in the order of a page."""
    with style():
        found = [_recalls(report), _front(report), _counts(report), _recalls_by_epoch(report)]
        found += [_log_weights(report), _reliability(report)]
    return [picture for picture in found if picture is not None]


def _recalls(report: Report) -> Picture | None:
    """Bars of all classes; of too many, their distribution, and bars of the extremes."""
    rows = [row for row in report.outcomes if row["mean"] is not None]
    if not rows:
        return None
    title, now = f"Recalls of {len(report.names):,} {report.kinds}", array(rows[-1]["recalls"])
    order = np.lexsort([array(rows[0]["recalls"]), now])[: np.isfinite(now).sum()]
    if len(order) <= NAMED:
        note = f"Sorted by the recall {rows[-1]['name']}, the lowest on top."
        figure, axes = new_figure(1.1 + 0.21 * len(order))
        _recall_bars(axes, report, rows, order, np.arange(len(order)))
    else:
        note = (
            f"Above, the recalls of all {report.kinds}, each curve sorted by itself: the flatter, "
            f"the more equal. Below, the {WORST} worst and the {BEST} best {rows[-1]['name']}, "
            "some of which are there by chance."
        )
        chosen = np.concatenate([order[:WORST], order[-BEST:]])
        places = np.arange(len(chosen)) + np.where(np.arange(len(chosen)) >= WORST, 1.2, 0.0)
        figure, (top, axes) = new_figure(7.6, nrows=2, height_ratios=(2.6, 5))
        _distribution(top, report, rows)
        _recall_bars(axes, report, rows, chosen, places)
        between = f"… {len(order) - len(chosen):,} between …"
        axes.text(0.01, WORST + 0.1, between, color=COLOURS["muted"], va="center", fontsize=8)
    return _finished("recalls", title, note, figure, axes)


def _recall_bars(
    axes: Any, report: Report, rows: Outcomes, order: np.ndarray, places: np.ndarray
) -> None:
    """The last outcome as bars, those before as markers, and where equal recalls would lie."""
    last, ink = rows[-1], COLOURS["ink"]
    recalls = array(last["recalls"])[order]
    bars = np.nan_to_num(recalls)
    axes.barh(places, bars, 0.72, color=COLOURS["blue"], alpha=0.75, label=last["name"])
    for row, (marker, colour) in zip(rows[-2::-1], MARKERS, strict=False):
        look = {"color": COLOURS[colour], "ms": 4.5, "mfc": "white", "clip_on": False}
        axes.plot(array(row["recalls"])[order], places, marker, label=row["name"], **look)
    if report.support is not None:
        n = np.maximum(np.array(report.support)[order], 1)
        error = CHANCE * np.sqrt(last["mean"] * (1 - last["mean"]) / n)
        low, high = np.clip([last["mean"] - error, last["mean"] + error], 0, 1)
        name = "equal recalls, by chance (95%)"
        axes.barh(places, high - low, 1.0, left=low, color=ink, alpha=0.13, lw=0, label=name)
    class_axis(axes, [report.names[c] for c in order], places)
    for place, value in zip(places, recalls, strict=True):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        axes.text(1.02, place, text, va="center", fontsize=8)
    axes.set(xlim=(0, 1), xlabel="recall")


def _distribution(axes: Any, report: Report, rows: Outcomes) -> None:
    """A line for each outcome: its recalls sorted, over their rank."""
    colours = ["blue", *(colour for _, colour in MARKERS)]
    for row, colour in zip(rows[::-1], colours, strict=False):
        values = np.sort(array(row["recalls"]))
        values = values[np.isfinite(values)]
        some = np.unique(np.linspace(0, len(values) - 1, POINTS).astype(int))
        axes.plot(some + 1, values[some], color=COLOURS[colour], lw=1.6)
    if report.support is not None:
        n = np.array(report.support)[np.array(report.support) > 0]
        drawn = np.random.default_rng(0).binomial(n, rows[-1]["mean"], (20, len(n))) / n
        equal, muted = np.sort(drawn, axis=1).mean(0), COLOURS["muted"]
        axes.plot(1 + np.arange(len(n)), equal, ":", color=muted, lw=1.4)
        text = "dotted: equal recalls, by chance"
        axes.text(0.99, 0.05, text, ha="right", color=muted, transform=axes.transAxes)
    axes.set(xlabel=f"rank among the {report.kinds}, the lowest first", ylabel="recall")
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y")


def _front(report: Report) -> Picture | None:
    if report.decision is None or not report.decision["front"]:
        return None
    front = report.decision["front"]
    chosen = next((i for i, row in enumerate(front) if row["chosen"]), None)
    cells = report.num_groups is not None  # whose recalls are others than the classes'
    given = report.outcomes if report.evaluation and not cells else []
    note = (
        "Each point of the line is a decision, measured on the hold-out by cross-fitting, with its "
        "intervals. Further right the worst class is better off; further down the mean pays for "
        "it. Choose with fit_decision(alpha=…) or fit_decision(max_price=…)."
    )
    if cells:
        note += " It is of the classes, whatever the group."
    figure = front_figure(front, chosen, report.max_price, given)
    return Picture("front", "Mean against lowest recall, over α", note, figure)


def _counts(report: Report) -> Picture:
    """Training examples of each class, and how many an epoch draws."""
    counts, draws = array(report.counts), array(report.draws)
    order = np.argsort(-counts, kind="stable")
    many = len(counts) > NAMED
    figure, axes = new_figure(3.2 if many else 1.1 + 0.21 * len(counts))
    axis = axes.yaxis if many else axes.xaxis
    places = np.arange(len(counts))
    for values, at, colour, name in (
        (counts, -0.18, "grey", f"training {report.counted}"),
        (draws, 0.18, "blue", "drawn in an epoch, on average"),
    ):
        look = {"color": COLOURS[colour], "label": name}
        if many:
            axes.plot(1 + places, np.where(values > 0, values, np.nan)[order], lw=1.6, **look)
        else:
            axes.barh(places + at, values[order], 0.36, **look)
    if many:
        axes.set_xlabel("rank, the most frequent first")
        axes.grid(axis="y")
    else:
        class_axis(axes, [report.names[c] for c in order], places)
    smallest = min(values[values > 0].min() for values in (counts, draws))
    if max(counts.max(), draws.max()) > 20 * smallest:
        plain_log(axis)
        axes.set(**{f"{axis.axis_name}lim": (smallest / 1.5, None)})
    axis.set_label_text(report.counted)
    note = "What the training set holds, and what an epoch draws of it on average."
    return _finished("counts", f"Examples of each {report.kind}", note, figure, axes)


def _recalls_by_epoch(report: Report) -> Picture | None:
    rows = [(i + 1, row) for i, row in enumerate(report.epochs) if row.get("recalls")]
    if len(rows) < 2:
        return None
    epochs = [epoch for epoch, _ in rows]
    values = np.stack([array(row["recalls"]) for _, row in rows])
    figure, axes, note = _lines(report, epochs, values, "recall")
    mean = array([row["mean_recall"] for _, row in rows])
    plain_mean = mean + array([row.get("price") for _, row in rows])
    axes.plot(epochs, mean, color=COLOURS["ink"], lw=2.2, label="mean of all")
    if not np.isnan(plain_mean).all():
        label = "mean, plain decision"
        axes.plot(epochs, plain_mean, ":", color=COLOURS["ink"], lw=2.2, label=label)
    title = "Recalls on the hold-out, as trained"
    return _finished("recalls-by-epoch", title, note, figure, axes, 3)


def _log_weights(report: Report) -> Picture | None:
    """From the λ training began with to the one after the last epoch."""
    rows = [row.get("log_weight") for row in report.epochs]
    values = np.stack([array(row) for row in [*rows, report.log_weight] if row is not None])
    if len(values) <= len(report.epochs) or np.abs(values).max() < 1e-6:
        return None
    figure, axes, note = _lines(report, range(len(values)), values, "λ")
    return _finished("log-weights", "Log-weights λ over epochs", note, figure, axes, 3)


def _lines(
    report: Report, epochs: Sequence[int], values: np.ndarray, unit: str
) -> tuple[Any, Any, str]:
    """Lines `(E, C)`; the same classes stand out in each picture, those of the extreme recalls."""
    seen = [row["recalls"] for row in report.epochs if row.get("recalls")]
    key = array(seen[-1]) if seen else values[-1]
    order = np.argsort(key, kind="stable")
    order = order[~np.isnan(key[order]) & ~np.isnan(values[-1, order])]
    n = min(LINES, len(order) // 2)
    figure, axes = new_figure(3.6)
    if values.shape[1] <= DRAWN:
        axes.plot(epochs, values, color=COLOURS["grey"], lw=0.8)
    else:
        for share, alpha in ((90, 0.3), (50, 0.5)):
            band = np.nanpercentile(values, [50 - share / 2, 50 + share / 2], axis=1)
            look = {"color": COLOURS["grey"], "alpha": alpha, "lw": 0}
            axes.fill_between(epochs, *band, label=f"the middle {share}%", **look)
    for classes, colour in ((order[:n], "orange"), (order[len(order) - n :][::-1], "blue")):
        for c, line in zip(classes, STYLES, strict=False):
            name = f" {caption(report.names[c], 16)}"  # a legend leaves out names that begin with _
            axes.plot(epochs, values[:, c], line, color=COLOURS[colour], lw=1.5, label=name)
    axes.set(xlabel="epochs trained", ylabel=unit)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=7)
    axes.grid(axis="y")
    by = "recalls in the last epoch" if seen else "λ"
    return figure, axes, f"Orange: the lowest {by}; blue: the highest; grey: all."


def _reliability(report: Report) -> Picture | None:
    if not report.multilabel or report.evaluation is None:
        return None
    figure, axes = new_figure(3.9)
    found = report.evaluation["reliability"]
    for (name, curve), marker, colour in zip(found.items(), "oD", ("grey", "blue"), strict=True):
        look = {"color": COLOURS[colour], "ms": 5, "label": f"{name} (off by {curve['gap']:.3f})"}
        axes.plot(curve["predicted"], curve["true"], f"{marker}-", **look)
    axes.plot([0, 1], [0, 1], ":", color=COLOURS["muted"], lw=0.8, label="perfect")
    axes.set(xlabel="predicted probability", ylabel="share that is true", xlim=(0, 1), ylim=(0, 1))
    axes.grid()
    note = (
        "All labels together. Below the dotted line labels are true less often than the network "
        "says. Corrected means that loss and sampling are taken out (Balancer.correct)."
    )
    title = "Are the probabilities to be believed?"
    return _finished("reliability", title, note, figure, axes, 3)
