"""The `equipoise` command: arguments in, text, pictures and exit codes out."""

from __future__ import annotations

from typing import Annotated

import typer

from equipoise.cli.auditing import audit_command
from equipoise.cli.deciding import decide_command
from equipoise.cli.reporting import report_command

__all__ = ["app"]

app = typer.Typer(
    name="equipoise",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # lines of a paragraph flow together
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"equipoise {version('equipoise')}")
        raise typer.Exit


@app.callback()
def equipoise(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Tools for classes that are not learnt equally well.

    Exit codes: 0 fine, 1 a file or its values are not as expected (one line on stderr says why),
    2 wrong usage, 130 interrupted by Ctrl-C.
    """


app.command(name="audit")(audit_command)
app.command(name="decide")(decide_command)
app.command(name="report")(report_command)
