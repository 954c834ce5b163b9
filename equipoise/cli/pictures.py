"""The picture of a comparison: every class's recall, or every label's, by method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw"]

NAMED = 30  # classes that a picture can name
COLOURS = ("#9aa3ad", "#2f6f9f", "#c2703d", "#7a9e7e", "#e0a458", "#8c6bb1", "#444444")


def draw(record: dict[str, Any], path: Path) -> Path | None:
    """Draw a comparison; its path, or `None` without matplotlib.

    A line a method over the classes, from the one that the first method does worst: recalls with
    the decision (of "plain" as trained), or average precision of labels; mean over the seeds.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    key = "auprc" if record["multilabel"] else "recalls"
    series = {}
    for method in record["summary"]:
        as_trained = method == "plain" and not record["multilabel"]
        row = "as_trained" if as_trained else "decided"
        values = np.array(
            [r["results"][row][key] for r in record["runs"] if r["method"] == method], float
        )
        name = method if as_trained or record["multilabel"] else f"{method} + decision"
        series[name] = values.mean(0)
    first = next(iter(series.values()))
    order = np.argsort(first, kind="stable")
    names, named = record["names"], len(first) <= NAMED
    figure = Figure(figsize=(max(7, 0.5 * len(first)) if named else 10, 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        label = f"{name}  (mean {np.nanmean(values):.3f}, lowest {np.nanmin(values):.3f})"
        colour = COLOURS[i % len(COLOURS)]
        if named:
            at = np.arange(len(order)) + (i - (len(series) - 1) / 2) * width
            axes.bar(at, values[order], width, label=label, color=colour)
        else:
            axes.plot(values[order], ".", ms=3, label=label, color=colour)
    if named:
        # A $ would be read as mathematics
        shown = [names[c].replace("$", r"\$")[:24] for c in order]
        long = max(map(len, shown)) > 6
        axes.set_xticks(range(len(order)), shown, rotation=45 if long else 0,
                        ha="right" if long else "center")  # fmt: skip
    else:
        axes.set_xlabel(f"{len(order):,} {'labels' if record['multilabel'] else 'classes'}, "
                        "by the first method")  # fmt: skip
    axes.set_ylabel("average precision" if record["multilabel"] else "recall on test examples")
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(2, len(series)), frameon=False)
    figure.savefig(path, dpi=130)
    return path
