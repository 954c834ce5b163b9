"""A report as text for the terminal, by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equipoise.report.tables import columns, notable
from equipoise.report.telling import sources, story

if TYPE_CHECKING:
    from rich.table import Table

    from equipoise.report.report import Report

__all__ = ["show"]


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
    for part in (sentences, table(report, most)):
        console.print()
        console.print(part)
    console.print()
    for line in sources(report):
        console.print(Text(line, style="dim"))


def table(report: Report, most: int) -> Table:
    """A row a class, from the lowest recall before to the highest."""
    from rich.table import Table
    from rich.text import Text

    shown = notable(report, most)
    left_out = len(report.names) - len(shown)
    kinds = "labels" if report.multilabel else "classes"
    caption = f"{left_out:,} more {kinds} are not shown" if left_out else None
    out = Table(caption=caption)
    out.add_column("label" if report.multilabel else "class", overflow="fold", min_width=8)
    found = columns(report)
    for column in found:
        out.add_column(column.heading, justify="right", no_wrap=True)
    for c in shown:
        cells = [Text(column[c], _style(column.heading, column.values[c])) for column in found]
        out.add_row(Text(report.names[c]), *cells)
    return out


def _style(heading: str, value: float) -> str:
    if heading != "change" or not abs(value) >= 0.0005:
        return ""
    return "blue" if value > 0 else "yellow"
