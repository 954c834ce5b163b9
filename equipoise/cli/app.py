"""The `equipoise` command: arguments in, text, pictures and exit codes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from equipoise.audit import audit, read_labels
from equipoise.cli.deciding import decide_command
from equipoise.cli.failing import check_output, one_line
from equipoise.report import load

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


FILE_OR_FOLDER = """A table (.csv, .tsv, .jsonl, .parquet, …), arrays (.npz, .npy), .arff, .beton; a
folder of images, of a labels.csv, or of a Hugging Face data set."""
FIELD = """Where the labels are: a column of the table, an array of the .npz, a field of the .beton.
Without it, one called y, label, target, class, genre or the like."""
SEPARATOR = """What stands between several labels in one cell of a table, ', ' say. Lists and bars
are recognised without it."""
LABELS = """Which attributes of an .arff are labels: n (the first n), -n (the last n), names with
commas between, or Mulan's .xml. Without it, the relation's '-C n' or an .xml of the same name."""
MOST = "Rows of the table: the most frequent and the rarest."
PLOT = "Write a picture there as well: .png, .svg or .pdf."


@app.command(name="audit")
def audit_command(
    path: Annotated[Path, typer.Argument(metavar="FILE_OR_FOLDER", help=FILE_OR_FOLDER)],
    field: Annotated[str | None, typer.Option(help=FIELD, metavar="NAME")] = None,
    separator: Annotated[str | None, typer.Option(help=SEPARATOR, metavar="TEXT")] = None,
    labels: Annotated[str | None, typer.Option(help=LABELS, metavar="WHICH")] = None,
    most: Annotated[int, typer.Option(help=MOST, metavar="N", min=1)] = 20,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, of all classes, and nothing else.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help=PLOT, metavar="PATH")] = None,
) -> None:
    """Tell how imbalanced labels are, and what to do about it.

    Labels are class ids or names, one per example, or several: a multi-hot matrix of 0 and 1 with
    one row per example, dense or (.npz) as the CSR parts Y_data, Y_indices, Y_indptr, Y_shape, or
    a column of lists.

    For example: equipoise audit train.csv --field species --plot species.png
    """
    suffix = path.suffix.lower()
    if field is not None and suffix in (".npy", ".arff"):
        raise typer.BadParameter(f"--field is not for {suffix} files.")
    if labels is not None and suffix != ".arff":
        raise typer.BadParameter(f"--labels is for .arff files, but got {path.name}.")
    with one_line("audit"):
        check_output(plot)
        found = audit(*read_labels(path, field, labels, separator))
        if plot is not None:
            found.plot(plot)
        if as_json:
            typer.echo(json.dumps(found.to_dict(), indent=2))  # ASCII: any terminal can print it
        else:
            found.show(most)
    if plot is not None:
        typer.echo(f"Picture: {plot}", err=True)


app.command(name="decide")(decide_command)

RUN = "A report's JSON file, or a folder that holds it as report.json."
HTML = "Where to write the page; beside the JSON file by default."


@app.command(name="report")
def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=RUN)],
    html: Annotated[Path | None, typer.Option(help=HTML, metavar="PATH")] = None,
    most: Annotated[int, typer.Option(help="Rows of the table.", metavar="N", min=1)] = 20,
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
        typer.echo(f"Page: {report.save_html(page)}", err=True)
