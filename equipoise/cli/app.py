"""The `equipoise` command: arguments in, text, pictures and exit codes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from equipoise.audit import Audit, audit
from equipoise.cli.comparing import compare_command
from equipoise.cli.failing import one_line
from equipoise.cli.reporting import report_command
from equipoise.cli.training import train_command
from equipoise.training.label_files import WITH_FIELDS, read_labels

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


@app.command(name="audit")
def audit_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Labels: .npz, .npy, .csv, .tsv, .arff or .beton.",
            show_default=False,
        ),
    ],
    field: Annotated[
        str | None,
        typer.Option(
            help="Where the labels are: an array of the .npz, a column of the .csv or .tsv, a "
            "field of the .beton. Found by itself under names such as y, labels, targets.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Which attributes of an .arff are labels: n (the first n), -n (the last n), names "
            "with commas between, or Mulan's .xml. Found by itself where the relation says "
            "'-C n' or an .xml of the same name lies beside it.",
            metavar="WHICH",
            show_default=False,
        ),
    ] = None,
    most: Annotated[
        int,
        typer.Option(
            metavar="N", help="Rows of the table: the most frequent and the rarest.", min=1
        ),
    ] = 20,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, of all classes, and nothing else.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Write a picture there as well: .png, .svg or .pdf.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell how imbalanced the labels in FILE are, and what to do about it.

    FILE holds class ids or names, one an example, or a multi-hot matrix of 0 and 1, one row an
    example, dense or (.npz) as the CSR parts Y_data, Y_indices, Y_indptr, Y_shape. Names of classes
    are taken from label_names or class_names where an .npz has them.

    For example: equipoise audit train.csv --field species --plot species.png
    """
    suffix = file.suffix.lower()
    if field is not None and suffix not in WITH_FIELDS:
        raise typer.BadParameter(f"--field is for {', '.join(WITH_FIELDS)}; FILE is {file.name}.")
    if labels is not None and suffix != ".arff":
        raise typer.BadParameter(f"--labels is for .arff; FILE is {file.name}.")
    with one_line("audit"):
        found = audit(*read_labels(file, field, labels))
        if plot is not None:
            _plot(found, plot)
        if as_json:
            typer.echo(json.dumps(found.to_dict(), indent=2))  # ASCII: any terminal can print it
        else:
            found.show(most)
    if plot is not None:
        typer.echo(f"Picture: {plot}", err=True)


def _plot(found: Audit, path: Path) -> None:
    try:
        found.plot(path)
    except ImportError as error:
        raise ImportError("--plot needs matplotlib: pip install 'equipoise[report]'") from error


app.command(name="train")(train_command)
app.command(name="compare")(compare_command)
app.command(name="report")(report_command)
