"""Pictures over epochs: recalls, log-weights, mean against spread, losses that mining saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.report.drawing import COLOURS, Picture, end_labels
from equipoise.report.plain import numbers
from equipoise.report.spread import noise_floor, spread_of
from equipoise.report.telling import name_of, short

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["log_weights", "mining", "path", "recalls_by_epoch"]

ALL_NAMED = 12  # lines that can have a name each
ALL_DRAWN = 60  # lines that can be drawn each; of more, bands hold 50% and 90% of them
EXTREMES = 3
STYLES = ("-", "--", "-.")
POINTS = 200  # epochs of a line


def recalls_by_epoch(report: Report) -> Picture | None:
    """A line a class."""
    found = [i for i, row in enumerate(report.epochs) if "recalls" in row]
    if len(found) < 2:
        return None
    values = np.stack([numbers(report.epochs[i]["recalls"]) for i in found])
    epochs = 1 + np.array(found)
    return _lines(
        report, "recalls-by-epoch", "Recall over epochs", "recall", epochs, values, "highest"
    )


def log_weights(report: Report) -> Picture | None:
    """A line a class, from the λ training began with to the one after the last epoch."""
    rows = [row["log_weight"] for row in report.epochs if "log_weight" in row]
    if len(rows) < len(report.epochs):
        return None
    values = np.stack([numbers(row) for row in [*rows, report.log_weight]])
    if np.abs(values).max() < 1e-6:
        return None
    epochs = np.arange(len(values))
    return _lines(report, "log-weights", "Log-weight λ over epochs", "λ", epochs, values, "highest")


def _lines(
    report: Report,
    name: str,
    title: str,
    unit: str,
    epochs: np.ndarray,
    values: np.ndarray,
    what: str,
) -> Picture:
    """Lines `(E, C)`; the same classes stand out in every picture, those of the extreme recalls."""
    low, high = _extremes(report, values)
    rest = [c for c in range(values.shape[1]) if c not in {*low, *high}]
    some = np.unique(np.linspace(0, len(epochs) - 1, POINTS).astype(int))
    epochs, values = epochs[some], values[some]

    def draw(axes: Any) -> None:
        if len(rest) <= ALL_DRAWN:
            axes.plot(epochs, values[:, rest], color=COLOURS["before"], lw=1.0)
        else:
            for share, alpha in ((90, 0.3), (50, 0.5)):
                ends = np.nanpercentile(values, [50 - share / 2, 50 + share / 2], axis=1)
                axes.fill_between(epochs, *ends, color=COLOURS["before"], alpha=alpha, lw=0)
        for classes, colour in ((low, COLOURS["low"]), (high, COLOURS["after"])):
            for c, style in zip(classes, STYLES, strict=False):
                axes.plot(epochs, values[:, c], color=colour, lw=1.7, ls=style)
        axes.set(xlabel="epochs trained", ylabel=unit)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=7)
        axes.grid(axis="y", color=COLOURS["grid"], lw=0.6)
        axes.margins(x=0.02)
        named = [*low, *high, *(rest if values.shape[1] <= ALL_NAMED else [])]
        named = [c for c in named if not np.isnan(values[-1, c])]
        colours = {c: COLOURS["low"] for c in low} | {c: COLOURS["after"] for c in high}
        end_labels(
            axes,
            epochs[-1],
            [values[-1, c] for c in named],
            [short(report.names[c], 14) for c in named],
            [colours.get(c, COLOURS["muted"]) for c in named],
        )

    kind = "labels" if report.multilabel else "classes"
    note = f"Orange: {kind} that began with the lowest recalls; blue: with the highest"
    if len(rest) > ALL_DRAWN:
        note += "; grey: the middle 50% and 90% of all"
    ends = [f"{name_of(report, c)} {values[0, c]:.2f} to {values[-1, c]:.2f}" for c in low + high]
    return Picture(name, title, f"{note}.", f"{unit}: {'; '.join(ends)}.", 3.3, draw)


def _extremes(report: Report, values: np.ndarray) -> tuple[list[int], list[int]]:
    """The lowest and the highest at the start: by recalls before, or else by the values' ends."""
    start = numbers(report.before["recalls"] or report.after["recalls"] or values[-1])
    order = np.argsort(start, kind="stable")
    order = order[~np.isnan(start[order]) & ~np.isnan(values[-1, order])]
    n = min(EXTREMES, len(order) // 2) if len(order) > 1 else len(order)
    return order[:n].tolist(), order[::-1][: min(n, len(order) - n)].tolist()


def path(report: Report) -> Picture | None:
    """Mean recall against spread, epoch after epoch."""
    found = [(i + 1, spread_of(row.get("recalls"))) for i, row in enumerate(report.epochs)]
    points = [(epoch, at) for epoch, at in found if at is not None]
    if not points:
        return None
    extra = []
    if report.before["source"] == "baseline":
        extra.append(("baseline", spread_of(report.before["recalls"]), "X", COLOURS["low"]))
    if report.after["source"] == "evaluation":
        extra.append(("examples given", spread_of(report.after["recalls"]), "D", COLOURS["ink"]))
    floors = [noise_floor(row.get("recalls"), row.get("support")) for row in report.epochs[-1:]]
    floors.append(noise_floor(report.after["recalls"], report.after["support"]))
    floor = next((f for f in reversed(floors) if f is not None), None)

    def draw(axes: Any) -> None:
        x, y = (np.array([getattr(at, key) for _, at in points]) for key in ("sd", "mean"))
        axes.plot(x, y, color=COLOURS["before"], lw=1.1, zorder=1)
        axes.scatter(x, y, s=13, color=COLOURS["after"], zorder=2)
        for name, at, marker, colour in extra:
            if at is not None:
                axes.scatter(
                    at.sd, at.mean, s=42, marker=marker, color=colour, label=name, zorder=3
                )
        if floor is not None:
            axes.axvline(floor, color=COLOURS["muted"], lw=1, ls=":", label="by chance alone")
        axes.set(xlabel="spread: standard deviation of the recalls", ylabel="mean recall")
        axes.margins(0.12)
        axes.set_xlim(left=0)
        for i in _some_epochs(x / axes.get_xlim()[1], y / np.ptp(axes.get_ylim())):
            axes.annotate(
                str(points[i][0]),
                (x[i], y[i]),
                xytext=(3, 4),
                textcoords="offset points",
                fontsize=8,
                color=COLOURS["after"],
            )
        axes.grid(color=COLOURS["grid"], lw=0.6)
        if extra or floor is not None:
            axes.figure.legend(
                loc="outside upper left", ncols=3, frameon=False, fontsize=8, borderpad=0.1
            )

    first, last = points[0][1], points[-1][1]
    alt = (
        f"From epoch {points[0][0]} to epoch {points[-1][0]} the mean recall went from "
        f"{first.mean:.3f} to {last.mean:.3f}, the spread from {first.sd:.3f} to {last.sd:.3f}."
    )
    note = "A point an epoch, numbered. Up is better on average, left is more equal."
    return Picture("mean-and-spread", "Mean recall against spread", note, alt, 3.3, draw)


def _some_epochs(x: np.ndarray, y: np.ndarray) -> list[int]:
    """The first, the last, and those whose number has room; x and y in shares of the axes."""
    chosen: list[int] = []
    for i in [0, len(x) - 1, *range(1, len(x) - 1)]:
        if not any(abs(x[i] - x[j]) < 0.055 and abs(y[i] - y[j]) < 0.07 for j in chosen):
            chosen.append(i)
    return chosen


def mining(report: Report) -> Picture | None:
    """Mean losses of what mining kept and dropped."""
    rows = [(i + 1, row["mining"]) for i, row in enumerate(report.epochs) if row.get("mining")]
    series: Sequence[tuple[str, str, str, str]] = (
        ("mean_loss_kept", "kept", COLOURS["after"], "-"),
        ("mean_loss_dropped", "dropped", COLOURS["before"], "--"),
    )
    if not any(row["num_kept"] < row["num_seen"] for _, row in rows):
        return None
    epochs = np.array([epoch for epoch, _ in rows])

    def draw(axes: Any) -> None:
        for key, name, colour, style in series:
            values = numbers([row[key] for _, row in rows])
            axes.plot(epochs, values, style, marker="o", ms=3, color=colour, label=name)
        axes.set(xlabel="epoch", ylabel="mean loss", ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=7)
        axes.grid(axis="y", color=COLOURS["grid"], lw=0.6)
        axes.figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)

    last = rows[-1][1]
    kept, dropped = last["mean_loss_kept"], last["mean_loss_dropped"]
    alt = f"In the last epoch {last['share_kept'] or 0:.0%} was kept"
    if kept is not None and dropped is not None:
        alt += f", at a mean loss of {kept:.3f} against {dropped:.3f} of what was dropped"
    note = "Losses of what was learnt from, and of what was left out."
    return Picture("mining", "What mining kept and dropped", note, f"{alt}.", 2.8, draw)
