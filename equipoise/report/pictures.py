"""Which pictures a report has, and what is on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.report.bars import NAMED, bars, ranks
from equipoise.report.drawing import COLOURS, Picture
from equipoise.report.over_epochs import log_weights, mining, path, recalls_by_epoch
from equipoise.report.plain import numbers
from equipoise.report.spread import spread_of
from equipoise.report.telling import BEFORE, name_of, per_example, short

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["pictures"]

LOWEST = 12  # classes named where there are too many to name all
NOTE = "Share of the training examples, and of what an epoch draws."


def pictures(report: Report) -> list[Picture]:
    """All that the report has the numbers for, in the order of a page."""
    found = [*_recalls(report), _draws(report), path(report)]
    found += [recalls_by_epoch(report), log_weights(report)]
    found += [_precision_recall(report), _reliability(report), mining(report)]
    return [picture for picture in found if picture is not None]


def _recalls(report: Report) -> list[Picture]:
    """Bars of all classes; of too many, a curve of all and bars of the lowest."""
    now = spread_of(report.after["recalls"])
    if now is None:
        return []
    before = spread_of(report.before["recalls"])
    after_values = numbers(report.after["recalls"])
    before_values = None if before is None else numbers(report.before["recalls"])
    order_by = after_values if before_values is None else before_values
    order = np.argsort(order_by, kind="stable")
    order = order[~np.isnan(order_by[order])]
    then = "" if before is None else BEFORE[report.before["source"]]
    series = [("now", after_values, COLOURS["after"])]
    if before_values is not None:
        series.insert(0, (then, before_values, COLOURS["before"]))
    worst = name_of(report, now.worst)
    alt = f"Recalls now lie between {now.lowest:.2f} ({worst}) and {now.highest:.2f}"
    alt += (
        "." if before is None else f"; {then} between {before.lowest:.2f} and {before.highest:.2f}."
    )
    if len(report.names) <= NAMED:
        title = "Recall of each label" if report.multilabel else "Recall of each class"
        note = f"Sorted by the recall {then or 'now'}, the lowest on top."
        return [_bars_of("recalls", title, note, alt, report, order, series, "recall")]
    kinds = "labels" if report.multilabel else "classes"
    curve = Picture(
        "recalls",
        f"Recalls of all {len(order):,} {kinds}, sorted",
        "Each line from its lowest recall to its highest: the flatter, the more equal.",
        alt,
        3.2,
        lambda axes: ranks(axes, series, f"{kinds}, each line in its own order", "recall"),
    )
    lowest = f"The {LOWEST} lowest recalls {then or 'now'}"
    some = order[:LOWEST]
    named = ", ".join(name_of(report, int(c)) for c in some[:3])
    return [
        curve,
        _bars_of(
            "lowest",
            lowest,
            "Some were lowest by chance, and would have risen anyway: look at all of them, too.",
            f"Lowest are {named}.",
            report,
            some,
            series,
            "recall",
        ),
    ]


def _draws(report: Report) -> Picture | None:
    """Share of each class in the data and in what is drawn; nothing where they are the same."""
    drawn = per_example(report)
    if drawn is None or report.drawn is None:
        return None
    counts = np.array(report.counts, np.float64)
    data = counts / report.num_examples
    draws = np.array(report.drawn) / report.parts["num_samples"]
    if max(np.ptp(data), np.abs(draws - data).max()) < 1e-3 * data.max():
        return None
    order = np.argsort(-counts - 1e-6 * np.array(report.drawn), kind="stable")
    if np.ptp(counts) < 0.05 * counts.max():
        order = np.argsort(-draws, kind="stable")
    series = [
        ("of the data", 100 * data, COLOURS["before"]),
        ("of what is drawn", 100 * draws, COLOURS["after"]),
    ]
    up, down = int(np.nanargmax(drawn)), int(np.nanargmin(drawn))
    alt = (
        f"An example of {name_of(report, up)} is drawn {drawn[up]:.2f} times an epoch, one of "
        f"{name_of(report, down)} {drawn[down]:.2f} times."
    )
    what = "label" if report.multilabel else "class"
    title = f"How often each {what} comes"
    unit = "% of examples" if report.multilabel else "%"
    if len(counts) <= NAMED:
        return _bars_of("draws", title, NOTE, alt, report, order, series, unit)
    kinds = "labels" if report.multilabel else "classes"
    return Picture(
        "draws",
        title,
        f"{NOTE[:-1]}; on a logarithmic scale.",
        alt,
        3.2,
        lambda axes: ranks(axes, series, f"{kinds}, each line in its own order", unit, log=True),
    )


def _bars_of(
    name: str,
    title: str,
    note: str,
    alt: str,
    report: Report,
    order: np.ndarray,
    series: Sequence[tuple[str, np.ndarray, str]],
    unit: str,
) -> Picture:
    names = [short(report.names[c], 20) for c in order]
    chosen = [(text, values[order], colour) for text, values, colour in series]
    height = 0.75 + len(order) * (0.17 * len(series) + 0.09)
    return Picture(
        name, title, note, alt, max(height, 1.6), lambda axes: bars(axes, names, chosen, unit)
    )


def _precision_recall(report: Report) -> Picture | None:
    if not report.evaluation or not report.evaluation.get("curves"):
        return None
    found = report.evaluation
    areas = found["average_precisions"]
    curves = found["curves"]
    known = [area for area in areas if area is not None]

    def draw(axes: Any) -> None:
        colours = {"lowest average precision": COLOURS["low"], "rarest": COLOURS["ink"]}
        styles = {"lowest average precision": "-", "rarest": "--"}
        for curve in curves:
            label = curve["label"]
            axes.plot(
                curve["recall"],
                curve["precision"],
                drawstyle="steps-post",
                color=colours.get(curve["why"], COLOURS["after"]),
                linestyle=styles.get(curve["why"], "-."),
                lw=1.4,
                label=f"{short(report.names[label], 18)} ({areas[label]:.2f})".replace("$", r"\$"),
            )
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
        axes.grid(color=COLOURS["grid"], lw=0.6)
        legend(axes, len(curves))

    named = "; ".join(f"{name_of(report, c['label'])} ({c['why']})" for c in curves)
    return Picture(
        "precision-recall",
        "Precision over recall of some labels",
        "In brackets the average precision, the area below. Solid: the lowest of all; dashed: the "
        "rarest; dash-dotted: the highest. "
        f"Mean over {len(known):,} labels: {np.mean(known):.3f}.",
        f"Curves of {named}.",
        3.9,
        draw,
    )


def legend(axes: Any, entries: int) -> None:
    """Above the axes, in two columns."""
    axes.figure.legend(
        loc="outside upper left",
        ncols=2,
        frameon=False,
        fontsize=8,
        handlelength=2.2,
        borderpad=0.1,
        columnspacing=1.2,
    )


def _reliability(report: Report) -> Picture | None:
    if not report.evaluation or "reliability" not in report.evaluation:
        return None
    found = report.evaluation["reliability"]
    gaps = {name: _gap(curve) for name, curve in found.items()}
    series = [
        ("trained", "as trained", COLOURS["before"], "o", 6),
        ("corrected", "corrected", COLOURS["after"], "D", 4),
    ]

    def draw(axes: Any) -> None:
        for key, name, colour, marker, size in series:
            axes.plot(
                found[key]["predicted"],
                found[key]["true"],
                marker=marker,
                ms=size,
                color=colour,
                lw=1.4,
                label=f"{name} (off by {gaps[key]:.3f})",
            )
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"], lw=0.8, ls=":", label="perfect")
        axes.set(xlabel="predicted probability", ylabel="share that is true")
        axes.set(xlim=(0, 1.01), ylim=(0, 1.03))
        axes.grid(color=COLOURS["grid"], lw=0.6)
        legend(axes, 3)

    return Picture(
        "reliability",
        "Are probabilities to be believed?",
        "All labels together. Below the dotted line labels are true less often than the network "
        "says. “Corrected” has loss and sampling taken out (Balancer.correct).",
        f"Probabilities are off by {gaps['trained']:.3f} on average as trained, by "
        f"{gaps['corrected']:.3f} corrected.",
        3.9,
        draw,
    )


def _gap(curve: dict[str, list]) -> float:
    """Mean distance of predicted and true, over all pairs: the expected calibration error."""
    predicted, true = np.array(curve["predicted"]), np.array(curve["true"])
    return float(np.average(np.abs(predicted - true), weights=curve["sizes"]))
