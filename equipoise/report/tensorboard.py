"""A report for TensorBoard: scalars of every epoch, the outcomes, the pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equipoise.figures import pixels
from equipoise.report.pictures import pictures
from equipoise.report.story import story
from equipoise.report.tables import EPOCH

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["log"]

EACH = 50  # classes up to which each has scalars of its own


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
    for picture in pictures(report):
        writer.add_image(f"report/{picture.name}", pixels(picture.figure), at, dataformats="HWC")
