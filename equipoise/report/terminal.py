"""A report as text for the terminal, by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.figures import require
from equipoise.report.story import notes, story
from equipoise.report.tables import OUTCOMES, Column, columns, notable, outcome_rows

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["show"]

NAME = 24  # characters of a name
LEAST_MISSED = ("kept", "AP", "pred./true", "n", "λ", "examples", "drawn ×", "change")


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
    outcomes = _table(OUTCOMES, outcome_rows(report), left=(0, 5))
    for part in (sentences, outcomes, _classes(report, most, console.width)):
        console.print()
        console.print(part)
    console.print()
    for line in notes(report):
        console.print(text(line, style="dim"))


def _table(headings: Any, rows: list[list[str]], left: tuple[int, ...], note: str = "") -> Any:
    text = require("rich.text").Text
    table = require("rich.table").Table(caption=note or None)
    for i, heading in enumerate(headings):
        table.add_column(
            heading,
            justify="left" if i in left else "right",
            no_wrap=True,
            max_width=NAME if i in left else None,
        )
    for row in rows:
        table.add_row(*(text(cell) for cell in row))
    return table


def _classes(report: Report, most: int, width: int) -> Any:
    """A row for each class, from the lowest recall to the highest; as many columns as fit."""
    shown = notable(report, most)
    kind, kinds = ("label", "labels") if report.multilabel else ("class", "classes")
    left_out = len(report.names) - len(shown)
    found = _fitting(report, columns(report), shown, width)
    return _table(
        (kind, *(column.heading for column in found)),
        [[report.names[c], *(column[c] for column in found)] for c in shown],
        left=(0,),
        note=f"{left_out:,} more {kinds} are not shown" if left_out else "",
    )


def _fitting(report: Report, found: list[Column], shown: np.ndarray, width: int) -> list[Column]:
    """Columns without those least missed, until they fit beside the names."""
    cell_len = require("rich.cells").cell_len
    name = max(5, *(min(NAME, cell_len(report.names[c])) for c in shown))
    sizes = {
        column.heading: 3 + max(len(column.heading), *(len(column[c]) for c in shown))
        for column in found
    }
    precisions = [heading for heading in sizes if heading.startswith("precision")]
    recalls = [row["name"] for row in report.outcomes]
    for heading in (*LEAST_MISSED[:5], *precisions, *LEAST_MISSED[5:], *recalls):
        if sum(sizes.values()) <= width - 4 - name:
            break
        sizes.pop(heading, None)
    return [column for column in found if column.heading in sizes]
