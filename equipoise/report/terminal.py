"""A report as text for the terminal, by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from equipoise.report.tables import Column, columns, notable
from equipoise.report.telling import sources, story

if TYPE_CHECKING:
    from rich.table import Table

    from equipoise.report.report import Report

__all__ = ["show"]

NAME = 24  # characters of a name
LEAST_MISSED = ("n", "λ", "AP", "decided", "kept", "pred./true", "examples", "change")


def show(report: Report, most: int) -> None:
    """Print title, sentences, table, and where the figures come from."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    sentences = Table.grid(padding=(0, 2))
    sentences.add_column(style="bold", no_wrap=True)
    sentences.add_column()
    for heading, text in story(report):
        sentences.add_row(heading, Text(text))  # names may look like markup
    console.print(Text(report.title, style="bold"))
    for part in (sentences, table(report, most, console.width)):
        console.print()
        console.print(part)
    console.print()
    for line in sources(report):
        console.print(Text(line, style="dim"))


def table(report: Report, most: int, width: int) -> Table:
    """A row a class, from the lowest recall before to the highest; as many columns as fit."""
    from rich.table import Table
    from rich.text import Text

    shown = notable(report, most)
    left_out = len(report.names) - len(shown)
    kinds = "labels" if report.multilabel else "classes"
    caption = f"{left_out:,} more {kinds} are not shown" if left_out else None
    out = Table(caption=caption)
    heading = "label" if report.multilabel else "class"
    out.add_column(
        heading, no_wrap=True, max_width=NAME, min_width=min(NAME, _longest(report, shown))
    )
    found = _fitting(report, columns(report), shown, width)
    for column in found:
        out.add_column(column.heading, justify="right", no_wrap=True)
    for c in shown:
        cells = [Text(column[c], _style(column.heading, column.values[c])) for column in found]
        out.add_row(Text(report.names[c]), *cells)
    return out


def _longest(report: Report, shown: np.ndarray) -> int:
    from rich.cells import cell_len

    return max(cell_len(report.names[c]) for c in shown)


def _fitting(report: Report, found: list[Column], shown: np.ndarray, width: int) -> list[Column]:
    """Columns without those least missed, until they fit beside the names."""
    sizes = {
        column.heading: 3 + max(len(column.heading), *(len(column[c]) for c in shown))
        for column in found
    }
    room = width - 4 - min(NAME, _longest(report, shown))
    for heading in LEAST_MISSED:
        if sum(sizes.values()) <= room:
            break
        sizes.pop(heading, None)
    return [column for column in found if column.heading in sizes]


def _style(heading: str, value: float) -> str:
    if heading != "change" or not abs(value) >= 0.0005:
        return ""
    return "blue" if value > 0 else "yellow"
