"""A report in the terminal (rich), as one HTML page (jinja2), and in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from equipoise.figures import data_uri, require, style
from equipoise.report.pictures import pictures
from equipoise.report.story import notes, story, warnings
from equipoise.report.tables import EPOCH, OUTCOMES, columns, notable, outcome_rows

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["log", "page", "show", "table"]

NAME = 20  # characters of a name in the terminal
OPEN = 60  # classes up to which the page's table is open
EACH = 50  # classes up to which each has scalars of its own in TensorBoard


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
    for lines, look in ((warnings(report), "bold"), (notes(report), "dim")):
        for line in lines:
            console.print(text(line, style=look))


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


def page(report: Report) -> str:
    """HTML that loads nothing and runs no script; the template escapes every name."""
    jinja2 = require("jinja2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    epochs = [row | row.get("mining", {}) for row in report.epochs]
    template = (files("equipoise.report") / "page.html").read_text(encoding="utf-8")
    found: str = environment.from_string(template).render(
        report=report,
        story=story(report),
        warnings=warnings(report),
        notes=notes(report),
        outcome_headings=OUTCOMES,
        outcomes=outcome_rows(report),
        pictures=[(picture, data_uri(picture.figure)) for picture in pictures(report)],
        columns=columns(report),
        classes=notable(report, len(report.names)).tolist(),
        is_open=len(report.names) <= OPEN,
        epochs=epochs,
        epoch_columns={
            key: heading
            for key, (heading, _) in EPOCH.items()
            if any(row.get(key) is not None for row in epochs)
        },
    )
    return found


def log(report: Report, writer: Any, step: int | None) -> None:
    """Write to a `SummaryWriter`; see `Report.log_to`."""
    for row in report.epochs:
        values = row | row.get("mining", {})
        found = {tag: values.get(key) for key, (_, tag) in EPOCH.items()}
        if len(report.names) <= EACH:
            for key in ("recalls", "log_weight"):
                each = zip(report.names, row.get(key, []), strict=False)
                found |= {f"{key}/{name}": value for name, value in each}
        for tag, value in found.items():
            if value is not None:
                writer.add_scalar(tag, value, row["epoch"])
    at = report.epochs[-1]["epoch"] if step is None else step
    for row in report.outcomes:
        for key in ("mean", "sd", "lowest", "chance", "price"):
            if row[key] is not None:
                writer.add_scalar(f"report/{row['name']}/{key}", row[key], at)
    text = "\n\n".join(f"**{heading}.** {said}" for heading, said in story(report))
    writer.add_text("report/story", text, at)
    with style():
        for picture in pictures(report):
            writer.add_figure(f"report/{picture.name}", picture.figure, at)
