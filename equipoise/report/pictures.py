"""Which pictures a report has, and what is on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.figures import COLOURS, NAMED, caption, class_axis, new_figure, plain_log, style
from equipoise.report.numbers import array
from equipoise.report.story import name_of

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["Picture", "front_figure", "pictures"]

WORST, BEST = 15, 5  # classes named where there are too many to name all
LINES = 3  # classes that stand out at each end, in pictures over epochs
DRAWN = 60  # lines that can be drawn for all classes; of more, bands hold 50% and 90% of them
POINTS = 400  # of a curve over classes
CHANCE = 1.96  # standard errors: equal recalls are within so many for 95 of 100 classes
MARKERS = (("o", "muted"), ("D", "orange"), ("s", "ink"))  # of the outcomes before the last
STYLES = ("-", "--", "-.")


@dataclass(frozen=True)
class Picture:
    """A picture of a report.

    Attributes:
        name: of its file.
        note: what it shows and how to read it.
        alt: what it says, for who cannot see it.
        figure: of matplotlib, with a title.
    """

    name: str
    note: str
    alt: str
    figure: Any


def pictures(report: Report) -> list[Picture]:
    """All that the report has the numbers for, in the order of a page."""
    with style():
        found = [_recalls(report), _front(report), _counts(report), _progress(report)]
        found += [_recalls_by_epoch(report), _log_weights(report)]
        found += [_reliability(report), _mining(report)]
    return [picture for picture in found if picture is not None]


def _legend(axes: Any, columns: int = 2) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, labels, loc="outside lower left", ncols=columns, borderpad=0.1, columnspacing=1.2
    )


# ------------------------------------------------------------------------------------- recalls


def _recalls(report: Report) -> Picture | None:
    """Bars of all classes; of too many, their distribution, and bars of the worst and the best."""
    rows = [row for row in report.outcomes if row["mean"] is not None]
    if not rows:
        return None
    kinds = "labels" if report.multilabel else "classes"
    order = np.argsort(array(rows[0]["recalls"]), kind="stable")
    order = order[~np.isnan(array(rows[0]["recalls"]))[order]]
    title = f"Recall of {'every label' if report.multilabel else 'every class'}"
    note = f"Sorted by the recall {rows[0]['name']}, the lowest on top."
    if len(order) <= NAMED:
        figure, axes = new_figure(1.1 + 0.21 * len(order))
        _recall_bars(axes, report, rows, order, np.arange(len(order), dtype=float))
    else:
        title = f"Recalls of {len(order):,} {kinds}"
        note = (
            f"Above, the recalls of all {kinds}, each curve sorted by itself: the flatter, the "
            f"more equal. Below, the {WORST} worst and the {BEST} best {rows[0]['name']}; some of "
            "them are there by chance, and would have moved towards the middle anyway."
        )
        chosen = np.concatenate([order[:WORST], order[-BEST:]])
        places = np.arange(len(chosen)) + np.where(np.arange(len(chosen)) >= WORST, 1.2, 0.0)
        figure, (top, axes) = new_figure(7.6, nrows=2, height_ratios=(2.6, 5))
        _distribution(top, report, rows, kinds)
        _recall_bars(axes, report, rows, chosen, places)
        between = f"… {len(order) - len(chosen):,} between …"
        axes.text(0.01, WORST + 0.1, between, color=COLOURS["muted"], va="center", fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    _legend(axes)
    ends = "; ".join(
        f"{row['name']}: mean {row['mean']:.3f}, lowest {row['lowest']:.3f} "
        f"({name_of(report, row['worst'])})"
        for row in rows
    )
    return Picture("recalls", note, f"{title}. {ends}.", figure)


def _recall_bars(
    axes: Any, report: Report, rows: Sequence[Mapping[str, Any]], order: Any, places: Any
) -> None:
    """The last outcome as bars, those before as markers, and where equal recalls could lie."""
    last = rows[-1]
    names = [report.names[c] for c in order]
    recalls = array(last["recalls"])[order]
    bars = axes.barh(places, np.nan_to_num(recalls), 0.72, color=COLOURS["blue"], alpha=0.75)
    bars.set_label(last["name"])
    for row, (marker, colour) in zip(rows[:-1][::-1], MARKERS, strict=False):
        values = array(row["recalls"])[order]
        axes.plot(
            values, places, marker, color=COLOURS[colour], ms=4.5, mfc="white", label=row["name"]
        )
    if report.support is not None and last["chance"] is not None:
        n = np.array(report.support, np.float64)[order]
        error = CHANCE * np.sqrt(last["mean"] * (1 - last["mean"]) / np.maximum(n, 1))
        low, high = (last["mean"] - error).clip(0, 1), (last["mean"] + error).clip(0, 1)
        axes.barh(
            places, high - low, 1.0, left=low, color=COLOURS["ink"], alpha=0.13, lw=0,
            label="equal recalls, by chance (95%)",
        )  # fmt: skip
    class_axis(axes, names, places)
    for place, value in zip(places, recalls, strict=True):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        axes.text(1.02, place, text, va="center", fontsize=8)
    axes.set(xlim=(0, 1.0), xlabel="recall")


def _distribution(axes: Any, report: Report, rows: Sequence[Mapping[str, Any]], kinds: str) -> None:
    """A line for each outcome: its recalls sorted, over their rank."""
    last, colours = rows[-1], [colour for _, colour in MARKERS[: len(rows) - 1]][::-1]
    for row, colour in zip(rows, [*colours, "blue"], strict=False):
        values = np.sort(array(row["recalls"]))
        values = values[~np.isnan(values)]
        some = np.unique(np.linspace(0, len(values) - 1, POINTS).astype(int))
        axes.plot(some + 1, values[some], color=COLOURS[colour], lw=1.6)
    if report.support is not None and last["chance"] is not None:
        support = np.array(report.support)
        support = support[support > 0]
        draws = np.random.default_rng(0).binomial(support, last["mean"], (20, len(support)))
        equal = np.sort(draws / support, axis=1).mean(0)
        axes.plot(1 + np.arange(len(equal)), equal, ":", color=COLOURS["muted"], lw=1.4)
        axes.annotate("dotted: equal recalls, by chance", (0.99, 0.05), ha="right", fontsize=8,
                      xycoords="axes fraction", color=COLOURS["muted"])  # fmt: skip
    axes.set(xlabel=f"rank among the {kinds}, the lowest first", ylabel="recall", ylim=(0, 1.02))
    axes.grid(axis="y")


# --------------------------------------------------------------------------------------- front


def front_figure(
    front: Sequence[Mapping[str, Any]],
    chosen: int | None = None,
    max_price: float | None = None,
    outcomes: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """The front of a decision as a picture to choose on: mean recall against the lowest, over α.

    Args:
        front: points from plain to equal: "alpha", "mean", "lowest" and "price", and intervals
            "mean_interval" and "lowest_interval", each a pair of its ends.
        chosen: the position of the point that is used.
        max_price: the most mean recall to pay; drawn as a line below the plain decision.
        outcomes: other points, each with "name", "mean" and "lowest".

    Returns:
        A matplotlib figure; `equipoise.figures.save` writes it.
    """
    with style():
        figure, axes = new_figure(3.7)
        points = {key: array([row[key] for row in front]) for key in ("mean", "lowest", "price")}
        x, y = points["lowest"], points["mean"]
        for key, centre, at in (("lowest_interval", x, "xerr"), ("mean_interval", y, "yerr")):
            ends = np.array([array(row[key]) for row in front]).T
            error = np.nan_to_num(np.abs(ends - centre))
            axes.errorbar(x, y, **{at: error}, fmt="none", ecolor=COLOURS["grey"], lw=0.8)
        axes.plot(x, y, "o-", color=COLOURS["blue"], ms=4, lw=1.4, label="the front, over α")
        for i, row in enumerate(front):
            name = "equal" if row["alpha"] is None else f"α = {row['alpha']:g}"
            axes.annotate(name, (x[i], y[i]), xytext=(5, 5 if i % 2 else -11), fontsize=8,
                          textcoords="offset points", color=COLOURS["blue"])  # fmt: skip
        if chosen is not None:
            axes.plot(x[chosen], y[chosen], "*", color=COLOURS["orange"], ms=13, label="chosen")
        if max_price is not None:
            cap = float(np.nanmax(y + points["price"])) - max_price
            label = f"price cap: {max_price:g} of mean recall"
            axes.axhline(cap, color=COLOURS["orange"], ls="--", lw=1, label=label)
        for row, (marker, colour) in zip(outcomes, MARKERS, strict=False):
            axes.plot(row["lowest"], row["mean"], marker, color=COLOURS[colour], mfc="none", ms=6,
                      label=f"{row['name']}, on the examples given")  # fmt: skip
        axes.set(xlabel="lowest recall", ylabel="mean recall", title="What a higher lowest recall costs")
        axes.margins(0.12)
        axes.grid()
        _legend(axes)
    return figure


def _front(report: Report) -> Picture | None:
    found = report.decision
    if found is None or not found["front"]:
        return None
    front = found["front"]
    chosen = next((i for i, row in enumerate(front) if row["chosen"]), None)
    given = report.outcomes if report.evaluation else []
    figure = front_figure(front, chosen, report.max_price, given)
    note = (
        "Each point is a decision, measured on the hold-out by cross-fitting; the bars are its "
        "intervals. To the right the worst class is better off, further down the mean pays for it. "
        "Choose with fit_decision(alpha=…) or fit_decision(max_price=…)."
    )
    alt = "; ".join(f"α {row['alpha']}: {row['mean']}, {row['lowest']}" for row in front)
    return Picture("front", note, f"Mean and lowest recall over α. {alt}.", figure)


# -------------------------------------------------------------------------------------- counts


def _counts(report: Report) -> Picture | None:
    """Training examples of each class, and how many an epoch draws."""
    counts = array(report.counts)
    order = np.argsort(-counts, kind="stable")
    series = [("training examples", counts, "grey")]
    if report.draws is not None:
        series.append(("drawn in an epoch, on average", array(report.draws), "blue"))
    title = f"Examples of {'every label' if report.multilabel else 'every class'}"
    if len(counts) <= NAMED:
        figure, axes = new_figure(1.1 + 0.21 * len(counts))
        places = np.arange(len(counts))
        for i, (name, values, colour) in enumerate(series):
            at = places + 0.36 * (i - (len(series) - 1) / 2)
            axes.barh(at, values[order], 0.36, color=COLOURS[colour], label=name)
        class_axis(axes, [report.names[c] for c in order], places)
        axis = axes.xaxis
    else:
        figure, axes = new_figure(3.2)
        for name, values, colour in series:
            ranks = 1 + np.arange(len(values))
            shown = np.where(values > 0, values, np.nan)[order]
            axes.plot(ranks, shown, color=COLOURS[colour], lw=1.6, label=name)
        axes.set_xlabel("rank, the most frequent first")
        axes.grid(axis="y")
        axis = axes.yaxis
    smallest = min(values[values > 0].min() for _, values, _ in series)
    if counts.max() > 20 * smallest:
        plain_log(axis)
    axis.set_label_text("examples")
    axes.set_title(title)
    _legend(axes)
    alt = f"{name_of(report, int(order[0]))} has {counts.max():,.0f}, {name_of(report, int(order[-1]))} {counts.min():,.0f}."
    note = "What the training set holds, and what an epoch draws of it."
    return Picture("counts", note, f"{title}. {alt}", figure)


# ---------------------------------------------------------------------------------- over epochs


def _over_epochs(axes: Any, unit: str) -> None:
    axes.set(xlabel="epochs trained", ylabel=unit)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=7)
    axes.grid(axis="y")


def _progress(report: Report) -> Picture | None:
    """Mean and lowest recall over epochs; with prices also the mean of the plain decision."""
    rows = [(i + 1, row) for i, row in enumerate(report.epochs) if row.get("recalls") is not None]
    if len(rows) < 2:
        return None
    epochs = [epoch for epoch, _ in rows]
    mean, lowest = (array([row[key] for _, row in rows]) for key in ("mean_recall", "lowest_recall"))
    plain_mean = mean + array([row.get("price") for _, row in rows])
    figure, axes = new_figure(3.0)
    if not np.isnan(plain_mean).all():
        axes.plot(epochs, plain_mean, "--", color=COLOURS["ink"], label="mean, plain decision")
    axes.plot(epochs, mean, color=COLOURS["blue"], label="mean, as trained")
    axes.plot(epochs, lowest, color=COLOURS["orange"], label="lowest, as trained")
    axes.set_title("Mean and lowest recall on the hold-out")
    _over_epochs(axes, "recall")
    _legend(axes, 3)
    alt = f"The mean went from {mean[0]:.3f} to {mean[-1]:.3f}, the lowest from {lowest[0]:.3f} to {lowest[-1]:.3f}."
    note = "While the mean still rises, the network is not done, and neither is the comparison."
    return Picture("progress", note, alt, figure)


def _recalls_by_epoch(report: Report) -> Picture | None:
    rows = [(i + 1, row["recalls"]) for i, row in enumerate(report.epochs) if row.get("recalls")]
    if len(rows) < 2:
        return None
    values = np.stack([array(recalls) for _, recalls in rows])
    epochs = [epoch for epoch, _ in rows]
    return _lines(report, "recalls-by-epoch", "Recalls over epochs", "recall", epochs, values)


def _log_weights(report: Report) -> Picture | None:
    """From the λ training began with to the one after the last epoch."""
    rows = [row.get("log_weight") for row in report.epochs]
    values = np.stack([array(row) for row in [*rows, report.log_weight] if row is not None])
    if len(values) <= len(report.epochs) or np.abs(values).max() < 1e-6:
        return None
    epochs = range(len(values))
    return _lines(report, "log-weights", "Log-weights λ over epochs", "λ", epochs, values)


def _lines(
    report: Report, name: str, title: str, unit: str, epochs: Sequence[int], values: np.ndarray
) -> Picture:
    """Lines `(E, C)`; the same classes stand out in each: those that ended with extreme recalls."""
    key = array(report.outcomes[0]["recalls"]) if report.outcomes else values[-1]
    order = np.argsort(key, kind="stable")
    order = order[~np.isnan(key[order]) & ~np.isnan(values[-1, order])]
    n = min(LINES, len(order) // 2)
    ends = {"orange": order[:n], "blue": order[len(order) - n :][::-1]}
    figure, axes = new_figure(3.4)
    if values.shape[1] <= DRAWN:
        axes.plot(epochs, values, color=COLOURS["grey"], lw=0.8)
    else:
        for share, alpha in ((90, 0.3), (50, 0.5)):
            band = np.nanpercentile(values, [50 - share / 2, 50 + share / 2], axis=1)
            axes.fill_between(epochs, *band, color=COLOURS["grey"], alpha=alpha, lw=0,
                              label=f"the middle {share}%")  # fmt: skip
    for colour, classes in ends.items():
        for c, line in zip(classes, STYLES, strict=False):
            label = f" {caption(report.names[c])}"  # legends leave out names that begin with _
            axes.plot(epochs, values[:, c], line, color=COLOURS[colour], lw=1.7, label=label)
    axes.set_title(title)
    _over_epochs(axes, unit)
    _legend(axes, 2)
    named = [c for classes in ends.values() for c in classes]
    told = [f"{name_of(report, c)} {values[0, c]:.2f} to {values[-1, c]:.2f}" for c in named]
    kinds = "labels" if report.multilabel else "classes"
    source = report.outcomes[0]["name"] if report.outcomes else "λ"
    note = f"Orange: the {kinds} of the lowest recalls ({source}); blue: of the highest; grey: all."
    return Picture(name, note, f"{title}. {'; '.join(told)}.", figure)


# ------------------------------------------------------------------------------ labels and mining


def _reliability(report: Report) -> Picture | None:
    if not report.evaluation or "reliability" not in report.evaluation:
        return None
    figure, axes = new_figure(3.9)
    found = report.evaluation["reliability"]
    for (name, curve), marker, colour in zip(found.items(), "oD", ("grey", "blue"), strict=True):
        label = f"{name} (off by {curve['gap']:.3f})"
        axes.plot(curve["predicted"], curve["true"], f"{marker}-", ms=5, color=COLOURS[colour],
                  label=label)  # fmt: skip
    axes.plot([0, 1], [0, 1], ":", color=COLOURS["muted"], lw=0.8, label="perfect")
    axes.set(xlabel="predicted probability", ylabel="share that is true", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("Are the probabilities to be believed?")
    axes.grid()
    _legend(axes, 3)
    gaps = [curve["gap"] for curve in found.values()]
    note = (
        "All labels together. Below the dotted line labels are true less often than the network "
        "says. Corrected means that loss and sampling are taken out (Balancer.correct)."
    )
    alt = f"Probabilities are off by {gaps[0]:.3f} on average as trained, by {gaps[1]:.3f} corrected."
    return Picture("reliability", note, alt, figure)


def _mining(report: Report) -> Picture | None:
    """Mean losses of what mining kept and dropped."""
    rows = [(i + 1, row["mining"]) for i, row in enumerate(report.epochs) if row.get("mining")]
    if not any(row["num_kept"] < row["num_seen"] for _, row in rows):
        return None
    figure, axes = new_figure(2.8)
    for key, name, colour in (("kept", "kept", "blue"), ("dropped", "dropped", "grey")):
        values = array([row[f"mean_loss_{key}"] for _, row in rows])
        axes.plot([epoch for epoch, _ in rows], values, "o-", ms=3, color=COLOURS[colour], label=name)
    axes.set_title("What mining kept and dropped")
    axes.set_ylim(bottom=0)
    _over_epochs(axes, "mean loss")
    _legend(axes)
    share = rows[-1][1]["share_kept"] or 0.0
    note = "Mean losses of the examples that were learnt from, and of those left out."
    return Picture("mining", note, f"In the last epoch {share:.0%} was kept.", figure)
