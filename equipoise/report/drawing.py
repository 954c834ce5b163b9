"""How pictures look: colours, axes, labels at the ends of lines; the only user of matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["COLOURS", "Picture", "end_labels", "figure_of", "save", "spread_apart"]

# Told apart by people who do not see red or green, and by lightness; the page gives each of them
# a second value for dark mode.
COLOURS = {
    "ink": "#1b1f24",
    "muted": "#5a646f",
    "grid": "#dde2e7",
    "before": "#a3adb8",
    "after": "#0a64aa",
    "low": "#c24e08",
    "paper": "#fefefe",
}
WIDTH = 4.8  # inches: a column of the page, and legible on a phone


@dataclass(frozen=True)
class Picture:
    """A picture yet to be drawn.

    Attributes:
        name: of its file.
        title: above it.
        note: what it shows and how to read it.
        alt: what it says, for who cannot see it.
        height: in inches.
        draw: draws it on axes.
    """

    name: str
    title: str
    note: str
    alt: str
    height: float
    draw: Callable[[Any], None]


def figure_of(picture: Picture, title: bool = True) -> Any:
    """A matplotlib figure."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "font.size": 9,
        "text.color": COLOURS["ink"],
        "axes.labelcolor": COLOURS["muted"],
        "axes.edgecolor": COLOURS["muted"],
        "axes.titlesize": 10,
        "xtick.color": COLOURS["muted"],
        "ytick.color": COLOURS["muted"],
        "xtick.labelcolor": COLOURS["ink"],
        "ytick.labelcolor": COLOURS["ink"],
        "axes.facecolor": "none",
        "figure.facecolor": COLOURS["paper"],
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, picture.height), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        picture.draw(axes)
        if title:
            axes.set_title(picture.title, loc="left", parse_math=False)
    return figure


def save(picture: Picture, path: Path) -> Path:
    """Draw it into a file; returns the path."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in any script
        figure_of(picture).savefig(path, dpi=150)
    return path


def spread_apart(places: Sequence[float], distance: float) -> np.ndarray:
    """The nearest places at least `distance` apart, in the same order (least squares).

    Example:
        >>> spread_apart([0.0, 0.1, 5.0], 1.0).tolist()
        [-0.45, 0.55, 5.0]
    """
    order = np.argsort(places, kind="stable")
    blocks: list[list[float]] = []  # mean and size: places less their due distance, made to rise
    for i, place in enumerate(np.asarray(places, np.float64)[order]):
        blocks.append([place - i * distance, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, size = blocks.pop()
            blocks[-1][0] = (blocks[-1][0] * blocks[-1][1] + mean * size) / (blocks[-1][1] + size)
            blocks[-1][1] += size
    out = np.empty(len(order))
    out[order] = np.repeat(
        [b[0] for b in blocks], [int(b[1]) for b in blocks]
    ) + distance * np.arange(len(order))
    return out


def end_labels(
    axes: Any, x: float, ends: Sequence[float], texts: Sequence[str], colours: Sequence[str]
) -> None:
    """Names beside the right ends of lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    inches = 0.74 * axes.figure.get_figheight()
    distance = 0.145 * (high - low) / inches
    places = spread_apart(ends, distance)
    outside = max(low + distance / 2 - places.min(), 0) - max(places.max() - high, 0)
    places += outside
    for end, place, text, colour in zip(ends, places, texts, colours, strict=True):
        axes.annotate(
            text,
            (x, end),
            xytext=(1.05, place),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=colour,
            parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.5,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )
