"""`equipoise report`: what a run reached, again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.failing import check_output, one_line
from equipoise.report import load

__all__ = ["report_command"]


def report_command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A report's JSON file, or a folder that holds it as report.json.",
            show_default=False,
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the page; beside the JSON file by default.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    most: Annotated[int, typer.Option(metavar="N", help="Rows of the table.", min=1)] = 20,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else on stdout.")
    ] = False,
) -> None:
    """Show what RUN reached, and write its page.

    RUN is what `balancer.report().save(path)` wrote. Nothing is opened.

    For example: equipoise report runs/birds.json --html birds.html
    """
    with one_line("report"):
        path = run / "report.json" if run.is_dir() else run
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected RUN to be a report's JSON file or a folder with one, but got {run}."
            )
        page = html or path.with_suffix(".html")
        check_output(page)
        report = load(path)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2))
        else:
            report.show(most)
        try:
            report.save_html(page)
        except ImportError as error:
            raise ImportError(
                "The page needs matplotlib: pip install 'equipoise[report]'"
            ) from error
        typer.echo(f"Page: {page}", err=True)
