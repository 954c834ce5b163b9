"""read_labels: the labels a file holds, and the names of its classes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from equipoise.arff import read_arff
from equipoise.targets import Targets

__all__ = [
    "CSR_PARTS",
    "LABELS",
    "NAMES",
    "WITH_FIELDS",
    "arff_labels",
    "checked_csr",
    "from_array",
    "listed",
    "load_checked",
    "naming",
    "printable",
    "read_labels",
]

WITH_FIELDS = (".npz", ".csv", ".tsv", ".beton")

# What arrays and columns of labels are called, in any case; the first that is there is taken.
LABELS = [
    *("y", "labels", "label", "targets", "target", "class", "class_id", "category"),
    *("y_train", "train_labels", "labels_train", "train_targets", "train_y"),
]
NAMES = ("label_names", "class_names", "target_names", "classes", "names")
CSR_PARTS = ("data", "indices", "indptr", "shape")

Labels = tuple[Targets, list[str] | None]


def read_labels(
    path: str | Path, field: str | None = None, labels: str | int | Sequence[str] | None = None
) -> Labels:
    r"""Targets and class names of a file; `None` where the file has no names.

    * `.npz`: class ids or names `(N,)` or `(N, 1)`, or multi-hot `(N, C)`, under `field` or a name
      such as y, labels, targets, y_train; as CSR under `{field}_data`, `_indices`, `_indptr`,
      `_shape`, or as `scipy.sparse.save_npz` writes it. Names under `label_names` or `class_names`.
    * `.npy`: such an array alone.
    * `.csv`, `.tsv`: a column of class ids or names; where neither `field` nor a column's name says
      which, all columns that hold nothing but 0 and 1, as multi-hot. The first line names the
      columns if nothing in it is a number or occurs again below. Blank lines are skipped.
    * `.arff`: see `equipoise.arff.read_arff`. As text, `labels` may be a number, names with commas
      between, or the path of an XML file.
    * `.beton`: see `equipoise.ffcv.targets`; `field` is "label" by default.

    Class ids far above the number of examples are taken as names. Nothing is unpickled.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError, TypeError: it is not what its ending says, or holds no labels.
        ImportError: what reads it is not installed; the message says what to install.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "animals.csv"
        ...     _ = path.write_text("image,species\n1.jpg,cat\n2.jpg,owl\n3.jpg,cat\n")
        ...     targets, names = read_labels(path, "species")
        >>> targets.counts.tolist(), names
        ([2, 1], ['cat', 'owl'])
    """
    path = Path(path)
    readers: dict[str, Callable[[], Labels]] = {
        ".npz": lambda: _from_npz(path, field),
        ".npy": lambda: _from_npy(path),
        ".csv": lambda: _from_table(path, field, ","),
        ".tsv": lambda: _from_table(path, field, "\t"),
        ".arff": lambda: _from_arff(path, labels),
        ".beton": lambda: _from_beton(path, field or "label"),
    }
    read = readers.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"Expected a file that ends in {', '.join(readers)}, but got {path}.")
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file of labels, but there is none at {path}.")
    if path.stat().st_size == 0:
        raise ValueError(f"Expected a file of labels, but {path} is empty.")
    with naming(path):
        targets, names = read()
    if names is None or len(names) != targets.num_classes:
        return targets, None
    return targets, printable(names)


def printable(names: Sequence[str]) -> list[str]:
    """Names that cannot steer a terminal."""
    return ["".join(c if c.isprintable() else "�" for c in name) for name in names]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file's name before what `Targets` finds wrong with its labels."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error


def load_checked(path: Path, kind: type, load: Callable[[], Any]) -> Any:
    """What `load` reads from a NumPy file, or the ValueError that says why it is nothing."""
    try:
        found = load()
    except Exception as error:  # a damaged file raises all kinds of things
        if "Object arrays" in str(error):
            raise ValueError(
                f"Expected {path} to hold plain arrays, but got pickled Python objects, which are "
                "not read because they can run any code. Save numbers or text (dtype=str)."
            ) from error
        # NumPy takes for a pickle what it does not know
        reason = "" if "pickle" in str(error) else f" ({error or type(error).__name__})"
        raise ValueError(f"{_expected(path)} but it is damaged or none{reason}.") from error
    if not isinstance(found, kind):
        raise ValueError(f"{_expected(path)} but it is damaged or none.")
    return found


def _expected(path: Path) -> str:
    return f"Expected {path} to be a whole {path.suffix} file of arrays,"


def _from_npy(path: Path) -> Labels:
    with path.open("rb") as file:
        return from_array(
            load_checked(path, np.ndarray, lambda: np.load(file, allow_pickle=False)), None
        )


def _from_npz(path: Path, field: str | None) -> Labels:
    from scipy.sparse import csr_matrix, load_npz

    with path.open("rb") as file:
        stored = load_checked(path, NpzFile, lambda: np.load(file, allow_pickle=False))

        def load(name: str) -> np.ndarray:
            return load_checked(path, np.ndarray, lambda: stored[name])

        files = list(stored.files)
        if field is None and {*CSR_PARTS, "format"} <= {*files}:
            file.seek(0)
            return Targets(checked_csr(path, lambda: csr_matrix(load_npz(file)))), None
        sparse = [
            name.removesuffix("_indptr")
            for name in files
            if name.endswith("_indptr")
            and {f"{name.removesuffix('indptr')}{part}" for part in CSR_PARTS} <= {*files}
        ]
        field = _chosen(path, field, sparse + files)
        names = next((load(name) for name in NAMES if name in files and name != field), None)
        known = None
        if names is not None and names.ndim == 1 and names.dtype.kind == "U":
            known = names.tolist()
        if field in sparse:
            data, indices, indptr, shape = (load(f"{field}_{part}") for part in CSR_PARTS)
            size = tuple(shape.ravel().tolist())
            matrix = checked_csr(path, lambda: csr_matrix((data, indices, indptr), size))
            return Targets(matrix), known
        return from_array(load(field), known)


def _chosen(path: Path, field: str | None, there: list[str]) -> str:
    """`field`, or the one that is named as labels are, or the only one."""
    if field is not None:
        if field not in there:
            raise ValueError(f"Expected {path} to hold {field!r}, but it holds {listed(there)}.")
        return field
    likely = [name for label in LABELS for name in there if name.lower() == label]
    if not likely and len(there) != 1:
        raise ValueError(
            f"Expected {path} to hold labels under a name such as y, labels or targets, but it "
            f"holds {listed(there)}. Say which with --field."
        )
    return likely[0] if likely else there[0]


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for an error message, the first ones of many."""
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def checked_csr(path: Path, make: Callable[[], Any]) -> Any:
    """The CSR matrix of `make`, which is what it says it is."""
    try:
        matrix = make()
        matrix.check_format(full_check=True)  # else an index out of range is followed
    except Exception as error:  # SciPy, too, trusts its files
        raise ValueError(f"Expected {path} to hold a CSR matrix, but: {error}.") from error
    return matrix


def from_array(values: np.ndarray, names: list[str] | None) -> Labels:
    """Class ids or class names `(N,)` or `(N, 1)`; anything else is for `Targets` to judge."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.size == 0 or values.dtype.kind == "O":
        return Targets(values), names
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    # Ids in a data base rather than numbers from 0 up
    far = (
        values.dtype.kind in "iu" and values.min() >= 0 and values.max() >= max(10**4, len(values))
    )
    if values.dtype.kind == "U" or far:
        found, ids = np.unique(values, return_inverse=True)
        return Targets(ids), [str(name) for name in found]
    targets = Targets(values)
    if names is not None and len(names) > targets.num_classes:
        targets = Targets(values, num_classes=len(names))
    return targets, names


def _from_table(path: Path, field: str | None, delimiter: str) -> Labels:
    columns, header = _columns(path, delimiter)
    zero_one = [name for name in header if {*columns[name]} <= {"0", "1"}]
    unnamed = field is None and not any(name.lower() in LABELS for name in header)
    if unnamed and len(header) > 1 and len(zero_one) > 1:
        return Targets(np.stack([np.array(columns[n]) == "1" for n in zero_one], axis=1)), zero_one
    column = columns[_chosen(path, field, header)]
    if "" in column:
        raise ValueError(f"Expected a label in every row, but row {column.index('') + 1} has none.")
    try:
        numbers = np.array(column, np.float64)
    except ValueError:
        return from_array(np.array(column), None)
    whole = np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()
    return from_array(numbers.astype(np.int64) if whole else numbers, None)


def _columns(path: Path, delimiter: str) -> tuple[dict[str, list[str]], list[str]]:
    """The cells of each column below the header; without one, columns are numbered from 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=delimiter)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"Expected {path} to be a text file in UTF-8, but: {error}.") from error
    rows = [row for row in rows if any(row)]
    if not rows:
        raise ValueError(f"Expected a file of labels, but {path} has no rows.")
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"Expected all rows of {path} to have the {len(rows[0])} cells of the first, but "
                f"row {i + 1} has {len(row)}."
            )
    columns = list(zip(*rows, strict=True))
    named = all(
        first and not _is_number(first) and first not in rest for first, *rest in columns
    ) and len({*rows[0]}) == len(rows[0])
    if named and len(rows) == 1:
        raise ValueError(f"Expected a file of labels, but {path} has a line of names alone.")
    header = rows[0] if named else [str(i + 1) for i in range(len(columns))]
    first = 1 if named else 0
    return {n: list(cells[first:]) for n, cells in zip(header, columns, strict=True)}, header


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_arff(path: Path, labels: str | int | Sequence[str] | None) -> Labels:
    data = read_arff(path, arff_labels(labels))
    return data.targets, data.label_names


def arff_labels(labels: str | int | Sequence[str] | None) -> Any:
    """What `read_arff` takes for `labels`, from text: a number, names, or an XML file's path."""
    if not isinstance(labels, str) or labels.lower().endswith(".xml"):
        return labels
    if labels.lstrip("+-").isdecimal():
        return int(labels)
    return [name.strip() for name in labels.split(",")]


def _from_beton(path: Path, field: str) -> Labels:
    from equipoise.ffcv import targets

    return targets(path, field), None
