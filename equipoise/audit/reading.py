"""read_labels: the labels that a file or a folder holds, and the names of its classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.audit.arrays import Labels, listed, read_npy, read_npz
from equipoise.audit.tables import Table, arrow, json_lines, labels_of, text
from equipoise.targets import Targets

__all__ = ["read_labels"]

# What torchvision's ImageFolder takes.
IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TEXT = (".csv", ".tsv", ".txt")
BESIDE = ("labels.csv", "labels.tsv", "metadata.csv", "metadata.jsonl", "train.csv")


def read_labels(
    path: str | Path,
    field: str | None = None,
    labels: str | int | Sequence[str] | None = None,
    separator: str | None = None,
) -> Labels:
    r"""Targets and class names of a file or folder; `None` where it has no names.

    * Tables (`.csv`, `.tsv`, `.txt` with commas, semicolons, tabs or bars between the cells;
      `.jsonl`; `.parquet`; `.arrow`): a column of class ids or names, of lists of names
      (`['Comedy', 'Drama']`), or of names with a bar between; it is `field`, or one that is called
      label, target, class, genre or the like. Where no column is, all columns that hold nothing but
      0 and 1 are the labels. The first line names the columns if nothing in it is a number or
      occurs again below, if a word in it stands above numbers, or if it has such a name. Text may
      be UTF-8, UTF-16 with its mark, or Latin-1.
    * Folders: images in a folder for each class (or `train` with such folders); a table called
      labels.csv or metadata.csv; Parquet files; a Hugging Face data set that was saved to disk.
    * `.npz`, `.npy`: see `read_npz`; `.arff`: see `equipoise.arff.read_arff`, where `labels` may
      also be a number or names with commas between as text; `.beton`: see `equipoise.ffcv.targets`.

    Tables are read by parts, and only the columns that are needed. Nothing is unpickled.

    Args:
        path: of the file or folder.
        field: name of the array, column or FFCV field of labels.
        labels: which attributes of an ARFF file are labels.
        separator: between several labels in one cell of a table, a comma or a blank, say.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError, TypeError: it is not what its name says, holds no labels, or its column has a
            class for every row or more classes than half its rows.
        ImportError: what reads it is not installed; the message says what to install.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "animals.csv"
        ...     _ = path.write_text("image;species\n1.jpg;cat\n2.jpg;owl\n3.jpg;cat\n")
        ...     targets, names = read_labels(path, "species")
        >>> targets.counts.tolist(), names
        ([2, 1], ['cat', 'owl'])
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"Expected a file or folder of labels, but there is none at {path}."
        )
    try:
        if path.is_dir():
            targets, names = _read_folder(path, field, separator)
        elif path.stat().st_size == 0:
            raise ValueError(f"Expected a file of labels, but {path} is empty.")
        else:
            targets, names = _read_file(path, field, labels, separator)
    except (ValueError, TypeError) as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error  # what `Targets` finds wrong
    if names is None or len(names) != targets.num_classes:
        return targets, None
    # Names must not steer a terminal
    return targets, ["".join(c if c.isprintable() else "�" for c in name) for name in names]


def _read_file(path: Path, field: str | None, labels: Any, separator: str | None) -> Labels:
    kind = path.suffix.lower()
    if kind == ".npz":
        return read_npz(path, field)
    if kind == ".npy":
        return read_npy(path)
    if kind == ".arff":
        from equipoise.arff import read_arff

        if isinstance(labels, str) and not labels.lower().endswith(".xml"):
            number = labels.lstrip("+-").isdecimal()
            labels = int(labels) if number else [name.strip() for name in labels.split(",")]
        data = read_arff(path, labels)
        return data.targets, data.label_names
    if kind == ".beton":
        from equipoise.ffcv import targets

        return targets(path, field or "label"), None
    if kind in TEXT:
        return labels_of(text(path, field), field, separator)
    if kind == ".jsonl":
        return labels_of(json_lines(path), field, separator)
    if kind in (".parquet", ".arrow"):
        return labels_of(arrow(path, [path]), field, separator)
    raise ValueError(
        "Expected a folder, or a file that ends in .npz, .npy, .csv, .tsv, .txt, .jsonl, .parquet, "
        f".arrow, .arff or .beton, but got {path}."
    )


def _read_folder(folder: Path, field: str | None, separator: str | None) -> Labels:
    if (folder / "dataset_dict.json").is_file() and (folder / "train").is_dir():
        folder = folder / "train"
    for name in BESIDE:
        if (folder / name).is_file():
            file = folder / name
            table = json_lines(file) if name.endswith(".jsonl") else text(file, field)
            _warn_of_missing(folder, table)
            return labels_of(table, field, separator)
    for ending in ("arrow", "parquet"):
        files = sorted(folder.rglob(f"*.{ending}"))
        train = [file for file in files if "train" in file.relative_to(folder).as_posix()]
        if files:
            return labels_of(arrow(folder, train or files), field, separator)
    parts = (folder / part for part in ("train", "training"))
    root = next((part for part in parts if part.is_dir()), folder)
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    counts = [sum(p.suffix.lower() in IMAGES for p in c.rglob("*")) for c in classes]
    if not sum(counts):
        there = listed(sorted(p.name for p in folder.iterdir()))
        raise ValueError(
            f"Expected {folder} to hold a folder of images for each class, a table ("
            f"{', '.join(BESIDE)}) or a data set in Parquet or Arrow files, but it holds {there}."
        )
    targets = Targets(np.repeat(np.arange(len(classes)), counts), len(classes))
    return targets, [c.name for c in classes]


def _warn_of_missing(folder: Path, table: Table) -> None:
    """Warn of rows that name an image which is not in the folder, with or without its ending."""
    images = [p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in IMAGES]
    there = {name for p in images for name in (p.as_posix(), p.with_suffix("").as_posix())}
    there |= {name for p in images for name in (p.name, p.stem)}
    rows = [str(name) for part in table.parts(table.columns[:1]) for name in part.iloc[:, 0]]
    missing = [name for name in rows if name not in there]
    if 0 < len(missing) < len(rows):  # all of them: the table's first column is something else
        warnings.warn(
            f"{len(missing):,} of the {len(rows):,} images in {table.where} are missing: "
            f"{listed(missing, 5)}.",
            stacklevel=4,
        )
