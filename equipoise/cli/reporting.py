"""`equipoise report`: what a run reached, again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise.cli import options as o
from equipoise.cli.failing import one_line
from equipoise.cli.tables import show_comparison, show_run
from equipoise.report import Report
from equipoise.training.saving import read_json

__all__ = ["report_command"]


def report_command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a run, or of a comparison.", show_default=False
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the page; RUN/report.html by default.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    most: Annotated[int, typer.Option(metavar="N", help="Rows of the table.", min=1)] = 20,
    as_json: o.AsJson = False,
) -> None:
    """Show again what RUN reached, and write its page again.

    RUN is a folder that `equipoise train` or `equipoise compare` wrote. Nothing is opened.

    For example: equipoise report runs/birds --html birds.html
    """
    with one_line("report"):
        if not run.is_dir():
            raise FileNotFoundError(f"Expected RUN to be the folder of a run, but got {run}.")
        comparison = run / "compare.json"
        if comparison.exists():
            if html is not None:
                raise ValueError(f"Expected a run for --html, but {run} is a comparison.")
            found = read_json(comparison)
            if as_json:
                typer.echo(json.dumps(found, indent=2))
            else:
                show_comparison(found)
            return
        record = read_json(run / "run.json")
        if record["state"] != "finished":
            raise ValueError(
                f"Expected {run} to be finished, but it ended after {len(record['history'])} of "
                f"{record['settings']['epochs']} epochs; equipoise train … --resume goes on."
            )
        report = _read_report(run / "report.json")
        if not as_json:
            report.show(most)
            show_run(record)
        page = html or run / "report.html"
        try:
            report.save_html(page)
        except ImportError as error:
            raise ImportError("The page needs matplotlib: pip install 'equipoise[report]'") from (
                error
            )
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2))
        typer.echo(f"Page: {page}", err=True)


def _read_report(path: Path) -> Report:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {path} to be JSON, but: {error}.") from error
    return Report.from_dict(content)
