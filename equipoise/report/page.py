"""A report as one HTML page: nothing is loaded, and no script runs."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from equipoise.figures import data_uri, require
from equipoise.report.pictures import pictures
from equipoise.report.story import notes, story, warnings
from equipoise.report.tables import EPOCH, OUTCOMES, columns, notable, outcome_rows

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["page"]

OPEN = 60  # classes up to which the table is open


def page(report: Report) -> str:
    """The HTML. Every name is escaped by the template, whatever a class is called."""
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
