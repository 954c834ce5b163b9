"""An audit as text for the terminal (rich) and as a picture (matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rich.table import Table

    from equipoise.audit.measures import Audit

__all__ = ["plot", "show", "table"]

NAMED = 30  # classes that a picture can name
COLOR = "#1f6f8b"


def show(found: Audit, most: int) -> None:
    """Print measures, table and advice."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    measures = Table.grid(padding=(0, 2))
    measures.add_column(style="bold")
    measures.add_column(justify="right", style="cyan")
    for row in _measures(found):
        measures.add_row(*row)
    sentences = Table.grid(padding=(0, 1))
    for sentence in found.advice:
        sentences.add_row("•", Text(sentence))
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
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    multilabel = found.targets.multilabel
    order = np.argsort(-found.counts, kind="stable")
    left_out = max(len(order) - most, 0)
    head = (most + 1) // 2 if left_out else len(order)
    gap = f"… {left_out:,} between …" if head < most else f"… {left_out:,} rarer …"
    shown = Table(caption="IRLbl: how many times rarer than the most frequent")
    heading = "label" if multilabel else "class"
    shown.add_column(heading, overflow="fold", min_width=len(gap) if left_out else None)
    for heading in ("examples", "share", "IRLbl", *(["SCUMBLE"] if multilabel else [])):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("", min_width=8, max_width=20)

    def add(c: int) -> None:
        count = int(found.counts[c])
        cells = [f"{count:,}", f"{found.prevalence[c]:.2%}", f"{found.irlbl[c]:,.2f}"]
        cells += [f"{found.scumble_per_label[c]:.3f}"] if multilabel else []
        # Names may look like markup
        bar = Bar(int(found.counts.max()), 0, count, color="cyan")
        shown.add_row(Text(found.class_names[c]), *cells, bar)

    for c in order[:head]:
        add(c)
    if left_out:
        shown.add_row(gap, style="dim")
        for c in order[head + left_out :]:
            add(c)
    return shown


def plot(found: Audit, path: str | Path) -> None:
    """Counts by class, and labels an example or (for many classes) the rarest by name."""
    from matplotlib.figure import Figure

    named = len(found.counts) <= NAMED
    multilabel = found.targets.multilabel
    height = max(3.6, 1.2 + 0.22 * len(found.counts)) if named else 4.8
    figure = Figure(figsize=(10, height), layout="constrained")
    panels = figure.subplots(1, 1 if named and not multilabel else 2, squeeze=False)[0]
    order = np.argsort(-found.counts, kind="stable")
    if named:
        _bars(panels[0], found, order)
    else:
        _ranks(panels[0], found.counts[order])
    panels[0].set_title(
        f"imbalance ratio {found.imbalance_ratio:,.1f}, MeanIR {found.mean_ir:,.2f}"
    )
    if multilabel:
        _cardinality(panels[1], found)
    elif not named:
        _bars(panels[1], found, order[-20:])
        panels[1].set_title("the 20 rarest")
    figure.savefig(path, dpi=150)


def _bars(axes: Any, found: Audit, classes: np.ndarray) -> None:
    """A bar a class with its name and count, the first on top."""
    places, counts = np.arange(len(classes)), found.counts[classes]
    bars = axes.barh(places, counts, color=COLOR)
    axes.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=8)
    # A $ would be read as mathematics
    names = [_short(found.class_names[c]).replace("$", r"\$") for c in classes]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.02)
    axes.set_xlabel("examples")
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str, most: int = 32) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _ranks(axes: Any, counts: np.ndarray) -> None:
    """Counts from the most frequent class to the rarest, on a logarithmic scale."""
    ranks = np.arange(1, len(counts) + 1)
    axes.plot(ranks, np.where(counts > 0, counts, np.nan), drawstyle="steps-mid", color=COLOR)
    axes.set(yscale="log", xlabel="class, most frequent first", ylabel="examples")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    missing = int((counts == 0).sum())
    if missing:
        axes.text(0.98, 0.95, f"{missing:,} without any", transform=axes.transAxes, ha="right")


def _cardinality(axes: Any, found: Audit) -> None:
    sizes = found.cardinality_counts
    axes.bar(np.arange(len(sizes)), sizes, color=COLOR)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="labels an example carries", ylabel="examples")
    axes.set_title(f"cardinality {found.cardinality:.2f}, SCUMBLE {found.scumble:.3f}")
    axes.spines[["top", "right"]].set_visible(False)
