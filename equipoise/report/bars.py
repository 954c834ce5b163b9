"""Bars of classes with names, and curves of classes that are too many to name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from equipoise.report.drawing import COLOURS

__all__ = ["NAMED", "bars", "ranks"]

NAMED = 30  # classes that a picture can name
POINTS = 300  # of a curve

Series = Sequence[tuple[str, np.ndarray, str]]  # name, values, colour


def bars(axes: Any, names: Sequence[str], series: Series, unit: str) -> None:
    """A group of bars a class, the first on top, the last series' values written beside it."""
    places = np.arange(len(names), dtype=float)
    thick = 0.8 / len(series)
    for i, (name, values, colour) in enumerate(series):
        at = places + (i - (len(series) - 1) / 2) * thick
        values = np.nan_to_num(values)
        drawn = axes.barh(at, values, thick * 0.94, color=colour, label=name)
        last = i == len(series) - 1
        axes.bar_label(
            drawn,
            [_value(v, unit) for v in values],
            padding=3,
            fontsize=7.5,
            color=COLOURS["ink"] if last else COLOURS["muted"],
        )
    axes.set_yticks(places, names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    if unit == "recall":
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    else:
        axes.margins(x=0.14)
    axes.set_xlabel(unit)
    axes.grid(axis="x", color=COLOURS["grid"], lw=0.6)
    axes.figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8, borderpad=0.1)


def _value(value: float, unit: str) -> str:
    if unit == "recall":
        return f"{value:.2f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def ranks(axes: Any, series: Series, xlabel: str, unit: str, log: bool = False) -> None:
    """A line a series: its values sorted, over their rank."""
    for name, values, colour in series:
        values = np.sort(values[~np.isnan(values)])
        values = values[::-1] if log else values
        some = np.unique(np.linspace(0, len(values) - 1, POINTS).astype(int))
        shown = np.where(values[some] > 0, values[some], np.nan) if log else values[some]
        axes.plot(some + 1, shown, color=colour, lw=1.8, label=name)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(0, 1.02)
    axes.set(xlabel=xlabel, ylabel=unit)
    axes.grid(axis="y", color=COLOURS["grid"], lw=0.6)
    axes.figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8, borderpad=0.1)
