"""A report as text for the terminal, by rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from equipoise.figures import require
from equipoise.report.story import notes, story, warnings
from equipoise.report.tables import OUTCOMES, columns, notable, outcome_rows

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["show", "table"]

NAME = 20  # characters of a name


def show(report: Report, most: int) -> None:
    """Print title, sentences, outcomes, a table of classes, and what the figures are of."""
    text = require("rich.text").Text
    console = require("rich.console").Console(highlight=False)
    sentences = require("rich.table").Table.grid(padding=(0, 2))
    sentences.add_column(style="bold", no_wrap=True)
    sentences.add_column()
    for heading, said in story(report):
        sentences.add_row(heading, text(said))  # names may look like markup
    console.print(text(report.title, style="bold"))
    outcomes = table(OUTCOMES, outcome_rows(report), names=(0, 5))
    for part in (sentences, outcomes, _classes(report, most, console.width)):
        console.print()
        console.print(part)
    console.print()
    for lines, style in ((warnings(report), "bold"), (notes(report), "dim")):
        for line in lines:
            console.print(text(line, style=style))


def table(
    headings: Sequence[str], rows: list[list[str]], names: tuple[int, ...], note: str | None = None
) -> Any:
    """A table of text; the columns at `names` hold names, which are cut to what fits."""
    text = require("rich.text").Text
    found = require("rich.table").Table(caption=note)
    for i, heading in enumerate(headings):
        named = i in names
        most, side = (NAME, "left") if named else (None, "right")
        found.add_column(heading, justify=side, no_wrap=True, max_width=most)
    for row in rows:
        found.add_row(*(text(cell) for cell in row))
    return found


def _classes(report: Report, most: int, width: int) -> Any:
    """A row for each class, from the lowest recall to the highest; as many columns as fit."""
    shown = notable(report, most)
    found = columns(report)
    sizes = [3 + max(len(column.heading), *(len(column[c]) for c in shown)) for column in found]
    while len(found) > 1 and sum(sizes) > width - 4 - NAME:
        least = max(range(len(found)), key=lambda i: found[i].rank)
        del found[least], sizes[least]
    left_out = len(report.names) - len(shown)
    return table(
        [report.kind, *(column.heading for column in found)],
        [[report.names[c], *(column[c] for column in found)] for c in shown],
        names=(0,),
        note=f"{left_out:,} more {report.kinds} are not shown" if left_out else None,
    )
