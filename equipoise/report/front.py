"""The front of a decision as a picture to choose on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.figures import COLOURS, MARKERS, finish, new_figure, style
from equipoise.report.numbers import array

__all__ = ["front_figure"]


def front_figure(
    front: Sequence[Mapping[str, Any]],
    chosen: int | None = None,
    max_price: float | None = None,
    outcomes: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """The front of a decision as a picture to choose on: mean recall against the lowest, over α.

    Args:
        front: points from plain to equal: "alpha", "mean", "lowest" and "price", and the pairs
            "mean_interval" and "lowest_interval".
        chosen: the position of the point that is used.
        max_price: the most mean recall to pay; drawn as a line below the plain decision.
        outcomes: other points, each with "name", "mean" and "lowest".

    Returns:
        A matplotlib figure; `equipoise.figures.save` writes it.
    """
    with style():
        figure, axes = new_figure(3.9)
        blue, orange = COLOURS["blue"], COLOURS["orange"]
        y, x, price = (array([row[key] for row in front]) for key in ("mean", "lowest", "price"))
        for key, centre, at in (("lowest_interval", x, "xerr"), ("mean_interval", y, "yerr")):
            error = np.abs(np.array([array(row[key]) for row in front]).T - centre)
            axes.errorbar(x, y, **{at: error}, fmt="none", ecolor=COLOURS["grey"], lw=0.8)
        axes.plot(x, y, "o-", color=blue, ms=4, lw=1.4, label="the front, over α")
        for i in _apart(x, y):
            row = front[i]
            text = "equal" if row["alpha"] in (None, np.inf) else f"α = {row['alpha']:g}"
            offset = {"xytext": (6, 5), "textcoords": "offset points"}
            axes.annotate(text, (x[i], y[i]), color=blue, fontsize=8, **offset)
        if chosen is not None:
            axes.plot(x[chosen], y[chosen], "*", color=orange, ms=13, label="chosen")
        if max_price is not None:
            label = f"price cap: {max_price:g} of mean recall"
            axes.axhline((y + price).max() - max_price, color=orange, ls="--", lw=1, label=label)
        for row, (marker, colour) in zip(outcomes[::-1], (("s", "ink"), *MARKERS), strict=False):
            label = f"{row['name']}, on the examples given"
            axes.plot(
                row["lowest"], row["mean"], marker, color=COLOURS[colour], mfc="none", label=label
            )
        axes.set(xlabel="lowest recall", ylabel="mean recall")
        axes.margins(0.12)
        axes.grid()
        finish(figure, axes, "Mean against lowest recall")
    return figure


def _apart(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Points that have room for a label beside those labelled before, the ends first."""
    places = np.stack([x / max(np.ptp(x), 1e-9), y / max(np.ptp(y), 1e-9)], axis=1)
    chosen: list[int] = []
    for i in [0, len(x) - 1, *range(1, len(x) - 1)]:
        if all((np.abs(places[i] - places[j]) > (0.17, 0.08)).any() for j in chosen):
            chosen.append(i)
    return chosen
