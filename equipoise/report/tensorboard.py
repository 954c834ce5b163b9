"""A report for TensorBoard: scalars of every epoch, the result, the pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equipoise.report.drawing import figure_of
from equipoise.report.pictures import pictures
from equipoise.report.spread import noise_floor, spread_of
from equipoise.report.telling import story

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["log"]

EACH = 50  # classes up to which each has scalars of its own

OF_AN_EPOCH = {
    "mean_recall": "recall/mean",
    "sd_recall": "recall/spread",
    "lowest_recall": "recall/lowest",
    "mean_average_precision": "precision/mean_average_precision",
}
OF_MINING = {
    "share_kept": "mining/share_kept",
    "mean_loss_kept": "mining/mean_loss_kept",
    "mean_loss_dropped": "mining/mean_loss_dropped",
}


def log(report: Report, writer: Any, step: int | None) -> None:
    """Write to a `SummaryWriter`; see `Report.log_to`."""
    last = report.epochs[-1].get("epoch", len(report.epochs) - 1)
    at = last if step is None else step
    for i, row in enumerate(report.epochs):
        epoch = row.get("epoch", i)
        mined = row.get("mining") or {}
        found = {tag: row.get(key) for key, tag in OF_AN_EPOCH.items()}
        found |= {tag: mined.get(key) for key, tag in OF_MINING.items()}
        if len(report.names) <= EACH:
            for key in ("recalls", "log_weight"):
                values = row.get(key) or []
                found |= {f"{key}/{n}": v for n, v in zip(report.names, values, strict=False)}
        for tag, value in found.items():
            if value is not None:
                writer.add_scalar(tag, value, epoch)
    for when in ("before", "after"):
        spread = spread_of(getattr(report, when)["recalls"])
        if spread is not None:
            writer.add_scalar(f"report/{when}/mean_recall", spread.mean, at)
            writer.add_scalar(f"report/{when}/spread", spread.sd, at)
            writer.add_scalar(f"report/{when}/lowest_recall", spread.lowest, at)
    floor = noise_floor(report.after["recalls"], report.after["support"])
    if floor is not None:
        writer.add_scalar("report/spread_by_chance", floor, at)
    text = "\n\n".join(f"**{heading}.** {said}" for heading, said in story(report))
    writer.add_text("report/story", text, at)
    for picture in pictures(report):
        writer.add_figure(f"report/{picture.name}", figure_of(picture), at)
