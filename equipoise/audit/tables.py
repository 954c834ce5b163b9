"""Tables of labels: text, JSON lines, Parquet and Arrow, read by parts by pandas and pyarrow."""

from __future__ import annotations

import ast
import csv
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.audit.arrays import LABELS, Labels, chosen, from_array, listed
from equipoise.targets import Targets
from equipoise.targets.reading import from_label_ids

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table", "arrow", "is_number", "json_lines", "labels_of", "numbers", "text"]

PART = 200_000  # rows that are read at a time
SAMPLE = 1_000  # rows by which a table's header and columns are judged
FEW = 20  # rows of a table that may have more classes than half its rows
MISSING = ("", "?", "-", "na", "n/a", "nan", "none", "null")
TRUTH = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class Table:
    """Columns of a file or folder, of which some are read by parts."""

    where: Path
    columns: list[str]
    parts: Callable[[list[str]], Iterable[pd.DataFrame]]
    class_names: dict[str, list[str]]  # of the columns that hold class ids and say their names


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError("Reading tables needs pandas: pip install 'equipoise[cli]'") from error
    return pandas


def text(path: Path, field: str | None = None) -> Table:
    """A text file with commas, semicolons, tabs or bars between its cells.

    A `field` that is a word in the first row tells that this row names the columns.
    """
    encoding = _encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        lines = [line for line in islice(file, SAMPLE) if line.strip()]
    if not lines:
        raise ValueError(f"Expected a file of labels, but {path} has no rows.")
    delimiter = _delimiter(lines)
    first, *rest = [[c.strip() for c in row] for row in csv.reader(lines, delimiter=delimiter)]
    below = [{row[i] for row in rest if i < len(row)} for i in range(len(first))]
    asked = field in first and not is_number(field)
    named = asked or _is_header(first, below)
    if named and not rest:
        raise ValueError(f"Expected a file of labels, but {path} has a line of names alone.")
    names = first if named else [str(i + 1) for i in range(len(first))]
    for row, cells in enumerate(rest, 1 + (not named)):  # pandas would cut them off
        if any(cells[len(names) :]):
            raise ValueError(
                f"Expected {len(names)} cells in every row of {path}, but row {row} has "
                f"{len(cells)}. Write cells that hold {delimiter!r} in quotes."
            )

    def parts(columns: list[str]) -> Iterator[pd.DataFrame]:
        pandas = _pandas()
        options: dict[str, Any] = {"keep_default_na": False, "skipinitialspace": True}
        options |= {"usecols": [names.index(column) for column in columns], "dtype": str}
        try:
            with pandas.read_csv(
                path, sep=delimiter, encoding=encoding, names=names, header=None, index_col=False,
                chunksize=PART, **options,
            ) as reader:  # fmt: skip
                for at, part in enumerate(reader):
                    part = part.iloc[1:] if named and at == 0 else part
                    yield part[part[columns[0]] != ""] if len(names) == 1 else part  # blank lines
        except pandas.errors.ParserError as error:
            raise ValueError(f"Expected {path} to be a table, but: {error}.") from error

    return Table(path, names, parts, {})


def _is_header(first: list[str], below: list[set[str]]) -> bool:
    """Whether the first row names the columns, given what each holds below.

    It does if nothing in it is a number or occurs again below, but for the index that pandas
    writes first; or if a word stands above numbers alone, or is one that columns of labels have.
    """
    columns = list(zip(first, below, strict=True))
    if len({*first}) < len(first):
        return False
    if any(
        cell.lower() not in MISSING
        and not is_number(cell)
        and cell not in cells
        and ((bool(cells) and all(map(is_number, cells))) or cell.lower() in LABELS)
        for cell, cells in columns
    ):
        return True
    rest = columns[1:] if not first[0] and len(first) > 1 else columns
    return all(cell and not is_number(cell) and cell not in cells for cell, cells in rest)


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4096)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in start:
        raise ValueError(f"Expected {path} to be a text file, but it holds binary data.")
    try:
        with path.open(encoding="utf-8-sig") as file:
            while file.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _delimiter(lines: list[str]) -> str:
    """The one that cuts most lines as it cuts the first, into the most cells."""

    def fit(delimiter: str) -> tuple[bool, int]:
        sizes = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        same = sum(size == sizes[0] for size in sizes)
        return (same > 0.9 * len(sizes) and sizes[0] > 1, sizes[0])

    best = max(",;\t|", key=fit)
    return best if fit(best)[0] else ","


def is_number(cell: object) -> bool:
    """Whether the text of a cell is a number."""
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


def numbers(where: Path, part: pd.DataFrame) -> np.ndarray:
    """The scores in a part of a table, float32."""
    found = part.apply(_pandas().to_numeric, errors="coerce")
    for row, at in np.argwhere((found.isna() & ~part.isna()).to_numpy())[:1]:
        raise ValueError(
            f"Expected the columns {listed([*part])} of {where} to be numbers, the score of each "
            f"class, but got {part.iloc[row, at]!r} in column {part.columns[at]!r}, row {row + 1}."
        )
    scores: np.ndarray = found.to_numpy(np.float32)
    return scores


def json_lines(path: Path) -> Table:
    """A JSON object a line."""
    pandas = _pandas()

    def parts(columns: list[str] | None) -> Iterator[pd.DataFrame]:
        with pandas.read_json(path, lines=True, chunksize=PART, dtype=False) as reader:
            for part in reader:
                yield part if columns is None else part[columns]

    return Table(path, [str(name) for name in next(parts(None)).columns], parts, {})


def arrow(where: Path, files: list[Path]) -> Table:
    """Parquet files, or the Arrow streams that Hugging Face saves data sets as."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Reading Parquet and Arrow files needs pyarrow: pip install 'equipoise[cli]'"
        ) from error

    def opened(file: Path) -> Any:
        if file.suffix == ".parquet":
            return pa.parquet.ParquetFile(file)
        return pa.ipc.open_stream(pa.memory_map(str(file)))

    def parts(columns: list[str]) -> Iterator[pd.DataFrame]:
        for source in map(opened, files):
            if isinstance(source, pa.parquet.ParquetFile):
                yield from (part.to_pandas() for part in source.iter_batches(PART, columns=columns))
            else:
                yield from (part.select(columns).to_pandas() for part in source)

    try:
        first = opened(files[0])
    except pa.ArrowInvalid as error:
        raise ValueError(f"Expected {where} to be whole, but: {error}.") from error
    schema = first.schema_arrow if isinstance(first, pa.parquet.ParquetFile) else first.schema
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = told.get("info", {}).get("features", {})
    known = {name: names for name in schema.names if (names := _class_names(features.get(name)))}
    return Table(where, schema.names, parts, known)


def _class_names(feature: Any) -> list[str] | None:
    """Of a `ClassLabel` of Hugging Face's, or of a list of such."""
    if isinstance(feature, list):
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    return feature.get("names") or _class_names(feature.get("feature"))


def labels_of(table: Table, field: str | None, separator: str | None) -> Labels:
    """Of the column `field`, or of one called as labels are, or of all columns of 0 and 1."""
    where, columns, parts, known = table.where, table.columns, table.parts, table.class_names
    if field is None and not any(name.lower() in LABELS for name in columns):
        sample: Any = next(iter(parts(columns)), {})
        unclear = {name: np.isnan(_truths(sample[name])) for name in sample}
        hot = [name for name in sample if not unclear[name].any()]
        if len(hot) > 1:
            nearly = [
                name
                for name, no in unclear.items()
                if no.any() and not no.all() and (no.mean() < 0.5 or sample[name][no].nunique() < 3)
            ]
            if nearly:
                told = [f"{name} ({sample[name][unclear[name]].iloc[0]!r})" for name in nearly]
                warnings.warn(
                    f"Columns that hold more than 0 and 1 are not taken for labels: {listed(told)}."
                    " Where -1, say, marks unknown labels, use Targets(values, unknown=-1).",
                    stacklevel=4,
                )
            return Targets(np.concatenate([_multi_hot(where, part) for part in parts(hot)])), hot
    column = chosen(where, field, columns)
    number: dict[Any, int] = {}  # of each different cell
    ids: list[np.ndarray] = []
    for part in parts([column]):
        codes, cells = _coded(part[column])
        ids.append(np.array([number.setdefault(cell, len(number)) for cell in cells], int)[codes])
    found, rows = [*number], np.concatenate([np.zeros(0, np.int64), *ids])
    several = _split(found, separator)
    if several is not None:
        return _of_sets(several, rows, known.get(column))
    if "" in number:
        row = int(np.flatnonzero(rows == number[""])[0]) + 1
        raise ValueError(
            f"Expected a label in every row, but row {row} of {column!r} has none. If cells hold "
            "several labels or none, say what stands between them with --separator."
        )
    each_its_own = len(found) == len(rows) > 2 and not all(map(is_number, found))
    if each_its_own or (len(rows) >= FEW and 2 * len(found) > len(rows)):
        raise ValueError(
            f"Expected column {column!r} of {where} to be class ids or names that occur again, but "
            f"its {len(rows):,} rows hold {len(found):,} different ones ({listed(found, 3)}): say "
            "which column with --field, or what stands between several labels with --separator. "
            f"The columns are {listed(columns)}."
        )
    if column in known:
        return Targets(np.array(found, np.int64)[rows], len(known[column])), known[column]
    if all(map(is_number, found)):
        numbers = np.array(found, np.float64)[rows]
        whole = np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()
        return from_array(numbers.astype(np.int64) if whole else numbers, None)
    names = sorted(found)
    return Targets(np.searchsorted(names, found)[rows]), names


def _coded(column: pd.Series) -> tuple[np.ndarray, list[Any]]:
    """Of each row the number of its cell; the different cells, as text or as tuples of text."""
    pandas = _pandas()
    if any(isinstance(cell, list | np.ndarray) for cell in column.iloc[:SAMPLE]):
        column = column.map(lambda cell: () if cell is None else tuple(map(str, cell)))
    codes, cells = pandas.factorize(column, use_na_sentinel=False)
    return codes, [
        cell if isinstance(cell, tuple) else "" if pandas.isna(cell) else str(cell).strip()
        for cell in cells
    ]


def _truths(column: pd.Series) -> np.ndarray:
    """0 and 1 of each cell, NaN of what says neither."""
    codes, cells = _coded(column)
    return np.array([TRUTH.get(str(cell).lower(), np.nan) for cell in cells])[codes]


def _multi_hot(where: Path, part: pd.DataFrame) -> np.ndarray:
    found = np.stack([_truths(part[name]) for name in part], axis=1)
    for row, at in np.argwhere(np.isnan(found))[:1]:
        raise ValueError(
            f"Expected column {part.columns[at]!r} of {where} to be 0 or 1, but got "
            f"{part.iloc[row, at]!r}."
        )
    return found.astype(np.uint8)


def _split(cells: list[Any], separator: str | None) -> list[Sequence[str]] | None:
    """The labels in each cell, where cells hold several: as lists, or with something between."""
    texts = [cell for cell in cells if not isinstance(cell, tuple)]
    if len(texts) < len(cells):
        return [cell if isinstance(cell, tuple) else () for cell in cells]
    if all(text[:1] + text[-1:] in ("", "[]", "()", "{}") for text in texts) and any(texts):
        try:
            return [[str(label) for label in ast.literal_eval(text or "[]")] for text in texts]
        except (ValueError, SyntaxError) as error:
            raise ValueError(
                f"Expected cells to be lists such as ['a', 'b'], but got {listed(texts, 3)}."
            ) from error
    if separator is None and any("|" in text for text in texts):
        separator = "|"
    if separator is None:
        return None
    return [[label.strip() for label in text.split(separator) if label.strip()] for text in texts]


def _of_sets(sets: list[Sequence[str]], rows: np.ndarray, known: list[str] | None) -> Labels:
    """Of each row the set of that number; where the names are known, the labels are class ids."""
    names = sorted({label for labels in sets for label in labels}) if known is None else known
    if not names:
        raise ValueError("Expected a label in at least one row, but got none.")
    unique = [sorted({*map(int, labels)} if known else {*labels}) for labels in sets]
    return Targets(from_label_ids(unique, None, names)[0][rows]), names
