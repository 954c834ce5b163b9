"""`equipoise audit`: how imbalanced the labels of a file or folder are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from equipoise.audit import Audit, audit, read_labels
from equipoise.cli.failing import check_output, one_line

__all__ = ["audit_command"]


def audit_command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE_OR_FOLDER",
            help="A table (.csv, .tsv, .jsonl, .parquet, …), arrays (.npz, .npy), .arff, "
            ".beton; a folder of images, of a labels.csv, or of a Hugging Face data set.",
            show_default=False,
        ),
    ],
    field: Annotated[
        str | None,
        typer.Option(
            help="Where the labels are: a column of the table, an array of the .npz, a field of "
            "the .beton. Without it, one called y, label, target, class, genre or the like.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            help="What stands between several labels in one cell of a table, ', ' say. Lists and "
            "bars are recognised without it.",
            metavar="TEXT",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Which attributes of an .arff are labels: n (the first n), -n (the last n), names "
            "with commas between, or Mulan's .xml. Without it, the relation's '-C n' or an .xml of "
            "the same name.",
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
        if plot is not None:
            check_output(plot)
        found = audit(*read_labels(path, field, labels, separator))
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
