"""How pictures look, for audit and report: style, class names, plain logarithmic ticks, saving."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "COLOURS",
    "MARKERS",
    "NAMED",
    "caption",
    "class_axis",
    "data_uri",
    "finish",
    "new_figure",
    "plain_log",
    "require",
    "save",
    "style",
]

NAMED = 60  # classes up to which a picture names every one
WIDTH = 5.4  # inches: a column of the report's page, and legible on a phone

# Told apart by people who do not see red or green, and by their lightness.
COLOURS = {
    "ink": "#1b1f24",
    "muted": "#5a646f",
    "grid": "#dde2e7",
    "grey": "#a3adb8",
    "blue": "#0a64aa",
    "orange": "#c24e08",
}
# Shape and colour of the points of outcomes that are compared with the last one.
MARKERS = (("o", "muted"), ("D", "orange"), ("v", "grey"))


def require(module: str, extra: str = "report") -> Any:
    """The module of an optional package, imported.

    Raises:
        ImportError: it is not installed; the message says which extra of equipoise brings it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f"Expected the package {package} to be installed, but it cannot be imported: "
            f"pip install 'equipoise[{extra}]' brings it."
        ) from error


@contextmanager
def style() -> Iterator[None]:
    """Figures that are made and drawn inside look like ours, whatever the user's settings are."""
    matplotlib = require("matplotlib")
    settings = {
        "font.size": 9,
        "text.color": COLOURS["ink"],
        "text.parse_math": False,  # a class may be called $x$
        "axes.labelcolor": COLOURS["muted"],
        "axes.edgecolor": COLOURS["muted"],
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": COLOURS["muted"],
        "xtick.labelcolor": COLOURS["ink"],
        "ytick.color": COLOURS["muted"],
        "ytick.labelcolor": COLOURS["ink"],
        "grid.color": COLOURS["grid"],
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "svg.fonttype": "none",  # text stays text, in the reader's fonts
        "svg.hashsalt": "equipoise",  # the same numbers give the same file
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names may be in any script
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def new_figure(height: float, *, width: float = WIDTH, **subplots: Any) -> tuple[Any, Any]:
    """A matplotlib figure, of inches, that pyplot does not know of, and its axes."""
    figure = require("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def finish(figure: Any, axes: Any, title: str, columns: int = 2) -> None:
    """Put the title above and the axes' legend below, both outside of the axes."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, columnspacing=1.2)


def save(figure: Any, path: str | Path) -> Path:
    """Write a figure in the format of the path's ending; returns the path."""
    with style():
        dated = {"metadata": {"Date": None}} if Path(path).suffix == ".svg" else {}
        figure.savefig(path, dpi=150, **dated)
    return Path(path)


def data_uri(figure: Any) -> str:
    """The figure as an SVG inside a `data:` address, for the `src` of an HTML image."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def caption(name: str, most: int = 24) -> str:
    """The name, cut to `most` characters.

    Example:
        >>> caption("a very long name", 8)
        'a very …'
    """
    return name if len(name) <= most else name[: most - 1] + "…"


def class_axis(axes: Any, names: Sequence[str], places: Sequence[float] | np.ndarray) -> None:
    """The y axis names classes at these places, the first on top."""
    axes.set_yticks(places, [caption(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(places) + 0.7, min(places) - 0.7)
    axes.grid(axis="x")


def plain_log(axis: Any) -> None:
    """A logarithmic axis, such as `axes.xaxis`, with ticks that read 1, 10, 100, 1,000."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(require("matplotlib.ticker").NullFormatter())
