"""An audit as text for the terminal (rich) and as a picture (matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.figures import (
    COLOURS,
    NAMED,
    class_axis,
    new_figure,
    plain_log,
    require,
    save,
    style,
)

if TYPE_CHECKING:
    from rich.table import Table

    from equipoise.audit.measures import Audit

__all__ = ["plot", "show", "table"]

RAREST = 20  # classes named where there are too many to name all


def show(found: Audit, most: int) -> None:
    """Print measures, table and advice."""
    grid, text = require("rich.table").Table.grid, require("rich.text").Text
    console = require("rich.console").Console(highlight=False)
    measures = grid(padding=(0, 2))
    measures.add_column(style="bold")
    measures.add_column(justify="right", style="cyan")
    for row in _measures(found):
        measures.add_row(*row)
    sentences = grid(padding=(0, 1))
    for sentence in found.advice:
        sentences.add_row("•", text(sentence))
    console.print(f"[bold]{found.targets!r}[/]")
    for part in (measures, table(found, most), sentences):
        console.print()
        console.print(part)


def _measures(found: Audit) -> list[tuple[str, str, str]]:
    """Name, value and meaning of what is not of one class alone."""
    one = "label" if found.targets.multilabel else "class"
    rows = [
        ("imbalance ratio", f"{found.imbalance_ratio:,.2f}", f"largest over smallest {one}"),
        ("MeanIR", f"{found.mean_ir:,.2f}", "mean of IRLbl; above 1.5 a set is imbalanced"),
        ("CVIR", f"{found.cvir:,.3f}", "spread of IRLbl over its mean; above .2, unevenly so"),
    ]
    if not found.targets.multilabel:
        return rows
    kinds, alone = found.num_label_sets, found.num_single_label_sets
    carried = f"0 to {len(found.cardinality_counts) - 1:,} of {found.targets.num_classes:,}"
    return [
        *rows,
        ("SCUMBLE", f"{found.scumble:.3f}", "rare labels with frequent ones; above .1, often"),
        (
            "cardinality",
            f"{found.cardinality:,.2f}",
            f"labels an example, {carried}; density {found.density:.3g}",
        ),
        ("label sets", f"{kinds:,}", f"distinct; {alone:,} of them in one example alone"),
    ]


def table(found: Audit, most: int) -> Table:
    """A row a class; of more than `most`, the most frequent half and the rarest half."""
    bar, text = require("rich.bar").Bar, require("rich.text").Text
    multilabel = found.targets.multilabel
    order = np.argsort(-found.counts, kind="stable")
    left_out = max(len(order) - most, 0)
    head = (most + 1) // 2 if left_out else len(order)
    gap = f"… {left_out:,} between …" if head < most else f"… {left_out:,} rarer …"
    shown: Table = require("rich.table").Table(
        caption="IRLbl: how many times rarer than the most frequent"
    )
    heading = "label" if multilabel else "class"
    shown.add_column(heading, overflow="fold", min_width=len(gap) if left_out else None)
    for heading in ("examples", "share", "IRLbl", *(["SCUMBLE"] if multilabel else [])):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("", min_width=8, max_width=20)

    def add(c: int) -> None:
        count = int(found.counts[c])
        cells = [f"{count:,}", f"{found.prevalence[c]:.2%}", f"{found.irlbl[c]:,.2f}"]
        cells += [f"{found.scumble_per_label[c]:.3f}"] if multilabel else []
        counted = bar(int(found.counts.max()), 0, count, color="cyan")
        shown.add_row(text(found.class_names[c]), *cells, counted)  # names may look like markup

    for c in order[:head]:
        add(c)
    if left_out:
        shown.add_row(gap, style="dim")
        for c in order[head + left_out :]:
            add(c)
    return shown


def plot(found: Audit, path: str | Path) -> None:
    """Counts by class, and labels an example or (for many classes) the rarest by name."""
    order = np.argsort(-found.counts, kind="stable")
    named, multilabel = len(order) <= NAMED, found.targets.multilabel
    height = max(3.6, 1.2 + 0.22 * len(order)) if named else 5.2
    with style():
        columns = 1 if named and not multilabel else 2
        figure, axes = new_figure(height, width=10, ncols=columns, squeeze=False)
        first, last = axes[0, 0], axes[0, -1]
        (_bars if named else _ranks)(first, found, order)
        first.set_title(
            f"imbalance ratio {found.imbalance_ratio:,.1f}, MeanIR {found.mean_ir:,.2f}"
        )
        if multilabel:
            _cardinality(last, found)
        elif not named:
            _bars(last, found, order[-RAREST:])
            last.set_title(f"the {RAREST} rarest")
        save(figure, path)


def _bars(axes: Any, found: Audit, classes: np.ndarray) -> None:
    """A bar for each class with its name and count, the first on top."""
    places, counts = np.arange(len(classes)), found.counts[classes]
    bars = axes.barh(places, counts, color=COLOURS["blue"])
    axes.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=8)
    class_axis(axes, [found.class_names[c] for c in classes], places)
    axes.margins(x=0.14)
    axes.set_xlabel("examples")


def _ranks(axes: Any, found: Audit, order: np.ndarray) -> None:
    """Counts from the most frequent class to the rarest, on a logarithmic scale."""
    counts = found.counts[order]
    shown = np.where(counts > 0, counts, np.nan)
    axes.plot(1 + np.arange(len(counts)), shown, drawstyle="steps-mid", color=COLOURS["blue"])
    plain_log(axes.yaxis)
    axes.set(xlabel="class, most frequent first", ylabel="examples")
    axes.grid(axis="y")
    missing = int((counts == 0).sum())
    if missing:
        axes.text(0.98, 0.95, f"{missing:,} without any", transform=axes.transAxes, ha="right")


def _cardinality(axes: Any, found: Audit) -> None:
    sizes = found.cardinality_counts
    axes.bar(np.arange(len(sizes)), sizes, color=COLOURS["blue"])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="labels an example carries", ylabel="examples")
    axes.set_title(f"cardinality {found.cardinality:.2f}, SCUMBLE {found.scumble:.3f}")
